//! Has the kernel serve what the fleet has told: a change as an edit, the whole at the start and whenever the kernel's tables are not what
//! they should be. Times are arguments, in milliseconds.

use std::fmt::Write;
use std::io;
use std::time::{Duration, Instant};

use ::services::{Edit, Frontends, Fronts, HealthCheck, Node, Ruleset, Script, Services, TABLE};
use datapath::netlink::NetlinkError;
use datapath::{RulesError, repairs};
use fleet_api::{Kind, NodeState, Table};

use super::edge::Edge;
use super::seen::{Known, Seen};

const KINDS: [Kind; 2] = [Kind::Services, Kind::Endpoints];
/// Between attempts, doubled each time.
const AGAIN_MS: (u64, u64) = (1_000, 60_000);
/// Reading all of the tables takes at most one part in this many of the time.
const SHARE: u32 = 10;
/// Of UDP flows in one pass: the next one goes on.
const FORGET_AT_ONCE: usize = 10_000;
/// A flow can be begun by the old rules while conntrack is read: it is read once more.
const PASSES: u8 = 2;
/// Clients that stay with their endpoints when the whole is installed again.
const CLIENTS_MAX: usize = 65_536;

/// Why Services are not served as they should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    /// The rules could not be set.
    #[error("{0}")]
    Rules(#[from] RulesError),
    /// What the kernel has cannot be read.
    #[error("{0}")]
    Unread(#[from] NetlinkError),
    /// Somebody changes the tables while they are installed.
    #[error("the table {TABLE} is not what was just installed: {0}")]
    Altered(String),
}

impl KeepError {
    /// In one word, for machines.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Rules(RulesError::Missing) => "NftMissing",
            Self::Rules(RulesError::Run(_)) => "NftNotRun",
            Self::Rules(RulesError::Refused { .. }) => "Refused",
            Self::Rules(RulesError::Unread(_) | RulesError::Unreadable { .. }) | Self::Unread(_) => "NotRead",
            Self::Altered(_) => "AlteredByOthers",
        }
    }
}

/// What was done since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Done {
    /// Edits, and installations of the whole.
    pub(crate) applications: u64,
    /// How long the last one took.
    pub(crate) last: Option<Duration>,
    /// Flows of UDP that were forgotten.
    pub(crate) forgotten: u64,
}

/// What stands in the kernel.
#[derive(Debug)]
struct Standing {
    known: Known,
    /// At which the kernel had it last.
    generation: Option<u32>,
}

/// Keeps it.
#[derive(Debug)]
pub(crate) struct Keeper<E> {
    edge: E,
    services: Services,
    script: Script,
    /// As they were taken last; none before all were told.
    tables: Option<[Table; 2]>,
    standing: Option<Standing>,
    /// It stood before: what is not as it was is a repair.
    has_stood: bool,
    /// Not before this time, after failures with this pause.
    again: Option<(u64, u64)>,
    /// When the tables may be read again.
    rest_until_ms: u64,
    frontends: Frontends,
    /// What the programs may translate, and whether they have been told.
    fronts: Fronts,
    is_told_of: bool,
    /// To how many they do; why not to all, where the kernel refuses.
    translated: usize,
    refusal: Option<String>,
    passes: u8,
    done: Done,
    /// Why it does not stand, or could not be looked at: a reason in one word, and the rest.
    fault: Option<(&'static str, String)>,
}

impl<E: Edge> Keeper<E> {
    /// Nothing is told yet, and nothing is touched.
    pub(crate) fn new(edge: E, node: Node) -> Self {
        Self {
            edge,
            services: Services::new(node),
            script: Script::default(),
            tables: None,
            standing: None,
            has_stood: false,
            again: None,
            rest_until_ms: 0,
            frontends: Frontends::default(),
            fronts: Fronts::new(),
            is_told_of: false,
            translated: 0,
            refusal: None,
            passes: 0,
            done: Done::default(),
            fault: None,
        }
    }

    /// Takes what the fleet has told. As long as it has not told of both services and endpoints, nothing is known, and what an earlier daemon has
    /// set stays.
    pub(crate) fn take(&mut self, state: &NodeState) {
        if KINDS.iter().any(|kind| state.position(*kind).resource_version == 0) {
            return;
        }
        let tables = self.tables.get_or_insert_default();
        for (kind, table) in KINDS.into_iter().zip(tables) {
            let new = state.table(kind);
            self.services.change(kind, table.difference(new));
            *table = new.clone();
        }
    }

    /// The node is another: its name, or its addresses.
    pub(crate) fn set_node(&mut self, node: Node) {
        self.services.set_node(node);
    }

    /// Whether the fleet has told of all.
    pub(crate) const fn is_told(&self) -> bool {
        self.tables.is_some()
    }

    /// Whether all that was told is in the kernel.
    pub(crate) const fn stands(&self) -> bool {
        self.standing.is_some()
    }

    pub(crate) const fn done(&self) -> Done {
        self.done
    }

    pub(crate) const fn services(&self) -> &Services {
        &self.services
    }

    /// Sets what has changed; where nothing stands, all of it.
    ///
    /// What fails is a [fault](Self::fault), and tried again later.
    pub(crate) fn apply(&mut self, now_ms: u64) {
        if self.tables.is_none() || !self.is_due(now_ms) {
            return;
        }
        let edit = self.services.render();
        let outcome = match &self.standing {
            None => self.install(),
            Some(_) if edit.is_empty() => return,
            Some(_) => {
                let text = self.script.edit(&edit, now_ms);
                self.edit(&text, &edit)
            }
        };
        self.settle(now_ms, outcome);
    }

    /// Compares the kernel's tables with what should be, and installs them where they differ.
    /// What fails is a [fault](Self::fault), and tried again later.
    pub(crate) fn look(&mut self, now_ms: u64) {
        if self.standing.is_none() {
            self.apply(now_ms);
        } else if self.is_due(now_ms) {
            let outcome = self.compare(now_ms).and_then(|()| self.sweep(now_ms));
            self.settle(now_ms, outcome);
        }
    }

    fn is_due(&self, now_ms: u64) -> bool {
        self.again.is_none_or(|(at, _)| now_ms >= at)
    }

    fn settle(&mut self, now_ms: u64, outcome: Result<(), KeepError>) {
        match outcome {
            Ok(()) => (self.again, self.fault) = (None, None),
            Err(error) => {
                let pause = self.again.map_or(AGAIN_MS.0, |(_, pause)| (pause * 2).min(AGAIN_MS.1));
                self.again = Some((now_ms + pause, pause));
                self.fault = Some((error.reason(), error.to_string()));
            }
        }
    }

    /// What has failed and is to be tried again: a reason in one word, and the rest.
    pub(crate) const fn fault(&self) -> Option<&(&'static str, String)> {
        self.fault.as_ref()
    }

    fn compare(&mut self, now_ms: u64) -> Result<(), KeepError> {
        let Some(standing) = &mut self.standing else { return Ok(()) };
        let generation = self.edge.generation()?;
        if generation == standing.generation || now_ms < self.rest_until_ms {
            return Ok(());
        }
        let begun = Instant::now();
        let seen = self.edge.read(None)?;
        self.rest_until_ms = now_ms + millis(begun.elapsed() * SHARE);
        match standing.known.compare(&seen, self.services.ruleset(), &self.script) {
            // Of before the reading: what has changed since is looked at next time.
            Ok(()) => standing.generation = generation,
            Err(difference) => {
                tracing::warn!(difference, "the rules of services are not as they were set");
                self.standing = None;
                self.install()?;
            }
        }
        Ok(())
    }

    /// Deletes chains that nothing leads to any more.
    fn sweep(&mut self, now_ms: u64) -> Result<(), KeepError> {
        let text = self.script.sweep(now_ms);
        if text.is_empty() { Ok(()) } else { self.edit(&text, &Edit::default()) }
    }

    /// An edit is refused where the tables are not what they were: then all of it is installed.
    fn edit(&mut self, text: &str, edit: &Edit) -> Result<(), KeepError> {
        // Until it is done nothing stands: what is rendered next knows no more of this edit.
        let Some(mut standing) = self.standing.take() else { return self.install() };
        let before = self.edge.generation()?;
        let begun = Instant::now();
        if let Err(error) = self.edge.run(text) {
            tracing::warn!(%error, "a change of services was refused; all of them are installed");
            return self.install();
        }
        self.done.last = Some(begun.elapsed());
        self.done.applications += 1;
        standing.known.forget(edit.chains());
        let after = self.edge.generation()?;
        // One more is ours. Where it is others, somebody else was in between, and it is looked at.
        if standing.generation == before && after == before.map(|before| before.wrapping_add(1)) {
            standing.generation = after;
        }
        self.standing = Some(standing);
        self.note_frontends();
        Ok(())
    }

    fn install(&mut self) -> Result<(), KeepError> {
        self.standing = None;
        let ruleset = self.services.ruleset();
        let clients = self.edge.read(Some(ruleset))?;
        let mut text = self.script.install(self.services.node(), ruleset);
        keep_clients(&mut text, ruleset, &clients);
        let begun = Instant::now();
        self.edge.run(&text)?;
        self.done.last = Some(begun.elapsed());
        self.done.applications += 1;
        let generation = self.edge.generation()?;
        let mut known = Known::default();
        known.compare(&self.edge.read(None)?, ruleset, &self.script).map_err(KeepError::Altered)?;
        self.standing = Some(Standing { known, generation });
        if std::mem::replace(&mut self.has_stood, true) {
            repairs::note(repairs::Kind::Nftables, TABLE);
        }
        self.note_frontends();
        Ok(())
    }

    /// Has the programs translate to what stands as rules: what they leave to the stack must find the same there. `looks` is now and then, without
    /// a change: which endpoints are reached as they are, the node's network decides.
    pub(crate) fn translate(&mut self, looks: bool) {
        if self.standing.is_none() || (self.is_told_of && !looks) {
            return;
        }
        self.is_told_of = true;
        let outcome = self.edge.translate(&self.fronts).map_err(|error| error.to_string());
        let refusal = match outcome {
            Ok(translated) => {
                self.translated = translated;
                None
            }
            Err(refusal) => Some(refusal),
        };
        if let Some(refusal) = refusal.as_ref().filter(|_| refusal != self.refusal) {
            tracing::warn!(refusal, "the kernel programs do not translate to all services; the rules have them all");
        }
        self.refusal = refusal;
    }

    /// To how many ports of services the programs translate.
    pub(crate) const fn translated(&self) -> usize {
        self.translated
    }

    fn note_frontends(&mut self) {
        (self.fronts, self.is_told_of) = (self.services.fronts(), false);
        let frontends = self.services.frontends();
        if frontends != self.frontends {
            self.frontends = frontends;
            self.passes = PASSES;
        }
    }

    /// Forgets flows of UDP whose endpoint is gone; does nothing where none has gone since the last time.
    ///
    /// # Errors
    /// Where conntrack cannot be read or does not obey. It is tried again with the next change.
    pub(crate) fn forget_flows(&mut self) -> io::Result<()> {
        if self.passes == 0 || self.standing.is_none() {
            return Ok(());
        }
        self.passes -= 1;
        if self.frontends.is_empty() {
            return Ok(());
        }
        let frontends = &self.frontends;
        let forgotten = self.edge.forget(FORGET_AT_ONCE, &|to, from| frontends.is_stale(to, from))?;
        self.done.forgotten += forgotten as u64;
        if forgotten == FORGET_AT_ONCE {
            self.passes = PASSES;
        }
        Ok(())
    }

    /// The ports on which load balancers ask.
    pub(crate) fn health_checks(&self) -> Vec<HealthCheck> {
        if self.tables.is_some() { self.services.health_checks() } else { Vec::new() }
    }
}

/// Adds to a script that clients stay with their endpoints.
fn keep_clients(text: &mut String, wanted: &Ruleset, seen: &Seen) {
    let sets = seen.clients.iter().filter(|(set, _)| wanted.affinity.contains(*set));
    let clients = sets.flat_map(|((family, set), clients)| clients.iter().map(move |client| (family, set, client)));
    for (family, set, (address, timeout, left)) in clients.filter(|(.., (_, _, left))| *left > 0).take(CLIENTS_MAX) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "add element {} {TABLE} {set} {{ {address} timeout {timeout}ms expires {left}ms }}", family.keyword());
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
