//! Addresses on Google Cloud: the alias ranges that whoever owns the instance has given to its interfaces.
//!
//! Nothing is assigned or taken from here. The metadata server ("View and query VM metadata" in Compute Engine's documentation) is the
//! only reader. IPv4 only: alias ranges are.
//!
//! Google's guest agent makes a local route (`ip route show table local proto 66`) for each alias range: with it the kernel takes the
//! packets of pods for its own. Such routes are looked for at each reading, and [`Gcp::warnings`] says how to be rid of them.

mod planned;

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use http::{StatusCode, Uri};
use ipam_pool::range::AddressRange;
use ipam_supply::evidence::Reader;
use ipam_supply::{Interface, Outcome, Reading, Refusal, Request};
use ipnetwork::IpNetwork;
use serde::Deserialize;

use super::http::{Client, Reply};
use super::maintenance::Maintenance;
use super::metadata::{MetadataError, TIMEOUT, block, colons, fetch, get, mac, not_empty, refused, text};
use super::{Failure, outcome_of_read};

const INTERFACES: &str = "/computeMetadata/v1/instance/network-interfaces/?recursive=true&alt=json";
const MAINTENANCE: &str = "/computeMetadata/v1/instance/maintenance-event";
const PLANNED: &str = "/computeMetadata/v1/instance/upcoming-maintenance?alt=json";
const PREEMPTED: &str = "/computeMetadata/v1/instance/preempted";
const REMEDY: &str = "is this a Compute Engine instance, and do firewall and routes let the host reach 169.254.169.254?";
const FLAVOR: &str = "metadata-flavor";
const NOT_OURS: &str =
    "on Google Cloud alias ranges are assigned by whoever owns the instance: gcloud compute instances network-interfaces update --aliases";

/// Where the metadata server is.
#[derive(Debug, Clone)]
pub struct GcpSettings {
    /// Its base URL. By address: names of the host may be resolved by what runs on it.
    pub metadata: Uri,
    /// What tells the destinations of the guest agent's local routes, blocking; or why they are not known. Nothing where none are to be
    /// looked for.
    pub local_routes: Option<LocalRoutes>,
}

/// See [`GcpSettings::local_routes`].
pub type LocalRoutes = fn() -> Result<Vec<IpNetwork>, String>;

impl Default for GcpSettings {
    fn default() -> Self {
        Self { metadata: Uri::from_static("http://169.254.169.254"), local_routes: None }
    }
}

/// The source.
#[derive(Debug)]
pub struct Gcp {
    settings: GcpSettings,
    client: Client,
    /// Alias ranges that the kernel takes for its own, as of the last reading.
    local: Mutex<Vec<IpNetwork>>,
}

/// What the server said, and where.
struct Told {
    url: String,
    text: String,
}

impl Gcp {
    /// A source that has asked nothing yet.
    #[must_use]
    pub fn new(settings: GcpSettings) -> Self {
        Self { settings, client: Client::plain(), local: Mutex::default() }
    }

    pub(super) async fn call(&self, request: &Request) -> Outcome {
        match request {
            Request::Read(Reader::Metadata) => outcome_of_read(self.read().await),
            Request::Read(Reader::Api) => {
                Outcome::Refused(Refusal::Other("on Google Cloud the metadata server is the only reader".to_owned()))
            }
            Request::Assign { .. } | Request::AddInterface { .. } | Request::Unassign { .. } => {
                Outcome::Refused(Refusal::Other(NOT_OURS.to_owned()))
            }
        }
    }

    /// What to do about local routes of the guest agent, where there are any.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let local = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        explanation(&local).into_iter().collect()
    }

    /// That the instance is to be ended for the host's sake, now or by plan, or was taken back. Most are moved while they run instead
    /// (`MIGRATE_…`).
    pub(super) async fn maintenance(&self) -> Result<Vec<Maintenance>, MetadataError> {
        let (event, taken_back) = (self.ask(MAINTENANCE).await?, self.ask(PREEMPTED).await?);
        let announced = |what: &str| Maintenance { what: what.to_owned(), begins: None };
        let ended = match event.text.trim() {
            "NONE" | "MIGRATE_ON_HOST_MAINTENANCE" => self.planned().await?,
            what if what.starts_with("TERMINATE") => Some(announced(what)),
            other => return Err(MetadataError::malformed(&event.url, other, "NONE or an event")),
        };
        Ok(ended.into_iter().chain((taken_back.text.trim() == "TRUE").then(|| announced("preempted"))).collect())
    }

    async fn read(&self) -> Result<Outcome, Failure> {
        let told = self.ask(INTERFACES).await?;
        let reading = parse(&told.url, &told.text)?;
        self.look_for_local_routes(&reading).await;
        Ok(Outcome::Read(reading))
    }

    /// See [`planned`]. Asked once: a server that was told of nothing says 503, and one that tells such machines nothing 404.
    async fn planned(&self) -> Result<Option<Maintenance>, MetadataError> {
        let request = get(&self.settings.metadata, PLANNED, (FLAVOR, "Google"))?;
        let url = request.uri().to_string();
        let asked = self.client.send(request, TIMEOUT).await;
        let reply = asked.map_err(|why| MetadataError::Away { url: url.clone(), why, remedy: REMEDY })?;
        if matches!(reply.status, StatusCode::NOT_FOUND | StatusCode::SERVICE_UNAVAILABLE) {
            return Ok(None);
        }
        let told = told(url, &reply)?;
        planned::planned(&told.url, &told.text)
    }

    async fn ask(&self, path: &str) -> Result<Told, MetadataError> {
        let request = get(&self.settings.metadata, path, (FLAVOR, "Google"))?;
        let url = request.uri().to_string();
        told(url, &fetch(&self.client, &request, REMEDY).await?)
    }

    async fn look_for_local_routes(&self, reading: &Reading) {
        let Some(local_routes) = self.settings.local_routes else { return };
        let found = match tokio::task::spawn_blocking(local_routes).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return tracing::warn!(%error, "local routes of the guest agent not read"),
            Err(error) => return tracing::warn!(%error, "local routes of the guest agent not read"),
        };
        let local = overlapping(found, reading);
        let mut known = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != local {
            if let Some(explanation) = explanation(&local) {
                tracing::warn!("{explanation}");
            }
            *known = local;
        }
    }
}

fn told(url: String, reply: &Reply) -> Result<Told, MetadataError> {
    if reply.status != StatusCode::OK {
        return Err(refused(&url, reply, REMEDY));
    }
    // Whatever else answers at this address does not say so.
    if reply.headers.get(FLAVOR).is_none_or(|flavor| flavor != "Google") {
        return Err(MetadataError::malformed(&url, &reply.start(), "signed with the header Metadata-Flavor: Google"));
    }
    let text = text(&url, reply)?;
    Ok(Told { url, text })
}

/// Those of the routes that take pods' packets. Others are meant to be: a load balancer's address is the instance's own.
fn overlapping(routes: Vec<IpNetwork>, reading: &Reading) -> Vec<IpNetwork> {
    let blocks: Vec<_> =
        reading.interfaces.iter().flat_map(|interface| &interface.blocks).map(|block| AddressRange::from(*block)).collect();
    let mut local: Vec<_> =
        routes.into_iter().filter(|route| blocks.iter().any(|block| block.overlaps(&AddressRange::from(*route)))).collect();
    local.sort_unstable();
    local.dedup();
    local
}

fn explanation(local: &[IpNetwork]) -> Option<String> {
    let first = local.first()?;
    let all = local.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Some(format!(
        "Google's guest agent has made local routes for alias ranges ({all}): the kernel takes packets to their pods for its own. Set \
         ip_aliases = false under [IpForwarding] in /etc/default/instance_configs.cfg (or ip_forwarding = false under \
         [NetworkInterfaces], which also ends the routes of load balancers), restart google-guest-agent, and delete what is left: \
         ip route del local {first} table local proto 66"
    ))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Nic {
    mac: String,
    #[serde(default)]
    ip: Option<String>,
    #[serde(default)]
    ip_aliases: Vec<String>,
    #[serde(default)]
    gateway: Option<String>,
    #[serde(default)]
    gateway_ipv6: Option<String>,
}

fn parse(url: &str, body: &str) -> Result<Reading, MetadataError> {
    let nics: Vec<Nic> =
        serde_json::from_str(body).map_err(|_| MetadataError::malformed(url, body, "the metadata server's list of interfaces"))?;
    let interfaces = not_empty(url, nics.iter().map(|nic| interface(url, nic)).collect::<Result<_, _>>()?)?;
    Ok(Reading { reader: Reader::Metadata, interfaces, interface_room: false, has_unidentified: false })
}

fn interface(url: &str, nic: &Nic) -> Result<Interface, MetadataError> {
    let mac = mac(url, &nic.mac)?;
    let blocks = nic.ip_aliases.iter().map(|alias| alias_range(url, alias)).collect::<Result<BTreeSet<_>, _>>()?;
    let gateways = [&nic.gateway, &nic.gateway_ipv6].into_iter().flatten().filter(|text| !text.is_empty());
    let gateways = gateways.map(|text| text.parse().map_err(|_| MetadataError::malformed(url, text, "the address of a gateway")));
    let address = nic.ip.as_ref().map(|text| text.parse().map_err(|_| MetadataError::malformed(url, text, "an interface's address")));
    let gateways = gateways.collect::<Result<_, _>>()?;
    Ok(Interface { id: colons(mac), mac, address: address.transpose()?, gateways, blocks, free_slots: [0, 0], created_here: false })
}

fn alias_range(url: &str, alias: &str) -> Result<IpNetwork, MetadataError> {
    match block(url, alias)? {
        range @ IpNetwork::V4(_) => Ok(range),
        IpNetwork::V6(_) => Err(MetadataError::malformed(url, alias, "an alias range like 10.1.0.0/24")),
    }
}

#[cfg(test)]
mod tests;
