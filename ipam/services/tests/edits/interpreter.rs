//! As much of `nft` as the scripts need: refuses what the kernel would refuse.

use std::collections::{BTreeMap, BTreeSet};

use services::{Container, Family, Ruleset, TABLE};

/// The tables of one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Tables {
    base: String,
    chains: BTreeMap<String, Vec<String>>,
    sets: BTreeSet<String>,
    elements: BTreeMap<(String, String), Option<String>>,
}

/// What `nft` has been told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Kernel {
    families: BTreeMap<String, Tables>,
}

impl Kernel {
    /// Runs a script as a transaction.
    pub(crate) fn run(&mut self, script: &str) {
        let mut base: Option<(String, String)> = None;
        for line in script.lines() {
            if let Some((family, text)) = &mut base {
                if line == "}" {
                    self.families.entry(family.clone()).or_default().base = text.clone();
                    base = None;
                } else {
                    *text += line;
                }
                continue;
            }
            if let Some(head) = line.strip_prefix("table ") {
                base = Some((head.split_once(' ').unwrap().0.to_owned(), String::new()));
                continue;
            }
            let mut words = line.splitn(5, ' ');
            let [verb, object, family, table] = [(); 4].map(|()| words.next().unwrap());
            assert_eq!(table, TABLE, "{line}");
            let rest = words.next().unwrap_or_default();
            let tables = self.families.entry(family.to_owned()).or_default();
            let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            match (verb, object) {
                ("add", "table") => {}
                ("delete", "table") => *tables = Tables::default(),
                ("add", "set") => assert!(tables.sets.insert(name.to_owned()), "{line}"),
                ("add", "chain") => assert!(tables.chains.entry(name.to_owned()).or_default().is_empty(), "{line}"),
                ("flush", "chain") => tables.chains.get_mut(name).expect(line).clear(),
                ("add", "rule") => {
                    for target in rest.split("goto ").skip(1).map(|rest| rest.split([' ', ',']).next().unwrap()) {
                        assert!(tables.chains.contains_key(target), "{line}");
                    }
                    for set in rest.split('@').skip(1).map(|rest| rest.split(' ').next().unwrap()) {
                        assert!(tables.sets.contains(set), "{line}");
                    }
                    tables.chains.get_mut(name).expect(line).push(rest.to_owned());
                }
                ("delete", "chain") => {
                    assert!(tables.chains.remove(name).expect(line).is_empty(), "{line}");
                    assert!(!tables.is_used(name), "{line}");
                }
                ("delete", "set") => {
                    assert!(tables.sets.remove(name) && !tables.is_used(name), "{line}");
                }
                ("add" | "delete", "element") => {
                    let inner = rest.strip_prefix("{ ").unwrap().strip_suffix(" }").unwrap();
                    for element in inner.split(", ") {
                        let (key, verdict) =
                            element.split_once(" : ").map_or((element, None), |(key, verdict)| (key, Some(verdict.to_owned())));
                        let key = (name.to_owned(), key.to_owned());
                        if verb == "add" {
                            let target = verdict.as_ref().and_then(|verdict| verdict.strip_prefix("goto ")).map(ToOwned::to_owned);
                            let is_there = |target: String| {
                                target == "refuse"
                                    || tables.base.contains(&format!("chain {target} {{"))
                                    || tables.chains.contains_key(&target)
                            };
                            assert!(target.is_none_or(is_there), "{line}");
                            assert!(tables.elements.insert(key, verdict).is_none(), "{line}");
                        } else {
                            assert!(tables.elements.remove(&key).is_some(), "{line}");
                        }
                    }
                }
                other => panic!("{other:?}: {line}"),
            }
        }
    }

    /// Compares with what is to be there; where something rests, empty chains and endpoints may be there, too.
    pub(crate) fn has(&self, ruleset: &Ruleset, rests: bool) {
        for family in Family::ALL {
            let tables = &self.families[family.keyword()];
            assert!(!tables.base.is_empty());
            let chains: BTreeMap<_, _> = tables.chains.iter().filter(|(_, rules)| !(rests && rules.is_empty())).collect();
            let wanted: BTreeMap<_, _> =
                ruleset.chains.iter().filter(|((of, _), _)| *of == family).map(|((_, name), rules)| (name, rules)).collect();
            assert_eq!(chains, wanted);
            let sets: BTreeSet<_> = ruleset.affinity.iter().filter(|(of, _)| *of == family).map(|(_, name)| name.clone()).collect();
            assert_eq!(tables.sets, sets);
            let elements = ruleset.elements.iter().filter(|((of, ..), _)| *of == family);
            let elements: BTreeMap<_, _> = elements
                .map(|((_, container, key), verdict)| ((Container::name(*container).to_owned(), key.clone()), verdict.clone()))
                .collect();
            let rests = |key: &(String, String)| rests && key.0 == Container::Backends.name() && !elements.contains_key(key);
            let there: BTreeMap<_, _> =
                tables.elements.iter().filter(|(key, _)| !rests(key)).map(|(key, to)| (key.clone(), to.clone())).collect();
            assert_eq!(there, elements);
        }
    }
}

impl Tables {
    /// Whether a rule or an element leads to a chain or a set.
    fn is_used(&self, name: &str) -> bool {
        let leads = |text: &String| text.split([' ', ',', '@']).any(|word| word == name);
        self.chains.values().flatten().any(leads) || self.elements.values().flatten().any(leads)
    }
}
