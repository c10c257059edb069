//! Further interfaces of the instance: made, attached, set to go with it, and deleted where that failed half-way.
//!
//! An interface is made with its addresses, so that no further call is needed, and with two tags: whose it is and since when. What goes
//! wrong between its making and its attachment leaves an interface that nobody uses. It is deleted at once where EC2 has refused to
//! attach it. Where it is not known whether it is attached, it is left alone, and [`Aws::sweep_leaked`] finds it by its tags.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use ipam_pool::range::Family;
use ipam_supply::Refusal;

use super::ec2::{CallError, Ec2, Parameters};
use super::managed::{Managed, TAG_INSTANCE};
use super::readers::PAGES;
use super::reply::{AttachedInterface, CreatedInterface, Done, NetworkInterface, Subnets};
use super::{Aws, Failure, Limits};

/// Beside [`TAG_INSTANCE`] what we make has the seconds since 1970 when it was made.
const TAG_CREATED: &str = "barewire/created";
/// For all calls together.
const WHOLE: Duration = Duration::from_secs(120);
/// Calls that may be repeated are, so often and after such a pause: EC2 may not know yet what it has just made.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);
/// Interfaces that one sweep deletes at most.
const SWEPT: usize = 20;

/// An interface to be made, but for its subnet and addresses.
struct Making<'a> {
    ec2: &'a Ec2,
    instance: &'a str,
    /// The operator's.
    tags: &'a BTreeMap<String, String>,
    groups: Vec<String>,
    device: u32,
}

impl Making<'_> {
    /// Asks again where no reply came: the token makes EC2 answer for the same interface instead of making another.
    async fn create(&self, subnet: &str, parameter: &str, count: u64) -> Result<String, CallError> {
        let Self { ec2, instance, tags, groups, device } = self;
        let now = ec2.cloud_time()?;
        let mut parameters = Parameters::from([
            ("SubnetId".to_owned(), subnet.to_owned()),
            ("Description".to_owned(), format!("barewire: pods of {instance}")),
            (parameter.to_owned(), count.to_string()),
            // 64 characters at most; each attempt of ours is another request.
            ("ClientToken".to_owned(), format!("{instance}-{device}-{:x}", now.as_nanos())),
            ("TagSpecification.1.ResourceType".to_owned(), "network-interface".to_owned()),
        ]);
        let created = now.as_secs().to_string();
        let ours = [(TAG_INSTANCE, *instance), (TAG_CREATED, created.as_str())];
        let tags = ours.into_iter().chain(tags.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        for (number, (key, value)) in tags.enumerate() {
            let tag = format!("TagSpecification.1.Tag.{}", number + 1);
            parameters.extend([(format!("{tag}.Key"), key.to_owned()), (format!("{tag}.Value"), value.to_owned())]);
        }
        parameters.extend(groups.iter().enumerate().map(|(number, group)| (format!("SecurityGroupId.{}", number + 1), group.clone())));
        let created: CreatedInterface = repeat(ec2, "CreateNetworkInterface", &parameters, |_| false).await?;
        Ok(created.network_interface.network_interface_id)
    }
}

impl Aws {
    pub(super) async fn add_interface(&self, family: Family, blocks: u64) -> Result<(), Failure> {
        let late = |_| Failure::Unknown(format!("an interface was not added within {} s", WHOLE.as_secs()));
        tokio::time::timeout(WHOLE, self.add(family, blocks)).await.map_err(late)?
    }

    async fn add(&self, family: Family, blocks: u64) -> Result<(), Failure> {
        let limits = self.limits().await?;
        let own = self.describe_own().await?;
        let taken: Vec<_> =
            own.iter().filter_map(NetworkInterface::place).filter(|(card, _)| *card == 0).map(|(_, device)| device).collect();
        if taken.len() as u64 >= limits.interfaces {
            return Err(Failure::Refused(Refusal::Full));
        }
        let device = (0..).find(|device| !taken.contains(device)).unwrap_or(u32::MAX);
        let Some(primary) = own.iter().find(|interface| interface.place() == Some((0, 0))) else {
            return Err(Failure::other(
                "DescribeNetworkInterfaces lists no primary interface of this instance: is the endpoint of its region?",
            ));
        };
        let (ec2, instance) = (self.ec2().await?, self.identity().await?.instance_id.as_str());
        let no_tags = BTreeMap::new();
        let tags = self.settings.api.as_ref().map_or(&no_tags, |api| &api.tags);
        let making = Making { ec2, instance, tags, groups: self.security_groups(primary), device };
        let id = self.create(&making, &self.subnets_for(primary).await?, family, blocks.max(1), &limits).await?;
        self.memory().managed.insert(id.clone(), Managed::CreatedHere);
        let attachment = self.attach(&id, device).await?;
        self.delete_on_termination(&id, &attachment).await;
        Ok(())
    }

    fn security_groups(&self, primary: &NetworkInterface) -> Vec<String> {
        match &self.settings.api {
            Some(api) if !api.security_groups.is_empty() => api.security_groups.clone(),
            _ => primary.group_set.item.iter().map(|group| group.group_id.clone()).collect(),
        }
    }

    /// Subnets to try, in order: an interface has to be in the instance's own availability zone.
    async fn subnets_for(&self, primary: &NetworkInterface) -> Result<Vec<String>, Failure> {
        if let Some(api) = self.settings.api.as_ref().filter(|api| !api.subnet_tags.is_empty()) {
            return self.tagged_subnets(&api.subnet_tags, primary).await;
        }
        let configured = self.settings.api.as_ref().map(|api| api.subnets.clone()).unwrap_or_default();
        if configured.is_empty() {
            return Ok(vec![primary.subnet_id.clone()]);
        }
        self.learn_subnets(configured.iter().map(String::as_str)).await?;
        let zone = &self.identity().await?.availability_zone;
        let known = &self.memory().subnets;
        let is_here = |id: &&String| known.get(*id).is_some_and(|subnet| subnet.availability_zone.as_ref().is_none_or(|of| of == zone));
        let here: Vec<_> = configured.iter().filter(is_here).cloned().collect();
        if here.is_empty() {
            let all = configured.join(", ");
            return Err(Failure::other(format!(
                "none of the configured subnets ({all}) is in this node's availability zone {zone}: add one"
            )));
        }
        Ok(here)
    }

    /// Those with these tags, the one with the most free addresses first. They come and go, and so they are asked for each time.
    async fn tagged_subnets(&self, tags: &BTreeMap<String, String>, primary: &NetworkInterface) -> Result<Vec<String>, Failure> {
        let zone = &self.identity().await?.availability_zone;
        let mut filters: Vec<_> = tags.iter().map(|(key, value)| (format!("tag:{key}"), value.as_str())).collect();
        filters.push(("availability-zone".to_owned(), zone));
        filters.extend(primary.vpc_id.as_deref().map(|vpc| ("vpc-id".to_owned(), vpc)));
        let parameters = filters.iter().enumerate().flat_map(|(number, (name, value))| {
            let filter = format!("Filter.{}", number + 1);
            [(format!("{filter}.Name"), name.clone()), (format!("{filter}.Value.1"), (*value).to_owned())]
        });
        let found: Subnets = self.ec2().await?.call("DescribeSubnets", parameters.collect()).await?;
        let mut found = found.subnet_set.item;
        found.sort_by_key(|subnet| Reverse(subnet.available_ip_address_count));
        let ids: Vec<_> = found.iter().map(|subnet| subnet.subnet_id.clone()).collect();
        self.remember_subnets(found)?;
        if ids.is_empty() {
            let tags = tags.iter().map(|(key, value)| format!("{key} = {value}")).collect::<Vec<_>>().join(", ");
            return Err(Failure::other(format!(
                "no subnet of this node's VPC and availability zone {zone} has the tags of source.subnet_tags ({tags}): tag one"
            )));
        }
        Ok(ids)
    }

    /// In the first subnet that has room; with prefixes if it can be, with single addresses else.
    async fn create(
        &self,
        making: &Making<'_>,
        subnets: &[String],
        family: Family,
        blocks: u64,
        limits: &Limits,
    ) -> Result<String, Failure> {
        // One place is taken by its own address.
        let places = limits.room(family, 1).max(1);
        let prefixes = blocks.min(places);
        for subnet in subnets {
            if family == Family::V6 || (limits.prefixes && !self.is_fragmented(Some(subnet))) {
                let parameter = if family == Family::V6 { "Ipv6PrefixCount" } else { "Ipv4PrefixCount" };
                match making.create(subnet, parameter, prefixes).await {
                    // It gives all or nothing: of fewer there may be some.
                    Err(error) if error.has_no_prefix() && family == Family::V4 && prefixes == 1 => {}
                    Err(error) if error.has_no_prefix() => continue,
                    done => return Ok(done?),
                }
            }
            // One more is the interface's own.
            let Some(singles) = self.single_addresses(Some(subnet), blocks, 1, limits.prefixes).await else { continue };
            match making.create(subnet, "SecondaryPrivateIpAddressCount", singles.min(places)).await {
                Err(error) if error.has_no_prefix() => {}
                done => return Ok(done?),
            }
        }
        Err(Failure::Refused(Refusal::Exhausted))
    }

    async fn attach(&self, id: &str, device: u32) -> Result<String, Failure> {
        let ec2 = self.ec2().await?;
        let parameters = Parameters::from([
            ("NetworkInterfaceId".to_owned(), id.to_owned()),
            ("InstanceId".to_owned(), self.identity().await?.instance_id.clone()),
            ("DeviceIndex".to_owned(), device.to_string()),
        ]);
        // A second request would be refused where the first was granted, so it is not repeated without a reply.
        let mut tries = 0;
        let error = loop {
            tries += 1;
            match ec2.call::<AttachedInterface>("AttachNetworkInterface", parameters.clone()).await {
                Ok(attached) => return Ok(attached.attachment_id),
                Err(error) if error.code() == "InvalidNetworkInterfaceID.NotFound" && tries < TRIES => tokio::time::sleep(PAUSE).await,
                Err(error) => break error,
            }
        };
        if let CallError::NoAnswer { .. } = error {
            tracing::warn!(interface = id, "attachment of the interface unknown: if it is not attached, a sweep deletes it later");
        } else {
            self.delete(id).await;
        }
        Err(error.into())
    }

    /// Without it, the interface outlives the instance until a sweep finds it: worth a warning, not worth the interface.
    async fn delete_on_termination(&self, id: &str, attachment: &str) {
        let parameters = [("NetworkInterfaceId", id), ("Attachment.AttachmentId", attachment), ("Attachment.DeleteOnTermination", "true")];
        let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let Ok(ec2) = self.ec2().await else { return };
        let is_not_known_yet = |error: &CallError| error.code().ends_with(".NotFound");
        if let Err(error) = repeat::<Done>(ec2, "ModifyNetworkInterfaceAttribute", &parameters, is_not_known_yet).await {
            tracing::warn!(interface = id, %error, "DeleteOnTermination not set: the interface outlives the instance until a sweep deletes it");
        }
    }

    async fn delete(&self, id: &str) {
        let parameters = Parameters::from([("NetworkInterfaceId".to_owned(), id.to_owned())]);
        let Ok(ec2) = self.ec2().await else { return };
        match ec2.call::<Done>("DeleteNetworkInterface", parameters).await {
            Ok(Done {}) => {}
            Err(error) => tracing::warn!(interface = id, %error, "interface not attached, left to a sweep"),
        }
    }

    /// Deletes interfaces that a node has made, that are attached to nothing, and that are older than `age`: those of this node and
    /// those that nodes left which are no more. Looks at some of them; one that cannot be deleted is passed over. Has those of this node
    /// go with it, where a lost reply has kept them from being told to. Returns how many were deleted.
    ///
    /// `age` has to be longer than any interface takes from its making to its attachment: minutes. It is by the cloud's clock, as the
    /// tag is: a node whose own is wrong neither makes interfaces that look old nor takes those of others for old.
    ///
    /// # Errors
    /// Why it has ended early.
    pub async fn sweep_leaked(&self, age: Duration) -> Result<usize, Refusal> {
        self.sweep(age).await.map_err(|failure| match failure {
            Failure::Refused(refusal) => refusal,
            Failure::Unknown(why) => Refusal::Other(why),
            Failure::Overloaded(_, millis) => Refusal::Throttled(Some(millis)),
        })
    }

    async fn sweep(&self, age: Duration) -> Result<usize, Failure> {
        for stays in self.describe_own().await?.iter().filter(|interface| interface.tag(TAG_INSTANCE).is_some()) {
            if let Some(held) = stays.attachment.as_ref().filter(|held| held.delete_on_termination == Some(false)) {
                self.delete_on_termination(&stays.network_interface_id, &held.attachment_id).await;
            }
        }
        // Those of other clusters in the account are theirs to clean up, where tags tell them apart.
        let tags = self.settings.api.as_ref().map(|api| &api.tags).into_iter().flatten();
        let tags: Vec<_> = tags.map(|(key, value)| (format!("tag:{key}"), value.as_str())).collect();
        let mut filters = vec![("tag-key", TAG_INSTANCE), ("status", "available")];
        filters.extend(tags.iter().map(|(name, value)| (name.as_str(), *value)));
        let (leaked, _) = self.describe(&filters, PAGES).await?;
        let ec2 = self.ec2().await?;
        let now = ec2.cloud_time()?;
        let is_old = |interface: &&NetworkInterface| {
            let created = interface.tag(TAG_CREATED).and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
            interface.attachment.is_none() && created.is_some_and(|created| now.saturating_sub(created) > age)
        };
        let old: Vec<_> = leaked.iter().filter(is_old).collect();
        // From another one on each time: some that cannot be deleted must not hide the others for ever.
        let first = usize::try_from(now.as_secs()).unwrap_or(0) % old.len().max(1);
        let mut deleted = 0;
        for interface in old.iter().cycle().skip(first).take(SWEPT.min(old.len())) {
            let parameters = Parameters::from([("NetworkInterfaceId".to_owned(), interface.network_interface_id.clone())]);
            match ec2.call::<Done>("DeleteNetworkInterface", parameters).await {
                Ok(Done {}) => {
                    tracing::info!(
                        interface = interface.network_interface_id,
                        of = interface.tag(TAG_INSTANCE),
                        "deleted a leaked interface"
                    );
                    deleted += 1;
                }
                // Another node's sweep was first.
                Err(error) if error.code() == "InvalidNetworkInterfaceID.NotFound" => {}
                Err(error @ CallError::Refused { .. }) if !error.is_throttled() => {
                    tracing::warn!(interface = interface.network_interface_id, %error, "leaked interface not deleted");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(deleted)
    }
}

/// A call that may be made twice: again after no reply, and after a refusal that `passes`.
async fn repeat<T: serde::de::DeserializeOwned>(
    ec2: &Ec2,
    action: &'static str,
    parameters: &Parameters,
    passes: impl Fn(&CallError) -> bool,
) -> Result<T, CallError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match ec2.call(action, parameters.clone()).await {
            Err(error) if tries < TRIES && (matches!(error, CallError::NoAnswer { .. }) || passes(&error)) => {
                tokio::time::sleep(PAUSE).await
            }
            done => return done,
        }
    }
}
