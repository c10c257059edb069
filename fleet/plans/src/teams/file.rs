//! The teams: the same schema as a file and as a custom resource's `spec`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::node::Map;

/// All pools and teams.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Teams {
    /// Nodes that are given to teams.
    pub pools: Vec<Pool>,
    /// Who gets them.
    pub teams: Vec<Team>,
    /// Pods of this priority or a lower one may be pre-empted, and borrow the nodes of teams that lend.
    #[serde(default = "preemptible")]
    pub preemptible_priority: i32,
    /// Namespaces that admission leaves alone, beside those of Kubernetes itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exempt_namespaces: Vec<String>,
}

const fn preemptible() -> i32 {
    -1
}

/// Nodes that have all of some labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// The labels of its nodes.
    pub match_labels: Map,
}

/// A team: namespaces, and nodes for their pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Team {
    /// Its name: the value of a label and a taint.
    pub name: String,
    /// Whose pods are the team's.
    pub namespaces: Vec<String>,
    /// Pods that can be pre-empted may run on the team's nodes, whoever's they are.
    #[serde(default)]
    pub lend: bool,
    /// What it gets of which pool.
    pub nodes: Vec<Claim>,
}

/// What a team gets of a pool: either a number of nodes, or a share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Claim {
    /// The pool.
    pub pool: String,
    /// So many nodes; fewer, but `min`, where the pool has not enough for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// This share of what counts leave over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
    /// Never fewer. Of a count: the count, where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<u32>,
}

impl Claim {
    /// Nodes that it gets in any case.
    #[must_use]
    pub fn minimum(&self) -> u32 {
        self.min.or(self.count).unwrap_or(0)
    }
}

/// What is wrong with a file, alone or with the nodes that there are. One of them, and nothing is changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Fault {
    /// Two of one name.
    #[error("{what} {name:?} is there twice: give one of them another name")]
    Twice {
        /// A pool or a team.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// No value of a label.
    #[error("{what} {name:?} is no value of a label: 1 to 63 letters, digits, -, _ and ., the first and the last a letter or digit")]
    Name {
        /// A pool or a team.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// All nodes of the cluster would be in it.
    #[error("pool {0:?} selects every node: name a label in matchLabels")]
    SelectsAll(String),
    /// A namespace of two teams.
    #[error("namespace {namespace:?} is of team {one:?} and of team {other:?}: its pods can be of one team only")]
    SharedNamespace {
        /// Which.
        namespace: String,
        /// A team.
        one: String,
        /// Another.
        other: String,
    },
    /// A claim on a pool that is not there.
    #[error("team {team:?} claims of pool {pool:?}, which is not there; there are: {known}")]
    UnknownPool {
        /// Who.
        team: String,
        /// Which.
        pool: String,
        /// Those that are.
        known: String,
    },
    /// Two claims of a team on one pool.
    #[error("team {team:?} claims twice of pool {pool:?}: write one claim")]
    ClaimedTwice {
        /// Who.
        team: String,
        /// Which.
        pool: String,
    },
    /// Neither a count nor a share, or both.
    #[error("team {team:?} claims of pool {pool:?} with both or neither of count and percent: write one of them")]
    Amount {
        /// Who.
        team: String,
        /// Which.
        pool: String,
    },
    /// More than is counted.
    #[error("team {team:?} claims at least {min} of pool {pool:?}, and {count} in all: lower min")]
    MinAboveCount {
        /// Who.
        team: String,
        /// Which.
        pool: String,
        /// The minimum.
        min: u32,
        /// The count.
        count: u32,
    },
    /// Shares of more than all.
    #[error("shares of pool {pool:?} add up to {percent} %: 100 are there")]
    Percent {
        /// Which.
        pool: String,
        /// The sum.
        percent: u64,
    },
    /// More is promised than is there.
    #[error("teams claim {minima} nodes of pool {pool:?} at least, and it has {nodes} that are ready: lower count or min")]
    AboveThePool {
        /// Which.
        pool: String,
        /// The sum of the minima.
        minima: u64,
        /// Nodes.
        nodes: u64,
    },
    /// A node in two pools.
    #[error("pools {one:?} and {other:?} share {nodes} nodes, e.g. {example:?}: make their labels exclude each other")]
    SharedNodes {
        /// A pool.
        one: String,
        /// Another.
        other: String,
        /// How many.
        nodes: usize,
        /// The first of them.
        example: String,
    },
}

impl Teams {
    /// The team of a namespace.
    #[must_use]
    pub fn of_namespace(&self, namespace: &str) -> Option<&Team> {
        self.teams.iter().find(|team| team.namespaces.iter().any(|of_team| of_team == namespace))
    }

    /// The team of a name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Team> {
        self.teams.iter().find(|team| team.name == name)
    }

    /// Claims on a pool, with whose they are, in the order of the teams' names: the order of the file says nothing.
    #[must_use]
    pub fn claims_on<'a>(&'a self, pool: &str) -> Vec<(&'a Team, &'a Claim)> {
        let claims = self.teams.iter().flat_map(|team| team.nodes.iter().map(move |claim| (team, claim)));
        let mut claims: Vec<_> = claims.filter(|(_, claim)| claim.pool == pool).collect();
        claims.sort_unstable_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        claims
    }

    /// Everything that is wrong with the file by itself.
    #[must_use]
    pub fn faults(&self) -> BTreeSet<Fault> {
        let mut faults = BTreeSet::new();
        let names = |what: &'static str, names: Vec<&String>, faults: &mut BTreeSet<Fault>| {
            let mut seen = BTreeSet::new();
            for name in names {
                if !is_label_value(name) {
                    faults.insert(Fault::Name { what, name: name.clone() });
                }
                if !seen.insert(name) {
                    faults.insert(Fault::Twice { what, name: name.clone() });
                }
            }
        };
        names("pool", self.pools.iter().map(|pool| &pool.name).collect(), &mut faults);
        names("team", self.teams.iter().map(|team| &team.name).collect(), &mut faults);
        let everything = self.pools.iter().filter(|pool| pool.match_labels.is_empty());
        faults.extend(everything.map(|pool| Fault::SelectsAll(pool.name.clone())));

        let mut owners = BTreeMap::new();
        for team in &self.teams {
            for namespace in &team.namespaces {
                if let Some(one) = owners.insert(namespace, &team.name)
                    && one != &team.name
                {
                    faults.insert(Fault::SharedNamespace { namespace: namespace.clone(), one: one.clone(), other: team.name.clone() });
                }
            }
            let mut claimed = BTreeSet::new();
            for claim in &team.nodes {
                let (team, pool) = (team.name.clone(), claim.pool.clone());
                if !claimed.insert(&claim.pool) {
                    faults.insert(Fault::ClaimedTwice { team: team.clone(), pool: pool.clone() });
                }
                if !self.pools.iter().any(|of_file| of_file.name == pool) {
                    let known = self.pools.iter().map(|pool| pool.name.as_str()).collect::<Vec<_>>().join(", ");
                    faults.insert(Fault::UnknownPool { team: team.clone(), pool: pool.clone(), known });
                }
                match (claim.count, claim.percent, claim.min) {
                    (Some(count), None, Some(min)) if min > count => faults.insert(Fault::MinAboveCount { team, pool, min, count }),
                    (Some(_), None, _) | (None, Some(_), _) => false,
                    _ => faults.insert(Fault::Amount { team, pool }),
                };
            }
        }
        for pool in &self.pools {
            let percent = self.claims_on(&pool.name).iter().filter_map(|(_, claim)| claim.percent).map(u64::from).sum();
            if percent > 100 {
                faults.insert(Fault::Percent { pool: pool.name.clone(), percent });
            }
        }
        faults
    }
}

fn is_label_value(name: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    name.len() <= 63
        && ends(name.chars().next())
        && ends(name.chars().next_back())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Teams {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn every_fault_is_told() {
        let file = read(
            r#"{ "pools": [{ "name": "a", "matchLabels": {} }, { "name": "a", "matchLabels": { "x": "y" } }],
                 "teams": [{ "name": "t/", "namespaces": ["n"], "nodes": [{ "pool": "a", "percent": 60 }, { "pool": "a", "count": 1, "min": 2 }] },
                           { "name": "u", "namespaces": ["n"], "nodes": [{ "pool": "b", "count": 1 }, { "pool": "a" }] },
                           { "name": "v", "namespaces": [], "nodes": [{ "pool": "a", "percent": 41 }] }] }"#,
        );
        let told: Vec<_> = file.faults().iter().map(ToString::to_string).collect();
        for part in [
            "pool \"a\" is there twice",
            "team \"t/\" is no value of a label",
            "selects every node",
            "is of team \"t/\" and of team \"u\"",
            "pool \"b\", which is not there; there are: a, a",
            "claims twice",
            "both or neither",
            "at least 2 of pool \"a\", and 1 in all",
            "add up to 101 %",
        ] {
            assert!(told.iter().any(|fault| fault.contains(part)), "{part}: {told:#?}");
        }
        assert_eq!(told.len(), 9, "{told:#?}");
    }

    #[test]
    fn a_word_that_is_not_known_is_no_file() {
        assert!(serde_json::from_str::<Teams>(r#"{ "pools": [], "teams": [], "team": [] }"#).is_err());
        assert_eq!(read(r#"{ "pools": [], "teams": [] }"#).preemptible_priority, -1);
    }
}
