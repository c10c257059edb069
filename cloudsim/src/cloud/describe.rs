//! What describes answer, as eventually consistent as [`ReadFaults`](crate::faults::ReadFaults) make them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::error::ApiError;
use super::id::{InstanceId, InterfaceId, SubnetId};
use super::instance_type::{INSTANCE_TYPES, InstanceType};
use super::interface::Interface;
use super::page;
use super::request::{Filter, Page};
use super::response::{DescribedInstance, DescribedSubnet, Response};
use super::{Cloud, Instance};
use crate::time::Millis;

impl Cloud {
    pub(super) fn describe_interfaces(
        &mut self,
        now: Millis,
        named: &BTreeSet<InterfaceId>,
        filters: &[Filter],
        part: &Page,
    ) -> Result<Response, ApiError> {
        page::not_with_ids(!named.is_empty(), part)?;
        let candidates: Vec<_> = if named.is_empty() { self.candidates(filters) } else { named.iter().copied().collect() };
        let mut found = Vec::new();
        for id in candidates {
            match self.seen(now, id) {
                Some(interface) => {
                    if page::passes(filters, |name| self.interface_values(&interface, name))? {
                        found.push(interface);
                    }
                }
                None if named.is_empty() => {}
                None => return Err(ApiError::no_interface(id)),
            }
        }
        let (interfaces, next_token) = page::cut(found, part, |interface| interface.id.to_string())?;
        Ok(Response::DescribeNetworkInterfaces { interfaces, next_token })
    }

    /// The interfaces that may pass the filters: those of the instances that are asked for, or all.
    fn candidates(&self, filters: &[Filter]) -> Vec<InterfaceId> {
        let instances = filters
            .iter()
            .find(|filter| filter.name == "attachment.instance-id")
            .map(|filter| filter.values.iter().map(|value| value.parse::<InstanceId>().ok()).collect::<Option<BTreeSet<_>>>());
        match instances.flatten() {
            Some(instances) => {
                let known = instances.iter().filter_map(|id| self.instances.get(id));
                known.flat_map(|instance| &instance.interfaces).copied().collect::<BTreeSet<_>>().into_iter().collect()
            }
            None => self.interfaces.keys().copied().collect(),
        }
    }

    fn interface_values(&self, interface: &Interface, filter: &str) -> Option<Vec<String>> {
        let attachment = interface.attachment.as_ref();
        let of_attachment = |value: Option<String>| Some(value.into_iter().collect());
        match filter {
            "network-interface-id" => Some(vec![interface.id.to_string()]),
            "subnet-id" => Some(vec![interface.subnet.to_string()]),
            "vpc-id" => Some(vec![self.vpc.to_string()]),
            "status" => Some(vec![interface.status().to_owned()]),
            "description" => Some(vec![interface.description.clone()]),
            "mac-address" => Some(vec![interface.mac.to_string()]),
            "private-ip-address" => Some(vec![interface.primary.to_string()]),
            "addresses.private-ip-address" => Some(interface.ipv4().map(|address| address.to_string()).collect()),
            "group-id" => Some(interface.security_groups.clone()),
            "attachment.attachment-id" => of_attachment(attachment.map(|held| held.id.to_string())),
            "attachment.instance-id" => of_attachment(attachment.map(|held| held.instance.to_string())),
            "attachment.device-index" => of_attachment(attachment.map(|held| held.device_index.to_string())),
            "attachment.status" => of_attachment(attachment.map(|held| held.status.as_str().to_owned())),
            _ => tag_values(&interface.tags, filter),
        }
    }

    pub(super) fn describe_instances(
        &mut self,
        now: Millis,
        named: &BTreeSet<InstanceId>,
        filters: &[Filter],
        part: &Page,
    ) -> Result<Response, ApiError> {
        page::not_with_ids(!named.is_empty(), part)?;
        if let Some(unknown) = named.iter().find(|id| !self.instances.contains_key(id)) {
            return Err(ApiError::no_instance(*unknown));
        }
        let chosen: Vec<Instance> = if named.is_empty() {
            self.instances.values().cloned().collect()
        } else {
            named.iter().filter_map(|id| self.instances.get(id)).cloned().collect()
        };
        let mut found = Vec::new();
        for instance in chosen {
            let values = |name: &str| match name {
                "instance-id" => Some(vec![instance.id.to_string()]),
                "instance-type" => Some(vec![instance.instance_type.clone()]),
                "availability-zone" => Some(vec![instance.availability_zone.clone()]),
                "instance-state-name" => Some(vec![state_name(&instance).to_owned()]),
                _ => tag_values(&instance.tags, name),
            };
            if page::passes(filters, values)? {
                found.push(instance);
            }
        }
        let (found, next_token) = page::cut(found, part, |instance| instance.id.to_string())?;
        let instances =
            found.into_iter().map(|instance| DescribedInstance { interfaces: self.seen_on(now, &instance), instance }).collect();
        Ok(Response::DescribeInstances { instances, next_token })
    }

    /// The interfaces that a reader sees on an instance, by device index.
    fn seen_on(&mut self, now: Millis, instance: &Instance) -> Vec<Arc<Interface>> {
        let seen: Vec<_> = instance.interfaces.iter().filter_map(|id| self.seen(now, *id)).collect();
        let place = |interface: &Interface| {
            let attachment = interface.attachment.as_ref().filter(|attachment| attachment.instance == instance.id)?;
            Some((attachment.network_card, attachment.device_index))
        };
        let mut on: Vec<_> = seen.into_iter().filter(|interface| place(interface).is_some()).collect();
        on.sort_by_key(|interface| place(interface));
        on
    }

    pub(super) fn describe_subnets(&self, named: &BTreeSet<SubnetId>, filters: &[Filter], part: &Page) -> Result<Response, ApiError> {
        page::not_with_ids(!named.is_empty(), part)?;
        if let Some(unknown) = named.iter().find(|id| !self.subnets.contains_key(id)) {
            return Err(ApiError::no_subnet(*unknown));
        }
        let mut found = Vec::new();
        for (&id, subnet) in self.subnets.iter().filter(|(id, _)| named.is_empty() || named.contains(id)) {
            let values = |name: &str| match name {
                "subnet-id" => Some(vec![id.to_string()]),
                "vpc-id" => Some(vec![self.vpc.to_string()]),
                "availability-zone" => Some(vec![subnet.availability_zone.clone()]),
                "cidr-block" => Some(vec![subnet.ipv4.cidr().to_string()]),
                "state" => Some(vec!["available".to_owned()]),
                _ => tag_values(&subnet.tags, name),
            };
            if page::passes(filters, values)? {
                found.push(self.described_subnet(id, subnet));
            }
        }
        let (subnets, next_token) = page::cut(found, part, |subnet| subnet.id.to_string())?;
        Ok(Response::DescribeSubnets { subnets, next_token })
    }

    fn described_subnet(&self, id: SubnetId, subnet: &super::Subnet) -> DescribedSubnet {
        DescribedSubnet {
            id,
            availability_zone: subnet.availability_zone.clone(),
            cidr: subnet.ipv4.cidr(),
            ipv6_cidr: subnet.ipv6.as_ref().map(super::Ipv6Space::cidr),
            available: subnet.ipv4.free(),
            tags: subnet.tags.clone(),
        }
    }

    pub(crate) fn subnet(&self, id: SubnetId) -> Option<DescribedSubnet> {
        self.subnets.get(&id).map(|subnet| self.described_subnet(id, subnet))
    }

    /// All subnets.
    pub fn subnets(&self) -> impl Iterator<Item = DescribedSubnet> {
        self.subnets.iter().map(|(id, subnet)| self.described_subnet(*id, subnet))
    }

    pub(super) fn describe_instance_types(named: &BTreeSet<String>, filters: &[Filter], part: &Page) -> Result<Response, ApiError> {
        page::not_with_ids(!named.is_empty(), part)?;
        let unknown: Vec<_> = named.iter().filter(|name| InstanceType::find(name).is_none()).cloned().collect();
        if !unknown.is_empty() {
            let message = format!("The following supplied instance types do not exist: [{}]", unknown.join(", "));
            return Err(ApiError::client("InvalidInstanceType", message));
        }
        let mut found = Vec::new();
        for kind in INSTANCE_TYPES.iter().filter(|kind| named.is_empty() || named.contains(kind.name)) {
            let values = |name: &str| match name {
                "instance-type" => Some(vec![kind.name.to_owned()]),
                "hypervisor" => Some(vec![if kind.nitro { "nitro" } else { "xen" }.to_owned()]),
                _ => None,
            };
            if page::passes(filters, values)? {
                found.push(kind);
            }
        }
        found.sort_by_key(|kind| kind.name);
        let (instance_types, next_token) = page::cut(found, part, |kind| kind.name.to_owned())?;
        Ok(Response::DescribeInstanceTypes { instance_types, next_token })
    }
}

/// EC2's word for the state of an instance.
#[must_use]
pub(crate) const fn state_name(instance: &Instance) -> &'static str {
    if instance.is_running() { "running" } else { "terminated" }
}

fn tag_values(tags: &BTreeMap<String, String>, filter: &str) -> Option<Vec<String>> {
    if filter == "tag-key" {
        return Some(tags.keys().cloned().collect());
    }
    filter.strip_prefix("tag:").map(|key| tags.get(key).cloned().into_iter().collect())
}
