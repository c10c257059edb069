//! Addresses on AWS: prefixes of the instance's network interfaces, /28 and /80; single secondary addresses where a subnet is too
//! fragmented for prefixes or the instance type has none.
//!
//! The metadata reader needs no credentials and no API; without [`AwsSettings::api`] it is all there is, and the node lives on what was
//! assigned to it at launch. The API reader, and all changes, take the EC2 actions DescribeNetworkInterfaces, DescribeInstanceTypes,
//! DescribeSubnets, AssignPrivateIpAddresses, UnassignPrivateIpAddresses, AssignIpv6Addresses, UnassignIpv6Addresses,
//! CreateNetworkInterface, CreateTags, AttachNetworkInterface, ModifyNetworkInterfaceAttribute and DeleteNetworkInterface.
//!
//! What is managed is decided in `managed.rs`: the primary interface, what was created here, and what is tagged so; never an interface of
//! a further network card or of a kind that carries no pods.
//!
//! An interface's first IPv4 address is its own and its IPv6 addresses are, so these are not for pods. The IPv4 gateway is the first
//! address of the subnet ("Subnet CIDR blocks" in the Amazon VPC user guide). For IPv6 AWS gives no gateway's address: its routers
//! advertise a link-local one, different for each interface, so none is told here and the kernel's own default route, by router
//! advertisements on that interface, is the way out (`accept_ra` 2 where forwarding is on).

mod ec2;
mod imds;
mod interfaces;
mod limits;
mod managed;
mod readers;
mod reply;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_credential_types::provider::SharedCredentialsProvider;
use http::Uri;
use ipam_pool::range::Family;
use ipam_supply::evidence::Reader;
use ipam_supply::{Interface, Outcome, Refusal, Request};
use ipnetwork::IpNetwork;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::http::{Client, InProcess};
use super::maintenance::Maintenance;
use super::metadata::{MetadataError, block};
use super::{Failure, first_address, outcome_of_change, outcome_of_read};
use ec2::{Ec2, Parameters};
use imds::{Identity, Imds};
use limits::Limits;
use managed::Managed;
use reply::{AssignedIpv4, AssignedIpv6, Done, NetworkInterface};

/// How long a subnet is taken for too fragmented for prefixes, and an instance type for unknown.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// Addresses of a /28 prefix.
const PREFIX_ADDRESSES: u64 = 16;

/// Where the services are and what may be done there.
#[derive(Debug, Clone)]
pub struct AwsSettings {
    /// Base URL of the instance metadata service: `http://169.254.169.254`, or `http://[fd00:ec2::254]` on a node without IPv4.
    pub metadata: Uri,
    /// Whether further interfaces are managed that nobody has tagged so.
    pub all_interfaces: bool,
    /// How the API is used; none, and nothing needs credentials.
    pub api: Option<ApiSettings>,
}

/// How the API is used. Its region is the instance's own.
#[derive(Debug, Clone, Default)]
pub struct ApiSettings {
    /// Base URL of the EC2 API; none for the region's own.
    pub endpoint: Option<Uri>,
    /// Subnets for further interfaces, in this order; those of other availability zones are passed over. None: the primary interface's.
    pub subnets: Vec<String>,
    /// In place of `subnets`: tags of subnets for further interfaces, all of them. Of those that have them, the one with the most free
    /// addresses in the instance's own availability zone and VPC comes first.
    pub subnet_tags: BTreeMap<String, String>,
    /// Tags of further interfaces, beside barewire's own. Where there are any, only interfaces that have them are looked through for leaked ones.
    pub tags: BTreeMap<String, String>,
    /// Security groups of further interfaces. None: the primary interface's.
    pub security_groups: Vec<String>,
    /// Where credentials come from; none for AWS's own chain.
    pub credentials: Option<SharedCredentialsProvider>,
}

impl Default for AwsSettings {
    fn default() -> Self {
        Self { metadata: Uri::from_static("http://169.254.169.254"), all_interfaces: false, api: Some(ApiSettings::default()) }
    }
}

/// The source.
#[derive(Debug)]
pub struct Aws {
    settings: AwsSettings,
    /// Instead of sockets.
    services: Option<Arc<dyn InProcess>>,
    imds: Imds,
    identity: OnceCell<Identity>,
    ec2: OnceCell<Ec2>,
    memory: Mutex<Memory>,
}

/// What was learned on the way.
#[derive(Debug, Default)]
struct Memory {
    limits: Option<Limits>,
    /// Since when the limits could not be had, and why.
    limits_unknown: Option<(Instant, String)>,
    subnets: BTreeMap<String, Subnet>,
    /// Subnets that had no prefix, and since when.
    fragmented: BTreeMap<String, Instant>,
    /// What is known of interfaces, whether they are managed.
    managed: BTreeMap<String, Managed>,
    /// As of the last reading.
    interfaces: BTreeMap<String, Known>,
    vpc_cidrs: BTreeSet<IpNetwork>,
}

#[derive(Debug, Clone)]
struct Subnet {
    cidr: Option<IpNetwork>,
    has_ipv6: bool,
    /// Metadata does not tell it, nor has to: only other subnets than the interfaces' own can lie in another one.
    availability_zone: Option<String>,
}

#[derive(Debug, Clone)]
struct Known {
    subnet: String,
    free_slots: [u64; 2],
}

impl Aws {
    /// A source that has asked nothing yet.
    #[must_use]
    pub fn new(settings: AwsSettings) -> Self {
        Self::over(settings, None)
    }

    /// A source that calls services of the same process. It needs credentials in its settings: AWS's own chain has a client of its own.
    #[must_use]
    pub fn in_process(settings: AwsSettings, services: Arc<dyn InProcess>) -> Self {
        Self::over(settings, Some(services))
    }

    fn over(settings: AwsSettings, services: Option<Arc<dyn InProcess>>) -> Self {
        let client = services.clone().map_or_else(Client::plain, Client::InProcess);
        let imds = Imds::new(client, settings.metadata.clone());
        Self { settings, services, imds, identity: OnceCell::new(), ec2: OnceCell::new(), memory: Mutex::default() }
    }

    pub(super) const fn uses_api(&self) -> bool {
        self.settings.api.is_some()
    }

    pub(super) async fn call(&self, request: &Request) -> Outcome {
        match request {
            Request::Read(Reader::Metadata) => outcome_of_read(self.read_metadata().await.map(Outcome::Read)),
            Request::Read(Reader::Api) => outcome_of_read(self.read_api().await.map(Outcome::Read)),
            Request::Assign { interface, family, blocks } => {
                outcome_of_change(self.assign(interface, *family, *blocks).await.map(Outcome::Assigned), request)
            }
            Request::AddInterface { family, blocks } => {
                outcome_of_change(self.add_interface(*family, *blocks).await.map(|()| Outcome::Added), request)
            }
            Request::Unassign { interface, blocks } => {
                outcome_of_change(self.unassign(interface, blocks).await.map(|()| Outcome::Unassigned), request)
            }
        }
    }

    /// Has interfaces managed whatever tags they have: pods have addresses of them.
    pub(super) fn manage<'a>(&self, interfaces: impl Iterator<Item = &'a str>) {
        let mut memory = self.memory();
        memory.managed.extend(interfaces.map(|id| (id.to_owned(), Managed::InUse)));
    }

    /// The VPC's blocks, as of the last reading of metadata.
    #[must_use]
    pub fn native_cidrs(&self) -> Vec<IpNetwork> {
        self.memory().vpc_cidrs.iter().copied().collect()
    }

    /// What EC2 has announced for this instance.
    pub(super) async fn maintenance(&self) -> Result<Vec<Maintenance>, MetadataError> {
        self.imds.maintenance().await
    }

    /// Unknown limits and fragmented subnets.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let memory = self.memory();
        let limits = memory.limits_unknown.iter().map(|(_, why)| why.clone());
        let fragmented = memory.fragmented.iter().filter(|(_, since)| since.elapsed() < REMEMBERED).map(|(subnet, _)| {
            format!(
                "subnet {subnet} has no free prefix of {PREFIX_ADDRESSES} addresses: single addresses are taken there for an hour; reserve \
                 prefixes in it (aws ec2 create-subnet-cidr-reservation), or configure another subnet"
            )
        });
        limits.chain(fragmented).collect()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn identity(&self) -> Result<&Identity, Failure> {
        self.identity.get_or_try_init(|| async { Ok(self.imds.identity().await?) }).await
    }

    async fn ec2(&self) -> Result<&Ec2, Failure> {
        let Some(settings) = &self.settings.api else { return Err(Failure::other("the EC2 API is switched off in the configuration")) };
        let make = || async {
            let Identity { region, domain, .. } = self.identity().await?;
            let endpoint = match &settings.endpoint {
                Some(endpoint) => endpoint.clone(),
                None => format!("https://ec2.{region}.{domain}/").parse().map_err(Failure::other)?,
            };
            let credentials = match &settings.credentials {
                Some(credentials) => credentials.clone(),
                None => ec2::default_chain(region, &self.settings.metadata).await?,
            };
            match self.services.clone() {
                Some(services) => Ok(Ec2::over(Client::InProcess(services), endpoint, region, credentials)),
                None => Ok(Ec2::new(endpoint, region, credentials)?),
            }
        };
        self.ec2.get_or_try_init(make).await
    }

    async fn assign(&self, interface: &str, family: Family, blocks: u64) -> Result<Vec<IpNetwork>, Failure> {
        let limits = self.limits().await?;
        let ec2 = self.ec2().await?;
        let of = |parameter: &str, count: u64| {
            Parameters::from([("NetworkInterfaceId".to_owned(), interface.to_owned()), (parameter.to_owned(), count.to_string())])
        };
        if family == Family::V6 {
            let assigned: AssignedIpv6 = ec2.call("AssignIpv6Addresses", of("Ipv6PrefixCount", blocks)).await?;
            return granted("AssignIpv6Addresses", assigned.assigned_ipv6_prefix_set.item.iter().map(String::as_str));
        }
        let known = self.memory().interfaces.get(interface).cloned();
        let subnet = known.as_ref().map(|known| known.subnet.as_str());
        if limits.prefixes && !self.is_fragmented(subnet) {
            match ec2.call("AssignPrivateIpAddresses", of("Ipv4PrefixCount", blocks)).await {
                Ok(assigned) => return granted_ipv4(&assigned),
                // It gives all or nothing: of fewer there may be some.
                Err(error) if error.has_no_prefix() && blocks == 1 => {}
                Err(error) => return Err(error.into()),
            }
        }
        let Some(count) = self.single_addresses(subnet, blocks, 0, limits.prefixes).await else {
            return Err(Failure::Refused(Refusal::Exhausted));
        };
        // Each takes a place of its own, as a prefix does.
        let room = known.as_ref().map_or(1, |known| known.free_slots[Family::V4 as usize].max(1));
        let count = count.min(room);
        granted_ipv4(&ec2.call("AssignPrivateIpAddresses", of("SecondaryPrivateIpAddressCount", count)).await?)
    }

    /// Of one family, all or none.
    async fn unassign(&self, interface: &str, blocks: &[IpNetwork]) -> Result<(), Failure> {
        let (action, single, prefix) = if blocks.iter().all(IpNetwork::is_ipv4) {
            ("UnassignPrivateIpAddresses", "PrivateIpAddress", "Ipv4Prefix")
        } else {
            ("UnassignIpv6Addresses", "Ipv6Addresses", "Ipv6Prefix")
        };
        let is_single = |block: &IpNetwork| block.prefix() == if block.is_ipv4() { 32 } else { 128 };
        let (singles, prefixes) = blocks.iter().copied().partition::<Vec<_>, _>(is_single);
        let singles = singles.iter().enumerate().map(|(number, block)| (format!("{single}.{}", number + 1), block.ip().to_string()));
        let prefixes = prefixes.iter().enumerate().map(|(number, block)| (format!("{prefix}.{}", number + 1), block.to_string()));
        let parameters = singles.chain(prefixes).chain([("NetworkInterfaceId".to_owned(), interface.to_owned())]).collect();
        match self.ec2().await?.call::<Done>(action, parameters).await {
            Ok(Done {}) => Ok(()),
            // It may be that the interface has one of them not any more. To take that for a refusal would hand out a dead address: readers
            // decide.
            Err(error) if matches!(error.code(), "InvalidParameterValue" | "InvalidNetworkInterfaceID.NotFound") => {
                Err(Failure::Unknown(error.to_string()))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn is_fragmented(&self, subnet: Option<&str>) -> bool {
        let memory = self.memory();
        subnet.and_then(|subnet| memory.fragmented.get(subnet)).is_some_and(|since| since.elapsed() < REMEMBERED)
    }

    /// How many single addresses to take in place of prefixes, beside `others`, for a subnet gives all or nothing; none where it has none. One
    /// that has enough for a prefix is fragmented, and is not asked for prefixes for a while.
    async fn single_addresses(&self, subnet: Option<&str>, blocks: u64, others: u64, prefixes: bool) -> Option<u64> {
        let wanted = blocks.saturating_mul(PREFIX_ADDRESSES);
        let Some(subnet) = subnet else { return Some(wanted) };
        let free = self.free_addresses(subnet).await;
        if prefixes && free.is_none_or(|free| free >= PREFIX_ADDRESSES) && !self.is_fragmented(Some(subnet)) {
            tracing::warn!(subnet, ?free, "subnet fragmented: no free prefix, single addresses are taken");
            self.memory().fragmented.insert(subnet.to_owned(), Instant::now());
        }
        let free = free.map_or(wanted, |free| free.saturating_sub(others));
        Some(wanted.min(free)).filter(|count| *count > 0)
    }
}

impl Memory {
    /// An interface of a reading; `taken` places of it are taken, by family.
    #[expect(clippy::too_many_arguments, reason = "what the two readers have in common, each of its own type")]
    fn interface(
        &mut self,
        id: String,
        mac: [u8; 6],
        address: Option<IpAddr>,
        subnet: &str,
        blocks: BTreeSet<IpNetwork>,
        limits: Limits,
        taken: [usize; 2],
    ) -> Interface {
        let known = self.subnets.get(subnet);
        let has_ipv6 = known.is_some_and(|subnet| subnet.has_ipv6);
        let gateways = known.and_then(|subnet| subnet.cidr).and_then(first_address).into_iter().collect();
        let free_slots = [limits.room(Family::V4, taken[0]), if has_ipv6 { limits.room(Family::V6, taken[1]) } else { 0 }];
        self.interfaces.insert(id.clone(), Known { subnet: subnet.to_owned(), free_slots });
        let created_here = self.managed.get(&id) == Some(&Managed::CreatedHere);
        Interface { id, mac, address, gateways, blocks, free_slots, created_here }
    }
}

impl NetworkInterface {
    /// Network card and device index, where it is attached or on its way.
    fn place(&self) -> Option<(u32, u32)> {
        self.attachment.as_ref().map(|held| (held.network_card_index, held.device_index))
    }
}

fn granted_ipv4(assigned: &AssignedIpv4) -> Result<Vec<IpNetwork>, Failure> {
    let single = assigned.assigned_private_ip_addresses_set.item.iter().map(|address| address.private_ip_address.as_str());
    let prefixes = assigned.assigned_ipv4_prefix_set.item.iter().map(|prefix| prefix.ipv4_prefix.as_str());
    granted("AssignPrivateIpAddresses", single.chain(prefixes))
}

/// What was granted has to be named: readers tell where it is not.
fn granted<'a>(action: &'static str, blocks: impl Iterator<Item = &'a str>) -> Result<Vec<IpNetwork>, Failure> {
    let blocks: Result<Vec<_>, _> = blocks.map(|text| block(action, text)).collect();
    match blocks {
        Ok(blocks) if !blocks.is_empty() => Ok(blocks),
        Ok(_) => Err(Failure::Unknown(format!("{action} was granted, but its reply names nothing"))),
        Err(error) => Err(Failure::Unknown(error.to_string())),
    }
}
