//! The linear part of a socket buffer, read directly.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::TcContext;
use ebpf::packet::{Bytes, Protocol};
use ebpf::verdict::{Reading, Unusual};

/// Beyond this nothing is read: Ethernet, IPv6 with extension headers, an ICMP error and the packet that it quotes.
const DEEP: u32 = 14 + 40 + 256 + 8 + 40 + 64;

/// See [`Bytes::settled`].
#[map]
static SETTLED: PerCpuArray<[u32; 3]> = PerCpuArray::with_max_entries(1, 0);
/// What was found in the packet that this CPU is at.
#[map]
static UNUSUAL: PerCpuArray<Unusual> = PerCpuArray::with_max_entries(1, 0);

/// The bytes between `data` and `data_end`, wherever these are now: a helper may move them.
pub(crate) struct Linear<'a> {
    ctx: &'a TcContext,
    /// It was read, and lies in the map.
    is_read: bool,
}

impl<'a> Linear<'a> {
    #[inline(always)]
    pub(crate) const fn of(ctx: &'a TcContext) -> Self {
        Self { ctx, is_read: false }
    }

    /// Of a packet that [`read_unusual_v4`] or [`read_unusual_v6`] has read in this program: not from within the function that goes by
    /// it, for which there would be no stack.
    #[inline(always)]
    pub(crate) const fn of_read(ctx: &'a TcContext) -> Self {
        Self { ctx, is_read: true }
    }
}

impl Bytes for Linear<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let start = self.ctx.data() + offset;
        if start + N > self.ctx.data_end() {
            return None;
        }
        // SAFETY: `start` to `start + N` lies between `data` and `data_end`, as was just checked; the verifier checks it again.
        Some(unsafe { (start as *const [u8; N]).read_unaligned() })
    }

    #[inline(always)]
    fn is_tagged(&self) -> bool {
        // SAFETY: the context is valid for as long as the program runs.
        unsafe { (*self.ctx.skb.skb).vlan_present != 0 }
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        self.ctx.len()
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        // SAFETY: the context is valid for as long as the program runs.
        unsafe { (*self.ctx.skb.skb).gso_size }
    }

    /// By way of a map: what is read from one may be anything.
    #[inline(always)]
    fn settled(&self, numbers: [u32; 3]) -> Option<[u32; 3]> {
        let place = SETTLED.get_ptr_mut(0)?;
        // SAFETY: the value is this CPU's alone, and a classifier is not interrupted by another on the same CPU.
        unsafe { place.write_volatile(numbers) };
        // SAFETY: as above.
        Some(unsafe { place.read_volatile() })
    }
}

impl Reading for Linear<'_> {
    #[inline(always)]
    fn unusual(&self, version: Protocol) -> Option<impl AsRef<Unusual>> {
        let read = if matches!(version, Protocol::V4) { read_unusual_v4 } else { read_unusual_v6 };
        if !self.is_read && read(self.ctx.skb.skb) == 0 {
            return None;
        }
        UNUSUAL.get(0)
    }

    #[inline(always)]
    fn pull(&self) {
        let wanted = if self.ctx.len() < DEEP { self.ctx.len() } else { DEEP };
        if self.ctx.data() + wanted as usize > self.ctx.data_end() {
            // Where it cannot be had, it is not there.
            let _ = self.ctx.pull_data(wanted);
        }
    }
}

/// Reads a packet of IPv4; whether it could. A function that the verifier looks at by itself (a global one, Linux 5.6).
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn read_unusual_v4(skb: *mut __sk_buff) -> u32 {
    read_unusual(skb, Protocol::V4)
}

/// Likewise, of IPv6. Both in one would need the stack of both.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn read_unusual_v6(skb: *mut __sk_buff) -> u32 {
    read_unusual(skb, Protocol::V6)
}

#[inline(always)]
fn read_unusual(skb: *mut __sk_buff, version: Protocol) -> u32 {
    let ctx = TcContext::new(skb);
    let bytes = Linear::of(&ctx);
    bytes.pull();
    let Some(found) = UNUSUAL.get_ptr_mut(0) else { return 0 };
    // SAFETY: the value is this CPU's alone, and a classifier is not interrupted by another on the same CPU.
    let found = unsafe { &mut *found };
    u32::from(found.read(&bytes, version))
}
