//! One call of the plugin: its parameters, and what may be expected of its answer.
//!
//! Source: specification sections 2 and 5.

use std::ffi::{OsStr, OsString};

use serde_json::Value;

use super::{Execution, Owed, Stage, lock, trace};
use crate::{
    case::{Stop, Verdict, ensure, fail},
    invocation::{Invocation, Reply},
    shape,
    version::SpecVersion,
};

/// Codes other than 1 entered the specification after 0.3.1: there, any error result is right.
const CODES_SINCE: SpecVersion = SpecVersion::V0_4_0;

/// A call that is being prepared.
#[must_use = "a call does nothing before it is run"]
pub struct Call<'a> {
    stage: &'a Stage<'a>,
    invocation: Invocation,
}

/// What the plugin answered.
pub struct Answer {
    version: SpecVersion,
    reply: Reply,
}

impl<'a> Call<'a> {
    pub(super) fn new(stage: &'a Stage<'a>, command: &'static str) -> Self {
        let call = Self { stage, invocation: Invocation::default() };
        call.with("CNI_COMMAND", command).with("CNI_PATH", stage.subject.plugin.search_path()).conf(&stage.conf())
    }

    /// With this parameter.
    pub fn with(mut self, name: &'static str, value: impl AsRef<OsStr>) -> Self {
        self.invocation.variables.insert(name, value.as_ref().to_owned());
        self
    }

    /// Without this parameter.
    pub fn without(mut self, name: &'static str) -> Self {
        self.invocation.variables.remove(name);
        self
    }

    /// With this configuration.
    pub fn conf(self, conf: &Value) -> Self {
        self.stdin(conf.to_string())
    }

    /// With this on stdin.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.invocation.stdin = bytes.into();
        self
    }

    pub(super) fn invocation(&self) -> &Invocation {
        &self.invocation
    }

    /// Executes the plugin.
    pub fn run(self) -> Result<Answer, Stop> {
        let Self { stage, invocation } = self;
        let command = invocation.variables.get("CNI_COMMAND").and_then(|command| command.to_str()).unwrap_or_default();
        let owed = Owed::new(&invocation);
        // Owed from before the execution: a plugin that is killed half-way may have attached something.
        if let ("ADD", Some(owed)) = (command, &owed) {
            lock(&stage.owed).push(owed.clone());
        }
        let answer = Answer { version: stage.version, reply: stage.subject.plugin.execute(&stage.host, &invocation)? };
        lock(&stage.trace).push(Execution::new(&invocation, &answer.reply));
        match (command, owed) {
            ("ADD", Some(added)) if answer.succeeded() => {
                let result: Option<Value> = serde_json::from_slice(&answer.reply.stdout).ok();
                lock(&stage.owed).iter_mut().filter(|owed| owed.is(&added)).for_each(|owed| owed.result.clone_from(&result));
            }
            ("DEL", Some(deleted)) if answer.succeeded() => lock(&stage.owed).retain(|owed| !owed.is(&deleted)),
            _ => {}
        }
        Ok(answer)
    }
}

impl Owed {
    fn new(invocation: &Invocation) -> Option<Self> {
        let parameter = |name| invocation.variables.get(name).cloned();
        let text = |name| parameter(name).and_then(|value: OsString| value.into_string().ok()).filter(|text| !text.is_empty());
        Some(Self {
            container: text("CNI_CONTAINERID")?,
            interface: text("CNI_IFNAME")?,
            netns: parameter("CNI_NETNS").unwrap_or_default().into(),
            result: None,
        })
    }

    /// Whether both are about one attachment.
    fn is(&self, other: &Self) -> bool {
        self.container == other.container && self.interface == other.interface
    }
}

impl Reply {
    /// How the plugin ended, in words.
    #[must_use]
    pub fn status_text(&self) -> String {
        match self.status {
            Some(status) => status.to_string(),
            None => "killed, since it did not end within the timeout".to_owned(),
        }
    }
}

impl Answer {
    /// Whether the plugin succeeded, where either may be right.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.reply.status.is_some_and(|status| status.success())
    }

    /// The plugin succeeded.
    pub fn success(self) -> Result<Self, Stop> {
        ensure(self.succeeded(), || {
            let printed = trace::excerpt(&self.reply.stdout);
            let separator = if printed.is_empty() { "" } else { ": " };
            format!("expected success, got {}{separator}{printed}", self.reply.status_text())
        })?;
        Ok(self)
    }

    /// The plugin succeeded and printed one JSON value, which this is.
    pub fn result(self) -> Result<Value, Stop> {
        self.success()?.json()
    }

    /// The plugin succeeded and printed nothing.
    pub fn silence(self) -> Verdict {
        let answer = self.success()?;
        let printed = trace::excerpt(&answer.reply.stdout);
        ensure(printed.is_empty(), || format!("expected nothing on stdout, got {printed}"))
    }

    /// The plugin failed with an error result, which this is.
    pub fn error(self) -> Result<Value, Stop> {
        let failed = self.reply.status.is_some_and(|status| !status.success());
        ensure(failed, || format!("expected a non-zero exit status and an error result, got {}", self.reply.status_text()))?;
        let version = self.version;
        let error = self.json()?;
        let violations = shape::error_result(version, &error);
        ensure(violations.is_empty(), || format!("the error result is not well-formed: {}", violations.join("; ")))?;
        Ok(error)
    }

    /// The plugin failed with the error result that the specification has a code for.
    pub fn error_code(self, code: u64) -> Result<Value, Stop> {
        let exact = self.version >= CODES_SINCE || code == 1;
        let error = self.error()?;
        let got = error["code"].as_u64();
        ensure(!exact || got == Some(code), || format!("expected an error with code {code}, got {error}"))?;
        Ok(error)
    }

    fn json(&self) -> Result<Value, Stop> {
        match serde_json::from_slice(&self.reply.stdout) {
            Ok(value) => Ok(value),
            Err(error) => {
                let printed = trace::excerpt(&self.reply.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
                fail(format!("expected one JSON value and nothing else on stdout ({error}), got: {printed}"))
            }
        }
    }
}
