//! The object file in the kernel, its maps as values, and one run of one program.

use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuValues};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader, Pod};
use datapath::netlink::{Request, Socket};
use ebpf::account::{Direction, Reason, Traffic};
use ebpf::filter::{self, SlotHint};
use ebpf::flow::{Flow4, Flow6, Noted, Pieces};
use ebpf::layout::{Endpoint, FIRST_IFINDEX, NOTE_MARKS_MAX, NOTE_MARKS_PAGE, Network, SLOT_WORDS_MAX, Uplink};
use ebpf::scope::{Scope, halves};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};

use crate::fixture::{Count, Program};
use crate::private::BPF_FS;
use crate::tables::{Flow, World};

/// How many flows of a family the tables take here.
pub(crate) const ROOM: u32 = 2;
/// How many notes one slot may have here.
const SHARE: u32 = 100;
/// What the verifier may look at of one program: half of its limit, as each kernel counts otherwise.
const VERIFIED_MAX: u32 = 500_000;
/// Programs that others go on with.
const BEHIND: [&str; 3] = ["to_backend", "choose", "to_client"];
/// The only generation of notes.
const GENERATION: u8 = 7;
/// Endpoints that fixtures use, and one more that is none.
pub(crate) const SLOTS: u32 = 3;
/// Of every link, and what fixtures are sent to: a frame for another is nobody's business at an uplink.
pub(crate) const MAC: [u8; 6] = [0x0a; 6];
/// The uplink's interface number.
pub(crate) const UPLINK: u32 = 10;

/// A value as it lies in a map.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
struct Plain<T>(T);

macro_rules! plain {
    ($($kind:ty),*) => {
        // SAFETY: each is `repr(C)` of integers and byte arrays without padding, as `ebpf::layout` asserts by size; every bit
        // pattern is a value.
        $(unsafe impl Pod for Plain<$kind> {})*
    };
}
plain!(Endpoint, Uplink, Network, Traffic, Flow4, Flow6, Noted, Pieces);

pub(crate) struct Loaded {
    ebpf: Ebpf,
}

/// What a run left in the maps.
pub(crate) struct Changes {
    /// Packets and bytes.
    pub(crate) counts: Vec<(Count, u64, u64)>,
    pub(crate) reasons: Vec<(Reason, u64)>,
    pub(crate) flows: Vec<Flow>,
    /// How many notes each slot is charged with; those with none left out.
    pub(crate) charged: Vec<(u32, u32)>,
}

/// What a program made of one packet.
pub(crate) struct Outcome {
    pub(crate) code: u32,
    pub(crate) packet: Vec<u8>,
    pub(crate) context: SkBuff,
}

impl Loaded {
    /// Loads every program, and makes the links that packets pass. Only in a [`crate::private`] place.
    pub(crate) fn load(object: &Path) -> Result<Self> {
        let bytes = std::fs::read(object).with_context(|| format!("read {}", object.display()))?;
        let mut loader = EbpfLoader::new();
        loader.default_map_pin_directory(BPF_FS).map_max_entries("FLOWS4", ROOM).map_max_entries("FLOWS6", ROOM);
        // All that a program may have in it is verified.
        loader.override_global("DEPARTURE_TIMES", &1_u8, true);
        let mut ebpf = loader.load(&bytes)?;
        for name in Program::ALL.map(Program::name).into_iter().chain(BEHIND) {
            let loaded = classifier(&mut ebpf, name)?;
            loaded.load().with_context(|| format!("load {name}"))?;
            // Kernels before 5.16 do not tell.
            if let Some(verified) = loaded.info()?.verified_instruction_count() {
                println!("{name}: {verified} instructions verified");
                ensure!(verified < VERIFIED_MAX, "{name}: {verified} instructions are too near the verifier's limit");
            }
        }
        let mut host = Socket::open()?;
        host.execute(vec![pair(FIRST_IFINDEX, FIRST_IFINDEX + 1), pair(FIRST_IFINDEX + 2, UPLINK)])?;
        Ok(Self { ebpf })
    }

    fn map(&mut self, name: &str) -> Result<&mut Map> {
        self.ebpf.map_mut(name).ok_or_else(|| anyhow!("the object has no map {name}"))
    }

    /// Makes the maps what `world` says, and every counter zero.
    pub(crate) fn set(&mut self, world: &World, has_notes: Option<u32>) -> Result<()> {
        let cpus = nr_cpus().map_err(|(what, error)| anyhow!("{what}: {error}"))?;
        let nothing = || PerCpuValues::try_from(vec![Plain(Traffic::default()); cpus]);
        Array::try_from(self.map("NETWORK")?)?.set(1, Plain(*world.network), 0)?;
        Array::try_from(self.map("NETWORK_INDEX")?)?.set(0, 1_u32, 0)?;
        Array::try_from(self.map("NOTES_SHARE")?)?.set(0, SHARE, 0)?;
        let mut endpoints = Array::try_from(self.map("ENDPOINTS")?)?;
        for slot in 0..SLOTS {
            endpoints.set(slot, Plain(of(&world.endpoints, slot)), 0)?;
        }
        Array::try_from(self.map("UPLINKS")?)?.set(0, Plain(of(&world.uplinks, 0)), 0)?;
        let four = world.slots4.iter().map(|(address, slot)| (SlotHint::of4(*address), *slot));
        let six = world.slots6.iter().map(|(address, slot)| (SlotHint::of6(halves(*address)), *slot));
        let mut words = std::collections::BTreeMap::new();
        for (hint, slot) in four.chain(six) {
            let word = words.entry(hint.word).or_insert(0_u64);
            *word = hint.write(*word, slot);
        }
        let mut hints = Array::try_from(self.map("SLOT_HINTS")?)?;
        for word in 0..SLOT_WORDS_MAX {
            hints.set(word, words.get(&word).copied().unwrap_or(0_u64), 0)?;
        }
        replace(HashMap::try_from(self.map("SLOTS4")?)?, world.slots4.iter().copied())?;
        replace(HashMap::try_from(self.map("SLOTS6")?)?, world.slots6.iter().copied())?;
        let (mut flows4, mut flows6) = (Vec::new(), Vec::new());
        for (flow, noted) in world.flows.borrow().iter() {
            match flow {
                Flow::V4(flow) => flows4.push((Plain(*flow), Plain(*noted))),
                Flow::V6(flow) => flows6.push((Plain(*flow), Plain(*noted))),
            }
        }
        // No other byte counts: a program that finds a note has found its mark.
        let mut marks = vec![0_u8; NOTE_MARKS_MAX];
        flows4.iter().for_each(|(flow, _)| marks[filter::place4(&flow.0)] = GENERATION);
        flows6.iter().for_each(|(flow, _)| marks[filter::place6(&flow.0)] = GENERATION);
        let mut table: Array<_, [u8; NOTE_MARKS_PAGE]> = Array::try_from(self.map("NOTE_MARKS")?)?;
        for (index, page) in (0..).zip(marks.as_chunks().0) {
            table.set(index, *page, 0)?;
        }
        Array::try_from(self.map("NOTE_GENERATIONS")?)?.set(0, u32::from(GENERATION) << 8 | u32::from(GENERATION), 0)?;
        replace(HashMap::try_from(self.map("FLOWS4")?)?, flows4.into_iter())?;
        replace(HashMap::try_from(self.map("FLOWS6")?)?, flows6.into_iter())?;
        let pieces: Vec<_> = world.pieces.borrow().iter().map(|(pieces, untracked)| (Plain(*pieces), u32::from(*untracked))).collect();
        replace(HashMap::try_from(self.map("PIECES")?)?, pieces.into_iter())?;
        let mut notes = Array::try_from(self.map("NOTES")?)?;
        for slot in 0..SLOTS {
            notes.set(slot, u32::from(has_notes == Some(slot)), 0)?;
        }
        let mut traffic = PerCpuArray::try_from(self.map("TRAFFIC")?)?;
        for slot in 0..SLOTS {
            traffic.set(slot, nothing()?, 0)?;
        }
        PerCpuArray::try_from(self.map("HOST_TRAFFIC")?)?.set(0, nothing()?, 0)?;
        let mut reasons = PerCpuArray::try_from(self.map("REASONS")?)?;
        for (reason, _) in Reason::ALL {
            reasons.set(reason as u32, PerCpuValues::try_from(vec![0_u64; cpus])?, 0)?;
        }
        Ok(())
    }

    /// Runs a program once on a packet that passes this interface.
    pub(crate) fn run(&mut self, program: Program, ifindex: u32, packet: &[u8]) -> Result<Outcome> {
        self.run_as(program, SkBuff::at(ifindex), packet)
    }

    pub(crate) fn run_as(&mut self, program: Program, context: SkBuff, packet: &[u8]) -> Result<Outcome> {
        let mut after = Outcome { code: 0, packet: vec![0; packet.len() + 64], context: context.clone() };
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut after.packet),
            ctx_in: Some(&context.0),
            ctx_out: Some(&mut after.context.0),
            ..TestRunOptions::new()
        };
        let result = classifier(&mut self.ebpf, program.name())?.test_run(options)?;
        after.code = result.return_value;
        after.packet.truncate(result.data_size_out as usize);
        ensure!(result.ctx_size_out as usize == after.context.0.len(), "the context comes back with {} bytes", result.ctx_size_out);
        Ok(after)
    }

    /// Reads all that [`Loaded::set`] has set.
    pub(crate) fn changes(&mut self) -> Result<Changes> {
        let mut counts = Vec::new();
        let traffic: PerCpuArray<_, Plain<Traffic>> = PerCpuArray::try_from(self.map("TRAFFIC")?)?;
        for slot in 0..SLOTS {
            counts.extend(counted(Some(slot), &traffic.get(&slot, 0)?));
        }
        let host: PerCpuArray<_, Plain<Traffic>> = PerCpuArray::try_from(self.map("HOST_TRAFFIC")?)?;
        counts.extend(counted(None, &host.get(&0, 0)?));
        let table: PerCpuArray<_, u64> = PerCpuArray::try_from(self.map("REASONS")?)?;
        let mut reasons = Vec::new();
        for (reason, _) in Reason::ALL {
            reasons.push((reason, table.get(&(reason as u32), 0)?.iter().sum()));
        }
        reasons.retain(|(_, packets)| *packets != 0);
        let mut flows = Vec::new();
        let flows4: HashMap<_, Plain<Flow4>, Plain<Noted>> = HashMap::try_from(self.map("FLOWS4")?)?;
        for flow in flows4.keys() {
            flows.push(Flow::V4(flow?.0));
        }
        let flows6: HashMap<_, Plain<Flow6>, Plain<Noted>> = HashMap::try_from(self.map("FLOWS6")?)?;
        for flow in flows6.keys() {
            flows.push(Flow::V6(flow?.0));
        }
        let marks: Array<_, [u8; NOTE_MARKS_PAGE]> = Array::try_from(self.map("NOTE_MARKS")?)?;
        for flow in &flows {
            let place = match flow {
                Flow::V4(flow) => filter::place4(flow),
                Flow::V6(flow) => filter::place6(flow),
            };
            let page = marks.get(&u32::try_from(place / NOTE_MARKS_PAGE)?, 0)?;
            ensure!(page[place % NOTE_MARKS_PAGE] == GENERATION, "{flow:?} is noted and not marked: nobody would look for it");
        }
        let notes: Array<_, u32> = Array::try_from(self.map("NOTES")?)?;
        let mut charged = Vec::new();
        for slot in 0..SLOTS {
            charged.push((slot, notes.get(&slot, 0)?));
        }
        charged.retain(|(_, notes)| *notes != 0);
        Ok(Changes { counts, reasons, flows, charged })
    }
}

fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let found = ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
    Ok(found.try_into()?)
}

fn of<T: Copy + Default>(rows: &[(u32, T)], index: u32) -> T {
    rows.iter().find(|(found, _)| *found == index).map_or_else(T::default, |(_, value)| *value)
}

fn replace<K: Pod, V: Pod>(mut table: HashMap<&mut MapData, K, V>, rows: impl Iterator<Item = (K, V)>) -> Result<()> {
    let old = table.keys().collect::<Result<Vec<_>, _>>()?;
    for key in old {
        table.remove(&key)?;
    }
    for (key, value) in rows {
        table.insert(key, value, 0)?;
    }
    Ok(())
}

fn counted(of: Option<u32>, by_cpu: &PerCpuValues<Plain<Traffic>>) -> Vec<(Count, u64, u64)> {
    let sum = by_cpu.iter().fold(Traffic::default(), |sum, cpu| sum.plus(&cpu.0));
    let mut counts = Vec::new();
    for (direction, counters) in [(Direction::Sent, sum.sent), (Direction::Received, sum.received)] {
        for (scope, counter) in Scope::ALL.into_iter().zip(counters) {
            if counter.packets != 0 || counter.bytes != 0 {
                counts.push((Count { of, direction, scope }, counter.packets, counter.bytes));
            }
        }
    }
    counts
}

fn pair(one: u32, other: u32) -> Request {
    let named = |ifindex: u32| {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        message.attributes = vec![LinkAttribute::IfName(format!("test{ifindex}")), LinkAttribute::Address(MAC.into())];
        message
    };
    let mut message = named(one);
    let veth = InfoData::Veth(InfoVeth::Peer(named(other)));
    message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(veth)]));
    Request { step: "make a veth pair", message: RouteNetlinkMessage::NewLink(message), flags: NLM_F_CREATE | NLM_F_EXCL }
}

/// A `struct __sk_buff` (linux/bpf.h) to start from, and as it was left. A run accepts some of its fields only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SkBuff(Vec<u8>);

impl SkBuff {
    /// Up to and with `gso_size`, all zero but the interface number.
    pub(crate) fn at(ifindex: u32) -> Self {
        const LENGTH: usize = 192;
        const IFINDEX: usize = 40;
        let mut context = Self(vec![0; LENGTH]);
        context.put(IFINDEX, ifindex);
        context
    }

    /// Of a packet that is still to be cut into segments.
    pub(crate) fn segments(mut self, count: u32, size: u32) -> Self {
        const GSO_SEGS: usize = 164;
        const GSO_SIZE: usize = 176;
        self.put(GSO_SEGS, count);
        self.put(GSO_SIZE, size);
        self
    }

    /// A run sets it to the packet's length where it is zero.
    pub(crate) fn wire_length(mut self, bytes: usize) -> Self {
        const WIRE_LEN: usize = 160;
        self.put(WIRE_LEN, u32::try_from(bytes).unwrap());
        self
    }

    pub(crate) fn marked(mut self, mark: u32) -> Self {
        const MARK: usize = 8;
        self.put(MARK, mark);
        self
    }

    fn put(&mut self, offset: usize, value: u32) {
        self.0[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
    }
}
