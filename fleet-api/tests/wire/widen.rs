//! Messages with fields that no version has had yet, wherever there is a message.

/// Beyond all that is used.
const FIELD: u64 = 1_000;

fn varint(mut value: u64, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

fn read_varint(bytes: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = take(bytes, 1)[0];
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            return value;
        }
    }
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(length);
    *bytes = rest;
    taken
}

/// One field of each wire type: a number, eight bytes, a string, four bytes.
fn unknown() -> Vec<u8> {
    let mut bytes = Vec::new();
    for (wire, value) in [(0, &[0x96, 0x01][..]), (1, &[1; 8]), (2, &[3, b'n', b'e', b'w']), (5, &[1; 4])] {
        varint(FIELD << 3 | wire, &mut bytes);
        bytes.extend_from_slice(value);
    }
    bytes
}

/// The message with unknown fields in front of and behind its own, and in each of the messages in it, which are at these paths of field numbers.
pub(crate) fn widen(message: &[u8], paths: &[&[u32]]) -> Vec<u8> {
    let (mut rest, mut wide) = (message, unknown());
    while !rest.is_empty() {
        let tag = read_varint(&mut rest);
        varint(tag, &mut wide);
        let field = (tag >> 3) as u32;
        match tag & 7 {
            0 => varint(read_varint(&mut rest), &mut wide),
            1 => wide.extend_from_slice(take(&mut rest, 8)),
            5 => wide.extend_from_slice(take(&mut rest, 4)),
            2 => {
                let length = read_varint(&mut rest) as usize;
                let inner = take(&mut rest, length);
                let below: Vec<&[u32]> = paths.iter().filter_map(|path| path.strip_prefix(&[field])).collect();
                let inner = if below.iter().any(|path| path.is_empty()) { widen(inner, &below) } else { inner.to_vec() };
                varint(inner.len() as u64, &mut wide);
                wide.extend_from_slice(&inner);
            }
            wire => panic!("wire type {wire}"),
        }
    }
    wide.extend(unknown());
    wide
}
