//! Addresses on Azure: the ipConfigurations that whoever owns the scale set has put on the machine's interfaces.
//!
//! Nothing is assigned or taken from here. Two documents tell what is there: the instance metadata service ("Azure Instance Metadata
//! Service for virtual machines" in Azure's documentation) and, as the second opinion, the wireserver's list of interfaces that Azure's
//! own plugin reads. Both list an interface's primary address, which is the machine's; every other one is a block of one address.
//!
//! IPv4 only: the wireserver lists no IPv6 addresses, so there would be no second opinion of them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use axum::http::{StatusCode, Uri};
use ipnetwork::{IpNetwork, Ipv4Network};
use serde::Deserialize;

use super::http::Client;
use super::metadata::{MetadataError, colons, fetch, get, mac, not_empty, refused, text};
use super::{Failure, first_address, outcome_of_read, xml};
use crate::supply::evidence::Reader;
use crate::supply::{Interface, Outcome, Reading, Refusal, Request};

/// The instance metadata service, with the version of its answers that is read here.
const METADATA: &str = "/metadata/instance/network?api-version=2021-12-13";
const WIRESERVER: &str = "/machine/plugins?comp=nmagent&type=getinterfaceinfov1";
const METADATA_REMEDY: &str = "is this an Azure machine, and do firewall and routes let the host reach 169.254.169.254?";
const WIRESERVER_REMEDY: &str = "is this an Azure machine, and do firewall and routes let the host reach 168.63.129.16, port 80?";
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
}

impl Azure {
    /// A source that has asked nothing yet.
    #[must_use]
    pub fn new(settings: AzureSettings) -> Self {
        Self { settings, client: Client::plain() }
    }

    pub(super) async fn call(&self, request: &Request) -> Outcome {
        let read = match request {
            Request::Read(Reader::Metadata) => self.ask(&self.settings.metadata, METADATA, METADATA_REMEDY, from_metadata).await,
            Request::Read(Reader::Api) => self.ask(&self.settings.wireserver, WIRESERVER, WIRESERVER_REMEDY, from_wireserver).await,
            Request::Assign { .. } | Request::AddInterface { .. } | Request::Unassign { .. } => {
                return Outcome::Refused(Refusal::Other(NOT_OURS.to_owned()));
            }
        };
        outcome_of_read(read)
    }

    async fn ask(
        &self,
        base: &Uri,
        path: &str,
        remedy: &'static str,
        parse: fn(&str, &str) -> Result<Reading, MetadataError>,
    ) -> Result<Outcome, Failure> {
        // The metadata service demands the header, the wireserver does not mind it.
        let request = get(base, path, ("metadata", "true"))?;
        let url = request.uri().to_string();
        let reply = fetch(&self.client, &request, remedy).await?;
        if reply.status != StatusCode::OK {
            return Err(refused(&url, &reply, remedy).into());
        }
        Ok(Outcome::Read(parse(&url, &text(&url, &reply)?)?))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Network {
    interface: Vec<Nic>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Nic {
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

fn from_metadata(url: &str, body: &str) -> Result<Reading, MetadataError> {
    let network: Network =
        serde_json::from_str(body).map_err(|_| MetadataError::malformed(url, body, "the metadata service's list of interfaces"))?;
    let interfaces = network.interface.iter().map(|nic| {
        let subnet = nic.ipv4.subnet.first().map(|subnet| cidr(url, &format!("{}/{}", subnet.address, subnet.prefix))).transpose()?;
        // The first is the primary.
        let mut addresses = nic.ipv4.ip_address.iter().map(|configuration| address(url, &configuration.private_ip_address));
        let own = addresses.next().transpose()?;
        Ok(interface(mac(url, &nic.mac_address)?, own, subnet, addresses.collect::<Result<_, _>>()?))
    });
    let interfaces = not_empty(url, interfaces.collect::<Result<_, _>>()?)?;
    Ok(Reading { reader: Reader::Metadata, interfaces, interface_room: false })
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

fn from_wireserver(url: &str, body: &str) -> Result<Reading, MetadataError> {
    let Interfaces { interfaces } =
        xml::parse("Interfaces", body).map_err(|_| MetadataError::malformed(url, body, "the wireserver's list of interfaces"))?;
    let interfaces = interfaces.iter().map(|nic| {
        let subnet = nic.subnets.first().map(|subnet| cidr(url, &subnet.prefix)).transpose()?;
        let addresses = nic.subnets.iter().flat_map(|subnet| &subnet.addresses);
        let (own, further): (Vec<_>, Vec<_>) = addresses.partition(|address| address.is_primary.eq_ignore_ascii_case("true"));
        let own = own.first().map(|own| address(url, &own.address)).transpose()?;
        let further = further.into_iter().map(|further| address(url, &further.address)).collect::<Result<_, _>>()?;
        Ok(interface(mac(url, &nic.mac)?, own, subnet, further))
    });
    let interfaces = not_empty(url, interfaces.collect::<Result<_, _>>()?)?;
    Ok(Reading { reader: Reader::Api, interfaces, interface_room: false })
}

/// Azure has no name for an interface that both documents know but its MAC address.
fn interface(mac: [u8; 6], own: Option<IpNetwork>, subnet: Option<IpNetwork>, blocks: BTreeSet<IpNetwork>) -> Interface {
    let gateways = subnet.and_then(first_address).into_iter().collect();
    Interface { id: colons(mac), mac, address: own.as_ref().map(IpNetwork::ip), gateways, blocks, room: [0, 0] }
}

fn cidr(url: &str, value: &str) -> Result<IpNetwork, MetadataError> {
    let parsed: Result<Ipv4Network, _> = value.parse();
    parsed.map(IpNetwork::V4).map_err(|_| MetadataError::malformed(url, value, "a subnet like 10.0.0.0/16"))
}

fn address(url: &str, value: &str) -> Result<IpNetwork, MetadataError> {
    let parsed: Result<Ipv4Addr, _> = value.trim().parse();
    parsed.map(|address| IpNetwork::from(IpAddr::V4(address))).map_err(|_| MetadataError::malformed(url, value, "an IPv4 address"))
}

#[cfg(test)]
mod tests;
