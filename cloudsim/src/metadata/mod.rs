//! The instance-metadata services of AWS, Azure and Google Cloud, as functions from request to reply.
//!
//! Each instance asks a service of its own: which instance it is, is not in the request. What a service shows may be late or have gaps, see
//! [`crate::faults::MetadataFaults`]; the state itself is [`Cloud`]'s.

mod aws;
mod azure;
mod gcp;
mod wireserver;

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use http::{HeaderValue, Request, StatusCode, header};
use ipnetwork::{Ipv4Network, Ipv6Network};
use serde::{Deserialize, Serialize};

use crate::cloud::{Cloud, Instance, InstanceId, Interface, VpcId};
use crate::exchange::{self, Exchange, HttpReply, Wait};
use crate::faults::Refusal;
use crate::time::Millis;

/// The image of every instance.
pub(crate) const IMAGE: &str = "ami-0abcdef1234567890";

const TEXT: &str = "text/plain";
const JSON: &str = "application/json; charset=utf-8";
const HTML: &str = "text/html";

/// Which service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Service {
    /// IMDSv2 at 169.254.169.254.
    Aws,
    /// Azure's instance metadata service at 169.254.169.254.
    Azure,
    /// Azure's wireserver at 168.63.129.16: the interface document for network plugins.
    Wireserver,
    /// Google Cloud's metadata server at 169.254.169.254.
    Gcp,
}

/// Answers one request of `instance`. `waited` is what an [`Exchange::Wait`] said before, where this request has waited.
pub fn answer(
    cloud: &mut Cloud,
    now: Millis,
    service: Service,
    instance: InstanceId,
    request: &Request<Vec<u8>>,
    waited: Option<&Wait>,
) -> Exchange {
    cloud.advance(now);
    let faults = match service {
        Service::Wireserver => &cloud.faults().wireserver,
        Service::Aws | Service::Azure | Service::Gcp => &cloud.faults().metadata,
    };
    let faults = faults.clone();
    let is_running = cloud.instance(instance).is_some_and(Instance::is_running);
    if faults.off || !is_running {
        return Exchange::NoReply { after: Millis::ZERO };
    }
    let delay = cloud.draw(faults.latency);
    if faults.html {
        let page = "<!DOCTYPE html><html><head><title>Welcome</title></head><body>Please log in to the network.</body></html>";
        return Exchange::Reply { after: delay, reply: exchange::reply(StatusCode::OK, HTML, page) };
    }
    if cloud.chance(faults.refused) {
        return Exchange::Reply { after: delay, reply: refusal(faults.refusal) };
    }
    let interfaces = cloud.shown_by_metadata(now, instance, &faults);
    let Some(document) = Document::of(cloud, instance, interfaces) else { return Exchange::NoReply { after: Millis::ZERO } };
    let exchange = match service {
        Service::Aws => aws::answer(&document, now, request, &faults),
        Service::Azure => Exchange::now(azure::answer(&document, request, faults.primary_last)),
        Service::Wireserver => Exchange::now(wireserver::answer(&document, request, faults.primary_last)),
        Service::Gcp => gcp::answer(&document, now, request, waited),
    };
    match exchange {
        Exchange::Reply { after, reply } => Exchange::Reply { after: after + delay, reply },
        other => other,
    }
}

fn refusal(how: Option<Refusal>) -> HttpReply {
    let status = match how {
        Some(Refusal::InternalError) => StatusCode::INTERNAL_SERVER_ERROR,
        Some(Refusal::TooManyRequests(_)) => StatusCode::TOO_MANY_REQUESTS,
        Some(Refusal::Unavailable | Refusal::RequestLimitExceeded) | None => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut reply = exchange::reply(status, TEXT, status.canonical_reason().unwrap_or_default());
    if let Some(Refusal::TooManyRequests(seconds)) = how {
        reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    reply
}

/// What a service knows of an instance at a moment.
struct Document<'a> {
    account: &'a str,
    region: &'a str,
    vpc: VpcId,
    vpc_cidrs: Cow<'a, [Ipv4Network]>,
    vpc_ipv6_cidrs: Cow<'a, [Ipv6Network]>,
    /// What makes tokens differ between clouds.
    seed: u64,
    instance: &'a Instance,
    nics: Vec<Nic>,
}

/// An interface with its subnet, by device index.
struct Nic {
    interface: Arc<Interface>,
    index: u32,
    cidr: Ipv4Network,
    ipv6_cidr: Option<Ipv6Network>,
}

impl Nic {
    /// The router of the subnet.
    fn gateway(&self) -> Ipv4Addr {
        self.cidr.nth(1).unwrap_or(Ipv4Addr::UNSPECIFIED)
    }

    /// Azure's ipConfigurations: single addresses, and blocks where a prefix is one of them.
    fn configurations(&self, primary_last: bool) -> Vec<String> {
        let blocks = self.interface.ipv4_prefixes.iter().map(ToString::to_string);
        let mut all: Vec<_> = self.interface.ipv4().map(|address| address.to_string()).chain(blocks).collect();
        if primary_last {
            all.reverse();
        }
        all
    }

    fn ipv6(&self) -> &[Ipv6Addr] {
        &self.interface.ipv6
    }
}

impl<'a> Document<'a> {
    fn of(cloud: &'a Cloud, instance: InstanceId, interfaces: Vec<Arc<Interface>>) -> Option<Self> {
        let nic = |interface: Arc<Interface>| {
            let subnet = cloud.subnet(interface.subnet)?;
            let index = interface.device()?.index;
            Some(Nic { index, interface, cidr: subnet.cidr, ipv6_cidr: subnet.ipv6_cidr })
        };
        let mut nics: Vec<_> = interfaces.into_iter().filter_map(nic).collect();
        nics.sort_by_key(|nic| nic.index);
        let settings = cloud.settings();
        // A VPC without blocks has those of its subnets.
        let mut vpc_cidrs = Cow::Borrowed(settings.vpc_cidrs.as_slice());
        let mut vpc_ipv6_cidrs = Cow::Borrowed(settings.vpc_ipv6_cidrs.as_slice());
        if vpc_cidrs.is_empty() {
            vpc_cidrs = cloud.subnets().map(|subnet| subnet.cidr).collect();
        }
        if vpc_ipv6_cidrs.is_empty() {
            vpc_ipv6_cidrs = cloud.subnets().filter_map(|subnet| subnet.ipv6_cidr).collect();
        }
        Some(Self {
            account: &settings.account,
            region: &settings.region,
            seed: settings.seed,
            vpc: cloud.vpc(),
            vpc_cidrs,
            vpc_ipv6_cidrs,
            instance: cloud.instance(instance)?,
            nics,
        })
    }

    fn primary(&self) -> Option<&Nic> {
        self.nics.first()
    }
}

fn lines<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join("\n")
}

/// The text of a header, where it has one.
fn header_text<'a, B>(request: &'a Request<B>, name: &str) -> Option<&'a str> {
    request.headers().get(name)?.to_str().ok()
}

/// A parameter of the query.
fn parameter<B>(request: &Request<B>, name: &str) -> Option<String> {
    let query = request.uri().query().unwrap_or_default();
    form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}
