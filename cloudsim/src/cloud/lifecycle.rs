//! Interfaces are made, changed and deleted.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnetwork::{Ipv4Network, Ipv6Network};

use super::error::ApiError;
use super::history::History;
use super::id::{InterfaceId, Mac};
use super::instance::InterfaceSpec;
use super::interface::Interface;
use super::request::AttributeChange;
use super::response::Response;
use super::{Change, Cloud, Due};
use crate::time::Millis;

impl Cloud {
    pub(super) fn create(&mut self, now: Millis, spec: &InterfaceSpec, client_token: Option<&str>) -> Result<Response, ApiError> {
        if let Some((before, id)) = client_token.and_then(|token| self.client_tokens.get(token)) {
            if before != spec {
                return Err(ApiError::client(
                    "IdempotentParameterMismatch",
                    "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
                ));
            }
            // Its interface may be deleted by now; then the call is one for a new one.
            if let Some(interface) = self.interfaces.get(id).and_then(History::present) {
                return Ok(Response::CreateNetworkInterface {
                    interface: Arc::clone(interface),
                    client_token: client_token.map(str::to_owned),
                });
            }
        }
        let interface = self.new_interface(now, spec)?;
        if let Some(token) = client_token {
            self.client_tokens.insert(token.to_owned(), (spec.clone(), interface.id));
        }
        let answer = Arc::new(interface.clone());
        for network in interface.networks() {
            self.emit(now, Change::Assigned { interface: interface.id, network });
        }
        self.store(now, interface);
        Ok(Response::CreateNetworkInterface { interface: answer, client_token: client_token.map(str::to_owned) })
    }

    pub(super) fn store(&mut self, now: Millis, interface: Interface) {
        self.interfaces.insert(interface.id, History::begun(now, self.horizon, interface));
    }

    /// An interface with all the addresses that `spec` asks for. It is in no list yet.
    pub(super) fn new_interface(&mut self, now: Millis, spec: &InterfaceSpec) -> Result<Interface, ApiError> {
        let subnet = self.subnets.get_mut(&spec.subnet).ok_or_else(|| ApiError::no_subnet(spec.subnet))?;
        let primary = match spec.primary {
            Some(primary) => subnet.ipv4.take(primary).map(|()| primary).map_err(|refused| ApiError::address(primary, refused))?,
            None => subnet.ipv4.take_any(&mut self.random).ok_or_else(ApiError::subnet_full)?,
        };
        let security_groups =
            if spec.security_groups.is_empty() { vec![self.default_security_group()] } else { spec.security_groups.clone() };
        let mut interface = Interface {
            id: InterfaceId(self.random.u64(..)),
            subnet: spec.subnet,
            mac: spec.mac.unwrap_or_else(|| Mac::numbered(self.made + 1)),
            description: spec.description.clone(),
            security_groups,
            tags: spec.tags.clone(),
            primary,
            secondary: Vec::new(),
            ipv4_prefixes: Vec::new(),
            ipv6: Vec::new(),
            ipv6_prefixes: Vec::new(),
            created_at: now,
            attachment: None,
        };
        self.made += 1;
        match self.take_extras(&mut interface, spec) {
            Ok(()) => Ok(interface),
            Err(error) => {
                self.release_all(&interface);
                Err(error)
            }
        }
    }

    /// What `spec` asks for beside the primary address; what was taken before a failure is in the interface.
    fn take_extras(&mut self, interface: &mut Interface, spec: &InterfaceSpec) -> Result<(), ApiError> {
        let subnet = spec.subnet;
        self.take_ipv4(subnet, &spec.secondary, &mut interface.secondary)?;
        self.take_ipv4_count(subnet, spec.secondary_count, &mut interface.secondary)?;
        self.take_ipv4_prefixes(subnet, &spec.ipv4_prefixes, &mut interface.ipv4_prefixes)?;
        self.take_ipv4_prefix_count(subnet, spec.ipv4_prefix_count, spec.ipv4_prefix_length, &mut interface.ipv4_prefixes)?;
        self.take_ipv6(subnet, &spec.ipv6, &mut interface.ipv6)?;
        self.take_ipv6_count(subnet, spec.ipv6_count, &mut interface.ipv6)?;
        self.take_ipv6_prefixes(subnet, &spec.ipv6_prefixes, &mut interface.ipv6_prefixes)?;
        self.take_ipv6_prefix_count(subnet, spec.ipv6_prefix_count, &mut interface.ipv6_prefixes)
    }

    /// Gives back every address of an interface.
    pub(super) fn release_all(&mut self, interface: &Interface) {
        let Some(subnet) = self.subnets.get_mut(&interface.subnet) else { return };
        for address in interface.ipv4() {
            subnet.ipv4.release(Ipv4Network::from(address));
        }
        for prefix in &interface.ipv4_prefixes {
            subnet.ipv4.release(*prefix);
        }
        if let Some(ipv6) = &mut subnet.ipv6 {
            interface.ipv6.iter().for_each(|address| ipv6.release(*address));
            interface.ipv6_prefixes.iter().for_each(|prefix: &Ipv6Network| ipv6.release_prefix(*prefix));
        }
    }

    pub(super) fn delete(&mut self, now: Millis, id: InterfaceId) -> Result<Response, ApiError> {
        if self.found(now, id)?.attachment.is_some() {
            return Err(ApiError::invalid_parameter(format!("Network interface '{id}' is currently in use.")));
        }
        self.remove(now, id);
        Ok(Response::Done)
    }

    /// Ends an interface that is attached to nothing.
    pub(super) fn remove(&mut self, now: Millis, id: InterfaceId) {
        let Some(interface) = self.interface(id).cloned() else { return };
        self.release_all(&interface);
        for network in interface.networks() {
            self.emit(now, Change::Unassigned { interface: id, network });
        }
        if let Some(history) = self.interfaces.get_mut(&id) {
            history.end(now, self.horizon);
        }
        self.due.insert((now + self.horizon, Due::ForgetInterface(id)));
    }

    pub(super) fn modify(&mut self, now: Millis, id: InterfaceId, change: &AttributeChange) -> Result<Response, ApiError> {
        let attached = self.found(now, id)?.attachment.as_ref().map(|attachment| attachment.id);
        if let AttributeChange::DeleteOnTermination { attachment, .. } = change
            && attached != Some(*attachment)
        {
            return Err(ApiError::no_attachment(*attachment));
        }
        let Some(interface) = self.edit(now, id) else { return Err(ApiError::no_interface(id)) };
        match change {
            AttributeChange::DeleteOnTermination { delete, .. } => {
                if let Some(attachment) = &mut interface.attachment {
                    attachment.delete_on_termination = *delete;
                }
            }
            AttributeChange::Description(text) => interface.description.clone_from(text),
            AttributeChange::SecurityGroups(groups) => interface.security_groups.clone_from(groups),
            AttributeChange::SourceDestCheck(_) => {}
        }
        Ok(Response::Done)
    }

    /// All resources or none.
    pub(super) fn create_tags(&mut self, now: Millis, resources: &[String], tags: &BTreeMap<String, String>) -> Result<Response, ApiError> {
        for name in resources {
            if let Ok(interface) = name.parse::<InterfaceId>() {
                self.found(now, interface)?;
            } else if let Ok(instance) = name.parse() {
                self.instances.get(&instance).ok_or_else(|| ApiError::no_instance(instance))?;
            } else if let Ok(subnet) = name.parse() {
                self.subnets.get(&subnet).ok_or_else(|| ApiError::no_subnet(subnet))?;
            } else {
                return Err(ApiError::client("InvalidID", format!("The ID '{name}' is not valid")));
            }
        }
        for name in resources {
            let interface = name.parse().ok().and_then(|interface| self.edit(now, interface)).map(|interface| &mut interface.tags);
            if let Some(tagged) = interface {
                tagged.extend(tags.clone());
            } else if let Some(instance) = name.parse().ok().and_then(|instance| self.instances.get_mut(&instance)) {
                instance.tags.extend(tags.clone());
            } else if let Some(subnet) = name.parse().ok().and_then(|subnet| self.subnets.get_mut(&subnet)) {
                subnet.tags.extend(tags.clone());
            }
        }
        Ok(Response::Done)
    }
}
