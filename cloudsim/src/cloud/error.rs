//! Refusals, with the codes, the HTTP status and the wording of EC2 (its API reference, "Error codes").

use std::fmt::Display;
use std::net::Ipv4Addr;

use serde::Serialize;

use super::id::{AttachmentId, InstanceId, Malformed, SubnetId};
use super::subnet::Refused;

/// Why EC2 refused a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// EC2's name for it.
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// Seconds of `Retry-After`, where the service says so.
    pub retry_after: Option<u32>,
}

impl ApiError {
    pub(crate) fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None }
    }

    pub(crate) fn client(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(400, code, message)
    }

    pub(crate) fn invalid_parameter(message: impl Into<String>) -> Self {
        Self::client("InvalidParameterValue", message)
    }

    pub(crate) fn missing_parameter(name: &str) -> Self {
        Self::client("MissingParameter", format!("The request must contain the parameter {name}"))
    }

    pub(crate) fn throttled() -> Self {
        Self::new(503, "RequestLimitExceeded", "Request limit exceeded.")
    }

    pub(crate) fn internal() -> Self {
        Self::new(500, "InternalError", "An internal error has occurred")
    }

    pub(crate) fn unavailable() -> Self {
        Self::new(503, "Unavailable", "The server is overloaded and can't handle the request.")
    }

    pub(crate) fn too_many_requests(retry_after: u32) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(429, "ThrottlingException", "Rate exceeded") }
    }

    pub(crate) fn auth_failure() -> Self {
        Self::new(401, "AuthFailure", "AWS was not able to validate the provided access credentials")
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(403, "UnauthorizedOperation", "You are not authorized to perform this operation.")
    }

    pub(crate) fn no_interface(id: impl Display) -> Self {
        Self::client("InvalidNetworkInterfaceID.NotFound", format!("The networkInterface ID '{id}' does not exist"))
    }

    pub(crate) fn no_instance(id: InstanceId) -> Self {
        Self::client("InvalidInstanceID.NotFound", format!("The instance ID '{id}' does not exist"))
    }

    pub(crate) fn no_subnet(id: SubnetId) -> Self {
        Self::client("InvalidSubnetID.NotFound", format!("The subnet ID '{id}' does not exist"))
    }

    pub(crate) fn no_attachment(id: AttachmentId) -> Self {
        Self::client("InvalidAttachmentID.NotFound", format!("The attachment '{id}' does not exist."))
    }

    /// More addresses than an interface of this instance type may have.
    pub(crate) fn interface_full(limit: u32) -> Self {
        Self::client("PrivateIpAddressLimitExceeded", format!("Number of private addresses will exceed limit of {limit}."))
    }

    pub(crate) fn attachments_full(count: u32, instance_type: &str) -> Self {
        Self::client("AttachmentLimitExceeded", format!("Interface count {count} exceeds the limit for {instance_type}"))
    }

    /// A subnet has fewer addresses left than are asked for, whatever their order.
    pub(crate) fn subnet_full() -> Self {
        Self::client(
            "InsufficientFreeAddressesInSubnet",
            "The specified subnet does not have enough free addresses to satisfy the request.",
        )
    }

    /// What EC2 answers where prefixes are asked for and the addresses are not there at all (cilium/cilium#31016).
    pub(crate) fn subnet_has_no_prefixes() -> Self {
        Self::invalid_parameter("There aren't sufficient free Ipv4 addresses or prefixes")
    }

    /// A subnet has the addresses, but not side by side.
    pub(crate) fn subnet_fragmented() -> Self {
        Self::client("InsufficientCidrBlocks", "The specified subnet does not have enough free cidr blocks to satisfy the request.")
    }

    pub(crate) fn malformed(error: &Malformed) -> Self {
        let code = match error.kind {
            "eni" => "InvalidNetworkInterfaceID.Malformed",
            "i" => "InvalidInstanceID.Malformed",
            "subnet" => "InvalidSubnetID.Malformed",
            "eni-attach" => "InvalidNetworkInterfaceAttachmentId.Malformed",
            _ => "InvalidParameterValue",
        };
        Self::client(code, format!("Invalid id: \"{}\" (expecting \"{}-...\")", error.text, error.kind))
    }

    pub(crate) fn address(address: Ipv4Addr, refused: Refused) -> Self {
        match refused {
            Refused::Outside => Self::invalid_parameter(format!("Address {address} does not fall within the subnet's address range")),
            Refused::Reserved => Self::invalid_parameter(format!("Address {address} is in subnet's reserved address range")),
            Refused::InUse => Self::client("InvalidIPAddress.InUse", format!("Address {address} is in use.")),
        }
    }
}
