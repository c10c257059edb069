//! Tables of docs that are written from the code: `cargo xtask docs` writes them, the stage `reference` finds those that differ.
//!
//! An example of a crate prints sections, each behind its marker `<!-- generated: NAME -->`. A page has the same marker, and
//! `<!-- end of generated -->` behind what is written; all else in it is written by hand.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::process;
use crate::workspace::Workspace;

/// Examples that print sections.
const PRINTED_BY: [&str; 2] = ["barewired_reference", "fleet_reference"];
const BEGIN: &str = "<!-- generated: ";
const END: &str = "<!-- end of generated -->";
/// What has to be run where a page differs.
pub(crate) const COMMAND: &str = "cargo xtask docs";

/// Text by the name in its marker.
type Sections = BTreeMap<String, String>;

/// Writes what differs, and names it.
pub(crate) fn write(workspace: &Workspace) -> Result<()> {
    for (page, text) in differing(workspace)? {
        fs::write(&page, text).with_context(|| page.display().to_string())?;
        eprintln!("written: {}", page.display());
    }
    Ok(())
}

/// Fails where a page is not what the code says.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let differing = differing(workspace)?;
    let pages: Vec<_> =
        differing.iter().map(|(page, _)| page.strip_prefix(&workspace.root).unwrap_or(page).display().to_string()).collect();
    ensure!(pages.is_empty(), "{} not what the code says: run `{COMMAND}` and commit what it writes", pages.join(", "));
    Ok(())
}

/// Pages that are to be written, with their text.
fn differing(workspace: &Workspace) -> Result<Vec<(PathBuf, String)>> {
    let mut sections = Sections::new();
    for example in PRINTED_BY {
        // Without --package: all packages' features are the same as in other stages, and nothing is compiled twice.
        let printed = process::stdout_of(&mut workspace.cargo(&["run", "--quiet", "--example", example]))?;
        sections.extend(printed_sections(&printed).with_context(|| example.to_owned())?);
    }
    let mut unused = sections.clone();
    let mut differing = Vec::new();
    for page in pages(&workspace.root.join("docs"))? {
        let text = fs::read_to_string(&page)?;
        let written = filled(&text, &sections, &mut unused).with_context(|| page.display().to_string())?;
        if written != text {
            differing.push((page, written));
        }
    }
    ensure!(unused.is_empty(), "no page of docs has {:?}: write `{BEGIN}… -->` and `{END}` where they belong", unused.keys());
    Ok(differing)
}

fn pages(docs: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(docs).with_context(|| docs.display().to_string())?;
    let mut pages = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    pages.sort();
    Ok(pages)
}

fn name_in(line: &str) -> Option<&str> {
    line.strip_prefix(BEGIN)?.strip_suffix(" -->")
}

fn printed_sections(printed: &str) -> Result<Sections> {
    let mut sections = Sections::new();
    let mut name = None;
    for line in printed.lines() {
        if let Some(begun) = name_in(line) {
            ensure!(sections.insert(begun.to_owned(), String::new()).is_none(), "{begun:?} is printed twice");
            name = Some(begun);
        } else {
            let text = name.and_then(|name| sections.get_mut(name)).context("text without a marker")?;
            text.push_str(line);
            text.push('\n');
        }
    }
    ensure!(!sections.is_empty(), "nothing was printed");
    Ok(sections)
}

/// A page with its sections as they are to be; those that it has are no longer `unused`.
fn filled(page: &str, sections: &Sections, unused: &mut Sections) -> Result<String> {
    let mut text = String::with_capacity(page.len());
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        text.push_str(line);
        text.push('\n');
        let Some(name) = name_in(line) else { continue };
        let Some(section) = sections.get(name) else { bail!("nothing prints {name:?}: there are {:?}", sections.keys()) };
        unused.remove(name);
        ensure!(lines.any(|line| line == END), "{name:?} has no `{END}`");
        text.push('\n');
        text.push_str(section.trim_end());
        text.push_str("\n\n");
        text.push_str(END);
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# Title\n\n<!-- generated: keys -->\n\nold\n\n<!-- end of generated -->\n\nBy hand.\n";

    #[test]
    fn a_page_gets_its_sections_and_keeps_all_else() {
        let sections = printed_sections("<!-- generated: keys -->\n| a |\n| b |\n\n").unwrap();
        let mut unused = sections.clone();
        let written = filled(PAGE, &sections, &mut unused).unwrap();
        assert_eq!(written, PAGE.replace("old", "| a |\n| b |"));
        assert_eq!(filled(&written, &sections, &mut unused).unwrap(), written, "once more changes nothing");
        assert!(unused.is_empty());
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let sections = printed_sections("<!-- generated: other -->\nx\n").unwrap();
        let fault = filled(PAGE, &sections, &mut sections.clone()).unwrap_err().to_string();
        assert!(fault.contains("\"keys\"") && fault.contains("\"other\""), "{fault}");
        let sections = printed_sections("<!-- generated: keys -->\nx\n").unwrap();
        let endless = PAGE.replace(END, "");
        assert!(filled(&endless, &sections, &mut sections.clone()).unwrap_err().to_string().contains("has no"));
        assert!(printed_sections("text\n").is_err() && printed_sections("").is_err());
    }
}
