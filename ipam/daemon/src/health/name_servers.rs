//! The name servers of the host, each asked for what any of them knows: who serves the root.
//!
//! One question of seventeen bytes, and of the answer its number and its code: less than what a resolver's library would have to be told so as
//! not to try again, remember, or go elsewhere.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

/// What has not come by then does not come. Three servers, as a resolver asks at most, are within a look's limit.
const PATIENCE: Duration = Duration::from_millis(1_500);
const SERVERS_MAX: usize = 3;
const PORT: u16 = 53;

/// The servers of `/etc/resolv.conf` below `root`, in their order.
pub(super) fn of(root: &Path) -> io::Result<Vec<IpAddr>> {
    let text = fs::read_to_string(root.join("etc/resolv.conf"))?;
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        // An address may have a zone, which only a link-local one needs: those are left out.
        (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok()).flatten()
    };
    Ok(text.lines().filter_map(server).take(SERVERS_MAX).collect())
}

/// Whether one of them answers, in their order, as whoever resolves a name asks them.
pub(super) fn ask(servers: &[IpAddr]) -> Result<(), String> {
    let mut faults = Vec::new();
    for server in servers {
        match ask_one(SocketAddr::new(*server, PORT)) {
            Ok(()) => return Ok(()),
            Err(fault) => faults.push(format!("{server}: {fault}")),
        }
    }
    Err(format!("no name server answers: {}", faults.join(", ")))
}

fn ask_one(server: SocketAddr) -> Result<(), String> {
    /// RFC 1035, section 4.1.1: it is well itself, and reaches nobody who knows.
    const SERVER_FAILURE: u8 = 2;
    let exchange = || {
        let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        socket.connect(server)?;
        let number = fastrand::u16(..);
        socket.send(&question(number))?;
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing within {} ms", PATIENCE.as_millis())));
            }
            socket.set_read_timeout(Some(left))?;
            let mut bytes = [0; 12];
            match socket.recv(&mut bytes) {
                Ok(length) => {
                    if let Some(code) = answered(number, &bytes[..length]) {
                        return Ok(code);
                    }
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
    };
    match exchange() {
        Ok(SERVER_FAILURE) => Err("SERVFAIL".to_owned()),
        // A refusal is an answer as well: there may be no question that it takes from everybody.
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// NS of the root, with recursion (RFC 1035, section 4.1).
fn question(number: u16) -> [u8; 17] {
    let [high, low] = number.to_be_bytes();
    [high, low, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1]
}

/// The code of the answer with that number.
fn answered(number: u16, datagram: &[u8]) -> Option<u8> {
    let [high, low, flags, code, ..] = datagram else { return None };
    (u16::from_be_bytes([*high, *low]) == number && flags & 0x80 != 0).then_some(code & 0x0f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_a_resolver_reads_them() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("etc")).unwrap();
        let write = |text: &str| fs::write(folder.path().join("etc/resolv.conf"), text).unwrap();
        write("# nameserver 9.9.9.9\nsearch a.b\nnameserver 10.0.0.2 # inside\n nameserver fd00::2\nnameserver\nnameserver fe80::1%eth0\n");
        let expected: [IpAddr; 2] = ["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        assert_eq!(of(folder.path()).unwrap(), expected);
        write("nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\nnameserver 10.0.0.4\n");
        assert_eq!(of(folder.path()).unwrap().len(), SERVERS_MAX);
    }

    #[test]
    fn any_answer_is_one_but_for_a_server_that_reaches_nobody() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let answers = std::thread::spawn(move || {
            for code in [0, 5, 2] {
                let mut bytes = [0; 64];
                let (length, from) = server.recv_from(&mut bytes).unwrap();
                assert_eq!((length, &bytes[2..6]), (17, &[1, 0, 0, 1][..]));
                // Of somebody else's question, and the question itself.
                server.send_to(&[!bytes[0], bytes[1], 0x81, 0], from).unwrap();
                server.send_to(&bytes[..length], from).unwrap();
                server.send_to(&[bytes[0], bytes[1], 0x81, 0x80 | code, 0, 1, 0, 13], from).unwrap();
            }
        });
        assert_eq!((ask_one(address), ask_one(address)), (Ok(()), Ok(())));
        assert_eq!(ask_one(address), Err("SERVFAIL".to_owned()));
        answers.join().unwrap();
        assert!(ask_one(address).unwrap_err().contains("refused"), "nobody is there any more");
    }
}
