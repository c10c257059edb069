//! What a case did to the plugin, for whoever has to find out why it failed.

use std::fmt;

use serde::Serialize;

use crate::invocation::{Invocation, Reply};

/// A failure must fit a screen.
const EXCERPT: usize = 800;

/// One execution of the plugin.
#[derive(Clone, Debug, Serialize)]
pub struct Execution {
    /// The parameters, as a shell would set them.
    pub parameters: String,
    /// `exit status: 0`, or that it was killed.
    pub status: String,
    /// How long it took.
    pub milliseconds: u64,
    /// The beginning of what it printed.
    pub stdout: String,
    /// The beginning of what it logged.
    pub stderr: String,
}

impl Execution {
    pub(super) fn new(invocation: &Invocation, reply: &Reply) -> Self {
        let parameters: Vec<_> = invocation
            .variables
            .iter()
            .filter(|(name, _)| **name != "CNI_PATH")
            .map(|(name, value)| format!("{name}={}", value.display()))
            .collect();
        Self {
            parameters: parameters.join(" "),
            status: reply.status_text(),
            milliseconds: u64::try_from(reply.took.as_millis()).unwrap_or(u64::MAX),
            stdout: excerpt(&reply.stdout),
            stderr: excerpt(&reply.stderr),
        }
    }
}

impl fmt::Display for Execution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{} after {} ms", self.parameters, self.status, self.milliseconds)?;
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.is_empty() {
                write!(f, "\n{name}: {text}")?;
            }
        }
        Ok(())
    }
}

/// The beginning of an output as text, on one line if it is JSON.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    let text = match serde_json::from_slice::<serde_json::Value>(bytes) {
        Ok(value) => value.to_string(),
        Err(_) => String::from_utf8_lossy(bytes).trim().to_owned(),
    };
    match text.char_indices().nth(EXCERPT) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], bytes.len()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::excerpt;

    #[test]
    fn an_excerpt_is_short_and_on_one_line() {
        assert_eq!(excerpt(b"{\n  \"code\": 4\n}\n"), "{\"code\":4}");
        assert_eq!(excerpt(b"no json\n"), "no json");
        let long = excerpt("é".repeat(5000).as_bytes());
        assert!(long.starts_with("éé") && long.ends_with("… (10000 bytes)"), "{long}");
    }
}
