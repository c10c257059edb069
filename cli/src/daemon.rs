//! Asks the node's daemon: one GET over HTTP/1.1 on loopback, bounded in time and in size.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Where the daemon listens unless `telemetry.listen` says otherwise.
pub(crate) const DEFAULT_ADDRESS: &str = "127.0.0.1:9807";
/// For one page. It is there in milliseconds where anybody is.
const LIMIT: Duration = Duration::from_secs(5);
/// A page of thousands of pods has a megabyte.
const SIZE_MAX: u64 = 64 << 20;

/// Why a page could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// Nobody answers.
    #[error(
        "barewired does not answer at {address}: {source}\n\
         It is the unit barewired: see `systemctl status barewired` and `journalctl -u barewired -e`. Pods that run are served without it.\n\
         If it runs, see telemetry.listen in /etc/barewire/barewired.toml: name the address with --daemon; \"\" turns off what this command asks."
    )]
    Unreachable {
        /// Who was asked.
        address: SocketAddr,
        /// What the kernel says.
        source: std::io::Error,
    },
    /// A daemon of another version.
    #[error("barewired at {address} has no page {page}: it is older than this command ({}); upgrade it", env!("CARGO_PKG_VERSION"))]
    NoSuchPage {
        /// Who was asked.
        address: SocketAddr,
        /// What for.
        page: String,
    },
    /// Something else listens there, or the daemon broke off.
    #[error("what {address} answers to GET {page} is not what barewired answers: {what}; see who listens there: `ss -ltnp`")]
    Answer {
        /// Who was asked.
        address: SocketAddr,
        /// What for.
        page: String,
        /// What is wrong with the answer.
        what: String,
    },
}

/// The daemon of this node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Daemon {
    pub(crate) address: SocketAddr,
}

impl Daemon {
    /// A page that is JSON.
    pub(crate) fn json(self, page: &str) -> Result<Value, AskError> {
        let body = self.get(page)?;
        serde_json::from_slice(&body).map_err(|error| AskError::Answer {
            address: self.address,
            page: page.to_owned(),
            what: error.to_string(),
        })
    }

    /// A page as it is.
    pub(crate) fn get(self, page: &str) -> Result<Vec<u8>, AskError> {
        let Self { address } = self;
        let answer = self.exchange(page).map_err(|source| AskError::Unreachable { address, source })?;
        match parse(&answer) {
            Ok((200, body)) => Ok(body.to_vec()),
            Ok((404, _)) => Err(AskError::NoSuchPage { address, page: page.split('?').next().unwrap_or_default().to_owned() }),
            Ok((status, body)) => {
                let what = format!("status {status}: {}", String::from_utf8_lossy(body).trim_end());
                Err(AskError::Answer { address, page: page.to_owned(), what })
            }
            Err(what) => Err(AskError::Answer { address, page: page.to_owned(), what: what.to_owned() }),
        }
    }

    /// Everything that is sent back until the connection is closed.
    fn exchange(self, page: &str) -> std::io::Result<Vec<u8>> {
        let until = Instant::now() + LIMIT;
        let mut stream = TcpStream::connect_timeout(&self.address, LIMIT)?;
        stream.set_write_timeout(Some(LIMIT))?;
        stream.write_all(format!("GET {page} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address).as_bytes())?;
        let mut answer = Vec::new();
        let mut piece = [0; 16 << 10];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(std::io::Error::new(ErrorKind::TimedOut, format!("no whole answer within {} s", LIMIT.as_secs())));
            }
            stream.set_read_timeout(Some(left))?;
            match stream.read(&mut piece) {
                Ok(0) => return Ok(answer),
                Ok(length) => answer.extend_from_slice(&piece[..length]),
                // The limit is over, which is seen above.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
            if answer.len() as u64 > SIZE_MAX {
                return Err(std::io::Error::new(ErrorKind::InvalidData, "it answers without an end"));
            }
        }
    }
}

/// Status and body of an answer that is not in pieces. Pure.
fn parse(answer: &[u8]) -> Result<(u16, &[u8]), &'static str> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or("it has no end of the head")?;
    let head = std::str::from_utf8(&answer[..end]).map_err(|_| "its head is no text")?;
    let body = &answer[end + 4..];
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let status = match (first.next(), first.next().and_then(|code| code.parse().ok())) {
        (Some("HTTP/1.1" | "HTTP/1.0"), Some(status)) => status,
        _ => return Err("it is no HTTP"),
    };
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok()).flatten()
    });
    match length {
        Some(length) if length == body.len() => Ok((status, body)),
        Some(_) => Err("it was cut short"),
        None => Err("it does not say how long it is"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_whole_or_not_at_all() {
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"), Ok((200, &b"{}"[..])));
        assert_eq!(parse(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"), Ok((404, &b""[..])));
        for cut in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
            b"SSH-2.0-x\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
        ] {
            assert!(parse(cut).is_err(), "{cut:?}");
        }
    }
}
