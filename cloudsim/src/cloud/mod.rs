//! The state of a simulated cloud: one account in one region with one VPC.
//!
//! Pure and in one thread: each call takes the time as an argument, and time must not go back. The same seed, the same calls and the same
//! times give the same answers. What is promised: no address is on two interfaces; an address that is refused was not free; limits
//! and token buckets are those that AWS documents. What EC2 leaves open is drawn at random, so that no client comes to rely on it.

mod action;
mod address;
mod attach;
mod audit;
mod bucket;
mod calls;
mod deliver;
mod describe;
mod error;
mod history;
mod id;
mod instance;
mod instance_type;
mod interface;
mod launch;
mod lifecycle;
mod page;
mod request;
mod response;
mod subnet;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::{Ipv4Network, Ipv6Network};
use serde::{Deserialize, Serialize};

pub use action::{Action, UnknownAction};
pub use audit::Broken;
pub use bucket::TokenBucket;
pub use calls::{Call, Calls, Tally};
pub use error::ApiError;
pub use id::{AttachmentId, InstanceId, InterfaceId, Mac, Malformed, SubnetId, VpcId};
pub use instance::{Instance, InterfaceSpec, LaunchSpec, Maintenance, MaintenanceKind};
pub use instance_type::{INSTANCE_TYPES, InstanceType};
pub use interface::{Attachment, AttachmentStatus, Device, Interface};
pub use launch::SubnetSpec;
pub use request::{AttributeChange, Filter, Ipv4Wanted, Ipv6Wanted, Page, Request};
pub use response::{DescribedInstance, DescribedSubnet, Outcome, Reply, Response};
pub use subnet::Refused;
pub(crate) use view::scatter;

use crate::fabric::{Change, Event};
use crate::faults::{Faults, Latency};
use crate::time::Millis;
use history::History;
use subnet::{Ipv4Space, Ipv6Space};

/// What a cloud is made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Account number.
    pub account: String,
    /// Region.
    pub region: String,
    /// The source of all chance.
    pub seed: u64,
    /// The VPC's IPv4 blocks.
    pub vpc_cidrs: Vec<Ipv4Network>,
    /// The VPC's IPv6 blocks.
    pub vpc_ipv6_cidrs: Vec<Ipv6Network>,
}

impl Default for Settings {
    /// Region us-east-1, no blocks (subnets do not have to lie in one), seed 0.
    fn default() -> Self {
        Self {
            account: "123456789012".to_owned(),
            region: "us-east-1".to_owned(),
            seed: 0,
            vpc_cidrs: Vec::new(),
            vpc_ipv6_cidrs: Vec::new(),
        }
    }
}

/// A subnet.
#[derive(Debug, Clone)]
struct Subnet {
    availability_zone: String,
    tags: BTreeMap<String, String>,
    ipv4: Ipv4Space,
    ipv6: Option<Ipv6Space>,
}

/// What will happen by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// The API says `attached`.
    Attached(AttachmentId),
    /// The guest has the device.
    Appears(AttachmentId),
    /// The API says `available`, and the device is gone.
    Detached(AttachmentId),
    /// Nobody can see the interface on the instance any more.
    Unlist(InstanceId, InterfaceId),
    /// Nobody can see the interface any more.
    ForgetInterface(InterfaceId),
    /// The instance is no longer listed.
    ForgetInstance(InstanceId),
}

/// The state of a simulated cloud.
#[derive(Debug, Clone)]
pub struct Cloud {
    settings: Settings,
    vpc: VpcId,
    random: fastrand::Rng,
    faults: Faults,
    /// How far back any view looks: how long states that were are kept.
    horizon: Millis,
    subnets: BTreeMap<SubnetId, Subnet>,
    instances: BTreeMap<InstanceId, Instance>,
    interfaces: BTreeMap<InterfaceId, History<Interface>>,
    attachments: BTreeMap<AttachmentId, InterfaceId>,
    /// Interfaces made so far: the source of hardware addresses.
    made: u64,
    buckets: BTreeMap<(Action, bool), TokenBucket>,
    client_tokens: BTreeMap<String, (InterfaceSpec, InterfaceId)>,
    due: BTreeSet<(Millis, Due)>,
    events: Vec<Event>,
    event_count: u64,
    calls: Calls,
    /// Interfaces of which a read has gone back in time already.
    went_back: BTreeSet<InterfaceId>,
}

impl Cloud {
    /// A cloud without subnets and instances.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let mut random = fastrand::Rng::with_seed(settings.seed);
        Self {
            vpc: VpcId(random.u64(..)),
            random,
            settings,
            faults: Faults::default(),
            horizon: Millis::ZERO,
            subnets: BTreeMap::new(),
            instances: BTreeMap::new(),
            interfaces: BTreeMap::new(),
            attachments: BTreeMap::new(),
            made: 0,
            buckets: BTreeMap::new(),
            client_tokens: BTreeMap::new(),
            due: BTreeSet::new(),
            events: Vec::new(),
            event_count: 0,
            calls: Calls::default(),
            went_back: BTreeSet::new(),
        }
    }

    /// What it was made with.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The VPC.
    #[must_use]
    pub const fn vpc(&self) -> VpcId {
        self.vpc
    }

    /// The security group of an interface that names none.
    #[must_use]
    pub fn default_security_group(&self) -> String {
        format!("sg-0{:016x}", self.vpc.0)
    }

    /// What goes wrong at present.
    #[must_use]
    pub const fn faults(&self) -> &Faults {
        &self.faults
    }

    /// From here on this goes wrong. Views into the past begin here where none could look so far back before.
    pub fn set_faults(&mut self, faults: Faults) {
        self.horizon = faults.horizon().max(self.horizon);
        self.faults = faults;
    }

    /// What was called.
    #[must_use]
    pub const fn calls(&self) -> &Calls {
        &self.calls
    }

    /// Forgets what was called.
    pub fn clear_calls(&mut self) {
        self.calls.clear();
    }

    /// Carries a call out as the cloud's operator: without limits on the number of calls, and without anything going wrong.
    ///
    /// # Errors
    /// As EC2 would refuse it.
    pub fn apply(&mut self, now: Millis, request: &Request) -> Result<Response, ApiError> {
        self.advance(now);
        match request {
            Request::CreateNetworkInterface { spec, client_token } => self.create(now, spec, client_token.as_deref()),
            Request::DeleteNetworkInterface { interface } => self.delete(now, *interface),
            Request::ModifyNetworkInterfaceAttribute { interface, change } => self.modify(now, *interface, change),
            Request::CreateTags { resources, tags } => self.create_tags(now, resources, tags),
            Request::AttachNetworkInterface { interface, instance, device_index, network_card } => {
                self.attach(now, *interface, *instance, *device_index, *network_card)
            }
            Request::DetachNetworkInterface { attachment, force } => self.detach(now, *attachment, *force),
            Request::AssignPrivateIpAddresses { interface, wanted } => self.assign_ipv4(now, *interface, wanted),
            Request::UnassignPrivateIpAddresses { interface, addresses, prefixes } => {
                self.unassign_ipv4(now, *interface, addresses, prefixes)
            }
            Request::AssignIpv6Addresses { interface, wanted } => self.assign_ipv6(now, *interface, wanted),
            Request::UnassignIpv6Addresses { interface, addresses, prefixes } => self.unassign_ipv6(now, *interface, addresses, prefixes),
            Request::DescribeNetworkInterfaces { interfaces, filters, page } => self.describe_interfaces(now, interfaces, filters, page),
            Request::DescribeInstances { instances, filters, page } => self.describe_instances(now, instances, filters, page),
            Request::DescribeSubnets { subnets, filters, page } => self.describe_subnets(subnets, filters, page),
            Request::DescribeInstanceTypes { instance_types, filters, page } => {
                Self::describe_instance_types(instance_types, filters, page)
            }
        }
    }

    /// Lets happen what is due by `now`.
    pub fn advance(&mut self, now: Millis) {
        while let Some(&(at, due)) = self.due.first().filter(|(at, _)| *at <= now) {
            self.due.pop_first();
            match due {
                Due::Attached(attachment) => self.finish_attaching(at, attachment),
                Due::Appears(attachment) => self.appear(at, attachment),
                Due::Detached(attachment) => self.finish_detaching(at, attachment),
                Due::Unlist(instance, interface) => self.unlist(instance, interface),
                Due::ForgetInterface(interface) => {
                    self.interfaces.remove(&interface);
                    self.went_back.remove(&interface);
                    self.client_tokens.retain(|_, (_, made)| *made != interface);
                }
                Due::ForgetInstance(instance) => {
                    self.instances.remove(&instance);
                }
            }
        }
    }

    /// When something will next happen by itself.
    #[must_use]
    pub fn next_change(&self) -> Option<Millis> {
        self.due.first().map(|(at, _)| *at)
    }

    /// What packets have felt since this was asked last. Who never asks keeps all of it in memory.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The instance, terminated or not.
    #[must_use]
    pub fn instance(&self, id: InstanceId) -> Option<&Instance> {
        self.instances.get(&id)
    }

    /// All instances, the terminated ones of the last hour included.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.instances.values()
    }

    /// The interface as it truly is.
    #[must_use]
    pub fn interface(&self, id: InterfaceId) -> Option<&Interface> {
        self.interfaces.get(&id)?.present().map(Arc::as_ref)
    }

    /// All interfaces as they truly are.
    pub fn interfaces(&self) -> impl Iterator<Item = &Interface> {
        self.interfaces.values().filter_map(|history| history.present().map(Arc::as_ref))
    }

    /// The interfaces of an instance as they truly are, by device index; those that attach or detach included.
    #[must_use]
    pub fn interfaces_of(&self, instance: InstanceId) -> Vec<&Interface> {
        let known = self.instances.get(&instance).into_iter().flat_map(|instance| &instance.interfaces);
        let mut found: Vec<_> = known
            .filter_map(|id| self.interface(*id))
            .filter(|interface| interface.attachment.as_ref().is_some_and(|attachment| attachment.instance == instance))
            .collect();
        found.sort_by_key(|interface| interface.attachment.as_ref().map(|attachment| attachment.device_index));
        found
    }

    /// The instance that has an address, if any.
    #[must_use]
    pub fn instance_with(&self, address: IpAddr) -> Option<InstanceId> {
        let has = |interface: &&Interface| interface.networks().any(|network| network.contains(address));
        self.interfaces().find(has)?.attachment.as_ref().map(|attachment| attachment.instance)
    }

    pub(crate) fn draw(&mut self, latency: Latency) -> Millis {
        latency.draw(&mut self.random)
    }

    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.random.f64() < probability
    }

    fn emit(&mut self, at: Millis, change: Change) {
        self.event_count += 1;
        self.events.push(Event { number: self.event_count, at, change });
    }

    fn edit(&mut self, now: Millis, id: InterfaceId) -> Option<&mut Interface> {
        self.interfaces.get_mut(&id)?.edit(now, self.horizon)
    }

    /// The interface as a call that changes something finds it: not before its lag has passed.
    fn found(&self, now: Millis, id: InterfaceId) -> Result<&Interface, ApiError> {
        let interface = self.interface(id).ok_or_else(|| ApiError::no_interface(id))?;
        if now.since(interface.created_at) < self.lag_of(id) {
            return Err(ApiError::no_interface(id));
        }
        Ok(interface)
    }
}
