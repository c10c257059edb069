//! `source.kind = "aws"`, `"azure"` or `"gcp"`: which cloud, and how much is asked of it.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::Uri;
use ipam_pool::range::{AddressRange, Family};
use ipam_supply::EXCLUDED_MAX;
use ipam_supply::sizing::{Sizing, Thousandths};
use ipnetwork::IpNetwork;

use super::keys::{CLOUDS, FIXED, KEYS, Key};
use super::reader::Reader;

/// Addresses that a cloud assigns to the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudSource {
    /// Which cloud.
    pub cloud: Cloud,
    /// `source.families`: a pod gets one address of each.
    pub families: Vec<Family>,
    /// `source.exclude`: no pod gets one of these.
    pub exclude: Vec<AddressRange>,
    /// `pool.min_free`, of a block.
    pub min_free: Thousandths,
    /// `pool.max_free`, of a block.
    pub max_free: Thousandths,
    /// `pool.release_after_seconds`, in milliseconds.
    pub release_after_millis: u64,
    /// `pool.wait_seconds`: how long a pod waits for the cloud where the pool is empty.
    pub wait: Duration,
    /// `cluster.nodes`: how many nodes may start together; 0 where nothing was declared.
    pub cluster_nodes: u64,
}

/// A cloud, and where its services are if not where they always are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cloud {
    /// `kind = "aws"`
    Aws {
        /// `source.metadata`
        metadata: Option<Uri>,
        /// `source.interfaces = "all"`: further interfaces that nobody has tagged are managed as well.
        all_interfaces: bool,
        /// None for `source.api = false`.
        api: Option<AwsApi>,
    },
    /// `kind = "azure"`
    Azure {
        /// `source.metadata`
        metadata: Option<Uri>,
        /// `source.wireserver`
        wireserver: Option<Uri>,
    },
    /// `kind = "gcp"`
    Gcp {
        /// `source.metadata`
        metadata: Option<Uri>,
    },
}

/// How the EC2 API is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsApi {
    /// `source.api_endpoint`; none for the region's own.
    pub endpoint: Option<Uri>,
    /// `source.subnets` for further interfaces; none for the primary interface's.
    pub subnets: Vec<String>,
    /// `source.subnet_tags`, in place of `source.subnets`
    pub subnet_tags: BTreeMap<String, String>,
    /// `source.tags` of further interfaces.
    pub tags: BTreeMap<String, String>,
    /// `source.security_groups` of further interfaces; none for the primary interface's.
    pub security_groups: Vec<String>,
}

/// Keys that say how the API is used.
const API_KEYS: [&str; 9] = [
    "source.api_endpoint",
    "source.subnets",
    "source.subnet_tags",
    "source.security_groups",
    "source.tags",
    "pool.min_free",
    "pool.max_free",
    "pool.release_after_seconds",
    "cluster.nodes",
];
const FRACTION_MAX: f64 = 100.0;
/// A day.
const RELEASE_SECONDS_MAX: u64 = 86_400;
/// The plugin waits for the daemon 30 s, and another operation on the same container 20 s.
const WAIT_SECONDS_MAX: u64 = 15;
const DEFAULT_WAIT_SECONDS: u64 = 5;
/// Of fifty that EC2 allows two are barewire's own.
const TAGS_MAX: usize = 48;
const TAG_KEY_MAX: usize = 128;
const TAG_VALUE_MAX: usize = 256;
const OUR_TAGS: &str = "barewire/";
/// Far beyond what any control plane carries.
const NODES_MAX: u64 = 1_000_000;

/// Names the keys that another kind of source has.
pub(super) fn refuse_foreign_keys(reader: &mut Reader, kind: Option<&str>) {
    let Some(kind) = kind.filter(|kind| *kind == FIXED || CLOUDS.contains(kind)) else { return };
    for Key { name, kinds, .. } in KEYS.iter().filter(|key| !key.kinds.contains(&kind)) {
        if reader.discard(name) {
            let owners = kinds.iter().map(|owner| format!("{owner:?}")).collect::<Vec<_>>().join(", ");
            let remedy =
                if name.starts_with("uplink.") { ": the cloud tells the uplinks; remove it" } else { "; remove it, or change source.kind" };
            reader.fault(name, &format!("belongs to source.kind = {owners}{remedy}"));
        }
    }
    // Never a key, and what somebody will try.
    if reader.discard("source.region") {
        reader.fault("source.region", "is no key: the instance's own region is taken from its metadata; remove it");
    }
}

pub(super) fn aws(reader: &mut Reader) -> CloudSource {
    let metadata = metadata(reader);
    let api = if reader.boolean("source.api").unwrap_or(true) {
        let endpoint = reader.url("source.api_endpoint", &["https", "http"]);
        let subnets = names(reader, "source.subnets", "subnet-");
        let security_groups = names(reader, "source.security_groups", "sg-");
        let (subnet_tags, tags) = (tags(reader, "source.subnet_tags"), tags(reader, "source.tags"));
        if !subnets.is_empty() && !subnet_tags.is_empty() {
            reader.fault("source.subnet_tags", "names subnets, and so does source.subnets; remove one of the two");
        }
        for key in tags.keys().filter(|key| key.starts_with(OUR_TAGS)) {
            reader.fault(&format!("source.tags.{key}"), "begins as barewire's own tags do; take another name");
        }
        Some(AwsApi { endpoint, subnets, subnet_tags, tags, security_groups })
    } else {
        for key in API_KEYS {
            if reader.discard(key) {
                reader.fault(key, "has no meaning with source.api = false: nothing is asked of the API; remove one of the two");
            }
        }
        None
    };
    let all_interfaces = match reader.string("source.interfaces").as_deref() {
        None | Some("owned") => false,
        Some("all") => true,
        Some(other) => {
            reader.fault(
                "source.interfaces",
                &format!(
                    "{other:?} is unknown; use \"owned\" (the primary interface, and those with the tag barewire/manage = true) or \"all\""
                ),
            );
            false
        }
    };
    let families = families(reader);
    source(reader, Cloud::Aws { metadata, all_interfaces, api }, families)
}

pub(super) fn azure(reader: &mut Reader) -> CloudSource {
    let cloud = Cloud::Azure { metadata: metadata(reader), wireserver: reader.url("source.wireserver", &["http"]) };
    source(reader, cloud, vec![Family::V4])
}

pub(super) fn gcp(reader: &mut Reader) -> CloudSource {
    let cloud = Cloud::Gcp { metadata: metadata(reader) };
    source(reader, cloud, vec![Family::V4])
}

/// Azure and Google Cloud do not tell what the network's own blocks are.
pub(super) fn require_native(reader: &mut Reader, source: &CloudSource, native: &[IpNetwork]) {
    if native.is_empty() && !matches!(source.cloud, Cloud::Aws { .. }) {
        reader.fault(
            "network.native_cidrs",
            "is missing, and this cloud's metadata does not tell the network's blocks: name them, or set network.masquerade = false",
        );
    }
}

fn source(reader: &mut Reader, cloud: Cloud, families: Vec<Family>) -> CloudSource {
    let Sizing { min_free, max_free, release_after, .. } = Sizing::of_blocks(1);
    let min_free = reader.thousandths("pool.min_free", 0.0..=FRACTION_MAX).unwrap_or(min_free);
    let default_max = max_free.max(min_free + 2000);
    let max_free = reader.thousandths("pool.max_free", 0.0..=FRACTION_MAX + 2.0).unwrap_or(default_max);
    if max_free < min_free + 1000 {
        reader.fault("pool.max_free", "must be at least pool.min_free + 1, or blocks would come and go with each pod");
    }
    let release = reader.integer("pool.release_after_seconds", 0..=RELEASE_SECONDS_MAX);
    let wait = reader.integer("pool.wait_seconds", 0..=WAIT_SECONDS_MAX).unwrap_or(DEFAULT_WAIT_SECONDS);
    CloudSource {
        cloud,
        families,
        exclude: exclusions(reader),
        min_free,
        max_free,
        release_after_millis: release.map_or(release_after, |seconds| seconds * 1000),
        wait: Duration::from_secs(wait),
        cluster_nodes: reader.integer("cluster.nodes", 0..=NODES_MAX).unwrap_or(0),
    }
}

/// Whatever the cloud assigns. A few addresses, or whole blocks: a part of a block is kept address by address.
fn exclusions(reader: &mut Reader) -> Vec<AddressRange> {
    let exclusions = super::fixed::ranges_or_empty(reader, "source.exclude");
    for (text, range) in &exclusions {
        if range.family() == Family::V6 && range.size() > EXCLUDED_MAX as u64 {
            reader.fault("source.exclude", &format!("{text:?} has more than {EXCLUDED_MAX} addresses; name those that pods must not get"));
        }
    }
    exclusions.into_iter().map(|(_, range)| range).collect()
}

/// Metadata is on the node's own link and speaks plain HTTP.
fn metadata(reader: &mut Reader) -> Option<Uri> {
    reader.url("source.metadata", &["http"])
}

fn families(reader: &mut Reader) -> Vec<Family> {
    let Some(texts) = reader.strings("source.families") else { return vec![Family::V4] };
    let mut families = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let family = match text.as_str() {
            "ipv4" => Family::V4,
            "ipv6" => Family::V6,
            _ => {
                reader.fault(&format!("source.families[{index}]"), &format!("{text:?} is unknown; use \"ipv4\" or \"ipv6\""));
                continue;
            }
        };
        if !families.contains(&family) {
            families.push(family);
        }
    }
    if texts.is_empty() {
        reader.fault("source.families", "is empty; a pod needs an address: use [\"ipv4\"], [\"ipv6\"] or both");
    }
    families
}

/// Tags as EC2 allows them ("Tag naming and usage" in the Amazon EC2 user guide).
fn tags(reader: &mut Reader, key: &str) -> BTreeMap<String, String> {
    let tags = reader.table_of_strings(key).unwrap_or_default();
    if tags.len() > TAGS_MAX {
        reader.fault(key, &format!("has {} tags; a resource can have {TAGS_MAX} beside barewire's own", tags.len()));
    }
    for (name, value) in &tags {
        if name.is_empty() || name.chars().count() > TAG_KEY_MAX || name.to_ascii_lowercase().starts_with("aws:") {
            reader
                .fault(&format!("{key}.{name}"), &format!("a tag's name has 1 to {TAG_KEY_MAX} characters, and does not begin with aws:"));
        }
        if value.chars().count() > TAG_VALUE_MAX {
            reader.fault(&format!("{key}.{name}"), &format!("a tag's value has {TAG_VALUE_MAX} characters at most"));
        }
    }
    tags
}

fn names(reader: &mut Reader, key: &str, begins: &str) -> Vec<String> {
    let names = reader.strings(key).unwrap_or_default();
    for (index, name) in names.iter().enumerate() {
        if !name.starts_with(begins) || name.len() == begins.len() {
            reader.fault(&format!("{key}[{index}]"), &format!("{name:?} is not an ID like {begins}0123456789abcdef0"));
        }
    }
    names
}
