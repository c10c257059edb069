//! A client whose errors say what an API server asks for by the header `Retry-After`: of a refusal kube's keep the status alone, and priority and
//! fairness refuses by that header and a sentence.
//!
//! kube has a layer that heeds the header. It is left out, for it tries every 429, 503 and 504 again by itself, after 5 ms at first and 80 s at
//! last: behind a load balancer that says 503 for API servers that are away, nobody would watch again for minutes. Whoever asks has a
//! back-off of its own.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use serde_json::json;
use tower_layer::Layer;
use tower_service::Service;

/// Nobody waits longer, whoever asks for it.
const LONGEST: u32 = 300;

/// The client.
///
/// # Errors
/// Where the configuration makes none.
pub fn client(mut config: Config) -> Result<Client, kube::Error> {
    config.default_retry = false;
    Ok(ClientBuilder::try_from(config)?.with_layer(&Heeding).build())
}

struct Heeding;

impl<S> Layer<S> for Heeding {
    type Service = Heeds<S>;

    fn layer(&self, inner: S) -> Heeds<S> {
        Heeds(inner)
    }
}

struct Heeds<S>(S);

impl<S, B> Service<Request<Body>> for Heeds<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = Response<Either<B, Full<Bytes>>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async { answer.await.map(explained) })
    }
}

/// A refusal with the header, as the object that other refusals are.
fn explained<B>(response: Response<B>) -> Response<Either<B, Full<Bytes>>> {
    let is_refusal = matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
    let Some(seconds) = seconds.filter(|_| is_refusal) else { return response.map(Either::Left) };
    let (code, reason) = (response.status().as_u16(), response.status().canonical_reason().unwrap_or_default());
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason.replace(' ', ""),
        "message": format!("{reason}: asked to come again after {seconds} s"), "details": { "retryAfterSeconds": seconds.min(LONGEST) },
    });
    let (mut head, _) = response.into_parts();
    head.headers.remove(CONTENT_LENGTH);
    head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Response::from_parts(head, Either::Right(Full::from(status.to_string())))
}
