//! A call on its way: what refuses it before it is carried out, and what becomes of its reply.

use super::request::{Ipv4Wanted, Ipv6Wanted, Request};
use super::response::{Outcome, Reply};
use super::{ApiError, Cloud, TokenBucket};
use crate::faults::Refusal;
use crate::time::Millis;

impl Cloud {
    /// A call over the API, with its limits and with all that goes wrong.
    pub fn call(&mut self, now: Millis, request: &Request) -> Reply {
        self.advance(now);
        let after = self.faults.api.latency.draw(&mut self.random);
        let outcome = self.deliver(now, request);
        self.calls.note(now, request.action(), &outcome);
        Reply { after, outcome }
    }

    fn deliver(&mut self, now: Millis, request: &Request) -> Outcome {
        let action = request.action();
        if self.is_away(now) {
            return Outcome::NoReply;
        }
        if self.faults.api.credentials_rejected {
            return Outcome::Refused(ApiError::auth_failure());
        }
        if self.faults.api.denied.contains(&action) {
            return Outcome::Refused(ApiError::unauthorized());
        }
        let whole = request.is_whole();
        let bucket = self.buckets.entry((action, whole)).or_insert_with(|| {
            let (size, per_second) = action.bucket(whole);
            TokenBucket::full(size, per_second, now)
        });
        if !bucket.take(now) {
            return Outcome::Refused(ApiError::throttled());
        }
        if let Some(error) = self.storm(now) {
            return Outcome::Refused(error);
        }
        let partial = if self.chance(self.faults.api.partial) { self.with_less(request) } else { None };
        let request = partial.as_ref().unwrap_or(request);
        let result = self.apply(now, request);
        if !action.is_read() && self.chance(self.faults.api.duplicates) {
            self.calls.note_duplicate(action);
            // Whatever comes of it, the caller hears of the first alone.
            let _unheard = self.apply(now, request);
        }
        if self.chance(self.faults.api.lost_replies) {
            return Outcome::NoReply;
        }
        if self.chance(self.faults.api.failed_replies) {
            return Outcome::Refused(ApiError::internal());
        }
        match result {
            Ok(response) => Outcome::Answered(response),
            Err(error) => Outcome::Refused(error),
        }
    }

    /// Whether nobody answers API calls at present.
    pub(crate) fn is_away(&self, now: Millis) -> bool {
        self.faults.api.away.iter().any(|interval| interval.contains(now))
    }

    /// The name of one exchange, as in `requestId`.
    pub(crate) fn request_id(&mut self) -> String {
        let random = self.random.u128(..);
        let hex = format!("{random:032x}");
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }

    fn storm(&mut self, now: Millis) -> Option<ApiError> {
        let blowing: Vec<_> = self.faults.api.storms.iter().filter(|storm| (storm.from..storm.until).contains(&now)).copied().collect();
        let storm = blowing.into_iter().find(|storm| self.chance(storm.probability))?;
        Some(match storm.refusal {
            Refusal::InternalError => ApiError::internal(),
            Refusal::Unavailable => ApiError::unavailable(),
            Refusal::RequestLimitExceeded => ApiError::throttled(),
            Refusal::TooManyRequests(retry_after) => ApiError::too_many_requests(retry_after),
        })
    }

    /// The same call for fewer addresses, where it is one for several.
    fn with_less(&mut self, request: &Request) -> Option<Request> {
        let mut less = request.clone();
        let count = match &mut less {
            Request::AssignPrivateIpAddresses {
                wanted: Ipv4Wanted::SecondaryPrivateIpAddressCount(count) | Ipv4Wanted::Ipv4PrefixCount(count),
                ..
            }
            | Request::AssignIpv6Addresses { wanted: Ipv6Wanted::Ipv6AddressCount(count) | Ipv6Wanted::Ipv6PrefixCount(count), .. } => {
                count
            }
            _ => return None,
        };
        *count = self.random.u32(1..(*count).max(2));
        Some(less)
    }
}
