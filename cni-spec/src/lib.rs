//! The Container Network Interface, version 1.1.0 and the three before it that runtimes still speak.
//!
//! Types, validation and conversion only: nothing here opens a file, reads the environment or asks the clock.
//! Section numbers in these docs are those of the [CNI specification 1.1.0][spec]: 1 network configuration,
//! 2 execution protocol, 3 execution of configurations, 4 delegation, 5 result types.
//!
//! [spec]: https://github.com/containernetworking/cni/blob/spec-v1.1.0/SPEC.md
#![forbid(unsafe_code)]

mod absent;
mod bandwidth;
mod config;
mod error;
mod invocation;
mod name;
mod peek;
mod result;
mod version;

pub use bandwidth::Bandwidth;
pub use config::{ALLOWED_ADDRESSES, AddConfig, Attachment, CheckConfig, GcConfig, INTERNET_EGRESS, RuntimeConfig, socket, version_asked};
pub use error::{Code, Error};
pub use invocation::{Invocation, PodIdentity};
pub use name::{ContainerId, IfName, NetworkName};
pub use result::{AddResult, Interface, IpConfig, PrevResult, Route};
pub use version::{Version, VersionInfo};
