//! The HTTP proxy on the way to a cloud's API, as the environment names it for every program: `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`, in
//! small letters too. Metadata is on the node's own link and speaks plain HTTP: it is never asked by a proxy, whatever the
//! environment says, for a proxy would answer for itself (and hand out its own credentials).

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

/// A proxy that is not spoken to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the environment names {0} as the proxy for {1}; only proxies like http://proxy.example:3128 are used: change HTTPS_PROXY, or name the host in NO_PROXY"
)]
pub(crate) struct Unusable(String, String);

/// The proxy for an https URL, if there is one.
///
/// # Errors
/// Where it speaks something else than HTTP.
pub(crate) fn on_the_way_to(url: &Uri, environment: &Matcher) -> Result<Option<Intercept>, Unusable> {
    if url.scheme_str() != Some("https") {
        return Ok(None);
    }
    match environment.intercept(url) {
        Some(proxy) if proxy.uri().scheme_str() == Some("http") => Ok(Some(proxy)),
        Some(proxy) => Err(Unusable(proxy.uri().to_string(), url.to_string())),
        None => Ok(None),
    }
}

/// What the environment says of https URLs, for clients that want it as text: the proxy, and the hosts without one.
pub(crate) fn of_https() -> Option<(String, String)> {
    let variable = |names: &[&str]| names.iter().filter_map(|name| std::env::var(name).ok()).find(|value| !value.is_empty());
    let proxy = variable(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])?;
    Some((proxy, variable(&["NO_PROXY", "no_proxy"]).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::Duration;

    use bytes::Bytes;
    use http::Request;

    use super::*;
    use crate::http::{Client, HttpError};

    fn environment(https: &str, no: &str) -> Matcher {
        Matcher::builder().http("http://other.example:1").https(https).no(no).build()
    }

    #[test]
    fn the_api_goes_by_the_proxy_and_metadata_never_does() {
        let api = Uri::from_static("https://ec2.us-east-1.amazonaws.com/");
        let proxy = on_the_way_to(&api, &environment("http://proxy.example:3128", "")).unwrap().unwrap();
        assert_eq!(proxy.uri().to_string(), "http://proxy.example:3128/");
        for (environment, url) in [
            (environment("http://proxy.example:3128", ".amazonaws.com"), &api),
            (environment("", ""), &api),
            (environment("http://proxy.example:3128", ""), &Uri::from_static("http://169.254.169.254/latest/meta-data/")),
        ] {
            assert!(on_the_way_to(url, &environment).unwrap().is_none(), "{environment:?}");
        }
        let why = on_the_way_to(&api, &environment("socks5://user:secret@proxy.example:1080", "")).unwrap_err().to_string();
        assert!(why.contains("HTTPS_PROXY") && !why.contains("secret"), "{why}");
    }

    /// The proxy is told where to, and who asks; what it refuses was never sent.
    #[tokio::test]
    async fn a_proxy_that_refuses_has_seen_nothing_but_the_name() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            let mut buffer = [0; 1024];
            while !asked.ends_with(b"\r\n\r\n") {
                let read = stream.read(&mut buffer).unwrap();
                assert!(read > 0, "the client has gone");
                asked.extend_from_slice(&buffer[..read]);
            }
            stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").unwrap();
            String::from_utf8(asked).unwrap()
        });
        let url = Uri::from_static("https://ec2.us-east-1.amazonaws.com/");
        let environment = environment(&format!("http://user:secret@{address}"), "");
        let client = Client::tls(on_the_way_to(&url, &environment).unwrap().as_ref()).unwrap();
        let request = Request::post(url).body(Bytes::from_static(b"Action=AssignPrivateIpAddresses")).unwrap();
        let error = client.send(request, Duration::from_secs(5)).await.unwrap_err();
        assert!(matches!(error, HttpError::NotSent(_)), "{error:?}");
        let asked = proxy.join().unwrap();
        assert!(asked.starts_with("CONNECT ec2.us-east-1.amazonaws.com:443 HTTP/1.1\r\n"), "{asked}");
        assert!(asked.to_ascii_lowercase().contains("proxy-authorization: basic ") && !asked.contains("Action"), "{asked}");
    }
}
