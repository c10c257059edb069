use super::*;

const UDP: u8 = 17;

fn v4(edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([0x08, 0x00, 0x45, 0, 0, 28, 0, 7, 0, 0, 64, UDP, 0, 0, 10, 0, 1, 17, 10, 0, 1, 18, 0x12, 0x34, 0x00, 0x35, 0, 8, 0, 0]);
    edit(&mut frame);
    frame
}

/// UDP behind these headers: each with what it is, and its bytes but the first, which is the next one's kind.
fn v6(extensions: &[(u8, &[u8])]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, extensions.first().map_or(UDP, |(kind, _)| *kind), 64]);
    frame.extend([0xfd; 32]);
    for (at, (_, rest)) in extensions.iter().enumerate() {
        frame.push(extensions.get(at + 1).map_or(UDP, |(kind, _)| *kind));
        frame.extend(*rest);
    }
    frame.extend([0x12, 0x34, 0x00, 0x35, 0, 8, 0, 0]);
    frame
}

fn read4(frame: &[u8]) -> Option<Ipv4> {
    assert_eq!(protocol(&Frame::new(frame))?, Protocol::V4);
    ipv4(&Frame::new(frame))
}

#[test]
fn a_plain_udp_packet() {
    let frame = v4(|_| {});
    let packet = read4(&frame).unwrap();
    assert_eq!((packet.source, packet.destination), ([10, 0, 1, 17], [10, 0, 1, 18]));
    let header = packet.header;
    assert_eq!((header.fragment, header.options, header.hop_limit, header.id), (Fragment::No, false, 64, 7));
    let ports = transport(&Frame::new(&frame), header.protocol, header.transport).unwrap();
    assert_eq!((ports.source, ports.destination), ([0x12, 0x34], [0, 0x35]));
    assert_eq!(ports.reversed().reversed(), ports);
}

#[test]
fn types() {
    let of = |bytes: [u8; 2]| protocol(&Frame::new(&v4(|frame| frame[12..14].copy_from_slice(&bytes)))).unwrap();
    for tag in [[0x81, 0], [0x88, 0xa8], [0x91, 0], [0x92, 0], [0x93, 0]] {
        assert_eq!(of(tag), Protocol::Tagged);
    }
    assert_eq!([of([8, 6]), of([0x88, 0xcc]), of([0, 46])], [Protocol::Arp, Protocol::Other, Protocol::Other]);
    let frame = v4(|_| {});
    assert_eq!(protocol(&Frame::new(&frame).tagged(true)), Some(Protocol::Tagged));
}

#[test]
fn fragments() {
    for (bytes, expected) in [
        ([0x00, 0x00], Fragment::No),
        ([0x40, 0x00], Fragment::No),
        ([0x20, 0x00], Fragment::First),
        ([0x20, 0x01], Fragment::Later),
        ([0x00, 0x01], Fragment::Later),
        ([0x1f, 0x00], Fragment::Later),
    ] {
        assert_eq!(read4(&v4(|frame| frame[20..22].copy_from_slice(&bytes))).unwrap().header.fragment, expected, "{bytes:?}");
    }
}

#[test]
fn extension_headers_are_walked_to_the_ports() {
    const PLAIN: &[u8] = &[0, 1, 4, 0, 0, 0, 0];
    let long = [&[1, 1, 12][..], &[0; 12]].concat();
    let read = |extensions: &[(u8, &[u8])]| {
        let frame = v6(extensions);
        let header = ipv6(&Frame::new(&frame))?.header;
        let ports = transport(&Frame::new(&frame), header.protocol, header.transport).map(|ports| ports.destination);
        Some((header.options, header.fragment, ports))
    };
    let ports = Some([0, 0x35]);
    assert_eq!(read(&[]), Some((false, Fragment::No, ports)));
    assert_eq!(read(&[(0, PLAIN)]), Some((true, Fragment::No, ports)));
    assert_eq!(read(&[(0, PLAIN), (60, &long), (43, PLAIN), (51, &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])]), Some((true, Fragment::No, ports)));
    assert_eq!(read(&[(0, PLAIN); 5]), None, "more than anybody sends");
    assert_eq!(read(&[(44, &[0, 0, 0, 0, 0, 0, 7])]), Some((true, Fragment::No, ports)), "one piece");
    assert_eq!(read(&[(44, &[0, 0, 1, 0, 0, 0, 7]), (60, PLAIN)]), Some((true, Fragment::First, ports)));
    let later = v6(&[(44, &[0, 0, 0x48, 1, 0, 0, 7]), (60, PLAIN)]);
    let header = ipv6(&Frame::new(&later)).unwrap().header;
    assert_eq!((header.fragment, header.id), (Fragment::Later, 0x0100_0007));
}

#[test]
fn nonsense_is_refused() {
    assert_eq!(read4(&v4(|frame| frame[14] = 0x44)), None);
    assert_eq!(read4(&v4(|frame| frame[14] = 0x65)), None);
    assert!(read4(&v4(|frame| frame[14] = 0x46)).unwrap().header.options);
    let whole = v4(|_| {});
    for length in 0..34 {
        assert_eq!(read4(&whole[..length]), None, "{length}");
    }
}

#[test]
fn only_echoes_are_flows_of_icmp_and_only_some_others_are_errors() {
    for kind in 0..=255 {
        let frame = v4(|frame| (frame[23], frame[34]) = (1, kind));
        let frame = Frame::new(&frame);
        let header = ipv4(&frame).unwrap().header;
        assert_eq!(transport(&frame, 1, header.transport).is_some(), matches!(kind, 0 | 8));
        assert_eq!(is_error(&frame, &header), matches!(kind, 3 | 11 | 12));
        assert!(!is_discovery(&frame, &header));
    }
}

#[test]
fn what_an_error_quotes_is_read_in_its_own_direction() {
    let quoted = v4(|frame| frame[14] = 0x45);
    let mut error = v4(|frame| (frame[23], frame[34]) = (1, 3));
    error.extend(&quoted[14..]);
    let header = read4(&error).unwrap().header;
    let found = quoted4(&Frame::new(&error), &header).unwrap();
    assert_eq!((found.source, found.destination), ([10, 0, 1, 17], [10, 0, 1, 18]));
    assert_eq!((found.transport.source, found.transport.destination), ([0x12, 0x34], [0, 0x35]));
    assert!(quoted4(&Frame::new(&error[..error.len() - 5]), &header).is_none(), "without its ports");
}

#[test]
fn flags_of_tcp_are_told() {
    let with = |flags| {
        let seen = Seen::of(flags, true);
        (seen.signs, seen.opens)
    };
    assert_eq!([with(2), with(0x12), with(1), with(4), with(0x11)], [(0, true), (0, false), (2, false), (4, false), (2, false)]);
}
