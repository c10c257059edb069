//! Tables of ours kept as they were installed: whatever somebody flushes, deletes or adds in them is undone.
//!
//! What `nft` makes of a script is the kernel's affair, so the kernel is asked for its form of it right after it was installed: chains and
//! rules, without what they count. From then on the kernel's form is compared with that one, whenever nftables' rules have another generation
//! number; where they have not, nobody has changed anything.

use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use crate::netlink::NetlinkError;
use crate::nft::{self, RulesError};
use crate::raw_netlink::{Dumps, attribute, attributes, network_number};
use crate::repairs::{self, Kind};

const STEP: &str = "read the nftables rules of ours";
/// `NFNL_SUBSYS_NFTABLES`, and `NFT_MSG_*` in it.
const SUBSYSTEM: u16 = 10 << 8;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const GET_RULE: u16 = SUBSYSTEM | 7;
const GET_GENERATION: u16 = SUBSYSTEM | 16;
/// `struct nfgenmsg` for the family `inet` (`NFPROTO_INET`).
const INET: [u8; 4] = [1, 0, 0, 0];
/// Somebody may change rules between the installation and the reading; then it is done again.
const ATTEMPTS: usize = 3;

/// One table of ours, of the family `inet`.
#[derive(Debug)]
pub(crate) struct KeptTable {
    what: &'static str,
    name: &'static str,
    installed: Option<Installed>,
}

/// What was installed, and what became of it in the kernel.
#[derive(Debug)]
struct Installed {
    script: String,
    form: Form,
    /// At which the kernel had this form last.
    generation: u32,
}

/// A table as the kernel has it: whether it sleeps, its chains, and their rules in order.
#[derive(Debug, PartialEq, Eq)]
struct Form {
    flags: u32,
    chains: Vec<Vec<u8>>,
    rules: Vec<Vec<u8>>,
}

impl KeptTable {
    /// A table that nothing is known of yet.
    pub(crate) const fn new(what: &'static str, name: &'static str) -> Self {
        Self { what, name, installed: None }
    }

    /// Sees to it that the table says what `script` makes of it. The script replaces what there is, in one transaction.
    pub(crate) fn keep(&mut self, script: &str) -> Result<(), RulesError> {
        let was_as_wanted = self.installed.as_ref().is_some_and(|installed| installed.script == script);
        if was_as_wanted && self.stands()? {
            return Ok(());
        }
        self.installed = None;
        for attempt in 0..ATTEMPTS {
            let before = generation()?;
            nft::run(self.what, script)?;
            if was_as_wanted && attempt == 0 {
                repairs::note(Kind::Nftables, self.name);
            }
            let read = self.read()?;
            let generation = generation()?;
            // The installation is one generation; another would be somebody else's.
            if let (Some(before), Some(generation), Some(form)) = (before, generation, read)
                && generation == before.wrapping_add(1)
            {
                self.installed = Some(Installed { script: script.to_owned(), form, generation });
                return Ok(());
            }
        }
        // Rules change all the time: installed it is, and looked at again next time.
        Ok(())
    }

    /// Whether the kernel has what was installed.
    fn stands(&mut self) -> Result<bool, RulesError> {
        let Some(known) = self.installed.as_ref().map(|installed| installed.generation) else { return Ok(false) };
        let Some(now) = generation()? else { return Ok(false) };
        if now == known {
            return Ok(true);
        }
        let form = self.read()?;
        let Some(installed) = self.installed.as_mut().filter(|installed| Some(&installed.form) == form.as_ref()) else { return Ok(false) };
        // Of before the reading: what has changed since is looked at next time.
        installed.generation = now;
        Ok(true)
    }

    /// Removes the table, where it is.
    pub(crate) fn remove(&mut self) -> Result<(), RulesError> {
        self.installed = None;
        if self.read()?.is_some() { nft::remove_table(self.what, &format!("inet {}", self.name)) } else { Ok(()) }
    }

    /// The kernel's form of it; nothing where there is no such table.
    fn read(&self) -> Result<Option<Form>, NetlinkError> {
        const NAME: u16 = 1;
        const FLAGS: u16 = 2;
        const CHAIN_NAME: u16 = 3;
        const CHAIN_HOOK: u16 = 4;
        const CHAIN_POLICY: u16 = 5;
        const CHAIN_TYPE: u16 = 7;
        const RULE_CHAIN: u16 = 2;
        const RULE_EXPRESSIONS: u16 = 4;
        let Some(mut socket) = Dumps::open(STEP, NETLINK_NETFILTER)? else { return Ok(None) };
        let name = [self.name.as_bytes(), &[0]].concat();
        // The name of the table is the first attribute of each.
        let is_of_ours =
            |row: &[u8]| row.first() == Some(&INET[0]) && attributes(&row[4..]).any(|(kind, value)| kind == NAME && value == name);
        let tables = socket.dump(STEP, GET_TABLE, &INET, |_, row| {
            let flags = attributes(row.get(4..)?).find(|(kind, _)| *kind == FLAGS).map_or(0, |(_, flags)| network_number(flags));
            is_of_ours(row).then_some(flags)
        });
        let Some(flags) = unless_absent(tables)?.first().copied() else { return Ok(None) };
        let mut chains = unless_absent(socket.dump(STEP, GET_CHAIN, &INET, |_, row| {
            is_of_ours(row.get(..4).map(|_| row)?).then(|| some_of(&row[4..], &[CHAIN_NAME, CHAIN_HOOK, CHAIN_POLICY, CHAIN_TYPE]))
        }))?;
        chains.sort_unstable();
        let request = [&INET[..], &attribute(NAME, &name)].concat();
        let rules = unless_absent(socket.dump(STEP, GET_RULE, &request, |_, row| {
            let of_rule = |wanted| attributes(&row[4..]).find(|(kind, _)| *kind == wanted).map_or(&[][..], |(_, value)| value);
            is_of_ours(row.get(..4).map(|_| row)?).then(|| [of_rule(RULE_CHAIN), &without_counts(of_rule(RULE_EXPRESSIONS))].concat())
        }))?;
        Ok(Some(Form { flags, chains, rules }))
    }
}

/// The attributes of these kinds.
fn some_of(row: &[u8], kinds: &[u16]) -> Vec<u8> {
    attributes(row).filter(|(kind, _)| kinds.contains(kind)).flat_map(|(kind, value)| attribute(kind, value)).collect()
}

/// The expressions of a rule but for what its counters say.
pub(crate) fn without_counts(expressions: &[u8]) -> Vec<u8> {
    const NAME: u16 = 1;
    let of_one = |(kind, expression): (u16, &[u8])| {
        let is_counter = attributes(expression).any(|(kind, value)| kind == NAME && value == b"counter\0");
        attribute(kind, if is_counter { b"counter" } else { expression })
    };
    attributes(expressions).flat_map(of_one).collect()
}

/// The number of the ruleset, which every change makes another; `None` where the kernel has no nftables.
pub(crate) fn generation() -> Result<Option<u32>, NetlinkError> {
    const ID: u16 = 1;
    let Some(mut socket) = Dumps::open(STEP, NETLINK_NETFILTER)? else { return Ok(None) };
    let told = socket.get(STEP, GET_GENERATION, &[0; 4], |payload| {
        attributes(payload.get(4..)?).find(|(kind, _)| *kind == ID).map(|(_, id)| network_number(id))
    });
    match told {
        Err(error) if is_absence(&error) => Ok(None),
        told => told,
    }
}

/// What the kernel says where nftables is a module that is not there, or the table is not.
fn is_absence(error: &NetlinkError) -> bool {
    [Errno::EINVAL, Errno::EOPNOTSUPP, Errno::ENOENT].iter().any(|errno| error.is(*errno))
}

/// Nothing where there is no such table, or no nftables.
pub(crate) fn unless_absent<T>(outcome: Result<Vec<T>, NetlinkError>) -> Result<Vec<T>, NetlinkError> {
    match outcome {
        Err(error) if is_absence(&error) => Ok(Vec::new()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_no_difference_and_all_else_is() {
        let expression = |name: &[u8], data: &[u8]| attribute(1, &[attribute(1, name), attribute(2, data)].concat());
        let rule = |packets: u8, verdict: u8| [expression(b"counter\0", &[packets]), expression(b"immediate\0", &[verdict])].concat();
        assert_eq!(without_counts(&rule(0, 1)), without_counts(&rule(7, 1)));
        assert_ne!(without_counts(&rule(0, 1)), without_counts(&rule(0, 2)));
        assert_ne!(without_counts(&rule(0, 1)), without_counts(&expression(b"immediate\0", &[1])), "without its counter");
    }
}
