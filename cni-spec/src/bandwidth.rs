//! `runtimeConfig.bandwidth`: what runtimes make of `kubernetes.io/ingress-bandwidth` and `egress-bandwidth` (CNI conventions,
//! "Dynamic Plugin specific fields").

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Limits asked for, as the runtime writes them. Whether they can be kept is the daemon's to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Bandwidth {
    /// Bits a second that the pod may be sent; 0 for no limit.
    pub ingress_rate: u64,
    /// Bits that it may be sent at once; 0 where that is not said.
    pub ingress_burst: u64,
    /// Bits a second that the pod may send; 0 for no limit.
    pub egress_rate: u64,
    /// Bits that it may send at once; 0 where that is not said.
    pub egress_burst: u64,
}

impl Bandwidth {
    /// Reads the member of `runtimeConfig`; nothing where it says nothing.
    ///
    /// Names are compared as Go compares them, without regard to case: containerd writes `IngressRate` (go-cni's `BandWidth` has no names
    /// for JSON), CRI-O `ingressRate`.
    pub(crate) fn read(fields: &Map<String, Value>) -> Result<Option<Self>, (String, String)> {
        let number = |name: &str| match fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)) {
            None | Some((_, Value::Null)) => Ok(0),
            Some((key, value)) => value.as_u64().ok_or_else(|| {
                (key.clone(), format!("{value} is not a whole number of bits from 0 to {}; correct the pod's annotation", u64::MAX))
            }),
        };
        let read = Self {
            ingress_rate: number("ingressRate")?,
            ingress_burst: number("ingressBurst")?,
            egress_rate: number("egressRate")?,
            egress_burst: number("egressBurst")?,
        };
        Ok((read != Self::default()).then_some(read))
    }
}
