//! Interfaces come to instances and leave them. What the API says and what the guest has may differ for a while.

use super::error::ApiError;
use super::id::{AttachmentId, InstanceId, InterfaceId};
use super::interface::{Attachment, AttachmentStatus, Device};
use super::response::Response;
use super::{Change, Cloud, Due, Instance};
use crate::time::Millis;

impl Cloud {
    pub(super) fn attach(
        &mut self,
        now: Millis,
        id: InterfaceId,
        instance: InstanceId,
        device_index: u32,
        network_card: u32,
    ) -> Result<Response, ApiError> {
        self.may_attach(now, id, instance, device_index, network_card)?;
        let attachment = AttachmentId(self.random.u64(..));
        if let Some(interface) = self.edit(now, id) {
            interface.attachment = Some(Attachment {
                id: attachment,
                instance,
                device_index,
                network_card,
                delete_on_termination: false,
                status: AttachmentStatus::Attaching,
                attached_at: now,
                device: None,
            });
        }
        self.attachments.insert(attachment, id);
        if let Some(instance) = self.instances.get_mut(&instance) {
            instance.interfaces.insert(id);
        }
        let devices = self.faults.devices.clone();
        self.due.insert((now + devices.attaching.draw(&mut self.random), Due::Attached(attachment)));
        self.due.insert((now + devices.appearing.draw(&mut self.random), Due::Appears(attachment)));
        self.advance(now);
        Ok(Response::AttachNetworkInterface { attachment, network_card })
    }

    fn may_attach(
        &self,
        now: Millis,
        id: InterfaceId,
        instance_id: InstanceId,
        device_index: u32,
        network_card: u32,
    ) -> Result<(), ApiError> {
        let interface = self.found(now, id)?;
        let instance =
            self.instances.get(&instance_id).filter(|instance| instance.is_running()).ok_or_else(|| ApiError::no_instance(instance_id))?;
        if interface.attachment.is_some() {
            return Err(ApiError::client("InvalidNetworkInterface.InUse", format!("Interface: [{id}] in use.")));
        }
        let zone = self.subnets.get(&interface.subnet).map(|subnet| &subnet.availability_zone);
        if zone != Some(&instance.availability_zone) {
            return Err(ApiError::client(
                "InvalidParameterCombination",
                "You may not attach a network interface to an instance if they are not in the same availability zone",
            ));
        }
        let limits = instance.limits();
        let attached: Vec<_> = self.interfaces_of(instance_id).into_iter().filter_map(|held| held.attachment.as_ref()).collect();
        if attached.iter().any(|held| held.device_index == device_index && held.network_card == network_card) {
            return Err(ApiError::invalid_parameter(format!(
                "Instance '{instance_id}' already has an interface attached at device index '{device_index}'."
            )));
        }
        if network_card >= limits.cards {
            return Err(ApiError::invalid_parameter(format!(
                "Network card index '{network_card}' exceeds the limit for {}",
                instance.instance_type
            )));
        }
        let on_card = attached.iter().filter(|held| held.network_card == network_card).count() as u32;
        if on_card >= limits.interfaces_per_card || device_index >= limits.interfaces() {
            return Err(ApiError::attachments_full(on_card + 1, &instance.instance_type));
        }
        if interface.ipv4_count() > limits.ipv4_per_interface || interface.ipv6_count() > limits.ipv6_per_interface {
            return Err(ApiError::interface_full(limits.ipv4_per_interface));
        }
        Ok(())
    }

    pub(super) fn finish_attaching(&mut self, at: Millis, attachment: AttachmentId) {
        self.edit_attachment(at, attachment, |attachment| {
            if attachment.status == AttachmentStatus::Attaching {
                attachment.status = AttachmentStatus::Attached;
            }
        });
    }

    pub(super) fn appear(&mut self, at: Millis, id: AttachmentId) {
        let Some(&interface) = self.attachments.get(&id) else { return };
        let Some(attachment) = self.interface(interface).and_then(|interface| interface.attachment.as_ref()) else { return };
        let (instance, asked) = (attachment.instance, attachment.device_index);
        let device = if self.chance(self.faults.devices.misnamed) {
            let devices = self.interfaces_of(instance);
            let highest = devices.iter().filter_map(|interface| interface.device()).map(|device| device.index).max();
            let index = highest.unwrap_or(0).max(asked) + 1;
            Device { name: format!("ens{}", index + 4), index }
        } else {
            Device { name: format!("eth{asked}"), index: asked }
        };
        self.edit_attachment(at, id, |attachment| attachment.device = Some(device));
        if let Some(interface) = self.interface(interface).cloned() {
            self.emit(at, Change::Attached { interface: Box::new(interface) });
        }
    }

    pub(super) fn detach(&mut self, now: Millis, id: AttachmentId, force: bool) -> Result<Response, ApiError> {
        let interface = *self.attachments.get(&id).ok_or_else(|| ApiError::no_attachment(id))?;
        let attachment = self.found(now, interface)?.attachment.clone().ok_or_else(|| ApiError::no_attachment(id))?;
        if attachment.device_index == 0 {
            return Err(ApiError::client("OperationNotPermitted", "The network interface at device index 0 cannot be detached."));
        }
        if attachment.status == AttachmentStatus::Detaching && !force {
            return Err(ApiError::client("IncorrectState", format!("The attachment '{id}' is already detaching.")));
        }
        self.edit_attachment(now, id, |attachment| attachment.status = AttachmentStatus::Detaching);
        let delay = if force { Millis::ZERO } else { self.faults.devices.detaching.draw(&mut self.random) };
        self.due.insert((now + delay, Due::Detached(id)));
        self.advance(now);
        Ok(Response::Done)
    }

    pub(super) fn finish_detaching(&mut self, at: Millis, id: AttachmentId) {
        let Some(interface) = self.attachments.remove(&id) else { return };
        let Some(was) = self.interface(interface).cloned() else { return };
        if let Some(interface) = self.edit(at, interface) {
            interface.attachment = None;
        }
        let instance = was.attachment.as_ref().map(|attachment| attachment.instance);
        if was.device().is_some() {
            self.emit(at, Change::Detached { interface: Box::new(was) });
        }
        if let Some(instance) = instance {
            self.due.insert((at + self.horizon, Due::Unlist(instance, interface)));
        }
    }

    /// Takes an interface from an instance's list, unless it has come back.
    pub(super) fn unlist(&mut self, instance: InstanceId, id: InterfaceId) {
        let attachment = self.interface(id).and_then(|interface| interface.attachment.as_ref());
        let is_back = attachment.is_some_and(|attachment| attachment.instance == instance);
        if let Some(instance) = self.instances.get_mut(&instance).filter(|_| !is_back) {
            let Instance { interfaces, .. } = instance;
            interfaces.remove(&id);
        }
    }

    fn edit_attachment(&mut self, at: Millis, id: AttachmentId, change: impl FnOnce(&mut Attachment)) {
        let Some(&interface) = self.attachments.get(&id) else { return };
        if let Some(attachment) = self.edit(at, interface).and_then(|interface| interface.attachment.as_mut()) {
            change(attachment);
        }
    }
}
