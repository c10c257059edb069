//! What nodes say of themselves and of each other, and what follows from it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Millis, Settings, Threshold};

/// Whom a verdict is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    /// The node itself, by what it sees without the network.
    Own,
    /// The node itself, by packets that may be lost: the gateway, name servers.
    Probe,
    /// Another node, which does not answer this one.
    Peer(String),
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be; said once after the last bad one.
    Good,
    /// With what was seen; said again as long as it is.
    Bad(String),
}

/// One verdict of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Who says it: the name in its certificate.
    pub node: String,
    /// Of whom.
    pub about: About,
    /// Which check.
    pub check: String,
    /// What it found.
    pub verdict: Verdict,
}

#[derive(Debug, Clone, Default)]
struct Heard {
    bad: VecDeque<Millis>,
    last_bad: Option<Millis>,
    last_good: Option<Millis>,
    seen: String,
}

impl Heard {
    fn is_bad(&self, now: Millis, threshold: Threshold) -> bool {
        self.bad.len() >= threshold.bad && self.bad.iter().rev().take(threshold.bad).all(|at| now.saturating_sub(*at) <= threshold.within)
    }
}

impl Heard {
    /// Who said it has said that it is over, long ago; or was another node, and has not said it again for very long.
    fn is_over(&self, about: &About, now: Millis, settings: &Settings) -> bool {
        let Some(age) = self.last_bad.map(|at| now.saturating_sub(at)) else { return true };
        let is_silent = matches!(about, About::Peer(_)) && age >= settings.stale;
        is_silent || (self.last_good >= self.last_bad && age >= settings.recover)
    }
}

/// All that was heard and still counts.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// Of a node: by who says it and which check.
    of: BTreeMap<String, BTreeMap<(String, About, String), Heard>>,
    /// When anybody last said that a node is well.
    said_well: BTreeMap<String, Millis>,
}

impl Evidence {
    /// Takes note of a report. That another node speaks is no news of a node that is silent.
    pub fn hear(&mut self, now: Millis, report: Report, settings: &Settings) {
        let Report { node, about, check, verdict } = report;
        let subject = match &about {
            About::Peer(peer) if *peer == node => return,
            About::Peer(peer) => peer.clone(),
            About::Own | About::Probe => node.clone(),
        };
        let key = (node, about, check);
        match verdict {
            Verdict::Good => {
                self.said_well.insert(subject.clone(), now);
                if let Some(heard) = self.of.get_mut(&subject).and_then(|of| of.get_mut(&key)) {
                    heard.bad.clear();
                    heard.last_good = Some(now);
                }
            }
            Verdict::Bad(seen) => {
                let heard = self.of.entry(subject).or_default().entry(key).or_default();
                let most = settings.own.bad.max(settings.probe.bad).max(1);
                heard.bad.push_back(now);
                while heard.bad.len() > most {
                    heard.bad.pop_front();
                }
                heard.last_bad = Some(now);
                heard.seen = seen;
            }
        }
    }

    /// Who looks sick at `now`, with what was seen. Of a node and those that it complains about the one is believed of which most
    /// complain: a node that is cut off complains about all.
    #[must_use]
    pub fn sick(&self, now: Millis, settings: &Settings) -> BTreeMap<String, Vec<String>> {
        let mut sick: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut accused: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
        for (subject, all) in &self.of {
            for ((witness, about, check), heard) in all {
                let threshold = if *about == About::Own { settings.own } else { settings.probe };
                match about {
                    _ if !heard.is_bad(now, threshold) => {}
                    About::Peer(_) => drop(accused.entry(subject).or_default().insert(witness, &heard.seen)),
                    About::Own | About::Probe => sick.entry(subject.clone()).or_default().push(format!("{check}: {}", heard.seen)),
                }
            }
        }
        // What a sick node says of others is not believed.
        let mut lost: BTreeSet<&str> = self.of.keys().filter(|node| sick.contains_key(*node)).map(String::as_str).collect();
        loop {
            let credible = |by: &BTreeMap<&str, &str>| by.keys().filter(|witness| !lost.contains(*witness)).count();
            let made = |node: &str| accused.values().filter(|by| by.contains_key(node)).count();
            let open = accused.iter().filter(|(node, _)| !lost.contains(*node));
            let most = open.map(|(node, by)| (credible(by), *node)).filter(|(count, _)| *count >= settings.witnesses.max(1));
            // Of two with as many witnesses the one that itself complains of more.
            let most = most.max_by_key(|(count, node)| (*count, made(node), *node));
            let Some((count, node)) = most else { return sick };
            let said =
                accused[node].iter().filter(|(witness, _)| !lost.contains(*witness)).map(|(witness, seen)| format!("{witness}: {seen}"));
            sick.entry(node.to_owned()).or_default().push(format!("{count} nodes say so: {}", said.collect::<Vec<_>>().join("; ")));
            lost.insert(node);
        }
    }

    /// How many sick nodes it takes to explain all that is bad, lately, of nodes that `counts`; no further than `most` and one more. One node that is
    /// cut off complains of its peers, and they of it: that is one.
    pub fn suspects(&self, now: Millis, settings: &Settings, most: usize, counts: impl Fn(&str) -> bool) -> usize {
        let within = settings.own.within.max(settings.probe.within);
        let is_bad = |heard: &Heard| !heard.bad.is_empty() && heard.last_bad.is_some_and(|at| now.saturating_sub(at) <= within);
        let mut explained: BTreeSet<&str> = BTreeSet::new();
        let mut complaints: Vec<(&str, &str)> = Vec::new();
        for (subject, all) in self.of.iter().filter(|(subject, _)| counts(subject)) {
            for ((witness, about, _), _) in all.iter().filter(|(_, heard)| is_bad(heard)) {
                match about {
                    About::Peer(_) => complaints.push((witness, subject)),
                    About::Own | About::Probe => drop(explained.insert(subject)),
                }
            }
        }
        while explained.len() <= most {
            complaints.retain(|(witness, subject)| counts(witness) && !explained.contains(witness) && !explained.contains(subject));
            let mut named: BTreeMap<&str, usize> = BTreeMap::new();
            complaints.iter().flat_map(|(witness, subject)| [witness, subject]).for_each(|node| *named.entry(node).or_default() += 1);
            match named.into_iter().max_by_key(|(_, times)| *times) {
                Some((node, _)) => drop(explained.insert(node)),
                None => break,
            }
        }
        explained.len()
    }

    /// Is a node that was sick well again? Nobody has complained for long, and each who did has said that it is over: silence is no health.
    #[must_use]
    pub fn is_well(&self, node: &str, now: Millis, settings: &Settings) -> bool {
        let of = self.of.get(node).into_iter().flatten();
        self.said_well.contains_key(node) && of.into_iter().all(|((_, about, _), heard)| heard.is_over(about, now, settings))
    }

    /// Forgets what is over: of nodes that are well for long.
    pub fn forget(&mut self, now: Millis, settings: &Settings) {
        self.of.retain(|_, all| {
            all.retain(|(_, about, _), heard| !heard.is_over(about, now, settings));
            !all.is_empty()
        });
    }

    /// Forgets what a node has said and what was said of it: it has gone.
    pub fn gone(&mut self, node: &str) {
        self.of.remove(node);
        self.said_well.remove(node);
        self.of.retain(|_, all| {
            all.retain(|(witness, _, _), _| witness != node);
            !all.is_empty()
        });
    }
}
