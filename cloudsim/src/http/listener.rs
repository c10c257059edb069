//! Connections: a request goes to its service, a reply goes out after its time, and where there is none the connection ends.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use super::{Asker, Role, Shared, control, now};
use crate::ec2;
use crate::exchange::{Exchange, Wait};
use crate::metadata::{self, Service};
use crate::time::Millis;

/// No request of any service is as large.
const LARGEST_BODY: usize = 1 << 20;
/// How long a client may take to say what it wants.
const HEADERS_TAKE: Duration = Duration::from_secs(30);
/// What shows late changes without an event: those who wait look again so often.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The connection ends here, on purpose.
#[derive(Debug, thiserror::Error)]
#[error("no reply")]
struct NoReply;

/// What a listener of our own loop serves.
#[derive(Debug, Clone, Copy)]
enum Served {
    Api,
    Metadata(Service, Asker),
}

impl Shared {
    /// Must be called inside of a runtime.
    pub(super) fn listen(&self, listener: TcpListener, role: Role) -> io::Result<SocketAddr> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let shared = self.clone();
        match role {
            Role::Control => {
                let router = control::router(shared);
                tokio::spawn(async move { axum::serve(listener, router).await });
            }
            Role::Api => drop(tokio::spawn(shared.accept(listener, Served::Api))),
            Role::Metadata(service, asker) => drop(tokio::spawn(shared.accept(listener, Served::Metadata(service, asker)))),
        }
        Ok(address)
    }

    async fn accept(self, listener: tokio::net::TcpListener, served: Served) {
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: it passes.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(LOOK_AGAIN).await;
                    continue;
                }
            };
            let shared = self.clone();
            tokio::spawn(async move {
                let serve = service_fn(|request| shared.clone().serve(request, served, peer));
                let mut server = http1::Builder::new();
                server.timer(TokioTimer::new()).header_read_timeout(HEADERS_TAKE);
                // An error is a client that went away, or a reply that was not to be.
                let _ended = server.serve_connection(TokioIo::new(stream), serve).await;
            });
        }
    }

    async fn serve(self, request: Request<Incoming>, served: Served, peer: SocketAddr) -> Result<Response<Full<Bytes>>, NoReply> {
        let (parts, body) = request.into_parts();
        let body = Limited::new(body, LARGEST_BODY).collect().await.map_err(|_| NoReply)?.to_bytes();
        let request = Request::from_parts(parts, body.to_vec());
        let mut stirred = self.stirred.subscribe();
        let mut waited: Option<Wait> = None;
        loop {
            match self.exchange(&request, served, peer, waited.as_ref()) {
                Exchange::Reply { after, reply } => {
                    sleep(after).await;
                    return Ok(reply.map(|body| Full::new(Bytes::from(body))));
                }
                Exchange::NoReply { after } => {
                    sleep(after).await;
                    return Err(NoReply);
                }
                Exchange::Wait(wait) => {
                    let rest = Duration::from_millis(wait.until.since(now()).0).min(LOOK_AGAIN);
                    let _either = tokio::time::timeout(rest, stirred.changed()).await;
                    waited = Some(wait);
                }
            }
        }
    }

    fn exchange(&self, request: &Request<Vec<u8>>, served: Served, peer: SocketAddr, waited: Option<&Wait>) -> Exchange {
        self.with(|cloud, now| match served {
            Served::Metadata(service, asker) => {
                let instance = match asker {
                    Asker::Instance(instance) => Some(instance),
                    Asker::Peer => cloud.instance_with(peer.ip()),
                };
                match instance {
                    Some(instance) => metadata::answer(cloud, now, service, instance, request, waited),
                    None => Exchange::NoReply { after: Millis::ZERO },
                }
            }
            Served::Api => ec2::answer(cloud, now, request),
        })
    }
}

async fn sleep(span: Millis) {
    if span > Millis::ZERO {
        tokio::time::sleep(Duration::from_millis(span.0)).await;
    }
}
