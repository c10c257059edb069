//! The maps. Their names are the names of their pins.

use core::arch::asm;
use core::hint::black_box;

use aya_ebpf::bindings::{BPF_ANY, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::helpers::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use ebpf::account::{Direction, Reason, Traffic};
use ebpf::filter::{self, Generations, SlotBit};
use ebpf::flow::{Flow4, Flow6, Noted, Pieces, Seen};
use ebpf::layout::{
    ENDPOINTS_MAX, Endpoint, FLOWS_MAX, LIMIT_INTERNET, LIMIT_SENT, Limit, Limits, NOTE_MARKS_MAX, NOTE_MARKS_PAGE, Network, PIECES_MAX,
    Paid, SLOT_WORDS_MAX, SLOTS_MAX, UPLINKS_MAX, Uplink,
};
use ebpf::scope::{Scope, halves};
use ebpf::shape::{self, Judged, Judgement};
use ebpf::verdict::Tables;

/// Two, so that one can be written while the other is read.
#[map]
static NETWORK: Array<Network> = Array::pinned(2, 0);
/// Which of the two counts.
#[map]
static NETWORK_INDEX: Array<u32> = Array::pinned(1, 0);
#[map]
static ENDPOINTS: Array<Endpoint> = Array::pinned(ENDPOINTS_MAX, 0);
#[map]
static UPLINKS: Array<Uplink> = Array::pinned(UPLINKS_MAX, 0);
/// By addresses in network order, as whole numbers like [`Flow4`].
#[map]
static SLOTS4: HashMap<u32, u32> = HashMap::pinned(SLOTS_MAX, 0);
#[map]
static SLOTS6: HashMap<[u64; 2], u32> = HashMap::pinned(SLOTS_MAX, 0);
/// See [`ebpf::filter`].
#[map]
static SLOT_BITS: Array<u64> = Array::pinned(SLOT_WORDS_MAX, 0);
#[map]
static FLOWS4: HashMap<Flow4, Noted> = HashMap::pinned(FLOWS_MAX, BPF_F_NO_PREALLOC);
#[map]
static FLOWS6: HashMap<Flow6, Noted> = HashMap::pinned(FLOWS_MAX, BPF_F_NO_PREALLOC);
/// See [`ebpf::filter`]. The daemon writes single bytes of it, which it cannot by a system call.
#[map]
static NOTE_MARKS: Array<[u8; NOTE_MARKS_PAGE]> = Array::pinned((NOTE_MARKS_MAX / NOTE_MARKS_PAGE) as u32, BPF_F_MMAPABLE);
/// A [`Generations`].
#[map]
static NOTE_GENERATIONS: Array<u32> = Array::pinned(1, 0);
/// How many notes, of both families, are at an endpoint's expense: counted up here, corrected by the daemon's sweep.
#[map]
static NOTES: Array<u32> = Array::pinned(ENDPOINTS_MAX, 0);
/// How many notes one endpoint may have.
#[map]
static NOTES_SHARE: Array<u32> = Array::pinned(1, 0);
#[map]
static PIECES: LruHashMap<Pieces, u32> = LruHashMap::pinned(PIECES_MAX, 0);
/// By endpoint: what it is held to, where it is to anything of its own.
#[map]
static LIMITS: Array<Limits> = Array::pinned(ENDPOINTS_MAX, 0);
/// By endpoint: the times up to which its packets have paid ([`ebpf::shape`]).
#[map]
static PAID: Array<Paid> = Array::pinned(ENDPOINTS_MAX, 0);
#[map]
static TRAFFIC: PerCpuArray<Traffic> = PerCpuArray::pinned(ENDPOINTS_MAX, 0);
#[map]
static HOST_TRAFFIC: PerCpuArray<Traffic> = PerCpuArray::pinned(1, 0);
#[map]
static REASONS: PerCpuArray<u64> = PerCpuArray::pinned(Reason::ALL.len() as u32, 0);

/// The maps, as decisions see them.
pub(crate) struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn network(&self) -> Option<&Network> {
        NETWORK.get(*NETWORK_INDEX.get(0)?)
    }

    #[inline(always)]
    fn endpoint(&self, slot: u32) -> Option<&Endpoint> {
        ENDPOINTS.get(slot)
    }

    #[inline(always)]
    fn uplink(&self, index: u32) -> Option<&Uplink> {
        UPLINKS.get(index)
    }

    #[inline(always)]
    fn slot4(&self, address: [u8; 4]) -> Option<u32> {
        if !may_lead(SlotBit::of4(address)) {
            return None;
        }
        // SAFETY: the value is a number; one that was freed and reused is at worst another endpoint's, which is then
        // written to the endpoint's own table before its address is.
        unsafe { SLOTS4.get(u32::from_ne_bytes(address)) }.copied()
    }

    #[inline(always)]
    fn slot6(&self, address: [u8; 16]) -> Option<u32> {
        if !may_lead(SlotBit::of6(halves(address))) {
            return None;
        }
        // SAFETY: as in `slot4`.
        unsafe { SLOTS6.get(halves(address).map(u64::to_be)) }.copied()
    }

    #[inline(always)]
    fn noted4(&self, flow: &Flow4, seen: impl FnOnce() -> Seen) -> Option<Noted> {
        if may_be_noted(filter::place4(flow)) { noted(&FLOWS4, flow, seen) } else { None }
    }

    #[inline(always)]
    fn noted6(&self, flow: &Flow6, seen: impl FnOnce() -> Seen) -> Option<Noted> {
        if may_be_noted(filter::place6(flow)) { noted(&FLOWS6, flow, seen) } else { None }
    }

    #[inline(always)]
    fn note4(&self, slot: u32, flow: &Flow4, seen: Seen) -> bool {
        note(&FLOWS4, filter::place4(flow), slot, flow, seen)
    }

    #[inline(always)]
    fn note6(&self, slot: u32, flow: &Flow6, seen: Seen) -> bool {
        note(&FLOWS6, filter::place6(flow), slot, flow, seen)
    }

    #[inline(always)]
    fn forget4(&self, flow: &Flow4) {
        forget(&FLOWS4, flow);
    }

    #[inline(always)]
    fn forget6(&self, flow: &Flow6) {
        forget(&FLOWS6, flow);
    }

    #[inline(always)]
    fn has_notes(&self, slot: u32) -> bool {
        NOTES.get(slot).is_some_and(|notes| *notes != 0)
    }

    #[inline(always)]
    fn pieces(&self, pieces: &Pieces) -> Option<bool> {
        // SAFETY: the value is a number, and one that was reused meanwhile concerns one packet of somebody else's.
        unsafe { PIECES.get(pieces) }.map(|untracked| *untracked != 0)
    }

    #[inline(always)]
    fn remember_pieces(&self, pieces: &Pieces, untracked: bool) {
        // Where it is not remembered, the later pieces go by the rule for those whose first was not seen.
        let _ = PIECES.insert(pieces, u32::from(untracked), BPF_ANY.into());
    }
}

/// Whether an address may lead to a slot.
#[inline(always)]
fn may_lead(at: SlotBit) -> bool {
    SLOT_BITS.get(at.word).is_some_and(|bits| bits & at.bit != 0)
}

/// Whether a flow may be noted.
#[inline(always)]
fn may_be_noted(place: usize) -> bool {
    let (Some(generations), Some(mark)) = (NOTE_GENERATIONS.get(0), mark_at(place)) else { return true };
    // SAFETY: a byte within the value of a map, which lives as long as the program.
    Generations(*generations).count(unsafe { mark.read_volatile() })
}

/// Before a flow is noted: who finds the note has found this.
#[inline(always)]
fn mark(place: usize) {
    let (Some(generations), Some(mark)) = (NOTE_GENERATIONS.get(0), mark_at(place)) else { return };
    // SAFETY: as in `may_be_noted`. Whoever writes it as well writes the same, or what counts as much.
    unsafe { mark.write_volatile(Generations(*generations).current()) };
}

#[inline(always)]
fn mark_at(place: usize) -> Option<*mut u8> {
    let page = NOTE_MARKS.get_ptr_mut((place / NOTE_MARKS_PAGE) as u32)?.cast::<u8>();
    // SAFETY: within the page.
    Some(unsafe { page.add(place % NOTE_MARKS_PAGE) })
}

/// Counts a packet for an endpoint, or for the host.
#[inline(always)]
pub(crate) fn count(slot: Option<u32>, direction: Direction, scope: Scope, bytes: u32) {
    // The compiler knows what a scope can be, the verifier does not: before Linux 6.3 it forgets it of a value that was put together.
    let scope = Scope::from_number(black_box(scope as u32));
    let traffic = match slot {
        Some(slot) => TRAFFIC.get_ptr_mut(slot),
        None => HOST_TRAFFIC.get_ptr_mut(0),
    };
    if let Some(traffic) = traffic {
        // SAFETY: the value is this CPU's alone, and a classifier is not interrupted by another on the same CPU.
        unsafe { (*traffic).count(direction, scope, bytes) };
    }
}

/// Adds to what all CPUs add to. The compiler knows atomic operations of this target only as instructions: it is told to have no
/// compare-and-swap, and offers no others then.
#[inline(always)]
fn add(to: *mut u64, number: u64) {
    // SAFETY: `BPF_ATOMIC | BPF_ADD` on a value of a map, which is aligned; every kernel knows it (`BPF_XADD` before Linux 5.12).
    unsafe { asm!("lock *(u64 *)({to} + 0) += {number}", to = in(reg) to, number = in(reg) number, options(nostack)) };
}

/// Whether a packet is within what its pod may send at all, and where it is for the internet, there; and which limit it is that it is
/// beyond.
///
/// `own` is [`Endpoint::limits`].
#[inline(always)]
pub(crate) fn may_send(slot: u32, bytes: u32, own: u8, to_internet: bool) -> (Judgement, Reason) {
    const PASS: (Judgement, Reason) = (Judgement::Pass, Reason::EgressLimit);
    let of_its_own = |limit: u8, which: fn(&Limits) -> Limit| {
        if own & limit != 0 { LIMITS.get(slot).map_or(Limit::NONE, which) } else { Limit::NONE }
    };
    let sent = of_its_own(LIMIT_SENT, |limits| limits.sent);
    let internet = if !to_internet {
        Limit::NONE
    } else if own & LIMIT_INTERNET != 0 {
        of_its_own(LIMIT_INTERNET, |limits| limits.internet)
    } else {
        Maps.network().map_or(Limit::NONE, |network| Limit::of(network.internet_egress))
    };
    if sent.rate == 0 && internet.rate == 0 {
        return PASS;
    }
    let Some(paid) = PAID.get_ptr_mut(slot) else { return PASS };
    // SAFETY: the fields of the value of an array, which stays where it is for as long as the program lives.
    let places = unsafe { (&raw mut (*paid).sent, &raw mut (*paid).internet) };
    // SAFETY: the helper takes nothing and reads a clock.
    let now = unsafe { bpf_ktime_get_ns() };
    let (sent, internet) = (Bucket::judge(places.0, sent, bytes, now), Bucket::judge(places.1, internet, bytes, now));
    // What is lost for one of them has cost nothing at the other.
    let judgement = sent.judged.judgement.max(internet.judged.judgement);
    if judgement != Judgement::Drop {
        sent.pay(now);
        internet.pay(now);
    }
    let is_for_internet = internet.judged.judgement == Judgement::Drop;
    (judgement, if is_for_internet { Reason::InternetEgressLimit } else { Reason::EgressLimit })
}

/// Whether a packet is within what its pod may be sent. Asked only of pods with [`ebpf::layout::LIMIT_RECEIVED`].
#[inline(always)]
pub(crate) fn may_receive(slot: u32, bytes: u32) -> Judgement {
    let (Some(paid), Some(limits)) = (PAID.get_ptr_mut(slot), LIMITS.get(slot)) else { return Judgement::Pass };
    // SAFETY: as in `may_send`.
    let place = unsafe { &raw mut (*paid).received };
    // SAFETY: the helper takes nothing and reads a clock.
    let now = unsafe { bpf_ktime_get_ns() };
    let bucket = Bucket::judge(place, limits.received, bytes, now);
    if bucket.judged.judgement != Judgement::Drop {
        bucket.pay(now);
    }
    bucket.judged.judgement
}

/// A bucket that was asked, and has still to be paid.
struct Bucket {
    paid: *mut u64,
    before: u64,
    judged: Judged,
}

impl Bucket {
    #[inline(always)]
    fn judge(paid: *mut u64, limit: Limit, bytes: u32, now: u64) -> Self {
        // SAFETY: a number in the value of an array, aligned, which stays where it is for as long as the program lives.
        let before = unsafe { paid.read_volatile() };
        Self { paid, before, judged: shape::judge(now, bytes, limit, before) }
    }

    #[inline(always)]
    fn pay(&self, now: u64) {
        // A limit that does not hold costs nothing.
        if self.judged.cost == 0 {
            return;
        }
        // What was not sent in time is not saved up. Of CPUs that find this at once, one's packet may go unpaid.
        if self.before < now {
            // SAFETY: as in `judge`.
            unsafe { self.paid.write_volatile(now) };
        }
        add(self.paid, self.judged.cost);
    }
}

/// Counts a packet that the programs did not carry.
#[inline(always)]
pub(crate) fn count_reason(reason: Reason) {
    if let Some(packets) = REASONS.get_ptr_mut(reason as u32) {
        // SAFETY: as in `count`.
        unsafe { *packets += 1 };
    }
}

/// The note of a flow as it was. It takes in this packet: conntrack, too, goes by packets of either direction, and a client may
/// be silent for as long as its server goes on sending.
#[inline(always)]
fn noted<K>(flows: &HashMap<K, Noted>, flow: &K, seen: impl FnOnce() -> Seen) -> Option<Noted> {
    let found = flows.get_ptr_mut(flow)?;
    let seen = seen();
    // SAFETY: without preallocation an element lives until a grace period after its removal. What another CPU writes meanwhile is
    // of single bytes and a number.
    let before = unsafe { found.read() };
    if !before.is_over(seen) {
        take_in(found, before, seen);
    }
    Some(before)
}

/// Writes what is new: a store takes the cache line from the other CPUs.
#[inline(always)]
fn take_in(found: *mut Noted, before: Noted, seen: Seen) {
    let now = seconds();
    if before.seen_seconds != now {
        // SAFETY: as in `noted`.
        let place = unsafe { &raw mut (*found).seen_seconds };
        // SAFETY: as above.
        unsafe { place.write(now) };
    }
    let taken_in = before.taking_in(seen, now);
    if seen.from_low && before.from_low != taken_in {
        // SAFETY: as above.
        let place = unsafe { &raw mut (*found).from_low };
        // SAFETY: as above.
        unsafe { place.write(taken_in) };
    } else if !seen.from_low && before.from_high != taken_in {
        // SAFETY: as above.
        let place = unsafe { &raw mut (*found).from_high };
        // SAFETY: as above.
        unsafe { place.write(taken_in) };
    }
}

/// Puts a flow into the table at the expense of this slot; whether it is there now.
#[inline(always)]
fn note<K>(flows: &HashMap<K, Noted>, place: usize, slot: u32, flow: &K, seen: Seen) -> bool {
    if let Some(before) = noted(flows, flow, || seen) {
        // A connection in the place of one that is over: what was counted for that is counted for this.
        if !before.is_over(seen) {
            return true;
        }
        mark(place);
        return flows.insert(flow, Noted::first(before.slot, seen, seconds()), BPF_ANY.into()).is_ok();
    }
    let Some(notes) = NOTES.get_ptr_mut(slot) else { return false };
    let Some(share) = NOTES_SHARE.get(0) else { return false };
    // SAFETY: the value stays where it is for as long as the map lives, and is one number.
    let before = unsafe { notes.read_volatile() };
    if before >= *share {
        return false;
    }
    mark(place);
    if flows.insert(flow, Noted::first(slot as u16, seen, seconds()), BPF_ANY.into()).is_err() {
        return false;
    }
    // SAFETY: as above. Two CPUs may count one note for two: the sweep puts it right, and a share leaves room for that.
    unsafe { notes.write_volatile(before + 1) };
    true
}

/// Takes a flow out of the table, and off the count of whoever is charged with it.
#[inline(always)]
fn forget<K>(flows: &HashMap<K, Noted>, flow: &K) {
    let Some(found) = flows.get_ptr(flow) else { return };
    // SAFETY: as in `noted`.
    let slot = unsafe { (*found).slot };
    // One that is gone meanwhile was counted off by whoever took it.
    if flows.remove(flow).is_err() {
        return;
    }
    let Some(notes) = NOTES.get_ptr_mut(u32::from(slot)) else { return };
    // SAFETY: as in `note`.
    let before = unsafe { notes.read_volatile() };
    if before > 0 {
        // SAFETY: as in `note`.
        unsafe { notes.write_volatile(before - 1) };
    }
}

#[inline(always)]
fn seconds() -> u32 {
    // SAFETY: the helper takes nothing and reads a clock.
    (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32
}
