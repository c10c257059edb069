//! What a cloud has announced to do to this machine: stop it, restart it, move it with a loss, take it back. A live migration or a freeze of
//! seconds is none of these.

use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::metadata::MetadataError;

/// What is announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maintenance {
    /// In the cloud's words, as `system-reboot`, `Preempt` or `TERMINATE_ON_HOST_MAINTENANCE`.
    pub what: String,
    /// Not before then; nothing where it may be at any moment.
    pub begins: Option<SystemTime>,
}

/// A time as metadata services write them: `21 Jan 2026 09:00:43 GMT`, with the day of the week or without, or as RFC 3339 has it.
pub(super) fn time(url: &str, text: &str) -> Result<SystemTime, MetadataError> {
    let in_words = || {
        let (_, without_weekday) = text.trim().split_once(", ").unwrap_or(("", text.trim()));
        let (day, rest) = without_weekday.split_once(' ')?;
        // Which day of the week it is, it knows better.
        httpdate::parse_http_date(&format!("Mon, {day:0>2} {rest}")).ok()
    };
    let time = OffsetDateTime::parse(text.trim(), &Rfc3339).ok().map(SystemTime::from).or_else(in_words);
    time.ok_or_else(|| MetadataError::malformed(url, text, "a time like 21 Jan 2026 09:00:43 GMT or 2026-01-21T09:00:43Z"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_time_in_any_dress() {
        let expected = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_603_643);
        for text in ["5 Jan 2026 09:00:43 GMT", "05 Jan 2026 09:00:43 GMT\n", "Mon, 05 Jan 2026 09:00:43 GMT", "2026-01-05T09:00:43Z"] {
            assert_eq!(time("u", text).unwrap(), expected, "{text}");
        }
        for text in ["", "soon", "2026-01-05", "<html><body>Sign in</body></html>", "5 Jan"] {
            assert!(time("http://a/b", text).unwrap_err().to_string().starts_with("http://a/b answered "), "{text}");
        }
    }
}
