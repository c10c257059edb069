//! Addresses on Azure: the ipConfigurations that whoever owns the scale set has put on the machine's interfaces.
//!
//! Nothing is assigned or taken from here. Two documents tell what is there: the instance metadata service ("Azure Instance Metadata
//! Service for virtual machines" in Azure's documentation) and, as the second opinion, the wireserver's list of interfaces that Azure's
//! own plugin reads. Every ipConfiguration but an interface's primary one is a block for pods: of one address, or of more where it is a
//! prefix.
//!
//! Which one is primary, and with it the machine's own, the wireserver alone says. Metadata lists it first, as far as anybody has seen, and
//! does not promise to; so the wireserver is asked once for each interface that is new, whoever is read. Where it does not answer, the first
//! counts, and that no pod gets an address that the host has keeps pods off the machine's own all the same.
//!
//! IPv4 only: the wireserver lists no IPv6 addresses, so there would be no second opinion of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{StatusCode, Uri};
use ipam_supply::evidence::Reader;
use ipam_supply::{Interface, Outcome, Reading, Refusal, Request};
use ipnetwork::{IpNetwork, Ipv4Network};
use serde::Deserialize;
use tokio::time::Instant;

use super::http::{Client, excerpt};
use super::maintenance::{self, Maintenance};
use super::metadata::{MetadataError, block, colons, fetch, get, mac, not_empty, refused, text};
use super::{Failure, first_address, outcome_of_read, xml};

/// The instance metadata service, with the version of its answers that is read here.
const METADATA: &str = "/metadata/instance/network?api-version=2021-12-13";
const NAME: &str = "/metadata/instance/compute/name?api-version=2021-12-13&format=text";
const SCHEDULED: &str = "/metadata/scheduledevents?api-version=2020-07-01";
const SCHEDULED_REMEDY: &str = "the service of scheduled events starts when it is first asked, which may take two minutes";
const WIRESERVER: &str = "/machine/plugins?comp=nmagent&type=getinterfaceinfov1";
const METADATA_REMEDY: &str = "is this an Azure machine, and do firewall and routes let the host reach 169.254.169.254?";
const WIRESERVER_REMEDY: &str = "is this an Azure machine, and do firewall and routes let the host reach 168.63.129.16, port 80?";
/// How soon the wireserver is asked again which ipConfigurations are primary, where it did not say.
const PRIMARY_AGAIN: Duration = Duration::from_secs(60);
const NOT_OURS: &str = "on Azure addresses are assigned by whoever owns the scale set: add ipConfigurations to its network profile";

/// Where the two services are.
#[derive(Debug, Clone)]
pub struct AzureSettings {
    /// Base URL of the instance metadata service.
    pub metadata: Uri,
    /// Base URL of the wireserver.
    pub wireserver: Uri,
}

impl Default for AzureSettings {
    fn default() -> Self {
        Self { metadata: Uri::from_static("http://169.254.169.254"), wireserver: Uri::from_static("http://168.63.129.16") }
    }
}

/// The source.
#[derive(Debug)]
pub struct Azure {
    settings: AzureSettings,
    client: Client,
    memory: Mutex<Memory>,
}

/// By MAC address.
type Primaries = BTreeMap<[u8; 6], Option<IpAddr>>;

/// What was learned on the way.
#[derive(Debug, Default)]
struct Memory {
    /// Each interface's primary address, as the wireserver tells it, or that it does not.
    primaries: Primaries,
    /// When it was last asked for them and did not answer.
    unanswered: Option<Instant>,
    /// The machine's own.
    name: Option<String>,
    /// What of the last reading of each document was not understood.
    skipped: [BTreeSet<String>; 2],
}

impl Azure {
    /// A source that has asked nothing yet.
    #[must_use]
    pub fn new(settings: AzureSettings) -> Self {
        Self { settings, client: Client::plain(), memory: Mutex::default() }
    }

    pub(super) async fn call(&self, request: &Request) -> Outcome {
        let read = match request {
            Request::Read(reader) => self.read(*reader).await,
            Request::Assign { .. } | Request::AddInterface { .. } | Request::Unassign { .. } => {
                return Outcome::Refused(Refusal::Other(NOT_OURS.to_owned()));
            }
        };
        outcome_of_read(read.map(Outcome::Read))
    }

    /// What is scheduled for this machine. The service tells of all machines of its placement group, by their names.
    pub(super) async fn maintenance(&self) -> Result<Vec<Maintenance>, MetadataError> {
        let known = self.memory().name.clone();
        let name = match known {
            Some(name) => name,
            None => {
                let (_, name) = self.text(&self.settings.metadata, NAME, METADATA_REMEDY).await?;
                self.memory().name.insert(name.trim().to_owned()).clone()
            }
        };
        let (url, body) = self.text(&self.settings.metadata, SCHEDULED, SCHEDULED_REMEDY).await?;
        scheduled(&url, &body, &name)
    }

    /// ipConfigurations that are none, by what they say.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let memory = self.memory();
        let skipped: BTreeSet<_> = memory.skipped.iter().flatten().collect();
        skipped
            .into_iter()
            .map(|text| format!("an ipConfiguration with {text:?} is neither an IPv4 address nor a block; it is left alone"))
            .collect()
    }

    async fn read(&self, reader: Reader) -> Result<Reading, Failure> {
        let nics = match reader {
            Reader::Metadata => self.ask(&self.settings.metadata, METADATA, METADATA_REMEDY, from_metadata).await?,
            Reader::Api => self.ask(&self.settings.wireserver, WIRESERVER, WIRESERVER_REMEDY, from_wireserver).await?,
        };
        match reader {
            Reader::Metadata => self.learn_primaries(&nics).await,
            Reader::Api => self.note_primaries(&nics),
        }
        let mut memory = self.memory();
        memory.skipped[reader as usize] = nics.iter().flat_map(|nic| nic.skipped.iter().cloned()).collect();
        let interfaces = nics.into_iter().map(|nic| nic.interface(&memory.primaries)).collect();
        Ok(Reading { reader, interfaces, interface_room: false, has_unidentified: false })
    }

    async fn learn_primaries(&self, nics: &[Nic]) {
        {
            let memory = self.memory();
            // Of a single one there is no question.
            let is_known = |nic: &Nic| nic.blocks.len() < 2 || memory.primaries.contains_key(&nic.mac);
            if nics.iter().all(is_known) || memory.unanswered.is_some_and(|at| at.elapsed() < PRIMARY_AGAIN) {
                return;
            }
        }
        match self.ask(&self.settings.wireserver, WIRESERVER, WIRESERVER_REMEDY, from_wireserver).await {
            Ok(told) => {
                self.note_primaries(&told);
                let mut memory = self.memory();
                for nic in nics {
                    memory.primaries.entry(nic.mac).or_insert(None);
                }
            }
            Err(why) => {
                tracing::warn!(?why, "wireserver unavailable: the first ipConfiguration of each interface is taken for the primary");
                self.memory().unanswered = Some(Instant::now());
            }
        }
    }

    fn note_primaries(&self, nics: &[Nic]) {
        let mut memory = self.memory();
        memory.primaries.extend(nics.iter().map(|nic| (nic.mac, nic.primary)));
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(
        &self,
        base: &Uri,
        path: &str,
        remedy: &'static str,
        parse: fn(&str, &str) -> Result<Vec<Nic>, MetadataError>,
    ) -> Result<Vec<Nic>, Failure> {
        let (url, body) = self.text(base, path, remedy).await?;
        Ok(parse(&url, &body)?)
    }

    /// A document, and where it was read.
    async fn text(&self, base: &Uri, path: &str, remedy: &'static str) -> Result<(String, String), MetadataError> {
        // The metadata service demands the header, the wireserver does not mind it.
        let request = get(base, path, ("metadata", "true"))?;
        let url = request.uri().to_string();
        let reply = fetch(&self.client, &request, remedy).await?;
        if reply.status != StatusCode::OK {
            return Err(refused(&url, &reply, remedy));
        }
        let text = text(&url, &reply)?;
        Ok((url, text))
    }
}

/// An interface as either document tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Nic {
    mac: [u8; 6],
    subnet: Option<IpNetwork>,
    /// In the document's order, the primary one included.
    blocks: Vec<IpNetwork>,
    /// Where the document says it.
    primary: Option<IpAddr>,
    skipped: Vec<String>,
}

impl Nic {
    fn new(mac: [u8; 6], subnet: Option<IpNetwork>) -> Self {
        Self { mac, subnet, blocks: Vec::new(), primary: None, skipped: Vec::new() }
    }

    /// One that is not understood is left alone, and the others are not: it would be all of the node's addresses otherwise.
    fn add(&mut self, url: &str, value: &str) -> Option<IpNetwork> {
        match block(url, value).ok().filter(IpNetwork::is_ipv4) {
            Some(found) => {
                self.blocks.push(found);
                Some(found)
            }
            None => {
                self.skipped.push(excerpt(value));
                None
            }
        }
    }

    /// Azure has no name for an interface that both documents know but its MAC address.
    fn interface(self, primaries: &Primaries) -> Interface {
        let Self { mac, subnet, blocks, .. } = self;
        let mut single = blocks.iter().filter(|block| block.prefix() == 32).map(IpNetwork::ip);
        let known = primaries.get(&mac).copied().flatten();
        // Where the document lacks what is known to be primary, both may be.
        let own = known.filter(|known| blocks.contains(&IpNetwork::from(*known))).or_else(|| single.next());
        let is_own = |block: &IpNetwork| [own, known].into_iter().flatten().any(|own| *block == IpNetwork::from(own));
        let blocks = blocks.into_iter().filter(|block| !is_own(block)).collect();
        let gateways = subnet.and_then(first_address).into_iter().collect();
        Interface { id: colons(mac), mac, address: own, gateways, blocks, free_slots: [0, 0], created_here: false }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Network {
    interface: Vec<MetadataNic>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetadataNic {
    mac_address: String,
    ipv4: Addresses,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Addresses {
    #[serde(default)]
    ip_address: Vec<Configuration>,
    #[serde(default)]
    subnet: Vec<Subnet>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Configuration {
    private_ip_address: String,
}

#[derive(Deserialize)]
struct Subnet {
    address: String,
    prefix: String,
}

fn from_metadata(url: &str, body: &str) -> Result<Vec<Nic>, MetadataError> {
    let network: Network =
        serde_json::from_str(body).map_err(|_| MetadataError::malformed(url, body, "the metadata service's list of interfaces"))?;
    let nics = network.interface.iter().map(|found| {
        let subnet = found.ipv4.subnet.first().map(|subnet| cidr(url, &format!("{}/{}", subnet.address, subnet.prefix))).transpose()?;
        let mut nic = Nic::new(mac(url, &found.mac_address)?, subnet);
        for configuration in &found.ipv4.ip_address {
            nic.add(url, &configuration.private_ip_address);
        }
        Ok(nic)
    });
    not_empty(url, nics.collect::<Result<_, _>>()?)
}

#[derive(Deserialize)]
struct Interfaces {
    #[serde(rename = "Interface", default)]
    interfaces: Vec<WireInterface>,
}

#[derive(Deserialize)]
struct WireInterface {
    #[serde(rename = "@MacAddress")]
    mac: String,
    #[serde(rename = "IPSubnet", default)]
    subnets: Vec<WireSubnet>,
}

#[derive(Deserialize)]
struct WireSubnet {
    #[serde(rename = "@Prefix")]
    prefix: String,
    #[serde(rename = "IPAddress", default)]
    addresses: Vec<WireAddress>,
}

#[derive(Deserialize)]
struct WireAddress {
    #[serde(rename = "@Address")]
    address: String,
    #[serde(rename = "@IsPrimary")]
    is_primary: String,
}

fn from_wireserver(url: &str, body: &str) -> Result<Vec<Nic>, MetadataError> {
    let Interfaces { interfaces } =
        xml::parse("Interfaces", body).map_err(|_| MetadataError::malformed(url, body, "the wireserver's list of interfaces"))?;
    let nics = interfaces.iter().map(|found| {
        let subnet = found.subnets.first().map(|subnet| cidr(url, &subnet.prefix)).transpose()?;
        let mut nic = Nic::new(mac(url, &found.mac)?, subnet);
        for WireAddress { address, is_primary } in found.subnets.iter().flat_map(|subnet| &subnet.addresses) {
            let block = nic.add(url, address);
            if is_primary.eq_ignore_ascii_case("true") {
                nic.primary = block.filter(|block| block.prefix() == 32).map(|block| block.ip());
            }
        }
        Ok(nic)
    });
    not_empty(url, nics.collect::<Result<_, _>>()?)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Scheduled {
    events: Vec<Event>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Event {
    event_type: String,
    #[serde(default)]
    resources: Vec<String>,
    /// Empty once it has begun.
    #[serde(default)]
    not_before: String,
}

/// What concerns the machine `name`. A freeze lasts for some seconds, and connections live on.
fn scheduled(url: &str, body: &str, name: &str) -> Result<Vec<Maintenance>, MetadataError> {
    let Scheduled { events } =
        serde_json::from_str(body).map_err(|_| MetadataError::malformed(url, body, "the metadata service's scheduled events"))?;
    let is_ours = |event: &Event| event.event_type != "Freeze" && event.resources.iter().any(|it| it.eq_ignore_ascii_case(name));
    let announced = |event: Event| {
        let begins = Some(event.not_before.trim()).filter(|text| !text.is_empty());
        Ok(Maintenance { what: event.event_type, begins: begins.map(|text| maintenance::time(url, text)).transpose()? })
    };
    events.into_iter().filter(is_ours).map(announced).collect()
}

fn cidr(url: &str, value: &str) -> Result<IpNetwork, MetadataError> {
    let parsed: Result<Ipv4Network, _> = value.parse();
    parsed.map(IpNetwork::V4).map_err(|_| MetadataError::malformed(url, value, "a subnet like 10.0.0.0/16"))
}

#[cfg(test)]
mod tests;
