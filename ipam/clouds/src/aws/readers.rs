//! The two readers of AWS, and what they learn on the way: limits of the instance type, subnets.

use std::collections::BTreeSet;

use ipam_pool::range::Family;
use ipam_supply::evidence::Reader;
use ipam_supply::{Reading, Refusal};
use ipnetwork::IpNetwork;
use tokio::time::Instant;

use super::super::metadata::{MetadataError, block, mac};
use super::ec2::Parameters;
use super::imds::MetadataInterface;
use super::limits::Limits;
use super::managed::{self, Managed};
use super::reply::{Attachment, InstanceTypes, NetworkInterface, NetworkInterfaces, SubnetItem, Subnets};
use super::{Aws, Failure, Memory, REMEMBERED, Subnet};

/// Interfaces of one reply, and replies of one read: more than any instance has.
const PAGE: u64 = 100;
pub(super) const PAGES: u32 = 10;

impl Aws {
    pub(super) async fn read_metadata(&self) -> Result<Reading, Failure> {
        self.identity().await?;
        let found = self.imds.interfaces().await?;
        // The order tells which one is the node's own: a list without it tells nothing.
        if found.first().is_none_or(|interface| interface.device != 0) {
            return Err(Failure::other("instance metadata lists no primary interface; it is read again"));
        }
        let mut memory = self.memory();
        let limits = memory.limits.unwrap_or(Limits::UNKNOWN);
        for MetadataInterface { subnet, subnet_cidr, has_ipv6_subnet, .. } in &found {
            let known = memory.subnets.entry(subnet.clone());
            let known = known.or_insert(Subnet { cidr: None, has_ipv6: false, availability_zone: None });
            // What a subnet has, it has: a key that is not there for once takes away no gateway.
            (known.cidr, known.has_ipv6) = (subnet_cidr.or(known.cidr), *has_ipv6_subnet || known.has_ipv6);
        }
        memory.vpc_cidrs = found.iter().flat_map(|interface| &interface.vpc_cidrs).copied().collect();
        let attached = found.len() as u64;
        let all_interfaces = self.settings.all_interfaces;
        let what = |memory: &Memory, found: &MetadataInterface| {
            let has_address = !found.addresses.is_empty() || found.ipv6_addresses > 0;
            managed::by_metadata(found.device, has_address, all_interfaces, memory.managed.get(&found.id).copied())
        };
        let has_unidentified = self.uses_api() && found.iter().any(|found| what(&memory, found).is_none());
        let listed: BTreeSet<_> = found.iter().map(|found| found.id.clone()).collect();
        let managed = found.into_iter().filter(|found| what(&memory, found).is_some_and(|managed| managed != Managed::No));
        let managed: Vec<_> = managed.collect();
        let interfaces = managed.into_iter().map(|found| {
            let further = found.addresses.iter().skip(1);
            let blocks: BTreeSet<_> = further.chain(&found.prefixes).copied().collect();
            let v4 = found.addresses.len() + found.prefixes.iter().filter(|block| block.is_ipv4()).count();
            let v6 = found.ipv6_addresses + found.prefixes.iter().filter(|block| block.is_ipv6()).count();
            let own = found.addresses.first().map(IpNetwork::ip);
            memory.interface(found.id, found.mac, own, &found.subnet, blocks, limits, [v4, v6])
        });
        let interfaces: Vec<_> = interfaces.collect();
        memory.interfaces.retain(|id, _| interfaces.iter().any(|interface| interface.id == *id));
        memory.managed.retain(|id, managed| listed.contains(id) || *managed != Managed::No);
        Ok(Reading { reader: Reader::Metadata, interfaces, interface_room: attached < limits.interfaces, has_unidentified })
    }

    pub(super) async fn read_api(&self) -> Result<Reading, Failure> {
        let limits = self.limits().await?;
        let mut found = self.describe_own().await?;
        let attached = found.iter().filter(|interface| interface.place().is_some_and(|(card, _)| card == 0)).count() as u64;
        if found.first().and_then(NetworkInterface::place) != Some((0, 0)) {
            return Err(Failure::other(
                "DescribeNetworkInterfaces lists no primary interface of this instance: is the endpoint of its region?",
            ));
        }
        let instance = &self.identity().await?.instance_id;
        {
            let mut memory = self.memory();
            for interface in &found {
                let id = &interface.network_interface_id;
                let what = Managed::of(interface, instance, self.settings.all_interfaces, memory.managed.get(id).copied());
                memory.managed.insert(id.clone(), what);
            }
            found.retain(|interface| memory.managed.get(&interface.network_interface_id) != Some(&Managed::No));
        }
        self.learn_subnets(found.iter().map(|interface| interface.subnet_id.as_str())).await?;
        let mut memory = self.memory();
        let is_attached = |held: &Attachment| matches!(held.status.as_str(), "attached" | "attaching");
        let interfaces = found.iter().filter(|interface| interface.attachment.as_ref().is_some_and(is_attached)).map(|found| {
            let said = |error: MetadataError| Failure::other(error);
            let url = "DescribeNetworkInterfaces";
            let further = found.private_ip_addresses_set.item.iter().filter(|address| !address.primary);
            let further = further.map(|address| address.private_ip_address.as_str());
            let prefixes = found.ipv4_prefix_set.item.iter().map(|prefix| prefix.ipv4_prefix.as_str());
            let ipv6 = found.ipv6_prefix_set.item.iter().map(|prefix| prefix.ipv6_prefix.as_str());
            let blocks = further.chain(prefixes).chain(ipv6).map(|text| block(url, text)).collect::<Result<_, _>>().map_err(said)?;
            let mac = mac(url, &found.mac_address).map_err(said)?;
            let v4 = found.private_ip_addresses_set.item.len() + found.ipv4_prefix_set.item.len();
            let v6 = found.ipv6_addresses_set.item.len() + found.ipv6_prefix_set.item.len();
            let own = found.private_ip_addresses_set.item.iter().find(|address| address.primary);
            let own = own.map(|own| block(url, &own.private_ip_address)).transpose().map_err(said)?.as_ref().map(IpNetwork::ip);
            Ok(memory.interface(found.network_interface_id.clone(), mac, own, &found.subnet_id, blocks, limits, [v4, v6]))
        });
        let interfaces = interfaces.collect::<Result<Vec<_>, Failure>>()?;
        Ok(Reading { reader: Reader::Api, interfaces, interface_room: attached < limits.interfaces, has_unidentified: false })
    }

    /// Pod addresses that the instance type allows: on each interface of its first network card all places but the interface's own
    /// address, sixteen addresses each where there are prefixes. Of IPv6 a single prefix is more than any node needs.
    pub(crate) async fn address_limit(&self, family: Family) -> Result<u64, Refusal> {
        let limits = self.limits().await.map_err(|failure| match failure {
            Failure::Refused(refusal) => refusal,
            Failure::Unknown(why) | Failure::Overloaded(why, _) => Refusal::Other(why),
        })?;
        Ok(match family {
            Family::V4 => limits.interfaces * limits.ipv4.saturating_sub(1) * if limits.prefixes { 16 } else { 1 },
            Family::V6 => u64::MAX,
        })
    }

    /// What the instance is limited to. Where EC2 does not say, a little is asked for: see [`Limits::UNKNOWN`].
    pub(super) async fn limits(&self) -> Result<Limits, Failure> {
        {
            let memory = self.memory();
            if let Some(limits) = memory.limits {
                return Ok(limits);
            }
            if memory.limits_unknown.as_ref().is_some_and(|(since, _)| since.elapsed() < REMEMBERED) {
                return Ok(Limits::UNKNOWN);
            }
        }
        let instance_type = self.identity().await?.instance_type.clone();
        let parameters = Parameters::from([("InstanceType.1".to_owned(), instance_type.clone())]);
        let asked: Result<InstanceTypes, _> = self.ec2().await?.call("DescribeInstanceTypes", parameters).await;
        let why = match asked {
            Ok(types) => match types.instance_type_set.item.first() {
                Some(item) => {
                    let limits = Limits::of(item);
                    let mut memory = self.memory();
                    (memory.limits, memory.limits_unknown) = (Some(limits), None);
                    return Ok(limits);
                }
                None => "DescribeInstanceTypes lists no such type".to_owned(),
            },
            // The type or the permission: neither comes by asking again at once.
            Err(error) if matches!(error.code(), "InvalidInstanceType" | "InvalidParameterValue" | "UnauthorizedOperation") => {
                error.to_string()
            }
            Err(error) => return Err(error.into()),
        };
        let why = format!(
            "the limits of instance type {instance_type} are unknown ({why}): one interface of {} places for addresses and prefixes is used",
            Limits::UNKNOWN.ipv4
        );
        tracing::warn!("{why}");
        self.memory().limits_unknown = Some((Instant::now(), why));
        Ok(Limits::UNKNOWN)
    }

    /// The instance's interfaces, attached or nearly so, in the order of their attachment.
    pub(super) async fn describe_own(&self) -> Result<Vec<NetworkInterface>, Failure> {
        let instance = self.identity().await?.instance_id.clone();
        let (mut found, is_all) = self.describe(&[("attachment.instance-id", &instance)], PAGES).await?;
        if !is_all {
            return Err(Failure::other(format!("DescribeNetworkInterfaces lists more than {} interfaces of this instance", found.len())));
        }
        found.sort_by_key(NetworkInterface::place);
        Ok(found)
    }

    /// The interfaces of that many pages, and whether these are all.
    pub(super) async fn describe(&self, filters: &[(&str, &str)], pages: u32) -> Result<(Vec<NetworkInterface>, bool), Failure> {
        let ec2 = self.ec2().await?;
        let mut parameters = Parameters::from([("MaxResults".to_owned(), PAGE.to_string())]);
        for (number, (name, value)) in filters.iter().enumerate() {
            let filter = format!("Filter.{}", number + 1);
            parameters.extend([(format!("{filter}.Name"), (*name).to_owned()), (format!("{filter}.Value.1"), (*value).to_owned())]);
        }
        let mut found = Vec::new();
        for _ in 0..pages {
            let page: NetworkInterfaces = ec2.call("DescribeNetworkInterfaces", parameters.clone()).await?;
            found.extend(page.network_interface_set.item);
            match page.next_token.filter(|token| !token.is_empty()) {
                Some(token) => parameters.insert("NextToken".to_owned(), token),
                None => return Ok((found, true)),
            };
        }
        Ok((found, false))
    }

    /// How many IPv4 addresses of a subnet nobody has; none where it is not told, by want of a permission for instance.
    pub(super) async fn free_addresses(&self, subnet: &str) -> Option<u64> {
        let parameters = Parameters::from([("SubnetId.1".to_owned(), subnet.to_owned())]);
        let asked: Result<Subnets, _> = self.ec2().await.ok()?.call("DescribeSubnets", parameters).await;
        match asked {
            Ok(subnets) => subnets.subnet_set.item.first()?.available_ip_address_count,
            Err(error) => {
                tracing::debug!(subnet, %error, "free addresses of the subnet unknown");
                None
            }
        }
    }

    /// Asks after the subnets that are not known yet: metadata tells those of the interfaces.
    pub(super) async fn learn_subnets<'a>(&self, ids: impl Iterator<Item = &'a str>) -> Result<(), Failure> {
        let unknown: BTreeSet<_> = {
            let memory = self.memory();
            ids.filter(|id| !memory.subnets.contains_key(*id)).map(ToOwned::to_owned).collect()
        };
        if unknown.is_empty() {
            return Ok(());
        }
        let parameters = unknown.iter().enumerate().map(|(number, id)| (format!("SubnetId.{}", number + 1), id.clone())).collect();
        let subnets: Subnets = self.ec2().await?.call("DescribeSubnets", parameters).await?;
        Ok(self.remember_subnets(subnets.subnet_set.item)?)
    }

    pub(super) fn remember_subnets(&self, subnets: Vec<SubnetItem>) -> Result<(), MetadataError> {
        let mut memory = self.memory();
        for subnet in subnets {
            let cidr = subnet.cidr_block.map(|cidr| block("DescribeSubnets", &cidr)).transpose()?;
            let has_ipv6 = !subnet.ipv6_cidr_block_association_set.item.is_empty();
            memory.subnets.insert(subnet.subnet_id, Subnet { cidr, has_ipv6, availability_zone: Some(subnet.availability_zone) });
        }
        Ok(())
    }
}
