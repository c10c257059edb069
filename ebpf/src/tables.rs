//! The maps. Their names are the names of their pins.

use core::arch::asm;
use core::hint::black_box;

use aya_ebpf::bindings::{BPF_ANY, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray};
use aya_ebpf::programs::TcContext;
use ebpf::account::{Direction, Reason, Traffic};
use ebpf::filter::{self, Generations, SlotHint};
use ebpf::flow::{Flow4, Flow6, Noted, Pieces, Seen};
use ebpf::layout::{
    ENDPOINTS_MAX, Endpoint, FLOWS_MAX, LIMIT_INTERNET, LIMIT_SENT, Limit, Limits, NOTE_MARKS_MAX, NOTE_MARKS_PAGE, Network, NodeShare,
    PIECES_MAX, Paid, SLOT_WORDS_MAX, SLOTS_MAX, UPLINKS_MAX, Uplink,
};
use ebpf::scope::{Scope, halves};
use ebpf::service::{BACKENDS_MAX, End, JUMPS, Jump, SERVICES_MAX, ServicePort, TRANSLATIONS_MAX, Tuple};
use ebpf::shape::{self, Judged, Judgement};
use ebpf::verdict::{Tables, Translations};

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
static SLOT_HINTS: Array<u64> = Array::pinned(SLOT_WORDS_MAX, 0);
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
static NODE_SHARE: Array<NodeShare> = Array::pinned(1, 0);
#[map]
static TRAFFIC: PerCpuArray<Traffic> = PerCpuArray::pinned(ENDPOINTS_MAX, 0);
#[map]
static HOST_TRAFFIC: PerCpuArray<Traffic> = PerCpuArray::pinned(1, 0);
#[map]
static REASONS: PerCpuArray<u64> = PerCpuArray::pinned(Reason::ALL.len() as u32, 0);

/// Programs that others go on with ([`ebpf::service::Jump`]).
#[map]
static PROGRAMS: ProgramArray = ProgramArray::pinned(JUMPS, 0);
/// How many endpoints a port of a service has.
#[map]
static SERVICES: HashMap<ServicePort, u32> = HashMap::pinned(SERVICES_MAX, BPF_F_NO_PREALLOC);
#[map]
static BACKENDS: HashMap<ServicePort, End> = HashMap::pinned(BACKENDS_MAX, BPF_F_NO_PREALLOC);
#[map]
static TRANSLATIONS: HashMap<Tuple, End> = HashMap::pinned(TRANSLATIONS_MAX, BPF_F_NO_PREALLOC);
#[map]
static TRANSLATED_PIECES: LruHashMap<Pieces, [u64; 2]> = LruHashMap::pinned(PIECES_MAX, 0);

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
        let slot = hint(SlotHint::of4(address))?;
        if self.endpoint(slot).is_some_and(|endpoint| endpoint.ifindex != 0 && endpoint.ipv4 == address) {
            return Some(slot);
        }
        // SAFETY: the value is a number; one that was freed and reused is at worst another endpoint's, which is then
        // written to the endpoint's own table before its address is.
        unsafe { SLOTS4.get(u32::from_ne_bytes(address)) }.copied()
    }

    #[inline(always)]
    fn slot6(&self, address: [u8; 16]) -> Option<u32> {
        let slot = hint(SlotHint::of6(halves(address)))?;
        if self.endpoint(slot).is_some_and(|endpoint| endpoint.ifindex != 0 && halves(endpoint.ipv6) == halves(address)) {
            return Some(slot);
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
    fn note4(&self, slot: u32, flow: &Flow4, seen: Seen) -> Option<Noted> {
        note(&FLOWS4, filter::place4(flow), slot, flow, seen)
    }

    #[inline(always)]
    fn note6(&self, slot: u32, flow: &Flow6, seen: Seen) -> Option<Noted> {
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

impl Translations for Maps {
    #[inline(always)]
    fn endpoints(&self, service: &ServicePort) -> Option<u32> {
        // SAFETY: the value is a number.
        unsafe { SERVICES.get(service) }.copied()
    }

    #[inline(always)]
    fn backend(&self, of: &ServicePort) -> Option<End> {
        // SAFETY: without preallocation an element lives until a grace period after its removal; the daemon alone writes it, and what is
        // read half before and half after has an address of one endpoint and the port of another, for one packet.
        unsafe { BACKENDS.get(of) }.copied()
    }

    #[inline(always)]
    fn translation(&self, of: &Tuple) -> Option<End> {
        // SAFETY: likewise; a translation that is written anew is another element.
        unsafe { TRANSLATIONS.get(of) }.copied()
    }

    #[inline(always)]
    fn translate(&self, of: &Tuple, end: &End) -> bool {
        TRANSLATIONS.insert(of, end, BPF_ANY.into()).is_ok()
    }

    #[inline(always)]
    fn translated_piece(&self, pieces: &Pieces) -> Option<[u64; 2]> {
        // SAFETY: an address that was reused meanwhile concerns one packet of somebody else's.
        unsafe { TRANSLATED_PIECES.get(pieces) }.copied()
    }

    #[inline(always)]
    fn remember_translated(&self, pieces: &Pieces, address: &[u64; 2]) {
        let _ = TRANSLATED_PIECES.insert(pieces, address, BPF_ANY.into());
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: the helper takes nothing.
        unsafe { bpf_get_prandom_u32() }
    }
}

/// Goes on with another program, and does not return; it does where that program is not there.
#[inline(always)]
pub(crate) fn go_on(ctx: &TcContext, with: Jump) {
    // SAFETY: nothing that is dropped is left behind: programs have no destructors.
    unsafe { PROGRAMS.tail_call(ctx, with as u32) };
}

/// The slot to look at first; `None` where the address leads to none.
#[inline(always)]
fn hint(at: SlotHint) -> Option<u32> {
    at.read(*SLOT_HINTS.get(at.word)?)
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
pub(crate) fn add(to: *mut u64, number: u64) {
    // SAFETY: `BPF_ATOMIC | BPF_ADD` on a value of a map, which is aligned; every kernel knows it (`BPF_XADD` before Linux 5.12).
    unsafe { asm!("lock *(u64 *)({to} + 0) += {number}", to = in(reg) to, number = in(reg) number, options(nostack)) };
}

/// Whether a packet is within what its pod may send at all, and where it is for the internet, there: when it departs, 0 for at once; or which
/// limit it is that it is beyond.
///
/// `own` is [`Endpoint::limits`]; `leaves` says that an uplink has it, whose queue may know departure times; `mark` says that the way is
/// congested.
#[inline(always)]
pub(crate) fn may_send(
    slot: u32,
    bytes: impl FnOnce() -> u32,
    own: u8,
    (leaves, to_internet): (bool, bool),
    mark: impl FnOnce(),
) -> Result<u64, Reason> {
    let (Some(network), Some(limits)) = (Maps.network(), LIMITS.get(slot)) else { return Ok(0) };
    let of_all = to_internet && (network.internet_egress != 0 || network.node_internet_egress != 0);
    if own & LIMIT_SENT == 0 && !(to_internet && own & LIMIT_INTERNET != 0) && !of_all {
        return Ok(0);
    }
    let (Some(paid), Some(together)) = (PAID.get_ptr_mut(slot), NODE_SHARE.get_ptr_mut(0)) else { return Ok(0) };
    // SAFETY: the fields of the value of an array, which stays where it is for as long as the program lives.
    let places = unsafe { (&raw mut (*paid).sent, &raw mut (*paid).internet, &raw mut (*paid).share, &raw mut (*together).paid) };
    // SAFETY: the helper takes nothing and reads a clock.
    let (now, bytes) = (unsafe { bpf_ktime_get_ns() }, bytes());
    // Read behind the calls, and not before: what is known across a call lies on the stack, of which there is little.
    let limit = |limit: &Limit| Limit { rate: read_anew(&limit.rate), burst: read_anew(&limit.burst) };
    let (of_all, of_node) =
        if to_internet { (read_anew(&network.internet_egress), read_anew(&network.node_internet_egress)) } else { (0, 0) };
    let sent = if own & LIMIT_SENT != 0 { limit(&limits.sent) } else { Limit::NONE };
    let internet = match to_internet && own & LIMIT_INTERNET != 0 {
        true => limit(&limits.internet),
        false => Limit::of(of_all),
    };
    let queue = Queue::of(paid, if leaves { network.departure_packets } else { 0 }, bytes);
    let sent = queue.judge(places.0, sent, bytes, now);
    let internet = queue.judge(places.1, internet, bytes, now);
    let departure = queue.departure(&sent, &internet);
    let mut judgement = sent.judgement().max(internet.judgement());
    if judgement == Judgement::Drop {
        // What is lost for one of them has cost nothing at the others.
        return Err(if internet.judgement() == judgement { Reason::InternetEgressLimit } else { Reason::EgressLimit });
    }
    if of_node != 0 {
        let of_node = Limit::of(of_node);
        let common = Bucket::judge(places.3, of_node.common(), bytes, now);
        let clock = clock_of_shares(together, common.before.saturating_sub(now), of_node.common(), now);
        let share = Bucket::judge(places.2, of_node, bytes, clock);
        judgement = judgement.max(common.judgement()).max(share.judgement());
        if judgement == Judgement::Drop {
            return Err(Reason::NodeInternetEgressLimit);
        }
        common.pay();
        share.pay();
    }
    sent.pay();
    internet.pay();
    queue.take_in();
    // Last: a call in between would have everything before it wait on the stack.
    if judgement == Judgement::Mark {
        mark();
    }
    Ok(departure)
}

/// A number in a map as it is now, whatever was read of it before.
#[inline(always)]
fn read_anew(number: &u64) -> u64 {
    // SAFETY: a reference is aligned and to be read.
    unsafe { (&raw const *number).read_volatile() }
}

/// What becomes of a packet that is judged so.
#[inline(always)]
fn is_lost(judgement: Judgement, mark: impl FnOnce()) -> bool {
    match judgement {
        Judgement::Pass => false,
        Judgement::Mark => {
            mark();
            false
        }
        Judgement::Drop => true,
    }
}

/// The clock of shares, set anew where it is time. CPUs that do so at once set it forward twice: it goes slower then, for more of the burst
/// is in use.
#[inline(always)]
fn clock_of_shares(together: *mut NodeShare, ahead: u64, common: Limit, now: u64) -> u64 {
    // SAFETY: fields of the value of an array, which stays where it is for as long as the program lives.
    let (clock, ticked) = unsafe { (&raw mut (*together).clock, &raw mut (*together).ticked) };
    // SAFETY: an aligned number there.
    let elapsed = now.saturating_sub(unsafe { ticked.read_volatile() });
    if elapsed >= shape::TICK {
        // SAFETY: as above.
        unsafe { ticked.write_volatile(now) };
        add(clock, shape::advance(elapsed, ahead, common));
    }
    // SAFETY: as above.
    unsafe { clock.read_volatile() }
}

/// Whether a packet is within what its pod may be sent. Asked only of pods with [`ebpf::layout::LIMIT_RECEIVED`]; `mark` as in [`may_send`].
#[inline(always)]
pub(crate) fn may_receive(slot: u32, bytes: u32, mark: impl FnOnce()) -> bool {
    let (Some(paid), Some(limits)) = (PAID.get_ptr_mut(slot), LIMITS.get(slot)) else { return true };
    // SAFETY: as in `may_send`.
    let place = unsafe { &raw mut (*paid).received };
    // SAFETY: the helper takes nothing and reads a clock.
    let now = unsafe { bpf_ktime_get_ns() };
    let bucket = Bucket::judge(place, limits.received, bytes, now);
    if is_lost(bucket.judgement(), mark) {
        return false;
    }
    bucket.pay();
    true
}

/// The queue of the uplink that a packet leaves by, as far as it is known. The limit of all pods together is none of its: that goes by another
/// clock.
struct Queue {
    /// Packets of a flow that it holds; 0 where it knows no departure times.
    packets: u32,
    /// Bytes that may wait in it.
    room: u64,
    place: *mut u64,
    with_this: u64,
}

impl Queue {
    #[inline(always)]
    fn of(paid: *mut Paid, packets: u32, bytes: u32) -> Self {
        // SAFETY: as in `may_send`.
        let place = unsafe { &raw mut (*paid).mean };
        // SAFETY: a number in the value of an array, aligned.
        let mean = if packets == 0 { 0 } else { unsafe { place.read_volatile() } };
        // By those before it: one that is judged by a mean that it has raised would have more room than others.
        Self { packets, room: shape::room(packets, mean), place, with_this: shape::mean(mean, bytes) }
    }

    #[inline(always)]
    fn judge(&self, paid: *mut u64, limit: Limit, bytes: u32, now: u64) -> Bucket {
        let bucket = Bucket::judge(paid, limit, bytes, now);
        if self.packets == 0 {
            return bucket;
        }
        Bucket { judged: shape::judge_departure(now, bytes, limit, bucket.before, self.room), ..bucket }
    }

    /// When a packet departs that both let pass; 0 for at once.
    #[inline(always)]
    fn departure(&self, sent: &Bucket, internet: &Bucket) -> u64 {
        if self.packets == 0 { 0 } else { sent.waits_until().max(internet.waits_until()) }
    }

    /// Takes a packet into the mean that passes. CPUs that write at once forget one.
    #[inline(always)]
    fn take_in(&self) {
        if self.packets != 0 {
            // SAFETY: as in `of`.
            unsafe { self.place.write_volatile(self.with_this) };
        }
    }
}

/// A bucket that was asked, and has still to be paid.
pub(crate) struct Bucket {
    paid: *mut u64,
    /// By the clock that fills it.
    now: u64,
    before: u64,
    judged: Judged,
}

impl Bucket {
    #[inline(always)]
    pub(crate) fn judge(paid: *mut u64, limit: Limit, bytes: u32, now: u64) -> Self {
        // SAFETY: a number in the value of an array, aligned, which stays where it is for as long as the program lives.
        let before = unsafe { paid.read_volatile() };
        Self { paid, now, before, judged: shape::judge(now, bytes, limit, before) }
    }

    #[inline(always)]
    pub(crate) const fn judgement(&self) -> Judgement {
        self.judged.judgement
    }

    /// Until when all before the packet is paid for; 0 where that is past, or the limit does not hold.
    #[inline(always)]
    const fn waits_until(&self) -> u64 {
        if self.judged.cost != 0 && self.before > self.now { self.before } else { 0 }
    }

    #[inline(always)]
    pub(crate) fn pay(&self) {
        // A limit that does not hold costs nothing.
        if self.judged.cost == 0 {
            return;
        }
        // What was not sent in time is not saved up. Of CPUs that find this at once, one's packet may go unpaid. Read once more, and not kept
        // from when it was judged: there is room for few numbers.
        // SAFETY: as in `judge`.
        if unsafe { self.paid.read_volatile() } < self.now {
            // SAFETY: as above.
            unsafe { self.paid.write_volatile(self.now) };
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

/// Puts a flow into the table at the expense of this slot; the note that is there now, `None` where there is none.
#[inline(always)]
fn note<K>(flows: &HashMap<K, Noted>, place: usize, slot: u32, flow: &K, seen: Seen) -> Option<Noted> {
    if let Some(before) = noted(flows, flow, || seen) {
        // A connection in the place of one that is over: what was counted for that is counted for this.
        if !before.is_over(seen) {
            return Some(before);
        }
        mark(place);
        let anew = Noted::first(before.slot, seen, seconds());
        return flows.insert(flow, anew, BPF_ANY.into()).is_ok().then_some(anew);
    }
    let notes = NOTES.get_ptr_mut(slot)?;
    let share = NOTES_SHARE.get(0)?;
    // SAFETY: the value stays where it is for as long as the map lives, and is one number.
    let before = unsafe { notes.read_volatile() };
    if before >= *share {
        return None;
    }
    mark(place);
    let first = Noted::first(slot as u16, seen, seconds());
    flows.insert(flow, first, BPF_ANY.into()).ok()?;
    // SAFETY: as above. Two CPUs may count one note for two: the sweep puts it right, and a share leaves room for that.
    unsafe { notes.write_volatile(before + 1) };
    Some(first)
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
