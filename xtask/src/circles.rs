//! No module in a circle, as a test over the sources of every crate.
//!
//! What is judged is neighbours: modules with the same parent, each with all that is below it. They must have an order in which each uses
//! only those before it, so that a folder can be read from its foundation up, and one of its modules be understood, or taken out, without those
//! that are built on it. A parent and its children are one subject: it declares them, calls them and offers what they make, and its own items
//! are what they share (`use super::Tables`). Neither is a circle. Who takes from a parent what a neighbour has made uses the neighbour, through
//! however many `pub use`.
//!
//! Tests of a module are left out: they may use what they like.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::tokens::{self, Token};

/// Circles that are there still: crate, who uses, whom; and what stands in the way. No other may be added, and one that is no more has to go
/// from here.
const STAY: [(&str, &str, &[&str], &str); 11] = [
    ("cni-spec", "version", &["error"], "a version that is none is an error, and an error is told in a version"),
    (
        "datapath",
        "node_network",
        &["fast_path", "forwarding", "gateway", "ours", "policy_routes", "rules", "stack", "sysctl", "unreachable", "uplink"],
        "it is the description that all of these plan from, and sets what they plan: two modules",
    ),
    (
        "datapath",
        "pod_link",
        &["fast_path", "host_ends", "inspection", "inventory", "sysctl"],
        "it wires a pod, and has the constants by which what is ours is known: two modules",
    ),
    ("datapath", "clsact", &["uplink_hooks"], "which hook it is"),
    ("datapath", "tables", &["notes", "note_filter"], "tables that open other tables"),
    ("ipam-state", "contents", &["schema"], "names of tables"),
    ("ipam-state", "record", &["recovery"], "what a link in the kernel says of its pod"),
    ("barewired", "report", &["runner"], "a report of the runner's state"),
    ("barewired", "slow_path", &["node"], "the description that the node's reconciler makes"),
    ("cloudsim", "cloud", &["fabric", "faults"], "a cloud of which the one shows a part and the other disturbs it"),
    ("conformance-tests", "stage", &["case"], "why a case ends"),
];

/// A module, or an item with the module that it is in: names from the crate's root on.
type Names = Vec<String>;

#[derive(Default)]
struct Module {
    /// Without what is for tests alone, and without modules within it.
    tokens: Vec<Token>,
    /// What `use` calls by a name in it.
    imports: BTreeMap<String, Names>,
}

/// Modules of a crate, its root the one without a name.
#[derive(Default)]
struct Modules(BTreeMap<Names, Module>);

/// Arrows between the children of a module: the module, from, to; with one that is an example.
type Arrows = BTreeMap<Names, BTreeMap<(String, String), String>>;

impl Modules {
    /// Those of the crate whose root is `file`.
    fn read(file: &Path) -> Result<Self> {
        let mut modules = Self::default();
        let folder = file.parent().context("a file in a folder")?;
        modules.read_file(file, folder, Vec::new())?;
        for name in modules.0.keys().cloned().collect::<Vec<_>>() {
            let imports = modules.imports_of(&name);
            if let Some(module) = modules.0.get_mut(&name) {
                module.imports = imports;
            }
        }
        Ok(modules)
    }

    /// `folder` is where the modules that `file` declares are.
    fn read_file(&mut self, file: &Path, folder: &Path, name: Names) -> Result<()> {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        self.add(tokens::of(&text), folder, name)
    }

    fn add(&mut self, tokens: Vec<Token>, folder: &Path, name: Names) -> Result<()> {
        let mut kept = Vec::new();
        let mut tokens = tokens.into_iter().peekable();
        let mut is_test = false;
        while let Some(token) = tokens.next() {
            match (&token, tokens.peek()) {
                (Token::Mark('#'), Some(Token::Group('[', attribute))) => {
                    is_test |= is_for_tests(attribute);
                    tokens.next();
                    continue;
                }
                (Token::Word(word), Some(Token::Word(child))) if word == "mod" => {
                    let child = child.clone();
                    tokens.next();
                    let body = tokens.next();
                    if !std::mem::take(&mut is_test) {
                        let within = folder.join(&child);
                        let name = [&name[..], &[child]].concat();
                        match body {
                            Some(Token::Group('{', body)) => self.add(body, &within, name)?,
                            _ => {
                                let beside = within.with_extension("rs");
                                let file = if beside.exists() { beside } else { within.join("mod.rs") };
                                self.read_file(&file, &within, name)?;
                            }
                        }
                    }
                    continue;
                }
                _ => {}
            }
            let ends = matches!(token, Token::Mark(';') | Token::Group('{', _));
            if !is_test {
                kept.push(token);
            }
            is_test &= !ends;
        }
        self.0.insert(name, Module { tokens: kept, imports: BTreeMap::new() });
        Ok(())
    }

    /// What `use` calls by which name, at the module's own level.
    fn imports_of(&self, module: &Names) -> BTreeMap<String, Names> {
        let mut imports = BTreeMap::new();
        let tokens = &self.0[module].tokens;
        for (at, token) in tokens.iter().enumerate() {
            if matches!(token, Token::Word(word) if word == "use") {
                for (name, path) in paths(&tokens[at + 1..]) {
                    if let Some(path) = self.absolute(module, &path) {
                        imports.insert(name, path);
                    }
                }
            }
        }
        imports
    }

    /// A path as `module` writes it, from the root on; nothing where it leads out of the crate.
    fn absolute(&self, module: &Names, path: &[String]) -> Option<Names> {
        let ups = path.iter().take_while(|word| *word == "super").count();
        match path.first()?.as_str() {
            "crate" => Some(path[1..].to_vec()),
            "super" => Some([&module[..module.len().checked_sub(ups)?], &path[ups..]].concat()),
            "self" => Some([&module[..], &path[1..]].concat()),
            child => {
                let below = [&module[..], &[child.to_owned()]].concat();
                self.0.contains_key(&below).then(|| [&module[..], path].concat())
            }
        }
    }

    /// The module that has made what a path names.
    fn maker(&self, path: &[String]) -> Names {
        let mut path = path.to_vec();
        // A name that is handed on in a ring is nobody's.
        for _ in 0..16 {
            let mut module = Names::new();
            let mut rest = path.iter();
            let handed_on = loop {
                let Some(word) = rest.next() else { return module };
                let below = [&module[..], std::slice::from_ref(word)].concat();
                if self.0.contains_key(&below) {
                    module = below;
                } else if let Some(from) = self.0[&module].imports.get(word) {
                    break [&from[..], rest.as_slice()].concat();
                } else {
                    return module;
                }
            };
            if handed_on == path {
                return module;
            }
            path = handed_on;
        }
        Names::new()
    }

    fn arrows(&self) -> Arrows {
        let mut arrows = Arrows::new();
        for (from, module) in &self.0 {
            let mut used = Vec::new();
            rooted(&module.tokens, &mut used);
            for path in used.iter().filter_map(|path| self.absolute(from, path)) {
                let to = self.maker(&path);
                let shared = from.iter().zip(&to).take_while(|(one, other)| one == other).count();
                // One is above the other, or they are the same.
                let (Some(one), Some(other)) = (from.get(shared), to.get(shared)) else { continue };
                let example = format!("{} uses {}", from.join("::"), path.join("::"));
                arrows.entry(from[..shared].to_vec()).or_default().entry((one.clone(), other.clone())).or_insert(example);
            }
        }
        arrows
    }
}

/// `cfg(test)`, or `cfg` of that and something else.
fn is_for_tests(attribute: &[Token]) -> bool {
    let [Token::Word(cfg), Token::Group('(', condition)] = attribute else { return false };
    let word = |token: Option<&Token>, wanted: &str| matches!(token, Some(Token::Word(word)) if word == wanted);
    cfg == "cfg"
        && match &condition[..] {
            [Token::Word(all), Token::Group('(', of)] if all == "all" || all == "any" => word(of.first(), "test"),
            _ => word(condition.first(), "test"),
        }
}

/// The paths that begin here, each by the name that `use` would give it: one, or all within braces.
fn paths(tokens: &[Token]) -> Vec<(String, Names)> {
    match tokens {
        [Token::Word(word), Token::Mark(':'), Token::Mark(':'), rest @ ..] => {
            let with = paths(rest).into_iter().map(|(name, path)| {
                if path == ["self"] {
                    (if name == "self" { word.clone() } else { name }, vec![word.clone()])
                } else {
                    (name, [std::slice::from_ref(word), &path].concat())
                }
            });
            let with: Vec<_> = with.collect();
            // What comes behind is no name: `Type::<T>`, `*`.
            if with.is_empty() { vec![(word.clone(), vec![word.clone()])] } else { with }
        }
        [Token::Word(word), Token::Word(renames), Token::Word(name), ..] if renames == "as" => vec![(name.clone(), vec![word.clone()])],
        [Token::Word(word), ..] => vec![(word.clone(), vec![word.clone()])],
        [Token::Group('{', within), ..] => within.split(|token| *token == Token::Mark(',')).flat_map(paths).collect(),
        _ => Vec::new(),
    }
}

/// Every path in `tokens` that says where it begins (`crate`, `super`), and every one that is behind `use`.
fn rooted(tokens: &[Token], found: &mut Vec<Names>) {
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Group(_, within) => rooted(within, found),
            Token::Word(word) => {
                let is_behind_colons = tokens[..at].ends_with(&[Token::Mark(':'), Token::Mark(':')]);
                if word == "use" {
                    found.extend(paths(&tokens[at + 1..]).into_iter().map(|(_, path)| path));
                } else if (word == "crate" || word == "super") && !is_behind_colons {
                    found.extend(paths(&tokens[at..]).into_iter().map(|(_, path)| path).filter(|path| path.len() > 1));
                }
            }
            Token::Mark(_) => {}
        }
    }
}

/// Arrows that are part of a circle, with their examples.
fn circles(arrows: &BTreeMap<(String, String), String>) -> Vec<String> {
    let reaches = |from: &str, to: &str| {
        let (mut seen, mut ahead) = (BTreeSet::new(), vec![from]);
        while let Some(here) = ahead.pop() {
            if here == to {
                return true;
            }
            if seen.insert(here) {
                ahead.extend(arrows.keys().filter(|(from, _)| from == here).map(|(_, next)| next.as_str()));
            }
        }
        false
    };
    let in_circle = arrows.iter().filter(|((from, to), _)| reaches(to, from));
    in_circle.map(|((from, to), example)| format!("{from} -> {to}: {example}")).collect()
}

#[cfg(test)]
mod tests {
    use cargo_metadata::MetadataCommand;

    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Modules::read(&folder.path().join("lib.rs")).unwrap().arrows().values().flat_map(circles).collect()
    }

    #[test]
    fn no_module_is_in_a_circle() {
        let metadata = MetadataCommand::new().no_deps().other_options(["--offline".to_owned()]).exec().unwrap();
        let (mut all, mut used) = (Vec::new(), BTreeSet::new());
        for package in metadata.workspace_packages() {
            let roots = package.targets.iter().filter(|target| target.is_lib() || target.is_bin());
            for root in roots {
                for (parent, mut arrows) in Modules::read(root.src_path.as_std_path()).unwrap().arrows() {
                    for (name, from, whom, _) in STAY.iter().filter(|(name, ..)| *name == package.name.as_str()) {
                        for to in *whom {
                            let known = arrows.remove(&((*from).to_owned(), (*to).to_owned()));
                            used.extend(known.map(|_| (*name, *from, *to)));
                        }
                    }
                    let place = [&[package.name.to_string()], &parent[..]].concat().join("::");
                    all.extend(circles(&arrows).into_iter().map(|arrow| format!("{place}: {arrow}")));
                }
            }
        }
        all.dedup();
        assert!(all.is_empty(), "modules use each other in circles:\n{}", all.join("\n"));
        let listed = STAY.iter().flat_map(|(name, from, whom, _)| whom.iter().map(|to| (*name, *from, *to)));
        let gone: Vec<_> = listed.filter(|arrow| !used.contains(arrow)).collect();
        assert!(gone.is_empty(), "these are no more, take them from STAY: {gone:?}");
    }

    #[test]
    fn neighbours_that_use_each_other_are_found() {
        let two = "mod a; mod b;";
        let b = ("b.rs", "pub struct B; fn f() { crate::a::f() }");
        assert_eq!(found(&[("lib.rs", two), ("a.rs", "use super::b::{self, B as C};"), b]).len(), 2);
        assert_eq!(found(&[("lib.rs", two), ("a.rs", "fn f() { vec![crate::b::B] }"), b]).len(), 2, "in a macro");
        assert_eq!(
            found(&[("lib.rs", "mod a; mod b; pub use b::B;"), ("a.rs", "use crate::B;"), b]).len(),
            2,
            "through what the parent offers"
        );
        assert_eq!(found(&[("lib.rs", two), ("a/mod.rs", "mod c;"), ("a/c.rs", "use crate::b;"), b]).len(), 2, "from below");
        let three = [
            ("lib.rs", "mod a; mod b; mod c;"),
            ("a.rs", "use crate::b::B; struct A;"),
            ("b.rs", "use crate::c::C; struct B;"),
            ("c.rs", "use crate::a::A; struct C;"),
        ];
        assert_eq!(found(&three).len(), 3);
    }

    #[test]
    fn parents_tests_and_words_are_no_circle() {
        let b = ("b.rs", "use crate::a::A;");
        let two = "mod a; mod b; struct Shared; use a::A;";
        for a in [
            "pub struct A; use super::Shared;",
            "//! See crate::b::B.\nconst B: &str = \"crate::b::B\";",
            "#[cfg(test)] mod tests { use crate::b::B; }",
            "#[cfg(test)] use crate::b::B; struct A;",
            "use other::b::B;",
        ] {
            assert_eq!(found(&[("lib.rs", two), ("a.rs", a), b]), [] as [String; 0], "{a}");
        }
    }
}
