//! Who gets which node: the fewest moves from what is to what should be.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;
use twox_hash::XxHash3_64;

use super::{ASSIGNED, Claim, Fault, RESERVED, TEAM, Team, Teams, quotas};
use crate::node::{Change, NO_SCHEDULE, Node, Taint};

/// What fails together: a team's nodes are in as few of these as can be.
pub const DOMAIN_LABEL: &str = "topology.kubernetes.io/zone";

/// A node that changes hands, or is made again as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Move {
    /// Which.
    pub node: String,
    /// Whose it was; `None` is everybody's.
    pub from: Option<String>,
    /// Whose it will be.
    pub to: Option<String>,
    /// Why this one.
    pub why: String,
    /// Pods that run on it, and stay; nothing where it does not say.
    pub pods: Option<u32>,
    /// What is written.
    #[serde(skip)]
    pub change: Change,
}

/// Something on a node that is not ours, and stays.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Told {
    /// Which node.
    pub node: String,
    /// What is there, and what can be done.
    pub what: String,
}

/// What should be done.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Plan {
    /// By the nodes' names.
    pub moves: Vec<Move>,
    /// What was left alone.
    pub told: Vec<Told>,
}

/// A node that may be moved.
struct Member<'a> {
    node: &'a Node,
    hash: u64,
    domain: &'a str,
    /// Of the team with this index; of nobody.
    has: Option<usize>,
    gets: Option<usize>,
    why: &'static str,
}

/// The plan for `nodes`, in whatever order they are. The same nodes and teams always give the same plan, and a plan that was carried out gives
/// an empty one.
///
/// # Errors
/// Everything that is wrong with the file and with it on these nodes; nothing should be changed then.
pub fn plan<'a>(teams: &Teams, nodes: impl IntoIterator<Item = &'a Node>) -> Result<Plan, BTreeSet<Fault>> {
    let mut faults = teams.faults();
    let mut sorted: Vec<_> = nodes.into_iter().collect();
    sorted.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let pools = pools(teams, &sorted, &mut faults);

    let mut plan = Plan::default();
    for node in &sorted {
        plan.told.extend(foreign(node).into_iter().map(|what| Told { node: node.name.clone(), what }));
    }
    let theirs: BTreeSet<String> = plan.told.iter().map(|told| told.node.clone()).collect();
    let mut moves = BTreeMap::new();
    for (pool, members) in teams.pools.iter().zip(pools) {
        let may_move = |node: &&&Node| node.is_ready && !theirs.contains(&node.name);
        let ready: Vec<&Node> = members.iter().filter(may_move).copied().collect();
        let claims = teams.claims_on(&pool.name);
        let minima: u64 = claims.iter().map(|(_, claim)| u64::from(claim.minimum())).sum();
        if minima > ready.len() as u64 {
            faults.insert(Fault::AboveThePool { pool: pool.name.clone(), minima, nodes: ready.len() as u64 });
        } else if faults.is_empty() {
            moves.extend(within(&claims, &ready));
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    // Nodes that were given to a team and are in no pool any more, and sick ones of a team that is gone.
    for node in sorted.into_iter().filter(|node| !theirs.contains(&node.name)) {
        if moves.contains_key(node.name.as_str()) {
            continue;
        }
        let in_pool = teams.pools.iter().any(|pool| node.is_selected_by(&pool.match_labels));
        let assigned = node.annotations.get(ASSIGNED).map(String::as_str);
        let stays = assigned.and_then(|name| teams.named(name)).filter(|_| in_pool);
        if assigned.is_some() || in_pool {
            let why = match (assigned, stays) {
                (Some(_), None) if in_pool => "its team is gone",
                (Some(_), None) => "it is in no pool any more",
                _ => "what is on the node is not what it was given",
            };
            moves.insert(node.name.as_str(), (node, stays, why));
        }
    }
    plan.moves = moves.into_values().filter_map(|(node, to, why)| made(node, to, why)).collect();
    Ok(plan)
}

/// The nodes of each pool; what two share is a fault.
fn pools<'a>(teams: &Teams, nodes: &[&'a Node], faults: &mut BTreeSet<Fault>) -> Vec<Vec<&'a Node>> {
    let mut pools = vec![Vec::new(); teams.pools.len()];
    let mut shared: BTreeMap<(usize, usize), (usize, &str)> = BTreeMap::new();
    for node in nodes {
        let mut first = None;
        for (index, _) in teams.pools.iter().enumerate().filter(|(_, pool)| node.is_selected_by(&pool.match_labels)) {
            match first {
                None => pools[index].push(*node),
                Some(one) => shared.entry((one, index)).or_insert((0, &node.name)).0 += 1,
            }
            first = first.or(Some(index));
        }
    }
    let name = |index: usize| teams.pools[index].name.clone();
    faults.extend(shared.into_iter().map(|((one, other), (nodes, example))| Fault::SharedNodes {
        one: name(one),
        other: name(other),
        nodes,
        example: example.to_owned(),
    }));
    pools
}

/// Taints and labels with our keys that the fleet has not put there.
fn foreign(node: &Node) -> Option<String> {
    let assigned = node.annotations.get(ASSIGNED).map(String::as_str);
    let is_ours = |taint: &Taint| taint.effect == NO_SCHEDULE && Some(taint.value.as_str()) == assigned;
    let taint = node.taints.iter().find(|taint| [TEAM, RESERVED].contains(&taint.key.as_str()) && !is_ours(taint));
    if let Some(Taint { key, value, effect, .. }) = taint {
        return Some(format!(
            "a taint {key}={value}:{effect} that the fleet did not make: the node is left alone; remove it to have it planned"
        ));
    }
    let label = node.labels.get(TEAM).filter(|_| assigned.is_none())?;
    Some(format!("a label {TEAM}={label} that the fleet did not make: the node is left alone; remove it to have it planned"))
}

/// A node, whose it will be, and why.
type Given<'a> = (&'a Node, Option<&'a Team>, &'static str);

/// The moves within one pool.
fn within<'a>(claims: &[(&'a Team, &Claim)], nodes: &[&'a Node]) -> Vec<(&'a str, Given<'a>)> {
    let index: HashMap<&str, usize> = claims.iter().enumerate().map(|(index, (team, _))| (team.name.as_str(), index)).collect();
    let mut members: Vec<_> = nodes
        .iter()
        .map(|node| {
            let has = node.annotations.get(ASSIGNED).and_then(|name| index.get(name.as_str())).copied();
            let domain = node.labels.get(DOMAIN_LABEL).map_or("", String::as_str);
            let hash = XxHash3_64::oneshot(node.name.as_bytes());
            Member { node, hash, domain, has, gets: has, why: "" }
        })
        .collect();
    let quotas = quotas(&claims.iter().map(|(_, claim)| *claim).collect::<Vec<_>>(), nodes.len() as u64);
    let quotas: Vec<_> = quotas.into_iter().map(|quota| usize::try_from(quota).unwrap_or(usize::MAX)).collect();
    let mut owned = vec![Vec::new(); claims.len()];
    let mut free = Vec::new();
    for (member, held) in members.iter().enumerate() {
        match held.has {
            Some(team) => owned[team].push(member),
            None => free.push(member),
        }
    }
    // First all give, then all take: a node that one gives up is the first that another gets.
    for (team, quota) in quotas.iter().enumerate() {
        let surplus = owned[team].len().saturating_sub(*quota);
        if surplus > 0 {
            let company = by_domain(&members, &owned[team]);
            let seed = XxHash3_64::oneshot(claims[team].0.name.as_bytes());
            let cost = |member: usize| {
                let Member { node, hash, domain, .. } = &members[member];
                (node.fullness(), company.get(domain).copied().unwrap_or(0), mix(*hash, seed), member)
            };
            let mut given = std::mem::take(&mut owned[team]);
            given.sort_unstable_by_key(|member| cost(*member));
            owned[team] = given.split_off(surplus);
            for member in &given {
                members[*member].gets = None;
            }
            free.extend(given);
        }
    }
    for (team, quota) in quotas.iter().enumerate() {
        let deficit = quota.saturating_sub(owned[team].len());
        if deficit > 0 {
            // With nothing yet: where most of what can be had is.
            let company = by_domain(&members, if owned[team].is_empty() { &free } else { &owned[team] });
            let seed = XxHash3_64::oneshot(claims[team].0.name.as_bytes());
            let cost = |member: &usize| {
                let Member { node, hash, domain, .. } = &members[*member];
                // What a team had that claims nothing any more changes hands anyway, like what was just given up.
                let is_common = !node.annotations.contains_key(ASSIGNED);
                (
                    is_common,
                    Reverse((company.get(domain).copied().unwrap_or(0), *domain)),
                    node.fullness(),
                    Reverse(mix(*hash, seed)),
                    *member,
                )
            };
            if deficit < free.len() {
                free.select_nth_unstable_by(deficit, |a, b| cost(a).cmp(&cost(b)));
            }
            let rest = free.split_off(deficit.min(free.len()));
            for member in std::mem::replace(&mut free, rest) {
                members[member].gets = Some(team);
                members[member].why = "the team has fewer nodes than it claims; this is the emptiest of its failure domain";
            }
        }
    }
    let team = |index: Option<usize>| index.map(|index| claims[index].0);
    let why = |member: &Member<'_>| match (member.why, member.has == member.gets) {
        ("", true) if member.has.is_some() => "what is on the node is not what it was given",
        ("", true) => "its team claims nothing of the pool",
        ("", false) => "the team has more nodes than it claims; this is the emptiest",
        (why, _) => why,
    };
    members.iter().map(|member| (member.node.name.as_str(), (member.node, team(member.gets), why(member)))).collect()
}

fn by_domain<'a>(members: &[Member<'a>], of: &[usize]) -> HashMap<&'a str, usize> {
    let mut count = HashMap::new();
    for member in of {
        *count.entry(members[*member].domain).or_default() += 1;
    }
    count
}

/// A node's weight for a team: rendezvous hashing over two hashes (the finaliser of splitmix64).
fn mix(node: u64, team: u64) -> u64 {
    let mut x = node ^ team.rotate_left(32);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// What makes `node` the team's; nothing where it is.
fn made(node: &Node, to: Option<&Team>, why: &str) -> Option<Move> {
    let wanted = to.map(|team| Taint::no_schedule(if team.lend { TEAM } else { RESERVED }, &team.name));
    let name = to.map(|team| &team.name);
    let is_ours = |taint: &&Taint| [TEAM, RESERVED].contains(&taint.key.as_str());
    let is_tainted = node.taints.iter().filter(is_ours).eq(&wanted);
    if is_tainted && node.labels.get(TEAM) == name && node.annotations.get(ASSIGNED) == name {
        return None;
    }
    let change = Change {
        taints_gone: node.taints.iter().filter(is_ours).filter(|taint| Some(*taint) != wanted.as_ref()).cloned().collect(),
        taints_new: wanted.iter().filter(|taint| !node.taints.contains(taint)).cloned().collect(),
        labels: [(TEAM.to_owned(), name.cloned())].into(),
        annotations: [(ASSIGNED.to_owned(), name.cloned())].into(),
    };
    let from = node.annotations.get(ASSIGNED).cloned();
    Some(Move { node: node.name.clone(), from, to: name.cloned(), why: why.to_owned(), pods: node.pods, change })
}
