//! The EC2 Query API: a form that is signed, a reply in XML (docs/adr/0011). One call is one exchange: who calls again, and when, is the
//! supply's business.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, StatusCode, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use ipam_supply::Refusal;
use serde::de::DeserializeOwned;

use super::super::http::{Client, HttpError, Reply, chain, excerpt, shortened};
use super::super::{Failure, proxy, xml};
use super::reply::ErrorReply;

/// For one call, and for credentials.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Credentials are not used in the last minutes that they are good.
const MARGIN: Duration = Duration::from_secs(300);
const VERSION: &str = "2016-11-15";
const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

/// What EC2 calls its parameters: `NetworkInterfaceId`, `Filter.1.Value.1`.
pub(super) type Parameters = BTreeMap<String, String>;

/// A client of the API in one region.
#[derive(Debug)]
pub(super) struct Ec2 {
    client: Client,
    endpoint: Uri,
    region: String,
    provider: SharedCredentialsProvider,
    credentials: Mutex<Option<Credentials>>,
    /// By how many seconds the cloud's clock is ahead of this node's, as its last reply told (`Date`, RFC 9110, section 6.6.1).
    clock_ahead: AtomicI64,
}

/// Why a call has no reply that can be used.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum CallError {
    /// Nothing was sent.
    #[error("{0}")]
    NotCalled(String),
    /// EC2 has refused it.
    #[error("{action}: {code}: {message}; {}", remedy(code, action))]
    Refused { action: &'static str, code: String, message: String, retry_after: Option<u64> },
    /// It may have been done.
    #[error("{action}: {why}")]
    NoAnswer { action: &'static str, why: String, retry_after: Option<u64> },
}

impl CallError {
    /// EC2's name for why it has refused.
    pub(super) fn code(&self) -> &str {
        match self {
            Self::Refused { code, .. } => code,
            Self::NotCalled(_) | Self::NoAnswer { .. } => "",
        }
    }

    /// Whether there were too many calls.
    pub(super) fn is_throttled(&self) -> bool {
        is_throttling(self.code())
    }

    /// Whether the subnet has no prefix left; single addresses there may be.
    pub(super) fn has_no_prefix(&self) -> bool {
        matches!(self, Self::Refused { code, message, .. } if is_exhausted(code, message))
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match &error {
            CallError::NotCalled(_) => Self::other(error),
            CallError::NoAnswer { retry_after: Some(millis), .. } => Self::Overloaded(error.to_string(), *millis),
            CallError::NoAnswer { .. } => Self::Unknown(error.to_string()),
            CallError::Refused { code, message, retry_after, .. } => Self::Refused(match code.as_str() {
                code if is_throttling(code) => Refusal::Throttled(*retry_after),
                "PrivateIpAddressLimitExceeded" | "Ipv6AddressLimitExceeded" | "AttachmentLimitExceeded" => Refusal::Full,
                code if is_exhausted(code, message) => Refusal::Exhausted,
                _ => Refusal::Other(error.to_string()),
            }),
        }
    }
}

fn is_throttling(code: &str) -> bool {
    matches!(code, "RequestLimitExceeded" | "Throttling" | "ThrottlingException" | "ThrottledException" | "TooManyRequests" | "SlowDown")
}

/// For prefixes EC2 has said so in three ways, one of them a code that means much else (cilium/cilium#31016).
fn is_exhausted(code: &str, message: &str) -> bool {
    matches!(code, "InsufficientFreeAddressesInSubnet" | "InsufficientCidrBlocks")
        || code == "InvalidParameterValue" && message.contains("sufficient free")
}

/// Codes of failures inside of EC2: it does not say what became of the call.
fn is_unsettled(code: &str) -> bool {
    matches!(code, "InternalError" | "InternalFailure" | "Unavailable" | "ServiceUnavailable")
}

/// What of EC2's message is for people, and the same each time: at its end there may be kilobytes that only the cloud can read.
fn told(message: &str) -> String {
    const LONG: usize = 300;
    let readable = message.split("Encoded authorization failure message").next().unwrap_or_default();
    shortened(readable, LONG)
}

/// What the operator can do about it.
fn remedy(code: &str, action: &str) -> String {
    match code {
        // A policy of the organization may want certain tags.
        "UnauthorizedOperation" | "AccessDenied" if action == "CreateNetworkInterface" => {
            "allow ec2:CreateNetworkInterface and, for it, ec2:CreateTags to the role of this node; set source.tags where a policy demands tags"
                .to_owned()
        }
        "UnauthorizedOperation" | "AccessDenied" => format!("allow ec2:{action} to the role of this node"),
        "AuthFailure" | "InvalidClientTokenId" | "UnrecognizedClientException" | "SignatureDoesNotMatch" | "ExpiredToken" => {
            "check credentials, clock, and that the endpoint is of the instance's region".to_owned()
        }
        "RequestExpired" => "set this node's clock".to_owned(),
        "NetworkInterfaceLimitExceeded" => "have the account's quota of network interfaces raised, or delete unused ones".to_owned(),
        "OptInRequired" | "Blocked" => "the account may not use EC2 in this region".to_owned(),
        code if code.ends_with(".NotFound") || code.ends_with(".Malformed") => {
            "check the configured identifiers and their region".to_owned()
        }
        _ => "see \"Error codes for the Amazon EC2 API\"".to_owned(),
    }
}

impl Ec2 {
    /// A client that takes its credentials from `provider`, and goes by the proxy that the environment names.
    ///
    /// # Errors
    /// Where TLS is needed and the system trusts no certificate, and where the proxy is of no use.
    pub(super) fn new(endpoint: Uri, region: &str, provider: SharedCredentialsProvider) -> Result<Self, CallError> {
        let proxy = proxy::on_the_way_to(&endpoint, &Matcher::from_env()).map_err(|why| CallError::NotCalled(why.to_string()))?;
        if let Some(proxy) = &proxy {
            tracing::info!(%endpoint, proxy = %proxy.uri(), "EC2 API reached by a proxy");
        }
        let client = if endpoint.scheme_str() == Some("http") { Ok(Client::plain()) } else { Client::tls(proxy.as_ref()) };
        let client = client.map_err(|error| {
            CallError::NotCalled(format!("no certificate authorities to trust for {endpoint} ({error}): install ca-certificates"))
        })?;
        Ok(Self::over(client, endpoint, region, provider))
    }

    pub(super) fn over(client: Client, endpoint: Uri, region: &str, provider: SharedCredentialsProvider) -> Self {
        Self { client, endpoint, region: region.to_owned(), provider, credentials: Mutex::default(), clock_ahead: AtomicI64::new(0) }
    }

    /// The time that calls carry.
    pub(super) fn wall_clock(&self) -> SystemTime {
        self.client.wall_clock()
    }

    /// The time by the cloud's own clock, once it has replied: nodes whose clocks differ agree on it.
    pub(super) fn cloud_clock(&self) -> SystemTime {
        let ahead = self.clock_ahead.load(Ordering::Relaxed);
        let by = Duration::from_secs(ahead.unsigned_abs());
        let now = self.wall_clock();
        if ahead < 0 { now.checked_sub(by) } else { now.checked_add(by) }.unwrap_or(now)
    }

    /// The same, since 1970.
    ///
    /// # Errors
    /// Where it is before: then the cloud has not replied yet, and the node's own clock is not set.
    pub(super) fn cloud_time(&self) -> Result<Duration, CallError> {
        let unset =
            |_| CallError::NotCalled("the node's clock is before 1970; set it, and have chrony or systemd-timesyncd keep it".to_owned());
        self.cloud_clock().duration_since(SystemTime::UNIX_EPOCH).map_err(unset)
    }

    fn note_clock(&self, reply: &Reply) {
        let Some(date) = reply.date() else { return };
        let now = self.wall_clock();
        let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        let ahead = date.duration_since(now).map_or_else(|behind| -seconds(behind.duration()), seconds);
        self.clock_ahead.store(ahead, Ordering::Relaxed);
    }

    /// One call. The reply's root must be `<{action}Response>`.
    pub(super) async fn call<T: DeserializeOwned>(&self, action: &'static str, mut parameters: Parameters) -> Result<T, CallError> {
        parameters.extend([("Action", action), ("Version", VERSION)].map(|(name, value)| (name.to_owned(), value.to_owned())));
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(&parameters).finish();
        let request = signed(&self.endpoint, body, &self.region, self.credentials().await?, self.wall_clock())
            .map_err(|why| CallError::NotCalled(format!("{action} cannot be signed: {why}")))?;
        let reply = self.client.send(request, TIMEOUT).await.map_err(|error| match error {
            HttpError::NotSent(_) => CallError::NotCalled(format!(
                "{action}: {}: {error}; check name resolution, route and firewall, or set the endpoint (a VPC endpoint has its own)",
                self.endpoint
            )),
            HttpError::NoReply(why) => CallError::NoAnswer { action, why, retry_after: None },
        })?;
        self.note_clock(&reply);
        if reply.status != StatusCode::OK {
            return Err(self.refusal(action, &reply));
        }
        let text = String::from_utf8_lossy(&reply.body);
        xml::parse(&format!("{action}Response"), &text).map_err(|why| {
            let why = format!("{} answered {:?}: {why}", self.endpoint, reply.start());
            CallError::NoAnswer { action, why, retry_after: None }
        })
    }

    fn refusal(&self, action: &'static str, reply: &Reply) -> CallError {
        let retry_after = reply.retry_after();
        let text = String::from_utf8_lossy(&reply.body);
        match xml::parse::<ErrorReply>("Response", &text) {
            Ok(ErrorReply { errors }) if !is_unsettled(&errors.error.code) => {
                let (code, message) = (excerpt(&errors.error.code), told(&errors.error.message));
                if matches!(reply.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) || code == "RequestExpired" {
                    *self.credentials.lock().unwrap_or_else(PoisonError::into_inner) = None;
                }
                CallError::Refused { action, code, message, retry_after }
            }
            // 429 is never the answer to what was done.
            Err(_) if reply.status == StatusCode::TOO_MANY_REQUESTS => {
                CallError::Refused { action, code: "TooManyRequests".to_owned(), message: reply.start(), retry_after }
            }
            _ if reply.status.is_server_error() => {
                CallError::NoAnswer { action, why: format!("{}: {:?}", reply.status, reply.start()), retry_after }
            }
            Ok(ErrorReply { errors }) => CallError::NoAnswer { action, why: excerpt(&errors.error.code), retry_after },
            // Something that is not EC2 has refused: a proxy, or a page where people sign in.
            Err(_) => CallError::NotCalled(format!(
                "{action}: {} answered {} {:?}: is that the EC2 API? check the endpoint",
                self.endpoint,
                reply.status,
                reply.start()
            )),
        }
    }

    /// From the chain, and again when they are about to end. What has no end is not kept: a file or the environment gives it.
    async fn credentials(&self) -> Result<Credentials, CallError> {
        let known = self.credentials.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(known) = known
            && known.expiry().is_some_and(|expiry| self.wall_clock() + MARGIN < expiry)
        {
            return Ok(known);
        }
        let remedy = "give the instance a role, or the daemon AWS_ACCESS_KEY_ID or a profile";
        let given = tokio::time::timeout(TIMEOUT, self.provider.provide_credentials()).await;
        let given = given.map_err(|_| CallError::NotCalled(format!("no AWS credentials within {} s: {remedy}", TIMEOUT.as_secs())))?;
        let credentials = given.map_err(|error| CallError::NotCalled(format!("no AWS credentials ({}): {remedy}", chain(&error))))?;
        *self.credentials.lock().unwrap_or_else(PoisonError::into_inner) = Some(credentials.clone());
        Ok(credentials)
    }
}

/// AWS's own chain: environment, profile, web identity, container, instance metadata.
pub(super) async fn default_chain(region: &str, metadata: &Uri) -> Result<SharedCredentialsProvider, CallError> {
    // Of https alone: what the chain asks on the node itself (metadata, a container's credentials) is plain HTTP, and never goes by a proxy.
    let proxy = proxy::of_https().and_then(|(proxy, except)| Some(ProxyConfig::https(proxy).ok()?.no_proxy(except)));
    let http = aws_smithy_http_client::Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder();
        connector.set_proxy_config(proxy.clone());
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(|components| components.sleep_impl()));
        connector.tls_provider(Provider::Rustls(CryptoMode::Ring)).build()
    });
    let region = Region::new(region.to_owned());
    let config = ProviderConfig::default()
        .with_http_client(http)
        .with_region(Some(region.clone()))
        .with_behavior_version(Some(BehaviorVersion::latest()));
    let imds = aws_config::imds::Client::builder().configure(&config).endpoint(metadata.to_string());
    let imds = imds.map_err(|error| CallError::NotCalled(format!("{metadata} is no URL of a metadata service: {error}")))?.build();
    let chain = DefaultCredentialsChain::builder().configure(config).imds_client(imds).region(region).build().await;
    Ok(SharedCredentialsProvider::new(chain))
}

/// A POST of a form, with AWS's signature, version 4.
fn signed(endpoint: &Uri, body: String, region: &str, credentials: Credentials, time: SystemTime) -> Result<Request<Bytes>, String> {
    let request = Request::post(endpoint).header(CONTENT_TYPE, FORM).body(Bytes::from(body));
    let mut request = request.map_err(|error| error.to_string())?;
    let identity = credentials.into();
    let parameters = v4::SigningParams::builder().identity(&identity).region(region).name("ec2").time(time);
    let parameters = parameters.settings(SigningSettings::default()).build().map_err(|error| error.to_string())?.into();
    let url = endpoint.to_string();
    let headers = [(CONTENT_TYPE.as_str(), FORM)].into_iter();
    let signable = SignableRequest::new("POST", url, headers, SignableBody::Bytes(request.body())).map_err(|error| error.to_string())?;
    let (instructions, _) = sign(signable, &parameters).map_err(|error| error.to_string())?.into_parts();
    instructions.apply_to_request_http1x(&mut request);
    Ok(request)
}

#[cfg(test)]
mod tests;
