//! The ways in which the simulated cloud misbehaves. All are off by default; each is a probability (0 to 1), a span, or a schedule.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::cloud::Action;
use crate::time::Millis;

/// Everything that can go wrong.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Calls of the API as such.
    pub api: ApiFaults,
    /// What describes show.
    pub reads: ReadFaults,
    /// Attaching and detaching.
    pub devices: DeviceFaults,
    /// The instance-metadata service.
    pub metadata: MetadataFaults,
    /// Azure's wireserver.
    pub wireserver: MetadataFaults,
}

/// From a time, up to but not including another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// First moment.
    pub from: Millis,
    /// First moment after.
    pub until: Millis,
}

impl Interval {
    /// Whether `now` is in it.
    #[must_use]
    pub fn contains(&self, now: Millis) -> bool {
        (self.from..self.until).contains(&now)
    }
}

/// What calls of the API meet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiFaults {
    /// Nobody answers.
    pub away: Vec<Interval>,
    /// Calls are refused although they are right.
    pub storms: Vec<Storm>,
    /// The call is carried out, and the connection ends without a reply.
    pub lost_replies: f64,
    /// The call is carried out, and the reply is 500 InternalError.
    pub failed_replies: f64,
    /// The call is carried out twice, and the reply is the first one's.
    pub duplicates: f64,
    /// Of several addresses or prefixes that are asked for, fewer are assigned.
    pub partial: f64,
    /// How long a reply takes, beside nothing.
    pub latency: Latency,
    /// No credentials are good: AuthFailure.
    pub credentials_rejected: bool,
    /// Calls that the credentials do not allow: UnauthorizedOperation.
    pub denied: BTreeSet<Action>,
}

/// A time in which calls are refused.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storm {
    /// From when.
    pub from: Millis,
    /// Until when.
    pub until: Millis,
    /// How many of the calls.
    pub probability: f64,
    /// How.
    pub refusal: Refusal,
}

/// How a service refuses a call that is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// 500
    InternalError,
    /// 503
    Unavailable,
    /// 503, EC2's own way
    RequestLimitExceeded,
    /// 429 with `Retry-After` in seconds
    TooManyRequests(u32),
}

/// A span drawn evenly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Latency {
    /// At least.
    pub min: Millis,
    /// At most; `min` where it is less.
    pub max: Millis,
}

impl Latency {
    /// Always the same.
    #[must_use]
    pub const fn exactly(span: Millis) -> Self {
        Self { min: span, max: span }
    }

    pub(crate) fn draw(self, random: &mut fastrand::Rng) -> Millis {
        if self.max <= self.min { self.min } else { Millis(random.u64(self.min.0..=self.max.0)) }
    }
}

/// What describes show.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReadFaults {
    /// Each interface is seen as it was up to so long ago, each with a lag of its own. Other calls do not find an interface either
    /// before its lag has passed.
    pub lag: Millis,
    /// A read of an interface shows the state of `lag` ago, older than reads before it did. Once for each interface.
    pub back_in_time: f64,
    /// A read of an interface leaves one of its secondary addresses or prefixes out.
    pub omissions: f64,
}

/// Attaching and detaching.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeviceFaults {
    /// From the call to status `attached`.
    pub attaching: Latency,
    /// From the call to the device in the guest, and so in its metadata.
    pub appearing: Latency,
    /// From the call to status `available`, and to the device's end in the guest.
    pub detaching: Latency,
    /// The device has another name than `eth<index>` in the guest, and another index in the metadata than was asked for.
    pub misnamed: f64,
}

/// What an instance-metadata service does.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetadataFaults {
    /// Nobody answers.
    pub off: bool,
    /// Every answer is 200 with a page of HTML, as of a proxy.
    pub html: bool,
    /// How many answers are refused.
    pub refused: f64,
    /// How they are refused; 503 where it is not said.
    pub refusal: Option<Refusal>,
    /// How long an answer takes.
    pub latency: Latency,
    /// New addresses and prefixes are listed so much later.
    pub additions_late: Millis,
    /// Addresses and prefixes that are gone stay listed so much longer.
    pub removals_late: Millis,
    /// An answer leaves one of an interface's addresses or prefixes out.
    pub omissions: f64,
    /// Azure's lists begin with an interface's further ipConfigurations and end with its primary one.
    pub primary_last: bool,
    /// How many hops the caller is away; replies with a token go [`hop_limit`](crate::cloud::LaunchSpec) hops. 0 counts as 1.
    pub hops: u8,
}

impl Faults {
    /// How far back any view of the state may look.
    #[must_use]
    pub(crate) fn horizon(&self) -> Millis {
        let late = |faults: &MetadataFaults| faults.additions_late.max(faults.removals_late);
        self.reads.lag.max(late(&self.metadata)).max(late(&self.wireserver))
    }
}
