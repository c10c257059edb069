//! What the three metadata services have in common: plain HTTP on the node's own link, tried a few times, and answers that must be
//! what they should be. Nothing is changed by asking, so a failure is a failure: it is never unknown what became of it.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use ipnetwork::IpNetwork;

use super::http::{Client, HttpError, Reply, excerpt};

/// The service is one hop away: what takes longer will not come.
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);
/// How often it is tried.
pub(super) const TRIES: u32 = 3;
/// Between tries: metadata services limit how often they are asked.
const PAUSE: Duration = Duration::from_millis(200);

/// Why metadata could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MetadataError {
    #[error("{url}: {why}; {remedy}")]
    Away { url: String, why: HttpError, remedy: &'static str },
    #[error("{url} answered {status}: {start:?}; {remedy}")]
    Refused { url: String, status: StatusCode, start: String, retry_after: Option<u64>, remedy: &'static str },
    #[error("{url} answered {value:?}, which is not {wanted}: is something else answering in its place?")]
    Malformed { url: String, value: String, wanted: &'static str },
}

impl MetadataError {
    pub(super) fn malformed(url: &str, value: &str, wanted: &'static str) -> Self {
        Self::Malformed { url: url.to_owned(), value: excerpt(value), wanted }
    }
}

/// A request for `path` of the service at `base`, with the header that keeps strangers out.
pub(super) fn get(base: &Uri, path: &str, header: (&'static str, &str)) -> Result<Request<Bytes>, MetadataError> {
    let url = format!("{}{path}", base.to_string().trim_end_matches('/'));
    let request = Request::get(&url).header(header.0, header.1).body(Bytes::new());
    request.map_err(|_| MetadataError::malformed(&url, header.1, "a header's value"))
}

/// Asks until there is an answer, [`TRIES`] times. `remedy` says what to look at where there is none.
pub(super) async fn fetch(client: &Client, request: &Request<Bytes>, remedy: &'static str) -> Result<Reply, MetadataError> {
    let url = request.uri().to_string();
    let mut tries = 0;
    loop {
        tries += 1;
        let answer = client.send(request.clone(), TIMEOUT).await;
        match answer {
            Ok(reply) if !is_passing(reply.status) => return Ok(reply),
            _ if tries < TRIES => tokio::time::sleep(PAUSE * tries).await,
            Ok(reply) => return Err(refused(&url, &reply, remedy)),
            Err(why) => return Err(MetadataError::Away { url, why, remedy }),
        }
    }
}

/// A refusal that another try may not meet. 410 is Azure's word for a service that is being updated.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::GONE
}

pub(super) fn refused(url: &str, reply: &Reply, remedy: &'static str) -> MetadataError {
    MetadataError::Refused { url: url.to_owned(), status: reply.status, start: reply.start(), retry_after: reply.retry_after(), remedy }
}

/// A machine without an interface would not answer: an empty list tells nothing.
pub(super) fn not_empty<T>(url: &str, interfaces: Vec<T>) -> Result<Vec<T>, MetadataError> {
    if interfaces.is_empty() { Err(MetadataError::malformed(url, "no interface", "a list of at least one")) } else { Ok(interfaces) }
}

/// The body as text.
pub(super) fn text(url: &str, reply: &Reply) -> Result<String, MetadataError> {
    match std::str::from_utf8(&reply.body) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(MetadataError::malformed(url, &reply.start(), "UTF-8")),
    }
}

/// A block of addresses without host bits; a single address is a block of one.
pub(super) fn block(url: &str, value: &str) -> Result<IpNetwork, MetadataError> {
    let parsed = value.trim().parse::<IpNetwork>().ok().filter(|network| network.ip() == network.network());
    parsed.ok_or_else(|| MetadataError::malformed(url, value, "a block like 10.0.1.16/28"))
}

/// Six bytes in hexadecimal, with colons, with dashes, or with neither.
pub(super) fn mac(url: &str, value: &str) -> Result<[u8; 6], MetadataError> {
    let digits: String = value.trim().chars().filter(|letter| !matches!(letter, ':' | '-')).collect();
    let bits = (digits.len() == 12 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| u64::from_str_radix(&digits, 16).ok());
    let [_, _, mac @ ..] =
        bits.flatten().ok_or_else(|| MetadataError::malformed(url, value, "a MAC address like 02:00:00:00:00:01"))?.to_be_bytes();
    Ok(mac)
}

/// A MAC address as the kernel writes it.
pub(super) fn colons(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_address_in_any_dress() {
        for text in ["00:0d:3a:51:c4:90", "000D3A51C490", "00-0D-3A-51-C4-90\n"] {
            assert_eq!(mac("u", text).unwrap(), [0x00, 0x0d, 0x3a, 0x51, 0xc4, 0x90]);
        }
        assert_eq!(colons([0, 13, 58, 81, 196, 144]), "00:0d:3a:51:c4:90");
        for text in ["", "000D3A51C49", "000D3A51C49G", "+00D3A51C490", "<html>"] {
            assert!(mac("u", text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_block_has_no_host_bits() {
        assert_eq!(block("u", "10.0.0.5").unwrap().to_string(), "10.0.0.5/32");
        assert_eq!(block("u", "10.0.0.16/28").unwrap().prefix(), 28);
        let error = block("http://a/b", "10.0.0.17/28").unwrap_err().to_string();
        assert!(error.starts_with("http://a/b answered \"10.0.0.17/28\", which is not a block like"), "{error}");
        for text in ["", "/28", "10.0.0.16/33", "<html><body>Sign in</body></html>"] {
            assert!(block("u", text).is_err(), "{text}");
        }
    }
}
