//! What a leader knows and has under way, from when it leads until it does not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fleet_plans::health::{Leader, Millis, Record, Report, Stage};
use fleet_plans::node::Node;
use fleet_plans::preflight::Gate;
use fleet_plans::teams::{Teams, Told, plan};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::again::{self, Looked};
use super::carry::{Deed, Shared, carry_out, reason};
use super::drain::{self, Round};
use super::hearing::Heard;
use super::hook;
use super::nodes::{Follower, Nodes};
use super::request::Outcome;
use super::reset::{self, Reset};
use super::schedule::Schedule;
use super::settings::{BUSY, CALM, Settings};
use super::{Mode, Part};

/// Between two plans of teams: one of 7,500 nodes takes some 50 ms.
const PLAN: Millis = 200;
/// Before the first plan: by then nodes have said how many pods they have.
const FIRST_PLAN: Millis = 2_000;
/// Between two looks of the state machine of health.
const LOOK: Millis = 100;
/// What has waited for so long is decided anew: the state machine forgets it then, too.
const STALE: Millis = 10_000;
/// Between two rounds of evictions; of one node, where something was left.
const ROUNDS: Millis = 1_000;
const ROUND_OF_NODE: Millis = 5_000;
const ROUND_OF_EMPTY: Millis = 60_000;
/// Between two times that a node is handed over.
const HAND_OVER: Millis = 3_600_000;
/// Between two looks whether a person has reset the breaker.
const RESET: Millis = 5_000;
/// Between two counts of streams: those that break within are one event.
const STREAMS: Millis = 1_000;

/// What a task has come to.
pub(super) enum Ended {
    Deed((Part, String, Outcome)),
    Round(Round),
    Looked(Looked),
    HandedOver(String),
    Reset(Reset),
}

/// Milliseconds of the system's clock, which do not go back within a session.
struct Clock {
    epoch: Millis,
    start: Instant,
}

impl Clock {
    fn now(&self) -> Millis {
        self.epoch + millis(self.start.elapsed())
    }
}

fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}

/// One time of leading.
pub(super) struct Session<'a> {
    shared: Arc<Shared>,
    settings: Settings,
    pub(super) follower: Follower<'a>,
    pub(super) work: JoinSet<Ended>,
    clock: Clock,
    schedule: Schedule,
    health: Leader,
    /// New nodes, where that is switched on.
    gate: Option<Gate>,
    /// What health and the gate have decided.
    acts: VecDeque<Deed>,
    /// Something was heard, or a node has changed, since health looked.
    is_heard: bool,
    looked_at: Millis,
    teams: Option<Arc<Teams>>,
    /// What the last plan of teams wants.
    moves: Vec<Deed>,
    is_plan_due: bool,
    planned_at: Millis,
    /// In a dry run: what has been said.
    said: BTreeSet<(String, String)>,
    left_alone: BTreeSet<Told>,
    streams: (Millis, usize),
    /// When the next round of evictions may be; of each node.
    rounds: (Millis, BTreeMap<String, Millis>),
    is_in_round: bool,
    /// When nodes were handed over, and whether one is just then.
    handed_over: (BTreeMap<String, Millis>, bool),
    reset: (Millis, Option<Reset>),
}

impl<'a> Session<'a> {
    pub(super) fn new(shared: Arc<Shared>, settings: &Settings, nodes: &'a Nodes) -> Self {
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).map(millis).unwrap_or_default();
        let clock = Clock { epoch, start: Instant::now() };
        let follower = nodes.follow();
        let (health, gate) = follower.take(|_, nodes| {
            let gate = settings.preflight.clone().map(|settings| Gate::new(settings, nodes));
            (Leader::new(settings.health.clone(), epoch, nodes), gate)
        });
        Self {
            shared,
            settings: settings.clone(),
            follower,
            work: JoinSet::new(),
            schedule: Schedule::new(settings.per_second),
            clock,
            health,
            gate,
            acts: VecDeque::new(),
            is_heard: false,
            looked_at: 0,
            teams: None,
            moves: Vec::new(),
            is_plan_due: false,
            planned_at: epoch + FIRST_PLAN - PLAN,
            said: BTreeSet::new(),
            left_alone: BTreeSet::new(),
            streams: (0, 0),
            rounds: (0, BTreeMap::new()),
            is_in_round: false,
            handed_over: (BTreeMap::new(), false),
            reset: (0, None),
        }
    }

    /// How long nothing is to be done, unless something happens.
    pub(super) fn pause(&self) -> Duration {
        let has_moves = self.settings.teams == Mode::Apply && !self.moves.is_empty();
        let is_busy = self.is_heard || self.is_plan_due || has_moves || !self.acts.is_empty() || self.is_looking();
        if is_busy { BUSY } else { CALM }
    }

    /// Is there anything that time alone may change?
    fn is_looking(&self) -> bool {
        self.health.is_busy() || self.gate.as_ref().is_some_and(Gate::is_busy)
    }

    /// A node has said something; its name is the one in its certificate.
    pub(super) fn hear(&mut self, node: String, heard: Heard) {
        match heard {
            Heard::Verdict(report) => {
                self.shared.counters.reports.fetch_add(1, Ordering::Relaxed);
                self.health.hear(self.clock.now(), Report { node, ..report });
            }
            Heard::Preflight(said) => {
                if let Some(gate) = &mut self.gate {
                    gate.hear(&node, said);
                }
            }
            Heard::Pods(pods) => return self.shared.nodes.has_pods(&node, pods),
        }
        self.is_heard = true;
    }

    /// Other teams than before, or none.
    pub(super) fn replan(&mut self, teams: Option<Arc<Teams>>) {
        self.teams = teams;
        self.is_plan_due = true;
    }

    /// Something under way has come to its end.
    pub(super) fn ended(&mut self, ended: Result<Ended, JoinError>) {
        let now = self.clock.now();
        match ended {
            Ok(Ended::Deed((part, node, outcome))) => {
                self.schedule.end(&node, &outcome, now, fastrand::f64());
                if !matches!(outcome, Outcome::Done(_)) {
                    // Decided anew, at once.
                    let known = self.shared.nodes.view(|nodes| nodes.get(&node).cloned());
                    match (part, &mut self.gate) {
                        (Part::Health, _) => self.health.node_changed(&node, known.as_ref()),
                        (Part::Preflight, Some(gate)) => gate.node_changed(&node, known.as_ref()),
                        _ => {}
                    }
                }
                self.is_plan_due |= part == Part::Teams;
            }
            Ok(Ended::Round(round)) => {
                self.is_in_round = false;
                if let Some(outcome) = &round.given_up {
                    self.schedule.heed(outcome, now, fastrand::f64());
                }
                self.rounds.1.insert(round.node, now + if round.is_empty { ROUND_OF_EMPTY } else { ROUND_OF_NODE });
            }
            Ok(Ended::HandedOver(node)) => {
                self.handed_over.0.insert(node, now);
                self.handed_over.1 = false;
            }
            Ok(Ended::Looked(Looked { node, is_told, outcome })) => {
                self.schedule.end(&node, &outcome, now, fastrand::f64());
                if let Some(gate) = &mut self.gate {
                    gate.looked(now, &node, is_told);
                }
            }
            Ok(Ended::Reset(seen)) => self.judge(seen, now),
            // A task of ours has panicked; what it had in flight is not known. The next leader begins with nothing.
            Err(error) => std::panic::resume_unwind(Box::new(error.to_string())),
        }
    }

    /// Decides what is to be done now, and begins it.
    pub(super) fn round(&mut self, streams: usize) {
        let now = self.clock.now();
        self.follow(now, streams);
        self.look(now);
        self.plan(now);
        self.act(now);
        self.evict(now);
        self.hand_over(now);
        self.check_again(now);
        self.ask_for_reset(now);
        self.tell();
    }

    /// For who asks the Lease.
    fn tell(&self) {
        let note = serde_json::to_string(&self.health.note()).ok();
        self.shared.note.send_if_modified(|told| {
            let is_new = *told != note;
            *told = note;
            is_new
        });
    }

    /// What has changed of nodes and of their streams.
    fn follow(&mut self, now: Millis, streams: usize) {
        let Self { follower, health, gate, schedule, acts, .. } = self;
        let is_changed = follower.take(|changed, nodes| {
            for name in &changed {
                let node = nodes.get(name);
                health.node_changed(name, node);
                if let Some(gate) = gate {
                    gate.node_changed(name, node);
                }
                if node.is_none() {
                    schedule.forget(name);
                }
            }
            // Decided from what is no more.
            acts.retain(|deed| !changed.contains(&deed.node.name) && now.saturating_sub(deed.at) < STALE);
            !changed.is_empty()
        });
        self.is_heard |= is_changed;
        self.is_plan_due |= is_changed;
        let (counted_at, before) = self.streams;
        if now.saturating_sub(counted_at) >= STREAMS {
            self.health.streams_broke(now, before.saturating_sub(streams), before);
            self.streams = (now, streams);
        }
    }

    fn look(&mut self, now: Millis) {
        if now.saturating_sub(self.looked_at) < LOOK || !(self.is_heard || self.is_looking()) {
            return;
        }
        (self.looked_at, self.is_heard) = (now, false);
        let Self { shared, health, gate, acts, settings, .. } = self;
        shared.nodes.view(|nodes| {
            for act in gate.as_mut().map(|gate| gate.acts(now, nodes)).unwrap_or_default() {
                let Some(node) = nodes.get(&act.node).cloned() else { continue };
                let deed = Deed::of_preflight(act, node);
                match settings.preflight.as_ref().is_none_or(|settings| settings.dry_run) {
                    true => deed.pretend(&shared.counters),
                    false => acts.push_back(deed),
                }
            }
            for act in health.acts(now, nodes) {
                let Some(node) = act.node.as_ref().and_then(|name| nodes.get(name)).cloned() else {
                    tracing::error!(act = reason(act.reason), evidence = ?act.evidence, "nodes' health: nothing is done until a person says so");
                    continue;
                };
                let deed = Deed::of_act(act, node);
                match settings.health.dry_run {
                    true => deed.pretend(&shared.counters),
                    false => acts.push_back(deed),
                }
            }
        });
        let counters = &self.shared.counters;
        counters.is_tripped.store(self.health.is_tripped(), Ordering::Relaxed);
        let (waiting, failed) = self.gate.as_ref().map_or((0, 0), |gate| (gate.waiting(), gate.failed()));
        counters.preflight_waiting.store(waiting as u64, Ordering::Relaxed);
        counters.preflight_failed.store(failed as u64, Ordering::Relaxed);
    }

    /// A plan of teams, where something has changed that it is made of.
    fn plan(&mut self, now: Millis) {
        if !self.is_plan_due || now.saturating_sub(self.planned_at) < PLAN {
            return;
        }
        (self.planned_at, self.is_plan_due) = (now, false);
        self.moves.clear();
        let counters = Arc::clone(&self.shared.counters);
        let Some(teams) = &self.teams else { return counters.found(Vec::new()) };
        let planned = self.shared.nodes.view(|nodes| {
            plan(teams, nodes.values()).map(|plan| {
                let deed = |step: fleet_plans::teams::Move| nodes.get(&step.node).cloned().map(|node| Deed::of_move(step, node, now));
                (plan.moves.into_iter().filter_map(deed).collect::<Vec<_>>(), plan.told.into_iter().collect::<BTreeSet<_>>())
            })
        });
        match planned {
            Ok((moves, left_alone)) => {
                counters.found(Vec::new());
                for told in left_alone.difference(&self.left_alone) {
                    tracing::warn!(node = told.node, what = told.what, "node left alone");
                }
                (self.moves, self.left_alone) = (moves, left_alone);
            }
            Err(faults) => counters.found(faults.iter().map(ToString::to_string).collect()),
        }
        counters.moves.store(self.moves.len() as u64, Ordering::Relaxed);
        counters.left_alone.store(self.left_alone.len() as u64, Ordering::Relaxed);
        if self.settings.teams == Mode::DryRun {
            let said = self.moves.iter().map(|deed| (deed.node.name.clone(), deed.evidence.concat())).collect();
            for deed in &self.moves {
                if !self.said.contains(&(deed.node.name.clone(), deed.evidence.concat())) {
                    deed.pretend(&counters);
                }
            }
            self.said = said;
        }
    }

    /// Begins what may be begun: health and new nodes first.
    fn act(&mut self, now: Millis) {
        while self.schedule.is_open(now) {
            let is_free = |deed: &Deed| self.schedule.is_free(&deed.node.name, now);
            let next = self.acts.iter().position(is_free).and_then(|index| self.acts.remove(index));
            // A plan that is due is of other nodes than these.
            let may_move = self.settings.teams == Mode::Apply && !self.is_plan_due;
            let next = next.or_else(|| {
                let index = self.moves.iter().position(is_free).filter(|_| may_move)?;
                Some(self.moves.remove(index))
            });
            let Some(mut deed) = next else { return };
            // Heartbeats since are no change.
            let version = self.shared.nodes.view(|nodes| nodes.get(&deed.node.name).map(|node| node.resource_version.clone()));
            let Some(version) = version else { continue };
            deed.node.resource_version = version;
            self.schedule.begin(&deed.node.name, now);
            let carried_out = carry_out(Arc::clone(&self.shared), deed);
            self.work.spawn(async { Ended::Deed(carried_out.await) });
        }
    }

    /// Begins a round of evictions, of one node at a time.
    fn evict(&mut self, now: Millis) {
        if self.is_in_round || now < self.rounds.0 || !self.schedule.is_open(now) || self.settings.health.dry_run {
            return;
        }
        let next = self.shared.nodes.view(|nodes| {
            let draining = self.health.evicts(now, nodes);
            self.rounds.1.retain(|name, _| draining.contains(name));
            let due = |name: &String| self.rounds.1.get(name).copied().unwrap_or_default();
            // Of those that are due alike the emptiest: it is done the soonest.
            let turn = |name: &String| (due(name), nodes.get(name).map_or(u32::MAX, Node::fullness));
            let next = draining.into_iter().filter(|name| due(name) <= now).min_by_key(turn)?;
            let with_jobs = nodes.get(&next).and_then(Record::of).is_some_and(|record| record.stage >= Stage::Overdue);
            Some((next, with_jobs))
        });
        self.rounds.0 = now + ROUNDS;
        if let Some((node, with_jobs)) = next {
            self.is_in_round = true;
            self.schedule.spend(now);
            let round = drain::round(Arc::clone(&self.shared), node, with_jobs);
            self.work.spawn(async { Ended::Round(round.await) });
        }
    }

    /// Begins to hand a node over, one at a time: what it does is not known here.
    fn hand_over(&mut self, now: Millis) {
        let (handed_over, is_busy) = &mut self.handed_over;
        let Some(hook) = self.settings.hook.clone().filter(|_| !*is_busy) else { return };
        let next = self.shared.nodes.view(|nodes| {
            let forced = self.health.hands_over(now, nodes);
            handed_over.retain(|name, _| forced.contains(name));
            let is_due = |name: &&String| handed_over.get(*name).is_none_or(|at| now.saturating_sub(*at) >= HAND_OVER);
            let node = nodes.get(forced.iter().find(is_due)?)?;
            Some((node.clone(), Record::of(node)?.evidence))
        });
        if let Some((node, evidence)) = next {
            *is_busy = true;
            let handed_over = hook::hand_over(Arc::clone(&self.shared), hook, node, evidence, now);
            self.work.spawn(async { Ended::HandedOver(handed_over.await) });
        }
    }

    /// Begins a look at a node whose checks are long ago.
    fn check_again(&mut self, now: Millis) {
        let Self { shared, gate, schedule, .. } = self;
        let Some(gate) = gate.as_mut().filter(|_| schedule.is_open(now)) else { return };
        let Some(due) = shared.nodes.view(|nodes| gate.due(now, nodes)) else { return };
        if !schedule.is_free(&due.node.name, now) {
            return gate.looked(now, &due.node.name, false);
        }
        schedule.begin(&due.node.name, now);
        let look = again::look(Arc::clone(shared), due);
        self.work.spawn(async { Ended::Looked(look.await) });
    }

    fn ask_for_reset(&mut self, now: Millis) {
        if self.health.is_tripped() && now >= self.reset.0 {
            self.reset.0 = now + RESET;
            let (client, lease) = (self.shared.client.clone(), self.settings.lease.clone());
            self.work.spawn(async move { Ended::Reset(reset::seen(&client, &lease).await) });
        }
    }

    /// Another word than when the breaker was first seen to have tripped is a person's.
    fn judge(&mut self, seen: Reset, now: Millis) {
        if seen == Reset::Unknown || !self.health.is_tripped() {
            return;
        }
        match &self.reset.1 {
            Some(before) if *before != seen => {
                tracing::warn!(target: "audit", part = "health", act = "BreakerReset", "a person has reset the breaker");
                self.health.reset_breaker(now);
                (self.reset.1, self.is_heard) = (None, true);
            }
            Some(_) => {}
            None => self.reset.1 = Some(seen),
        }
    }
}
