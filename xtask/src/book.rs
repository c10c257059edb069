//! The documentation, checked: every link leads somewhere, every page can be come to, every message that a page explains is said by some program.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

fn root() -> PathBuf {
    normal(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
}

/// Without `.` and `..`, of a path that need not exist.
fn normal(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut normal, component| {
        match component {
            Component::ParentDir => drop(normal.pop()),
            Component::CurDir => {}
            other => normal.push(other),
        }
        normal
    })
}

/// Files below `folder` whose names end so.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|of| of == extension) {
            found.push(path);
        }
    }
    found
}

/// Lines that are prose: no code, neither fenced nor indented, and none within backticks.
fn prose(text: &str) -> String {
    let mut fenced = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced && !line.starts_with("    ") {
            prose.extend(line.split('`').step_by(2));
            prose.push('\n');
        }
    }
    prose
}

/// Where the links of a page lead to.
fn links(text: &str) -> Vec<String> {
    let prose = prose(text);
    let targets = prose.split("](").skip(1).filter_map(|rest| rest.split([')', ' ', '\n']).next());
    targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:")).map(str::to_owned).collect()
}

/// The anchor of a heading, as GitHub and mdBook form it.
fn anchor(heading: &str) -> String {
    let shown = heading.trim().trim_start_matches('#').trim().to_lowercase();
    let kept = shown.chars().filter(|letter| letter.is_alphanumeric() || [' ', '-', '_'].contains(letter));
    kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let is_heading = |line: &&str| {
        fenced ^= line.trim_start().starts_with("```");
        !fenced && line.starts_with('#')
    };
    text.lines().filter(is_heading).map(anchor).collect()
}

fn pages() -> Vec<PathBuf> {
    let mut pages = files(&root().join("docs"), "md");
    pages.extend(["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"].map(|page| root().join(page)));
    pages
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for link in links(&text) {
            let (path, anchor) = link.split_once('#').map_or((link.as_str(), None), |(path, anchor)| (path, Some(anchor)));
            let target = if path.is_empty() { page.clone() } else { normal(&page.with_file_name(path)) };
            let leads = match (fs::read_to_string(&target), anchor) {
                (Ok(text), Some(anchor)) if target.extension().is_some_and(|of| of == "md") => anchors(&text).contains(anchor),
                _ => target.exists(),
            };
            if !leads {
                broken.push(format!("{}: {link}", page.strip_prefix(root()).unwrap_or(&page).display()));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

#[test]
fn every_page_can_be_come_to() {
    let mut reached = BTreeSet::new();
    let mut waiting = vec![root().join("docs/SUMMARY.md")];
    while let Some(page) = waiting.pop() {
        if !reached.insert(page.clone()) {
            continue;
        }
        if page.is_dir() {
            waiting.extend(files(&page, "md"));
        } else if page.extension().is_some_and(|of| of == "md") {
            let text = fs::read_to_string(&page).unwrap_or_default();
            let targets = links(&text).into_iter().filter_map(|link| link.split('#').next().map(str::to_owned));
            waiting.extend(targets.filter(|path| !path.is_empty()).map(|path| normal(&page.with_file_name(path))));
        }
    }
    let lost: Vec<_> = files(&root().join("docs"), "md").into_iter().filter(|page| !reached.contains(page)).collect();
    assert!(lost.is_empty(), "no page leads to {lost:?}: docs/README.md is the place");
}

#[test]
fn a_message_that_is_explained_is_said() {
    let page = fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let sources: String = ["cni-plugin/src", "ipam", "cli/src", "datapath/src", "cni-spec/src", "node-api/src"]
        .iter()
        .flat_map(|folder| files(&root().join(folder), "rs"))
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    for message in page.lines().filter_map(|line| line.strip_prefix("## `")?.strip_suffix('`')) {
        assert!(sources.contains(message), "no program says {message:?}");
    }
}

#[test]
fn links_are_told_from_code() {
    let text = "[a](a.md#b) `[x](y)` [web](https://x/y)\n```\n[no](no.md)\n```\n    [no](no.md)\n![p](p.svg)\n";
    assert_eq!(links(text), ["a.md#b", "p.svg"]);
    assert_eq!(anchor("## barewire install, `barewire` uninstall"), "barewire-install-barewire-uninstall");
    assert_eq!(anchor("### What's here: a/b"), "whats-here-ab");
}
