//! The linear part of a socket buffer, read directly.

use aya_ebpf::programs::TcContext;
use ebpf::packet::Bytes;

/// Ethernet, the longest network header that is read (IPv6), and the bytes of a transport header that tell a flow.
const WANTED: u32 = 14 + 40 + 8;

/// The bytes between `data` and `data_end`.
pub(crate) struct Linear {
    data: usize,
    end: usize,
    tagged: bool,
}

impl Linear {
    /// The linear part of a packet; where the headers lie beyond it, they are pulled in first. `None` where they cannot be.
    #[inline(always)]
    pub(crate) fn of(ctx: &TcContext) -> Option<Self> {
        let (data, end) = (ctx.data(), ctx.data_end());
        // SAFETY: the context is valid for as long as the program runs.
        let tagged = unsafe { (*ctx.skb.skb).vlan_present } != 0;
        if data + WANTED as usize <= end {
            return Some(Self { data, end, tagged });
        }
        // For a packet that is shorter than all that, and linear, this changes nothing.
        let wanted = if ctx.len() < WANTED { ctx.len() } else { WANTED };
        ctx.pull_data(wanted).ok()?;
        Some(Self { data: ctx.data(), end: ctx.data_end(), tagged })
    }
}

impl Bytes for Linear {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let start = self.data + offset;
        if start + N > self.end {
            return None;
        }
        // SAFETY: `start` to `start + N` lies between `data` and `data_end`, as was just checked; the verifier checks it again.
        Some(unsafe { (start as *const [u8; N]).read_unaligned() })
    }

    #[inline(always)]
    fn is_tagged(&self) -> bool {
        self.tagged
    }
}
