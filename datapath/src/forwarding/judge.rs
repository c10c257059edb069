//! What other people's rules may do to packets that the programs would carry. Pure.
//!
//! Rules are not run, they are judged for whole classes of packets: those of one part of the pods' addresses, to or from one native network, or
//! among pods of this node. For a class a match holds for all packets, for some or for none. A rule that may drop, queue or translate some is
//! found. Where it names the other end, only that destination is left to the stack; where it does not, the whole family is.
//!
//! What is assumed of a packet that the programs would carry: its connection is new, established or related and never invalid (that
//! it looks so to who sees one half of it is what the programs avoid); neither end is the host itself; nobody has marked it, unless a rule
//! that it comes to does.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;

use super::accept::Accept;
use super::class::{Class, Holds, Share, Way};
use super::ruleset::{Backend, Base, Chain, Family, Ruleset, Table, Verdict, is_of_one_service};
use crate::elsewhere::Elsewhere;
use crate::{NodeNetwork, prefixes};

/// More classes are judged as one, less exactly.
const CLASSES_MAX: usize = 256;
/// Beyond, a family is left to the stack.
const STEPS_MAX: usize = 4_000_000;
const DEPTH_MAX: usize = 64;

/// What follows from the rules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Judgement {
    /// Destinations that a rule may treat otherwise.
    pub elsewhere: Vec<Elsewhere>,
    /// Families (IPv4?) of which nothing may be carried, with why.
    pub families: Vec<(bool, String)>,
    /// Families of which packets of pods are dropped even by the stack, with where.
    pub dropped: Vec<(bool, String)>,
    /// Addresses of services within native networks.
    pub services: Vec<IpNetwork>,
    /// Packets of pods may carry marks of others'.
    pub marks_are_set: bool,
    /// Rules of ours in others' chains, as they should be.
    pub(super) accepts: Vec<Accept>,
}

/// A rule or a policy that a packet does not pass unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    holds: Holds,
    is_drop: bool,
    place: String,
    /// Which rule of the base chain leads there; none for its policy.
    top: Option<usize>,
}

/// How a walk ends: the rest of the base chain is for nobody of the class any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Done,
    GoesOn,
}

/// Judges all rules. With `accept`, rules of ours are to let pods' packets pass where all would be dropped.
#[must_use]
pub fn judge(ruleset: &Ruleset, network: &NodeNetwork, accept: bool) -> Judgement {
    let mut judgement = Judgement::default();
    let uplinks: Vec<_> = network.uplinks.iter().map(|uplink| uplink.ifname.clone()).collect();
    for ipv4 in [true, false] {
        let pods: Vec<_> = network.pods_of(ipv4).flat_map(crate::PodRange::prefixes).collect();
        if !pods.is_empty() {
            let pods = prefixes::without_nested([pods, network.allowed_ranges(ipv4)].concat());
            let family = OfFamily { ruleset, network, ipv4, pods: &pods, uplinks: &uplinks };
            family.judge(accept, &mut judgement);
        } else {
            // Without pods there is nothing to accept, and perhaps something to take away.
            judgement.accepts.extend(super::accept::none_wanted(ruleset, ipv4));
        }
    }
    judgement
}

#[derive(Clone, Copy)]
struct OfFamily<'a> {
    ruleset: &'a Ruleset,
    network: &'a NodeNetwork,
    ipv4: bool,
    pods: &'a [IpNetwork],
    uplinks: &'a [String],
}

impl OfFamily<'_> {
    fn judge(&self, accept: bool, judgement: &mut Judgement) {
        let native: Vec<_> = self.network.native.iter().filter(|cidr| cidr.is_ipv4() == self.ipv4).copied().collect();
        let native = prefixes::without_nested(native);
        let engine = self.ruleset.engines.iter().find(|(family, _)| family.sees(self.ipv4));
        let unread = self.ruleset.unread.iter().find(|(family, _)| family.sees(self.ipv4));
        let mut classes = self.classes(&native, false);
        let mut findings = self.findings(&classes, false);
        if findings.marks_are_set {
            judgement.marks_are_set = true;
            classes = self.classes(&native, true);
            findings = self.findings(&classes, false);
        }
        let mut why = engine.or(unread).map(|(_, why)| why.clone());
        let mut destinations: BTreeMap<IpNetwork, String> = BTreeMap::new();
        for (way, finding) in findings.found {
            match finding.holds.remotes {
                Some(remotes) if way != Way::Within => {
                    for cidr in remotes.iter().flat_map(|remote| self.native_parts(remote, &native)) {
                        destinations.entry(cidr).or_insert_with(|| finding.place.clone());
                    }
                }
                _ => {
                    if finding.is_drop && finding.holds.share == Share::All && !judgement.dropped.iter().any(|(ipv4, _)| *ipv4 == self.ipv4)
                    {
                        judgement.dropped.push((self.ipv4, finding.place.clone()));
                    }
                    why.get_or_insert(finding.place);
                }
            }
        }
        // Pods speak to more than native networks.
        let everything = [prefixes::prefix(self.ipv4, 0, 0)];
        let all_classes = self.classes(&everything, findings.marks_are_set);
        if judgement.dropped.iter().all(|(ipv4, _)| *ipv4 != self.ipv4) {
            let found = self.findings(&all_classes, false).found;
            let whole = found.into_iter().find(|(_, finding)| finding.is_drop && finding.holds.share == Share::All);
            judgement.dropped.extend(whole.map(|(_, finding)| (self.ipv4, finding.place)));
        }
        if findings.is_too_much {
            why.get_or_insert("there are too many rules to judge".to_owned());
        }
        let services = self.ruleset.services.iter().filter(|service| service.is_ipv4() == self.ipv4);
        for service in services.flat_map(|service| self.native_parts(service, &native)) {
            destinations.insert(service, "it is the address of a service".to_owned());
        }
        judgement.services.extend(destinations.iter().filter(|(_, why)| is_of_services(why)).map(|(cidr, _)| *cidr));
        judgement.families.extend(why.map(|why| (self.ipv4, why)));
        judgement.elsewhere.extend(destinations.into_iter().map(|(cidr, why)| Elsewhere { cidr, why }));
        classes.extend(all_classes);
        self.plan_accepts(accept && engine.is_none(), &classes, judgement);
    }

    /// The parts of a destination that are native and not listed as services'.
    fn native_parts(&self, cidr: &IpNetwork, native: &[IpNetwork]) -> Vec<IpNetwork> {
        let is_service = |part: &IpNetwork| self.network.service.iter().any(|service| prefixes::contains(service, part));
        let part = |native: &IpNetwork| match () {
            () if prefixes::contains(native, cidr) => Some(*cidr),
            () if prefixes::contains(cidr, native) => Some(*native),
            () => None,
        };
        native.iter().filter_map(part).filter(|part| !is_service(part)).collect()
    }

    fn classes<'b>(&'b self, native: &'b [IpNetwork], marks_are_set: bool) -> Vec<Class<'b>> {
        let class =
            |way, pods, remote| Class { ipv4: self.ipv4, way, pods, remote, all_pods: self.pods, uplinks: self.uplinks, marks_are_set };
        let is_exact = self.pods.len() * (2 * native.len() + 1) <= CLASSES_MAX;
        let size = |all: &[IpNetwork]| if is_exact { 1 } else { all.len().max(1) };
        let mut classes = Vec::new();
        for pods in self.pods.chunks(size(self.pods)) {
            classes.push(class(Way::Within, pods, &[]));
            for remote in native.chunks(size(native)) {
                classes.extend([class(Way::Out, pods, remote), class(Way::In, pods, remote)]);
            }
        }
        classes
    }

    fn findings(&self, classes: &[Class<'_>], without_ours: bool) -> Findings {
        let mut findings = Findings { without_ours, ..Findings::default() };
        let mut bases: Vec<_> = self.ruleset.chains.iter().filter(|((table, _), _)| table.family.sees(self.ipv4)).collect();
        bases.sort_by(|one, other| one.0.cmp(other.0));
        for ((table, name), chain) in bases {
            if let Some(base) = &chain.base {
                for class in classes.iter().filter(|class| class.comes_to(base)) {
                    findings.base_chain(self.ruleset, class, base, table, name, chain);
                }
            }
        }
        findings
    }

    /// Rules of ours stand where all forwarded packets would be dropped, and behind whatever is more particular: a rule that drops pods'
    /// packets because they are pods' is meant so.
    fn plan_accepts(&self, accept: bool, classes: &[Class<'_>], judgement: &mut Judgement) {
        let everything = [prefixes::prefix(self.ipv4, 0, 0)];
        let whoever = OfFamily { pods: &everything, ..*self };
        let of_whoever = whoever.classes(&everything, judgement.marks_are_set);
        for backend in [Backend::Nft, Backend::Legacy] {
            let family = if self.ipv4 { Family::Ip } else { Family::Ip6 };
            let key = (Table { backend, family, name: "filter".to_owned() }, "FORWARD".to_owned());
            let Some(chain) = self.ruleset.chains.get(&key) else { continue };
            let Some(base) = &chain.base else { continue };
            // The first rule, ours not counted, by which all packets of some class are dropped, be they pods' or anybody's.
            let drops = |without_ours: bool| {
                let tops = |classes: &[Class<'_>]| {
                    let mut findings = Findings { without_ours, ..Findings::default() };
                    for class in classes {
                        findings.base_chain(self.ruleset, class, base, &key.0, &key.1, chain);
                    }
                    let whole = |finding: &Finding| finding.is_drop && finding.holds.share == Share::All;
                    findings
                        .found
                        .into_iter()
                        .filter(|(_, finding)| whole(finding))
                        .map(|(way, finding)| (way, finding.top))
                        .collect::<Vec<_>>()
                };
                let anybodys = tops(&of_whoever);
                let position = |top: Option<usize>| {
                    let end = top.unwrap_or(chain.rules.len());
                    end - chain.rules[..end].iter().filter(|rule| rule.is_ours).count()
                };
                tops(classes).into_iter().filter(|top| anybodys.contains(top)).map(|(_, top)| position(top)).min()
            };
            let position = drops(true).filter(|_| accept);
            let wanted = position.map(|position| (position, self.pods.to_vec()));
            let is_in_vain = wanted.is_some() && drops(false).is_some();
            judgement.accepts.push(Accept::of(backend, self.ipv4, &chain.rules, wanted, is_in_vain));
        }
    }
}

/// Whether a place is one of kube-proxy's, so that what it translates are services.
fn is_of_services(place: &str) -> bool {
    place.contains("KUBE-") || place == "it is the address of a service"
}

#[derive(Debug, Default)]
struct Findings {
    found: Vec<(Way, Finding)>,
    marks_are_set: bool,
    without_ours: bool,
    steps: usize,
    is_too_much: bool,
}

/// Where a walk is.
struct Here<'a> {
    ruleset: &'a Ruleset,
    class: &'a Class<'a>,
    table: &'a Table,
    top: Option<usize>,
    depth: usize,
}

impl Findings {
    fn base_chain(&mut self, ruleset: &Ruleset, class: &Class<'_>, base: &Base, table: &Table, name: &str, chain: &Chain) {
        let here = Here { ruleset, class, table, top: None, depth: 0 };
        let end = self.chain(&here, name, chain, &Holds::ALL);
        if end == End::GoesOn && base.drops {
            self.note(&here, Holds::ALL, true, format!("chain {name} of {table} drops by its policy"));
        }
    }

    fn chain(&mut self, here: &Here<'_>, name: &str, chain: &Chain, path: &Holds) -> End {
        for (position, rule) in chain.rules.iter().enumerate() {
            self.steps += 1;
            if self.steps > STEPS_MAX || here.depth > DEPTH_MAX {
                self.is_too_much = true;
                return End::Done;
            }
            if self.without_ours && rule.is_ours {
                continue;
            }
            let matched = here.class.matched(rule);
            if matched.share == Share::None {
                continue;
            }
            let is_whole = matched.share == Share::All;
            let holds = path.clone().and(matched);
            self.marks_are_set |= rule.sets_mark;
            let top = here.top.or(Some(position));
            let place = |does: &str| format!("rule {} of chain {name} of {} {does}", position + 1, here.table);
            match &rule.verdict {
                Verdict::Continue => {}
                Verdict::Accept if is_whole => return End::Done,
                Verdict::Return if is_whole => return End::GoesOn,
                Verdict::Accept | Verdict::Return => {}
                Verdict::Drop | Verdict::Queue | Verdict::Translate => {
                    let (is_drop, does) = match rule.verdict {
                        Verdict::Drop => (true, "may drop it"),
                        Verdict::Queue => (false, "asks a program about it"),
                        _ => (false, "translates it"),
                    };
                    self.note(&Here { top, ..*here }, holds, is_drop, place(does));
                    if is_whole {
                        return End::Done;
                    }
                }
                Verdict::Jump(to) | Verdict::Goto(to) if is_of_one_service(to) => {
                    self.note(&Here { top, ..*here }, holds, false, place("translates it"));
                }
                Verdict::Jump(to) | Verdict::Goto(to) => {
                    let inner = Here { top, depth: here.depth + 1, ..*here };
                    let end = match here.ruleset.chains.get(&(here.table.clone(), to.clone())) {
                        Some(next) => self.chain(&inner, to, next, &holds),
                        None => {
                            self.note(
                                &inner,
                                Holds { share: Share::Some, ..holds },
                                false,
                                place(&format!("leads to chain {to}, which is not known")),
                            );
                            End::GoesOn
                        }
                    };
                    let is_goto = matches!(rule.verdict, Verdict::Goto(_));
                    if is_whole && (end == End::Done || is_goto) {
                        return end;
                    }
                }
            }
        }
        End::GoesOn
    }

    fn note(&mut self, here: &Here<'_>, holds: Holds, is_drop: bool, place: String) {
        let finding = Finding { holds, is_drop, place, top: here.top };
        if !self.found.iter().rev().take(16).any(|(way, known)| *way == here.class.way && *known == finding) {
            self.found.push((here.class.way, finding));
        }
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
