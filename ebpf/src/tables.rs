//! The maps. Their names are the names of their pins.

use aya_ebpf::bindings::{BPF_ANY, BPF_F_NO_PREALLOC};
use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray};
use ebpf::account::{Direction, Reason, Traffic};
use ebpf::flow::{Flow4, Flow6, Noted};
use ebpf::layout::{ENDPOINTS_MAX, Endpoint, FLOWS_MAX, Network, UPLINKS_MAX, Uplink};
use ebpf::scope::Scope;
use ebpf::verdict::Tables;

#[map]
static NETWORK: Array<Network> = Array::pinned(1, 0);
#[map]
static ENDPOINTS: Array<Endpoint> = Array::pinned(ENDPOINTS_MAX, 0);
#[map]
static UPLINKS: Array<Uplink> = Array::pinned(UPLINKS_MAX, 0);
#[map]
static SLOTS4: HashMap<[u8; 4], u32> = HashMap::pinned(ENDPOINTS_MAX, 0);
#[map]
static SLOTS6: HashMap<[u8; 16], u32> = HashMap::pinned(ENDPOINTS_MAX, 0);
#[map]
static FLOWS4: HashMap<Flow4, Noted> = HashMap::pinned(FLOWS_MAX, BPF_F_NO_PREALLOC);
#[map]
static FLOWS6: HashMap<Flow6, Noted> = HashMap::pinned(FLOWS_MAX, BPF_F_NO_PREALLOC);
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
        NETWORK.get(0)
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
        // SAFETY: the value is a number; one that was freed and reused is at worst another endpoint's, which is then
        // written to the endpoint's own table before its address is.
        unsafe { SLOTS4.get(address) }.copied()
    }

    #[inline(always)]
    fn slot6(&self, address: [u8; 16]) -> Option<u32> {
        // SAFETY: as in `slot4`.
        unsafe { SLOTS6.get(address) }.copied()
    }

    #[inline(always)]
    fn is_noted4(&self, flow: &Flow4) -> bool {
        is_remembered(&FLOWS4, flow)
    }

    #[inline(always)]
    fn is_noted6(&self, flow: &Flow6) -> bool {
        is_remembered(&FLOWS6, flow)
    }

    #[inline(always)]
    fn note4(&self, slot: u32, flow: &Flow4) {
        mark(slot, remember(&FLOWS4, flow));
    }

    #[inline(always)]
    fn note6(&self, slot: u32, flow: &Flow6) {
        mark(slot, remember(&FLOWS6, flow));
    }
}

/// Counts a packet for an endpoint, or for the host.
#[inline(always)]
pub(crate) fn count(slot: Option<u32>, direction: Direction, scope: Scope, bytes: u32) {
    let traffic = match slot {
        Some(slot) => TRAFFIC.get_ptr_mut(slot),
        None => HOST_TRAFFIC.get_ptr_mut(0),
    };
    if let Some(traffic) = traffic {
        // SAFETY: the value is this CPU's alone, and a classifier is not interrupted by another on the same CPU.
        unsafe { (*traffic).count(direction, scope, bytes) };
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

/// Tells whether the flow is in the table, and gives it the time of this packet: conntrack, too, goes by packets of either
/// direction, and a client may be silent for as long as its server goes on sending.
#[inline(always)]
fn is_remembered<K>(flows: &HashMap<K, Noted>, flow: &K) -> bool {
    let Some(noted) = flows.get_ptr_mut(flow) else { return false };
    // SAFETY: without preallocation an element lives until a grace period after its removal.
    let seen = unsafe { &raw mut (*noted).seen_seconds };
    let now = seconds();
    // SAFETY: as above. Read first: a store would take the cache line from the other CPUs with every packet.
    if unsafe { seen.read() } != now {
        // SAFETY: as above.
        unsafe { seen.write(now) };
    }
    true
}

/// Puts a flow into the table, and tells whether it is there now.
#[inline(always)]
fn remember<K>(flows: &HashMap<K, Noted>, flow: &K) -> bool {
    is_remembered(flows, flow) || flows.insert(flow, Noted { seen_seconds: seconds() }, BPF_ANY.into()).is_ok()
}

#[inline(always)]
fn seconds() -> u32 {
    // SAFETY: the helper takes nothing and reads a clock.
    (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32
}

/// Marks an endpoint as one with noted flows, or, where a flow found no room in the table, as one for the stack alone.
#[inline(always)]
fn mark(slot: u32, noted: bool) {
    let Some(endpoint) = ENDPOINTS.get_ptr_mut(slot) else { return };
    // SAFETY: the value stays where it is for as long as the map lives; each flag is one byte, stored at once.
    let flag = unsafe { if noted { &raw mut (*endpoint).has_flows } else { &raw mut (*endpoint).stack_only } };
    // SAFETY: as above; a flag is only ever set here.
    if unsafe { flag.read() } == 0 {
        // SAFETY: as above.
        unsafe { flag.write(1) };
    }
}
