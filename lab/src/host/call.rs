//! One execution of `barewire-cni` in a [`Host`], and what it answered.

use std::ffi::OsString;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Host;
use conformance_tests::invocation::{Invocation, Plugin, Reply};
use conformance_tests::version::SpecVersion;

/// A call to be made.
#[derive(Debug, Clone)]
#[must_use = "a call does nothing until it is run"]
pub struct Call<'a> {
    host: &'a Host,
    plugin: Plugin,
    invocation: Invocation,
    conf: Value,
}

/// What a plugin answered.
#[derive(Debug, Clone)]
pub struct Answer {
    reply: Reply,
}

/// An error result.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The error code.
    pub code: u64,
    /// The message.
    pub msg: String,
}

impl<'a> Call<'a> {
    pub(super) fn new(host: &'a Host, command: &str) -> Self {
        let conf = json!({
            "cniVersion": SpecVersion::V1_1_0.as_str(), "name": "barewire", "type": "barewire-cni", "socket": host.socket(),
        });
        Self { host, plugin: host.plugin(), invocation: Invocation::default(), conf }.with("CNI_COMMAND", command)
    }

    /// Sets a variable.
    pub fn with(mut self, variable: &'static str, value: impl Into<OsString>) -> Self {
        self.invocation.variables.insert(variable, value.into());
        self
    }

    /// Leaves a variable out.
    pub fn without(mut self, variable: &'static str) -> Self {
        self.invocation.variables.remove(variable);
        self
    }

    /// Sets a key of the configuration.
    pub fn conf(mut self, key: &str, value: Value) -> Self {
        self.conf[key] = value;
        self
    }

    /// Writes these bytes to standard input instead of a configuration.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.invocation.stdin = bytes.into();
        self.conf = Value::Null;
        self
    }

    /// Executes another plugin.
    pub fn of(mut self, plugin: Plugin) -> Self {
        self.plugin = plugin;
        self
    }

    /// Executes the plugin in the host.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub fn run(mut self) -> Result<Answer> {
        if !self.conf.is_null() {
            self.invocation.stdin = self.conf.to_string().into_bytes();
        }
        Ok(Answer { reply: self.plugin.execute(&self.host.netns, &self.invocation)? })
    }
}

impl Answer {
    /// What a plugin answered that was executed by other means.
    #[must_use]
    pub const fn new(reply: Reply) -> Self {
        Self { reply }
    }

    /// Whether the plugin exited with 0.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.reply.status.is_some_and(|status| status.success())
    }

    /// The result of a call that must have succeeded with one.
    ///
    /// # Errors
    /// When it failed, or printed something else.
    pub fn result(&self) -> Result<Value> {
        ensure!(self.succeeded(), "expected a result, the plugin {self}");
        serde_json::from_slice(&self.reply.stdout).with_context(|| format!("expected a result, the plugin {self}"))
    }

    /// A call that must have succeeded and has nothing to tell.
    ///
    /// # Errors
    /// When it failed, or printed something.
    pub fn silence(&self) -> Result<()> {
        ensure!(self.succeeded() && self.reply.stdout.is_empty(), "expected success and no output, the plugin {self}");
        Ok(())
    }

    /// The error result of a call that must have failed.
    ///
    /// # Errors
    /// When it succeeded, or printed something else than an error result.
    pub fn refusal(&self) -> Result<Refusal> {
        ensure!(self.reply.status.is_some() && !self.succeeded(), "expected an error, the plugin {self}");
        let parsed: Value = serde_json::from_slice(&self.reply.stdout).with_context(|| format!("expected an error, the plugin {self}"))?;
        let code = parsed["code"].as_u64().with_context(|| format!("no code in {parsed}"))?;
        let msg = parsed["msg"].as_str().with_context(|| format!("no msg in {parsed}"))?.to_owned();
        Ok(Refusal { code, msg })
    }

    /// Checks an error's code and that its message has each of `parts`: the value at fault and the remedy.
    ///
    /// # Errors
    /// When one is missing.
    pub fn refused(&self, code: u64, parts: &[&str]) -> Result<()> {
        let Refusal { code: got, msg } = self.refusal()?;
        ensure!(got == code, "expected code {code}, got {got}: {msg}");
        let missing: Vec<_> = parts.iter().filter(|part| !msg.contains(**part)).collect();
        ensure!(missing.is_empty(), "expected {missing:?} in the message: {msg}");
        Ok(())
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Reply { status, stdout, stderr, took } = &self.reply;
        match status {
            Some(status) => write!(f, "ended with {status}")?,
            None => write!(f, "was killed after {took:?}")?,
        }
        write!(f, " and printed {:?}", String::from_utf8_lossy(stdout))?;
        if stderr.is_empty() { Ok(()) } else { write!(f, ", to stderr {:?}", String::from_utf8_lossy(stderr)) }
    }
}
