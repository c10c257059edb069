//! Rules of ours in iptables' own FORWARD chain, as other network plugins have them: where all forwarded packets are dropped (Docker, ufw and
//! others set that policy), those of pods are not.
//!
//! They stand right before what would drop everything, the policy or a last rule that refuses the rest, and behind all rules that say
//! something about some packets: whoever has forbidden something in particular has forbidden it still.

use std::process::Command;

use ipnetwork::IpNetwork;

use super::ruleset::{Backend, Family, OUR_COMMENT, Rule, Ruleset, Table, Test};
use crate::nft::{fed, output_of};

/// One family's rules in one kind of tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Accept {
    backend: Backend,
    ipv4: bool,
    /// Behind so many rules that are not ours, for these ranges as source and as destination.
    wanted: Option<(usize, Vec<IpNetwork>)>,
    /// Those that are there: for a source, or for a destination.
    found: Vec<(bool, IpNetwork)>,
    /// They are there, and in the wrong place.
    is_in_vain: bool,
}

/// What to want where no pods are.
pub(super) fn none_wanted(ruleset: &Ruleset, ipv4: bool) -> Vec<Accept> {
    let family = if ipv4 { Family::Ip } else { Family::Ip6 };
    let of_backend = |backend| {
        let chain = ruleset.chains.get(&(Table { backend, family, name: "filter".to_owned() }, "FORWARD".to_owned()))?;
        Some(Accept::of(backend, ipv4, &chain.rules, None, false))
    };
    [Backend::Nft, Backend::Legacy].into_iter().filter_map(of_backend).collect()
}

impl Accept {
    pub(super) fn of(backend: Backend, ipv4: bool, rules: &[Rule], wanted: Option<(usize, Vec<IpNetwork>)>, is_in_vain: bool) -> Self {
        let range = |rule: &Rule| {
            rule.matches.iter().find_map(|one| match one.test {
                Test::Source(cidr) => Some((true, cidr)),
                Test::Destination(cidr) => Some((false, cidr)),
                _ => None,
            })
        };
        let found = rules.iter().filter(|rule| rule.is_ours).filter_map(range).collect();
        Self { backend, ipv4, wanted, found, is_in_vain }
    }

    /// Whether all is as it should be.
    pub(super) fn stands(&self) -> bool {
        let mut found = self.found.clone();
        let mut wanted = self.rules_wanted();
        found.sort_unstable();
        wanted.sort_unstable();
        found == wanted && !self.is_in_vain
    }

    fn rules_wanted(&self) -> Vec<(bool, IpNetwork)> {
        let ranges = self.wanted.iter().flat_map(|(_, ranges)| ranges);
        ranges.flat_map(|range| [(true, *range), (false, *range)]).collect()
    }

    /// The change, for `iptables-restore --noflush`: one transaction.
    fn script(&self) -> String {
        let rule = |(is_source, range): &(bool, IpNetwork)| {
            let end = if *is_source { "-s" } else { "-d" };
            format!("{end} {range} -m comment --comment \"{OUR_COMMENT} network.forward_accept\" -j ACCEPT\n")
        };
        let mut script = "*filter\n".to_owned();
        self.found.iter().for_each(|found| script += &format!("-D FORWARD {}", rule(found)));
        let position = self.wanted.as_ref().map_or(0, |(position, _)| position + 1);
        self.rules_wanted().iter().for_each(|wanted| script += &format!("-I FORWARD {position} {}", rule(wanted)));
        script + "COMMIT\n"
    }

    /// Makes the change; why not, in words.
    pub(super) fn apply(&self) -> Result<(), String> {
        let family = if self.ipv4 { "ip" } else { "ip6" };
        let (kind, says) = match self.backend {
            Backend::Nft => ("nft", "nf_tables"),
            Backend::Legacy => ("legacy", "legacy"),
        };
        let own = format!("{family}tables-{kind}-restore");
        let plain = format!("{family}tables-restore");
        let script = self.script();
        let refused = |why: String| format!("the rules that let pods' packets pass are refused by {own}: {why}");
        if let Some(()) = fed(restore(&own), &script).map_err(refused)? {
            tracing::info!(program = own, rules = self.rules_wanted().len(), "FORWARD rules for pods installed");
            return Ok(());
        }
        // Under its plain name it may be of either kind; before there were two it did not say.
        let mut version = Command::new(&plain);
        version.arg("--version");
        let version = output_of(version).ok().flatten().unwrap_or_default();
        let is_meant = version.contains(says) || (self.backend == Backend::Legacy && !version.is_empty() && !version.contains("nf_tables"));
        match fed(restore(&plain), &script) {
            _ if !is_meant => Err(format!("there is no {own} to let pods' packets pass with; install the package iptables")),
            Ok(Some(())) => Ok(()),
            Ok(None) => Err(format!("there is no {plain}")),
            Err(why) => Err(refused(why)),
        }
    }
}

fn restore(program: &str) -> Command {
    let mut command = Command::new(program);
    command.args(["--noflush", "-w", "5"]);
    command
}

#[cfg(test)]
mod tests {
    use super::super::ruleset::{Match, Verdict};
    use super::*;

    #[test]
    fn only_what_differs_is_changed_and_in_one_transaction() {
        let range: IpNetwork = "10.0.1.16/28".parse().unwrap();
        let ours = |test| Rule { is_ours: true, ..Rule::new(vec![Match::of(test)], Verdict::Accept) };
        let wanted = || Some((2, vec![range]));
        let none = Accept::of(Backend::Nft, true, &[], wanted(), false);
        assert!(!none.stands());
        assert_eq!(none.script().lines().filter(|line| line.starts_with("-I FORWARD 3 ")).count(), 2, "{}", none.script());
        let both = [ours(Test::Source(range)), ours(Test::Destination(range))];
        assert!(Accept::of(Backend::Nft, true, &both, wanted(), false).stands());
        assert!(!Accept::of(Backend::Nft, true, &both, wanted(), true).stands(), "something drops before them");
        let off = Accept::of(Backend::Nft, true, &both, None, false);
        assert!(!off.stands());
        assert_eq!(off.script().lines().filter(|line| line.starts_with("-D FORWARD ")).count(), 2, "{}", off.script());
        assert!(!off.script().contains("-I"));
    }
}
