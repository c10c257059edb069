//! The three blocks of pcapng that a capture of one interface needs (draft-ietf-opsawg-pcapng): section header, interface description and
//! enhanced packet. Pure. The crates for it read more than they write, and none has had a release in years.

/// Of the kind of frames: Ethernet.
const LINKTYPE_ETHERNET: u16 = 1;
const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const INTERFACE: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const OPT_COMMENT: u16 = 1;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
/// Nanoseconds: ten to the power of minus this.
const NANOSECONDS: u8 = 9;

/// What a file begins with.
pub(super) fn header(interface: &str, comment: &str, snap: u32) -> Vec<u8> {
    let mut section = Vec::new();
    section.extend(BYTE_ORDER.to_le_bytes());
    section.extend([1, 0, 0, 0]);
    // How long the section is, is not known yet.
    section.extend(u64::MAX.to_le_bytes());
    option(&mut section, OPT_COMMENT, comment.as_bytes());
    option(&mut section, 0, &[]);
    let mut description = Vec::new();
    description.extend(LINKTYPE_ETHERNET.to_le_bytes());
    description.extend([0, 0]);
    description.extend(snap.to_le_bytes());
    option(&mut description, IF_NAME, interface.as_bytes());
    option(&mut description, IF_TSRESOL, &[NANOSECONDS]);
    option(&mut description, 0, &[]);
    let mut file = block(SECTION_HEADER, &section);
    file.extend(block(INTERFACE, &description));
    file
}

/// One packet: when it was seen, what was kept of it, and how long it was.
pub(super) fn packet(nanoseconds: u64, bytes: &[u8], length: u32) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(0_u32.to_le_bytes());
    body.extend(((nanoseconds >> 32) as u32).to_le_bytes());
    body.extend((nanoseconds as u32).to_le_bytes());
    body.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    body.extend(length.to_le_bytes());
    padded(&mut body, bytes);
    block(ENHANCED_PACKET, &body)
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 12).unwrap_or(u32::MAX).to_le_bytes();
    [&kind.to_le_bytes()[..], &length, body, &length].concat()
}

fn option(into: &mut Vec<u8>, kind: u16, value: &[u8]) {
    into.extend(kind.to_le_bytes());
    into.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
    padded(into, value);
}

/// To a multiple of four.
fn padded(into: &mut Vec<u8>, bytes: &[u8]) {
    into.extend(bytes);
    into.resize(into.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kind and body of each block, whose two lengths agree.
    fn blocks(mut file: &[u8]) -> Vec<(u32, &[u8])> {
        let mut blocks = Vec::new();
        let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        while !file.is_empty() {
            let length = word(file, 4) as usize;
            assert_eq!((length % 4, word(file, length - 4) as usize), (0, length));
            blocks.push((word(file, 0), &file[8..length - 4]));
            file = &file[length..];
        }
        blocks
    }

    #[test]
    fn blocks_are_whole() {
        let mut file = header("eth0", "pod web/api", 65_535);
        for length in 0..9_usize {
            file.extend(packet(5_000_000_000, &vec![7; length], 1_500));
        }
        let blocks = blocks(&file);
        let kinds: Vec<_> = blocks.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds[..3], [SECTION_HEADER, INTERFACE, ENHANCED_PACKET]);
        let (_, packet) = blocks[7];
        assert_eq!(packet[4..12], [[1, 0, 0, 0], 705_032_704_u32.to_le_bytes()].concat()[..], "the clock's upper and lower half");
        assert_eq!((packet[12], &packet[16..20], &packet[20..25], packet.len()), (5, &1_500_u32.to_le_bytes()[..], &[7; 5][..], 28));
    }
}
