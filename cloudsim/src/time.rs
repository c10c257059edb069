//! Time as the simulated cloud has it: milliseconds since the Unix epoch, on whatever clock the caller keeps.

use std::ops::{Add, Sub};

use ::time::OffsetDateTime;
use ::time::format_description::BorrowedFormatItem;
use ::time::macros::format_description;
use serde::{Deserialize, Serialize};

/// A point in time, or a span of it, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// No time at all; also the epoch.
    pub const ZERO: Self = Self(0);

    /// So many seconds.
    #[must_use]
    pub const fn seconds(seconds: u64) -> Self {
        Self(seconds * 1000)
    }

    /// The time from `earlier` to here; none where `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }

    /// As AWS writes it in XML: `2026-11-23T20:41:19.000Z`.
    #[must_use]
    pub fn iso8601(self) -> String {
        self.written(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"))
    }

    /// As instance metadata writes it: `2026-11-23T20:41:19Z`.
    #[must_use]
    pub fn iso8601_seconds(self) -> String {
        self.written(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z"))
    }

    /// As scheduled events write it: `23 Nov 2026 20:41:19 GMT`.
    #[must_use]
    pub fn in_words(self) -> String {
        self.written(format_description!("[day] [month repr:short] [year] [hour]:[minute]:[second] GMT"))
    }

    /// Azure's have the day of the week as well: `Mon, 23 Nov 2026 20:41:19 GMT`.
    #[must_use]
    pub fn in_words_with_weekday(self) -> String {
        self.written(format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"))
    }

    fn written(self, format: &[BorrowedFormatItem<'_>]) -> String {
        let date = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        date.format(format).unwrap_or_default()
    }

    /// Reads `X-Amz-Date`: `20261123T204119Z`.
    #[must_use]
    pub fn from_amz_date(text: &str) -> Option<Self> {
        let format = format_description!("[year][month][day]T[hour][minute][second]Z");
        let date = ::time::PrimitiveDateTime::parse(text, format).ok()?;
        u64::try_from(date.assume_utc().unix_timestamp()).ok().map(Self::seconds)
    }
}

impl Add for Millis {
    type Output = Self;
    fn add(self, span: Self) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl Sub for Millis {
    type Output = Self;
    /// Saturates at the epoch.
    fn sub(self, span: Self) -> Self {
        self.since(span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_and_read_as_aws_does() {
        let at = Millis(1_795_466_479_250);
        assert_eq!(at.iso8601(), "2026-11-23T20:41:19.250Z");
        assert_eq!(at.iso8601_seconds(), "2026-11-23T20:41:19Z");
        assert_eq!(
            (at.in_words().as_str(), at.in_words_with_weekday().as_str()),
            ("23 Nov 2026 20:41:19 GMT", "Mon, 23 Nov 2026 20:41:19 GMT")
        );
        assert_eq!(Millis::from_amz_date("20261123T204119Z"), Some(Millis(1_795_466_479_000)));
        assert_eq!(Millis::from_amz_date("2026-11-23"), None);
    }
}
