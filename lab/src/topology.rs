//! Topology files: containerlab's own format, the part of it that a lab of network namespaces can honour.
//!
//! Source: containerlab's manual, "Topology definition" and "Nodes", and its JSON schema. Values are inherited as there:
//! `defaults`, then the node's kind in `kinds`, then the node; maps are merged by key, `exec` and `binds` are joined.
//! A key that containerlab knows and this runner does not honour is a [`Topology::warnings`] entry; one that neither knows is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::{Context, Error, Result};

/// MTU of a link that names none, as in containerlab.
const DEFAULT_MTU: u32 = 9500;

/// Longest interface name the kernel takes (`IFNAMSIZ` less the terminating zero).
const INTERFACE_NAME_MAX: usize = 15;

/// Longest lab and node name: both become parts of a host name and of socket paths, which end at 108 bytes.
const NAME_MAX: usize = 32;

/// Node keys that the runner honours.
const HONOURED: [&str; 10] = ["kind", "image", "cmd", "entrypoint", "exec", "binds", "env", "labels", "sysctls", "network-mode"];

/// Node keys that containerlab knows (0.69, `NodeDefinition`) and the runner passes over.
const PASSED_OVER: [&str; 33] = [
    "aliases",
    "auto-remove",
    "cap-add",
    "certificate",
    "components",
    "config",
    "cpu",
    "cpu-set",
    "devices",
    "dns",
    "enforce-startup-config",
    "env-files",
    "extras",
    "group",
    "healthcheck",
    "image-pull-policy",
    "kernel",
    "license",
    "memory",
    "mgmt-ipv4",
    "mgmt-ipv6",
    "ports",
    "position",
    "restart-policy",
    "runtime",
    "sandbox",
    "shm-size",
    "stages",
    "startup-config",
    "startup-delay",
    "suppress-startup-config",
    "type",
    "user",
];

/// A topology that has been checked as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// Name of the lab.
    pub name: String,
    /// The file, absolute: relative binds start at its directory.
    pub file: PathBuf,
    /// The nodes by name.
    pub nodes: BTreeMap<String, NodeSpec>,
    /// Point-to-point links.
    pub links: Vec<LinkSpec>,
    /// What was passed over, one sentence each.
    pub warnings: Vec<String>,
}

/// A node after inheritance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeSpec {
    /// The node's main program (`entrypoint` then `cmd`), empty for none.
    pub program: Vec<String>,
    /// Commands run in the node once its links are there.
    pub exec: Vec<Vec<String>>,
    /// Files and directories of the host seen in the node.
    pub binds: Vec<Bind>,
    /// Environment of `program` and of everything that is executed in the node.
    pub env: BTreeMap<String, String>,
    /// Free labels; `barewire.role` says what the node is to the lab.
    pub labels: BTreeMap<String, String>,
    /// Kernel parameters of the node's namespaces, in dotted form.
    pub sysctls: BTreeMap<String, String>,
}

/// A file or directory of the host at a path of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Absolute path on the host.
    pub source: PathBuf,
    /// Absolute path in the node.
    pub target: PathBuf,
    /// Whether the node may not write it.
    pub read_only: bool,
}

/// A veth pair between two nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSpec {
    /// Its two ends.
    pub ends: [Endpoint; 2],
    /// MTU of both ends in bytes.
    pub mtu: u32,
}

/// One end of a link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Node name.
    pub node: String,
    /// Interface name in the node.
    pub interface: String,
}

impl Topology {
    /// Reads and checks a topology file.
    ///
    /// # Errors
    /// When it cannot be read, is not YAML, or names something that cannot be deployed.
    pub fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).context(|| format!("read topology {}", file.display()))?;
        let file = file.canonicalize().context(|| format!("resolve {}", file.display()))?;
        Self::parse(&text, &file)
    }

    /// Checks a topology's text; `file` is its absolute path.
    ///
    /// # Errors
    /// As [`Topology::read`].
    pub fn parse(text: &str, file: &Path) -> Result<Self> {
        Parser { file, warnings: Vec::new() }.topology(text).map_err(|message| Error::Topology { file: file.to_owned(), message })
    }

    /// Nodes whose label `barewire.role` is `role`, in order of name.
    pub fn with_role<'a>(&'a self, role: &'a str) -> impl Iterator<Item = &'a str> {
        self.nodes.iter().filter(move |(_, node)| node.labels.get(ROLE).is_some_and(|value| value == role)).map(|(name, _)| name.as_str())
    }
}

/// Label that says what a node is to the lab: `node`, `fabric` or `internet`.
pub const ROLE: &str = "barewire.role";

type Checked<T> = std::result::Result<T, String>;

struct Parser<'a> {
    file: &'a Path,
    warnings: Vec<String>,
}

impl Parser<'_> {
    fn topology(mut self, text: &str) -> Checked<Topology> {
        let root: Value = serde_saphyr::from_str(text).map_err(|error| format!("not YAML: {error}"))?;
        let root = object(&root, "the file")?;
        self.judge_keys(root, "the file", &["name", "topology", "mgmt"], &["prefix", "settings", "debug"])?;
        let name = root.get("name").ok_or("`name` is missing: give the lab a name")?;
        let name = name_of(name, "`name`")?;

        let topology = object(root.get("topology").ok_or("`topology` is missing")?, "`topology`")?;
        self.judge_keys(topology, "`topology`", &["defaults", "kinds", "nodes", "links"], &["groups"])?;
        let defaults = optional_object(topology, "defaults")?;
        let kinds = optional_object(topology, "kinds")?;

        let mut nodes = BTreeMap::new();
        for (node, own) in optional_object(topology, "nodes")? {
            let node = name_of(&Value::from(node), "a node's name")?;
            let own = match own {
                Value::Null => Map::new(),
                other => object(&other, &format!("node {node}"))?.clone(),
            };
            let spec = self.node(&node, own, &defaults, &kinds)?;
            nodes.insert(node, spec);
        }
        if nodes.is_empty() {
            return Err("`topology.nodes` is empty: a lab has at least one node".to_owned());
        }
        let links = self.links(topology.get("links"), &nodes)?;
        Ok(Topology { name, file: self.file.to_owned(), nodes, links, warnings: self.warnings })
    }

    fn node(
        &mut self,
        node: &str,
        own: Map<String, Value>,
        defaults: &Map<String, Value>,
        kinds: &Map<String, Value>,
    ) -> Checked<NodeSpec> {
        let place = format!("node {node}");
        let kind = own.get("kind").or_else(|| defaults.get("kind"));
        let kind = kind.ok_or_else(|| format!("{place}: `kind` is missing: write `kind: linux`"))?;
        if kind != "linux" {
            return Err(format!("{place}: kind {kind} cannot be deployed here; only `linux` can"));
        }
        let of_kind = optional_object(kinds, "linux")?;
        let mut merged = Map::new();
        for layer in [defaults, &of_kind, &own] {
            self.judge_keys(layer, &place, &HONOURED, &PASSED_OVER)?;
            for (key, value) in layer {
                inherit(&mut merged, key, value);
            }
        }
        if let Some(mode) = merged.get("network-mode").filter(|mode| *mode != "none") {
            self.warn(format!("{place}: network-mode {mode} is passed over: a node has the links of the topology and no others"));
        }
        let words = |key: &str| match merged.get(key) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(value) => split(&text(value, &format!("{place}: `{key}`"))?, &format!("{place}: `{key}`")),
        };
        let mut program = words("entrypoint")?;
        program.extend(words("cmd")?);
        let exec = texts(&merged, "exec", &place)?;
        let binds = texts(&merged, "binds", &place)?;
        Ok(NodeSpec {
            program,
            exec: exec.iter().map(|line| split(line, &format!("{place}: `exec`"))).collect::<Checked<_>>()?,
            binds: binds.iter().map(|bind| self.bind(bind, &place)).collect::<Checked<_>>()?,
            env: text_map(&merged, "env", &place)?,
            labels: text_map(&merged, "labels", &place)?,
            sysctls: text_map(&merged, "sysctls", &place)?,
        })
    }

    fn bind(&mut self, bind: &str, place: &str) -> Checked<Bind> {
        let wrong = || format!("{place}: bind {bind:?}: write `source:target` or `source:target:ro`, with an absolute target");
        let mut parts = bind.split(':');
        let (Some(source), Some(target)) = (parts.next(), parts.next()) else {
            return Err(wrong());
        };
        let options = parts.next().unwrap_or("rw");
        if source.is_empty() || !target.starts_with('/') || parts.next().is_some() {
            return Err(wrong());
        }
        let mut read_only = false;
        for option in options.split(',') {
            match option {
                "ro" => read_only = true,
                "rw" => read_only = false,
                other => self.warn(format!("{place}: bind {bind:?}: option {other} is passed over")),
            }
        }
        let directory = self.file.parent().unwrap_or(Path::new("/"));
        Ok(Bind { source: directory.join(source), target: target.into(), read_only })
    }

    fn links(&mut self, links: Option<&Value>, nodes: &BTreeMap<String, NodeSpec>) -> Checked<Vec<LinkSpec>> {
        let links = match links {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(links)) => links,
            Some(other) => return Err(format!("`topology.links` is {other}: write a list")),
        };
        let mut taken = BTreeSet::new();
        let mut checked = Vec::new();
        for (number, link) in links.iter().enumerate() {
            let place = format!("link {}", number + 1);
            let link = object(link, &place)?;
            if let Some(form) = link.get("type") {
                return Err(format!(
                    "{place}: the long form (`type: {form}`) is not supported: write `endpoints: [\"a:eth1\", \"b:eth1\"]`"
                ));
            }
            self.judge_keys(link, &place, &["endpoints", "mtu"], &["labels", "vars"])?;
            let ends = texts(link, "endpoints", &place)?.iter().map(|end| endpoint(end, nodes, &place)).collect::<Checked<Vec<_>>>()?;
            let ends: [Endpoint; 2] =
                ends.try_into().map_err(|ends: Vec<_>| format!("{place}: has {} endpoints: a link has two", ends.len()))?;
            for end in &ends {
                if !taken.insert(end.clone()) {
                    return Err(format!("{place}: {}:{} is on another link already", end.node, end.interface));
                }
            }
            checked.push(LinkSpec { ends, mtu: mtu(link, &place)? });
        }
        Ok(checked)
    }

    fn judge_keys(&mut self, keys: &Map<String, Value>, place: &str, honoured: &[&str], passed_over: &[&str]) -> Checked<()> {
        for key in keys.keys() {
            if passed_over.contains(&key.as_str()) {
                self.warn(format!("{place}: `{key}` is passed over: this runner does not support it"));
            } else if !honoured.contains(&key.as_str()) {
                return Err(format!("{place}: key `{key}` is not known; it may be one of: {}", honoured.join(", ")));
            }
        }
        Ok(())
    }

    fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }
}

fn mtu(link: &Map<String, Value>, place: &str) -> Checked<u32> {
    let Some(mtu) = link.get("mtu") else {
        return Ok(DEFAULT_MTU);
    };
    // 1280 is the least that IPv6 works on (RFC 8200 section 5), 65535 the most a veth takes.
    mtu.as_u64()
        .and_then(|bytes| u32::try_from(bytes).ok())
        .filter(|bytes| (1280..=65535).contains(bytes))
        .ok_or_else(|| format!("{place}: mtu {mtu}: write a number between 1280 and 65535"))
}

fn endpoint(end: &str, nodes: &BTreeMap<String, NodeSpec>, place: &str) -> Checked<Endpoint> {
    let (node, interface) = end.split_once(':').ok_or_else(|| format!("{place}: endpoint {end:?}: write `node:interface`"))?;
    if !nodes.contains_key(node) {
        return Err(format!("{place}: endpoint {end:?}: there is no node {node:?}"));
    }
    let legal = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
    if interface.is_empty() || interface.len() > INTERFACE_NAME_MAX || !interface.bytes().all(legal) {
        return Err(format!(
            "{place}: endpoint {end:?}: {interface:?} is no interface name (1 to {INTERFACE_NAME_MAX} characters, no blank, no slash)"
        ));
    }
    Ok(Endpoint { node: node.to_owned(), interface: interface.to_owned() })
}

fn inherit(merged: &mut Map<String, Value>, key: &str, value: &Value) {
    match (merged.get_mut(key), value) {
        (Some(Value::Object(old)), Value::Object(new)) => old.extend(new.clone()),
        (Some(Value::Array(old)), Value::Array(new)) => old.extend(new.iter().cloned()),
        _ => {
            merged.insert(key.to_owned(), value.clone());
        }
    }
}

fn object<'a>(value: &'a Value, place: &str) -> Checked<&'a Map<String, Value>> {
    value.as_object().ok_or_else(|| format!("{place} is {value}: write a mapping"))
}

fn optional_object(of: &Map<String, Value>, key: &str) -> Checked<Map<String, Value>> {
    match of.get(key) {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(value) => object(value, &format!("`{key}`")).cloned(),
    }
}

fn name_of(value: &Value, place: &str) -> Checked<String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    match value.as_str() {
        Some(name) if !name.is_empty() && name.len() <= NAME_MAX && name.bytes().all(legal) => Ok(name.to_owned()),
        _ => Err(format!("{place} is {value}: write 1 to {NAME_MAX} letters, digits and hyphens")),
    }
}

fn text(value: &Value, place: &str) -> Checked<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(truth) => Ok(truth.to_string()),
        other => Err(format!("{place} is {other}: write a string")),
    }
}

fn texts(of: &Map<String, Value>, key: &str, place: &str) -> Checked<Vec<String>> {
    match of.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(values)) => values.iter().map(|value| text(value, &format!("{place}: an entry of `{key}`"))).collect(),
        Some(other) => Err(format!("{place}: `{key}` is {other}: write a list")),
    }
}

fn text_map(of: &Map<String, Value>, key: &str, place: &str) -> Checked<BTreeMap<String, String>> {
    match of.get(key) {
        None | Some(Value::Null) => Ok(BTreeMap::new()),
        Some(Value::Object(map)) => {
            map.iter().map(|(name, value)| Ok((name.clone(), text(value, &format!("{place}: {key} `{name}`"))?))).collect()
        }
        Some(other) => Err(format!("{place}: `{key}` is {other}: write a mapping")),
    }
}

fn split(line: &str, place: &str) -> Checked<Vec<String>> {
    shlex::split(line)
        .filter(|words| !words.is_empty())
        .ok_or_else(|| format!("{place}: {line:?} is no command line: empty, or a quote is not closed"))
}

#[cfg(test)]
#[path = "topology_tests.rs"]
mod tests;
