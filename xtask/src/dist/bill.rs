//! The bill of materials: every crate that is in the programs of a release, with its version, licence and digest, as CycloneDX 1.5
//! (<https://cyclonedx.org/docs/1.5/json/>).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};
use serde_json::{Value, json};

use super::package::Named;
use crate::workspace::{self, Workspace};

/// Packages whose programs are released.
const RELEASED: [&str; 4] = ["barewired", "barewire-cli", "cni-plugin", "ebpf"];

/// Writes it into `release`; its name.
pub(super) fn write(workspace: &Workspace, named: &Named<'_>, release: &Path) -> Result<String> {
    let lock = fs::read_to_string(workspace.root.join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let bill = bill(&resolved(&workspace.root, named.architecture)?, &digests(&lock)?, named.version)?;
    let name = format!("{}.cdx.json", named.stem());
    fs::write(release.join(&name), format!("{bill:#}\n")).with_context(|| format!("cannot write {name}"))?;
    Ok(name)
}

/// What is compiled for Linux on `architecture`. All of it has been fetched by whoever has built it; what other systems need is not asked for.
fn resolved(root: &Path, architecture: &str) -> Result<Metadata> {
    let triple = format!("{architecture}-unknown-linux-gnu");
    let mut command = MetadataCommand::new();
    command.cargo_path(workspace::cargo()).current_dir(root);
    command.other_options(["--locked".to_owned(), "--filter-platform".to_owned(), triple]);
    command.exec().context("cargo metadata")
}

/// Each crate's digest, by name and version.
fn digests(lock: &str) -> Result<BTreeMap<(String, String), String>> {
    let lock: toml::Value = toml::from_str(lock).context("Cargo.lock")?;
    let packages = lock.get("package").and_then(toml::Value::as_array).context("Cargo.lock has no packages")?;
    let text = |package: &toml::Value, key: &str| package.get(key).and_then(toml::Value::as_str).map(str::to_owned);
    let entry = |package| Some(((text(package, "name")?, text(package, "version")?), text(package, "checksum")?));
    Ok(packages.iter().filter_map(entry).collect())
}

/// What is compiled into the programs: not what builds or tests them.
fn bill(metadata: &Metadata, digests: &BTreeMap<(String, String), String>, version: &str) -> Result<Value> {
    let resolved = metadata.resolve.as_ref().context("cargo metadata resolves nothing")?;
    let nodes: BTreeMap<&PackageId, _> = resolved.nodes.iter().map(|node| (&node.id, node)).collect();
    let is_released = |name: &str| RELEASED.contains(&name);
    let mut waiting: Vec<&PackageId> =
        metadata.packages.iter().filter(|package| is_released(&package.name)).map(|package| &package.id).collect();
    let mut included = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if included.insert(id) {
            let dependencies = nodes.get(id).map(|node| node.deps.as_slice()).unwrap_or_default();
            let is_linked = |kind: &cargo_metadata::DepKindInfo| kind.kind == DependencyKind::Normal;
            waiting.extend(
                dependencies.iter().filter(|dependency| dependency.dep_kinds.iter().any(is_linked)).map(|dependency| &dependency.pkg),
            );
        }
    }
    let packages = metadata.packages.iter().filter(|package| included.contains(&package.id));
    let mut components: Vec<(String, Value)> = packages
        .map(|package| {
            let (name, version) = (package.name.to_string(), package.version.to_string());
            let reference = format!("pkg:cargo/{name}@{version}");
            let mut component = json!({ "type": "library", "bom-ref": reference, "name": name, "version": version, "purl": reference });
            if let Some(licence) = &package.license {
                // An old way to write OR, which SPDX does not know.
                component["licenses"] = json!([{ "expression": licence.replace('/', " OR ") }]);
            }
            if let Some(digest) = digests.get(&(name, version)) {
                component["hashes"] = json!([{ "alg": "SHA-256", "content": digest }]);
            }
            (reference, component)
        })
        .collect();
    components.sort_by(|one, other| one.0.cmp(&other.0));
    let components: Vec<Value> = components.into_iter().map(|(_, component)| component).collect();
    let program = json!({ "type": "application", "name": "barewire", "version": version });
    Ok(
        json!({ "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "metadata": { "component": program }, "components": components }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bill_has_what_is_linked_and_nothing_else() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let digests = digests(&fs::read_to_string(root.join("Cargo.lock")).unwrap()).unwrap();
        let bill = bill(&resolved(&root, std::env::consts::ARCH).unwrap(), &digests, "1.2.3").unwrap();
        let components = bill["components"].as_array().unwrap();
        let named = |name: &str| components.iter().find(|component| component["name"] == name);
        for linked in ["redb", "tokio", "clap", "aya", "barewired", "datapath"] {
            assert!(named(linked).is_some(), "no {linked}");
        }
        for other in ["proptest", "xtask", "lab", "criterion", "cloudsim"] {
            assert!(named(other).is_none(), "{other} is in no program of a release");
        }
        let redb = named("redb").unwrap();
        assert!(redb["hashes"][0]["content"].as_str().is_some_and(|digest| digest.len() == 64), "{redb}");
        assert!(components.iter().all(|component| component["licenses"][0]["expression"].is_string()), "each has a licence");
    }
}
