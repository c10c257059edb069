//! From the parameters of a Query request to a call.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::form::Form;
use crate::cloud::{Action, ApiError, AttributeChange, InterfaceSpec, Ipv4Wanted, Ipv6Wanted, Request};

const VERSION: &str = "2016-11-15";

pub(super) fn parse(mut form: Form) -> Result<Request, ApiError> {
    let name = form.need("Action")?;
    let version = form.need("Version")?;
    if version != VERSION {
        return Err(ApiError::client("NoSuchVersion", format!("Version {version} is not valid: take {VERSION}")));
    }
    let action =
        name.parse().map_err(|_| ApiError::client("InvalidAction", format!("The action {name} is not valid for this web service.")))?;
    let dry_run = form.value::<bool>("DryRun")?.unwrap_or_default();
    let request = call(action, &mut form)?;
    form.end()?;
    if dry_run {
        return Err(ApiError::new(412, "DryRunOperation", "Request would have succeeded, but DryRun flag is set."));
    }
    Ok(request)
}

fn call(action: Action, form: &mut Form) -> Result<Request, ApiError> {
    const INTERFACE: &str = "NetworkInterfaceId";
    Ok(match action {
        Action::CreateNetworkInterface => create(form)?,
        Action::AttachNetworkInterface => Request::AttachNetworkInterface {
            interface: form.need_id(INTERFACE)?,
            instance: form.need_id("InstanceId")?,
            device_index: form.need_value("DeviceIndex")?,
            network_card: form.value("NetworkCardIndex")?.unwrap_or_default(),
        },
        Action::DetachNetworkInterface => {
            Request::DetachNetworkInterface { attachment: form.need_id("AttachmentId")?, force: form.value("Force")?.unwrap_or_default() }
        }
        Action::DeleteNetworkInterface => Request::DeleteNetworkInterface { interface: form.need_id(INTERFACE)? },
        Action::ModifyNetworkInterfaceAttribute => {
            Request::ModifyNetworkInterfaceAttribute { interface: form.need_id(INTERFACE)?, change: attribute(form)? }
        }
        Action::AssignPrivateIpAddresses => {
            // Without this flag an address never moves; with it EC2 would take it from another interface, which no client here may do.
            form.value::<bool>("AllowReassignment")?;
            Request::AssignPrivateIpAddresses { interface: form.need_id(INTERFACE)?, wanted: ipv4_wanted(form)? }
        }
        Action::UnassignPrivateIpAddresses => Request::UnassignPrivateIpAddresses {
            interface: form.need_id(INTERFACE)?,
            addresses: form.values("PrivateIpAddress")?,
            prefixes: form.values("Ipv4Prefix")?,
        },
        Action::AssignIpv6Addresses => Request::AssignIpv6Addresses { interface: form.need_id(INTERFACE)?, wanted: ipv6_wanted(form)? },
        Action::UnassignIpv6Addresses => Request::UnassignIpv6Addresses {
            interface: form.need_id(INTERFACE)?,
            addresses: form.values("Ipv6Addresses")?,
            prefixes: form.values("Ipv6Prefix")?,
        },
        Action::CreateTags => {
            let (resources, tags) = (form.list("ResourceId"), form.tags(""));
            if resources.is_empty() {
                return Err(ApiError::missing_parameter("resourceIdSet"));
            }
            if tags.is_empty() {
                return Err(ApiError::missing_parameter("tagSet"));
            }
            Request::CreateTags { resources, tags }
        }
        Action::DescribeNetworkInterfaces => {
            Request::DescribeNetworkInterfaces { interfaces: form.ids(INTERFACE)?, filters: form.filters(), page: form.page()? }
        }
        Action::DescribeInstances => {
            Request::DescribeInstances { instances: form.ids("InstanceId")?, filters: form.filters(), page: form.page()? }
        }
        Action::DescribeSubnets => Request::DescribeSubnets { subnets: form.ids("SubnetId")?, filters: form.filters(), page: form.page()? },
        Action::DescribeInstanceTypes => Request::DescribeInstanceTypes {
            instance_types: form.list("InstanceType").into_iter().collect(),
            filters: form.filters(),
            page: form.page()?,
        },
    })
}

fn create(form: &mut Form) -> Result<Request, ApiError> {
    let mut spec = InterfaceSpec::new(form.need_id("SubnetId")?);
    spec.description = form.take("Description").unwrap_or_default();
    spec.primary = form.value("PrivateIpAddress")?;
    for number in 1.. {
        let Some(address) = form.value::<Ipv4Addr>(&format!("PrivateIpAddresses.{number}.PrivateIpAddress"))? else { break };
        if form.value(&format!("PrivateIpAddresses.{number}.Primary"))?.unwrap_or_default() {
            spec.primary = Some(address);
        } else {
            spec.secondary.push(address);
        }
    }
    spec.security_groups = form.list("SecurityGroupId");
    spec.secondary_count = form.value("SecondaryPrivateIpAddressCount")?.unwrap_or_default();
    spec.ipv4_prefix_count = form.value("Ipv4PrefixCount")?.unwrap_or_default();
    spec.ipv4_prefixes = form.field_values("Ipv4Prefix", "Ipv4Prefix")?;
    spec.ipv6_count = form.value("Ipv6AddressCount")?.unwrap_or_default();
    spec.ipv6 = form.field_values("Ipv6Addresses", "Ipv6Address")?;
    spec.ipv6_prefix_count = form.value("Ipv6PrefixCount")?.unwrap_or_default();
    spec.ipv6_prefixes = form.field_values("Ipv6Prefix", "Ipv6Prefix")?;
    spec.tags = tag_specification(form)?;
    let kind = form.take("InterfaceType");
    if let Some(kind) = kind.filter(|kind| kind != "interface") {
        return Err(ApiError::invalid_parameter(format!("Value ({kind}) for parameter InterfaceType is not simulated: take interface")));
    }
    Ok(Request::CreateNetworkInterface { spec, client_token: form.take("ClientToken") })
}

fn tag_specification(form: &mut Form) -> Result<BTreeMap<String, String>, ApiError> {
    match form.take("TagSpecification.1.ResourceType") {
        None => Ok(BTreeMap::new()),
        Some(kind) if kind == "network-interface" => Ok(form.tags("TagSpecification.1.")),
        Some(kind) => Err(ApiError::invalid_parameter(format!("'{kind}' is not a valid taggable resource type for this operation."))),
    }
}

fn attribute(form: &mut Form) -> Result<AttributeChange, ApiError> {
    let groups = form.list("SecurityGroupId");
    let changes = [
        form.value("Attachment.DeleteOnTermination")?
            .map(|delete| Ok(AttributeChange::DeleteOnTermination { attachment: form.need_id("Attachment.AttachmentId")?, delete }))
            .transpose()?,
        form.take("Description.Value").map(AttributeChange::Description),
        form.value("SourceDestCheck.Value")?.map(AttributeChange::SourceDestCheck),
        (!groups.is_empty()).then_some(AttributeChange::SecurityGroups(groups)),
    ];
    one_of(changes, "attribute")
}

fn ipv4_wanted(form: &mut Form) -> Result<Ipv4Wanted, ApiError> {
    let (addresses, prefixes) = (form.values("PrivateIpAddress")?, form.values("Ipv4Prefix")?);
    let wanted = [
        form.value("SecondaryPrivateIpAddressCount")?.map(Ipv4Wanted::SecondaryPrivateIpAddressCount),
        form.value("Ipv4PrefixCount")?.map(Ipv4Wanted::Ipv4PrefixCount),
        (!addresses.is_empty()).then_some(Ipv4Wanted::PrivateIpAddresses(addresses)),
        (!prefixes.is_empty()).then_some(Ipv4Wanted::Ipv4Prefixes(prefixes)),
    ];
    one_of(wanted, "secondaryPrivateIpAddressCount")
}

fn ipv6_wanted(form: &mut Form) -> Result<Ipv6Wanted, ApiError> {
    let (addresses, prefixes) = (form.values("Ipv6Addresses")?, form.values("Ipv6Prefix")?);
    let wanted = [
        form.value("Ipv6AddressCount")?.map(Ipv6Wanted::Ipv6AddressCount),
        form.value("Ipv6PrefixCount")?.map(Ipv6Wanted::Ipv6PrefixCount),
        (!addresses.is_empty()).then_some(Ipv6Wanted::Ipv6Addresses(addresses)),
        (!prefixes.is_empty()).then_some(Ipv6Wanted::Ipv6Prefixes(prefixes)),
    ];
    one_of(wanted, "ipv6Addresses")
}

/// EC2 takes exactly one of these in a call.
fn one_of<T>(given: [Option<T>; 4], name: &str) -> Result<T, ApiError> {
    let mut given = given.into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(ApiError::missing_parameter(name)),
        (Some(_), Some(_)) => {
            Err(ApiError::client("InvalidParameterCombination", format!("The parameter {name} cannot be used with another of its kind")))
        }
    }
}
