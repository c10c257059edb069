//! The linear part of a socket buffer, read directly.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::TcContext;
use ebpf::packet::{Bytes, Fragment, Header, TCP, UDP};

/// Beyond this nothing is read: Ethernet, IPv6 with extension headers, an ICMP error and the packet that it quotes.
const DEEP: u32 = 14 + 40 + 256 + 8 + 40 + 64;

/// All bits of where a transport header can begin: four extension headers of the greatest length end before.
const FURTHEST: u32 = (1 << 14) - 1;

/// See [`Bytes::settled`].
#[map]
static SETTLED: PerCpuArray<[u32; 6]> = PerCpuArray::with_max_entries(1, 0);

/// The bytes between `data` and `data_end`.
pub(crate) struct Linear {
    data: usize,
    end: usize,
    length: u32,
    segment: u32,
    tagged: bool,
}

impl Linear {
    /// The linear part of a packet; where headers lie beyond it, they are pulled in first. `None` where they cannot be.
    #[inline(always)]
    pub(crate) fn of(ctx: &TcContext) -> Option<Self> {
        // SAFETY: the context is valid for as long as the program runs.
        let tagged = unsafe { (*ctx.skb.skb).vlan_present } != 0;
        // SAFETY: as above.
        let segment = unsafe { (*ctx.skb.skb).gso_size };
        let whole = |data, end| Self { data, end, length: ctx.len(), segment, tagged };
        let linear = whole(ctx.data(), ctx.data_end());
        let wanted = if ctx.len() < DEEP { ctx.len() } else { DEEP };
        if linear.is_plain() || linear.data + wanted as usize <= linear.end {
            return Some(linear);
        }
        ctx.pull_data(wanted).ok()?;
        Some(whole(ctx.data(), ctx.data_end()))
    }

    /// Whether it is TCP or UDP behind a plain network header, and all there: nearly every packet is.
    #[inline(always)]
    fn is_plain(&self) -> bool {
        let Some(head) = self.read::<{ 14 + 20 }>(0) else { return false };
        let (protocol, network) = match [head[12], head[13], head[14]] {
            [0x08, 0x00, 0x45] => (head[23], 20),
            [0x86, 0xdd, _] => (head[20], 40),
            _ => return false,
        };
        match protocol {
            TCP => self.data + 14 + network + 20 <= self.end,
            UDP => self.data + 14 + network + 8 <= self.end,
            _ => false,
        }
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

    #[inline(always)]
    fn length(&self) -> u32 {
        self.length
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        self.segment
    }

    /// By way of a map: what is read from one may be anything. Where the transport header begins is masked and not compared: the
    /// verifier of Linux 6.1 does not learn from a register's comparison what it says of the same number spilled to the stack.
    #[inline(always)]
    fn settled(&self, header: Header) -> Option<Header> {
        let place = SETTLED.get_ptr_mut(0)?;
        let Header { protocol, hop_limit, options, fragment, id, transport } = header;
        let words = [protocol.into(), hop_limit.into(), options.into(), fragment as u32, id, transport as u32];
        // SAFETY: the value is this CPU's alone, and a classifier is not interrupted by another on the same CPU.
        unsafe { place.write_volatile(words) };
        // SAFETY: as above.
        let [protocol, hop_limit, options, fragment, id, transport] = unsafe { place.read_volatile() };
        Some(Header {
            protocol: protocol as u8,
            hop_limit: hop_limit as u8,
            options: options != 0,
            fragment: Fragment::from_number(fragment),
            id,
            transport: (transport & FURTHEST) as usize,
        })
    }
}
