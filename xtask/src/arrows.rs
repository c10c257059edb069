//! Who may depend on whom: the arrows of ARCHITECTURE.md, as a test over what cargo knows.

use std::collections::BTreeSet;

use cargo_metadata::{DependencyKind, Metadata, Package};

/// The crates of ours that a crate may use at run time. One that is not listed is free.
const MAY_USE: [(&str, &[&str]); 21] = [
    ("cni-spec", &[]),
    ("ebpf", &[]),
    // It asks the daemon over HTTP, and over its socket for the one thing that it changes; a plan of teams is made of files, by the leader's
    // own code.
    ("barewire-cli", &["fleet-plans", "node-api"]),
    ("cloudsim", &[]),
    ("conformance-tests", &[]),
    ("lab", &["cloudsim", "conformance-tests"]),
    ("node-api", &["cni-spec"]),
    ("cni-plugin", &["cni-spec", "node-api"]),
    ("datapath", &["ebpf"]),
    ("ipam-pool", &["cni-spec", "node-api"]),
    ("ipam-supply", &["node-api", "ipam-pool"]),
    ("ipam-clouds", &["ipam-pool", "ipam-supply"]),
    ("ipam-state", &["cni-spec", "node-api", "ipam-pool", "ipam-supply"]),
    (
        "barewired",
        &[
            "cni-spec",
            "node-api",
            "datapath",
            "ipam-pool",
            "ipam-supply",
            "ipam-clouds",
            "ipam-state",
            "services",
            "fleet-api",
            "fleet-client",
        ],
    ),
    ("simulation", &["node-api", "ipam-pool", "ipam-supply", "ipam-clouds", "cloudsim", "fleet-plans", "fleet-simulation"]),
    ("fleet-api", &[]),
    ("fleet-client", &["fleet-api"]),
    ("services", &["fleet-api"]),
    ("fleet", &["fleet-api", "fleet-client", "fleet-plans"]),
    ("fleet-plans", &[]),
    ("fleet-simulation", &["fleet-plans"]),
];

/// All that the pure crates may use of others: nothing that does I/O or knows the time.
const PURE: [(&str, &[&str]); 5] = [
    ("ipam-pool", &["ipnetwork", "serde", "thiserror"]),
    ("ipam-supply", &["ipnetwork", "serde"]),
    ("fleet-api", &["bytes", "prost", "thiserror", "twox-hash", "zstd"]),
    ("services", &["ipnetwork", "prost"]),
    ("fleet-plans", &["serde", "serde_json", "thiserror", "twox-hash"]),
];

/// Crates of others that live in one crate of ours alone, by how their names begin.
const LIVES_IN: [(&str, &[&str]); 11] = [
    ("redb", &["ipam-state"]),
    // The simulation hands out credentials, of that crate's type.
    ("aws-credential-types", &["ipam-clouds", "simulation"]),
    ("aws-", &["ipam-clouds"]),
    ("hyper-rustls", &["ipam-clouds"]),
    ("rustls", &["ipam-clouds", "fleet", "fleet-client"]),
    ("tokio-rustls", &["fleet", "fleet-client"]),
    ("kube", &["fleet"]),
    ("k8s-openapi", &["fleet"]),
    ("quick-xml", &["ipam-clouds"]),
    ("rtnetlink", &["barewired"]),
    ("aya-ebpf", &["ebpf"]),
];

/// Every arrow of `metadata` that may not be, in words; none where all is well.
pub(crate) fn forbidden(metadata: &Metadata) -> Vec<String> {
    let ours: BTreeSet<&str> = metadata.workspace_packages().iter().map(|package| package.name.as_str()).collect();
    metadata.workspace_packages().into_iter().flat_map(|package| forbidden_of(package, &ours)).collect()
}

fn forbidden_of(package: &Package, ours: &BTreeSet<&str>) -> Vec<String> {
    let from = package.name.as_str();
    let run_time = package.dependencies.iter().filter(|dependency| dependency.kind == DependencyKind::Normal);
    run_time.filter_map(|dependency| judge(from, &dependency.name, ours.contains(dependency.name.as_str()))).collect()
}

/// Why `from` may not use `to`; nothing where it may.
fn judge(from: &str, to: &str, is_ours: bool) -> Option<String> {
    let rule = |rules: &'static [(&str, &[&str])]| rules.iter().find(|(name, _)| *name == from).map(|(_, allowed)| *allowed);
    if is_ours {
        let allowed = rule(&MAY_USE)?;
        return (!allowed.contains(&to)).then(|| format!("{from} uses {to}; of this workspace it may use {allowed:?}"));
    }
    if let Some(allowed) = rule(&PURE)
        && !allowed.contains(&to)
    {
        return Some(format!("{from} uses {to}; it is pure, and may use {allowed:?}"));
    }
    let (_, homes) = LIVES_IN.iter().find(|(prefix, _)| to.starts_with(prefix))?;
    (!homes.contains(&from)).then(|| format!("{from} uses {to}, which is for {homes:?} alone"))
}

#[cfg(test)]
mod tests {
    use cargo_metadata::MetadataCommand;

    use super::*;

    #[test]
    fn arrows_point_down_only() {
        let metadata = MetadataCommand::new().no_deps().other_options(["--offline".to_owned()]).exec().unwrap();
        assert_eq!(forbidden(&metadata), [] as [String; 0]);
        let ours: BTreeSet<_> = metadata.workspace_packages().iter().map(|package| package.name.to_string()).collect();
        let named = MAY_USE.iter().flat_map(|(from, to)| to.iter().chain([from])).chain(PURE.iter().map(|(from, _)| from));
        let gone: Vec<_> = named.filter(|name| !ours.contains(**name)).collect();
        assert!(gone.is_empty(), "rules for packages that are no more: {gone:?}");
    }

    #[test]
    fn an_arrow_that_points_up_is_seen() {
        for (from, to, is_ours) in [
            ("ipam-pool", "tokio", false),
            ("ipam-supply", "hyper", false),
            ("ipam-supply", "ipam-clouds", true),
            ("ipam-clouds", "datapath", true),
            ("ipam-clouds", "redb", false),
            ("ipam-state", "barewired", true),
            ("datapath", "ipam-state", true),
            ("barewired", "aws-config", false),
            ("simulation", "barewired", true),
            ("conformance-tests", "cloudsim", true),
            ("lab", "datapath", true),
            ("barewire-cli", "barewired", true),
            ("fleet-api", "tokio", false),
            ("fleet-api", "node-api", true),
            ("fleet", "datapath", true),
            ("barewired", "kube", false),
            ("fleet-plans", "tokio", false),
            ("fleet-plans", "fleet", true),
        ] {
            assert!(judge(from, to, is_ours).is_some(), "{from} -> {to}");
        }
        assert_eq!(judge("barewired", "ipam-pool", true), None);
        assert_eq!(judge("barewired", "tokio", false), None);
    }
}
