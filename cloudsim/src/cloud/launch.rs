//! What the cloud's operator does: subnets, instances.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::{Ipv4Network, Ipv6Network};
use serde::{Deserialize, Serialize};

use super::error::ApiError;
use super::id::{AttachmentId, InstanceId, SubnetId};
use super::instance::{Instance, LaunchSpec, Maintenance};
use super::interface::{Attachment, AttachmentStatus, Device};
use super::subnet::{Ipv4Space, Ipv6Space};
use super::{Change, Cloud, Due, Subnet};
use crate::time::Millis;

/// How long a terminated instance stays listed.
const TERMINATED_IS_LISTED: Millis = Millis::seconds(3600);

/// What a subnet is made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubnetSpec {
    /// E.g. `us-east-1a`.
    pub availability_zone: String,
    /// A /16 to /28.
    pub cidr: Ipv4Network,
    /// A /64.
    #[serde(default)]
    pub ipv6_cidr: Option<Ipv6Network>,
    /// Tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

impl Cloud {
    /// Makes a subnet.
    ///
    /// # Errors
    /// `InvalidSubnet.Range`, `InvalidSubnet.Conflict`
    pub fn create_subnet(&mut self, spec: SubnetSpec) -> Result<SubnetId, ApiError> {
        let SubnetSpec { availability_zone, cidr, ipv6_cidr, tags } = spec;
        let aligned = cidr.network() == cidr.ip() && ipv6_cidr.is_none_or(|cidr| cidr.network() == cidr.ip());
        if !aligned || !(16..=28).contains(&cidr.prefix()) || ipv6_cidr.is_some_and(|cidr| cidr.prefix() != 64) {
            let blocks = ipv6_cidr.map_or_else(|| cidr.to_string(), |ipv6| format!("{cidr}, {ipv6}"));
            return Err(ApiError::client("InvalidSubnet.Range", format!("The CIDR '{blocks}' is invalid: take a /16 to /28 and a /64.")));
        }
        let taken = |subnet: &Subnet| {
            let ipv6 = subnet.ipv6.as_ref().map(Ipv6Space::cidr);
            subnet.ipv4.cidr().overlaps(cidr) || (ipv6.is_some() && ipv6 == ipv6_cidr)
        };
        if self.subnets.values().any(taken) {
            return Err(ApiError::client("InvalidSubnet.Conflict", format!("The CIDR '{cidr}' conflicts with another subnet")));
        }
        let id = SubnetId(self.random.u64(..));
        self.subnets.insert(id, Subnet { availability_zone, tags, ipv4: Ipv4Space::new(cidr), ipv6: ipv6_cidr.map(Ipv6Space::new) });
        Ok(id)
    }

    /// Leaves no prefix in a subnet but `prefixes_left`: in every other free block one address is taken, by nobody.
    ///
    /// # Errors
    /// `InvalidSubnetID.NotFound`
    pub fn fragment_subnet(&mut self, id: SubnetId, prefixes_left: usize) -> Result<(), ApiError> {
        let subnet = self.subnets.get_mut(&id).ok_or_else(|| ApiError::no_subnet(id))?;
        subnet.ipv4.fragment(prefixes_left, &mut self.random);
        Ok(())
    }

    /// Leaves no address in a subnet but `addresses_left`: the others are taken, by nobody.
    ///
    /// # Errors
    /// `InvalidSubnetID.NotFound`
    pub fn fill_subnet(&mut self, id: SubnetId, addresses_left: u32) -> Result<(), ApiError> {
        let subnet = self.subnets.get_mut(&id).ok_or_else(|| ApiError::no_subnet(id))?;
        subnet.ipv4.fill(addresses_left, &mut self.random);
        Ok(())
    }

    /// Launches an instance. It runs at once, with all its devices.
    ///
    /// # Errors
    /// As EC2 would refuse it; nothing is left of a launch that was refused.
    pub fn launch(&mut self, now: Millis, spec: &LaunchSpec) -> Result<InstanceId, ApiError> {
        self.advance(now);
        let first = spec.interfaces.first().ok_or_else(|| ApiError::missing_parameter("NetworkInterface"))?;
        let zone = self.subnets.get(&first.subnet).ok_or_else(|| ApiError::no_subnet(first.subnet))?.availability_zone.clone();
        let id = InstanceId(self.random.u64(..));
        let instance = Instance {
            id,
            instance_type: spec.instance_type.clone(),
            availability_zone: zone,
            launched_at: now,
            tags: spec.tags.clone(),
            role: spec.role.clone(),
            hop_limit: spec.hop_limit,
            maintenance: None,
            terminated_at: None,
            interfaces: BTreeSet::new(),
        };
        let limits = *instance.limits();
        if spec.interfaces.len() as u32 > limits.interfaces_per_card {
            return Err(ApiError::attachments_full(spec.interfaces.len() as u32, &spec.instance_type));
        }
        self.instances.insert(id, instance);
        for (index, interface) in (0..).zip(&spec.interfaces) {
            if let Err(error) = self.launch_interface(now, id, index, interface) {
                self.terminate(now, id)?;
                self.instances.remove(&id);
                return Err(error);
            }
        }
        Ok(id)
    }

    fn launch_interface(&mut self, now: Millis, instance: InstanceId, index: u32, spec: &super::InterfaceSpec) -> Result<(), ApiError> {
        let mut interface = self.new_interface(now, spec)?;
        let limits = self.instances.get(&instance).map_or(&super::instance_type::UNDOCUMENTED, Instance::limits);
        if interface.ipv4_count() > limits.ipv4_per_interface || interface.ipv6_count() > limits.ipv6_per_interface {
            let limit = limits.ipv4_per_interface;
            self.release_all(&interface);
            return Err(ApiError::interface_full(limit));
        }
        let attachment = AttachmentId(self.random.u64(..));
        interface.attachment = Some(Attachment {
            id: attachment,
            instance,
            device_index: index,
            network_card: 0,
            delete_on_termination: true,
            status: AttachmentStatus::Attached,
            attached_at: now,
            device: Some(Device { name: format!("eth{index}"), index }),
        });
        self.attachments.insert(attachment, interface.id);
        if let Some(instance) = self.instances.get_mut(&instance) {
            instance.interfaces.insert(interface.id);
        }
        self.emit(now, Change::Attached { interface: Box::new(interface.clone()) });
        self.store(now, interface);
        Ok(())
    }

    /// Ends an instance. Interfaces that do not go with it become available.
    ///
    /// # Errors
    /// `InvalidInstanceID.NotFound`
    pub fn terminate(&mut self, now: Millis, id: InstanceId) -> Result<(), ApiError> {
        self.advance(now);
        let interfaces: Vec<_> = self.interfaces_of(id).into_iter().cloned().collect();
        let instance = self.instances.get_mut(&id).filter(|instance| instance.is_running()).ok_or_else(|| ApiError::no_instance(id))?;
        instance.terminated_at = Some(now);
        self.due.insert((now + TERMINATED_IS_LISTED, Due::ForgetInstance(id)));
        for interface in interfaces {
            let Some(attachment) = interface.attachment else { continue };
            self.finish_detaching(now, attachment.id);
            if attachment.delete_on_termination {
                self.remove(now, interface.id);
            }
        }
        Ok(())
    }

    /// Announces something for an instance, or withdraws what was announced.
    ///
    /// # Errors
    /// `InvalidInstanceID.NotFound`
    pub fn announce(&mut self, id: InstanceId, maintenance: Option<Maintenance>) -> Result<(), ApiError> {
        let instance = self.instances.get_mut(&id).filter(|instance| instance.is_running()).ok_or_else(|| ApiError::no_instance(id))?;
        instance.maintenance = maintenance;
        Ok(())
    }
}
