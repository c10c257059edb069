//! A node as the API server has it, as far as plans need it, and changes of it as one patch.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Labels or annotations.
pub type Map = BTreeMap<String, String>;

/// A taint, as in `spec.taints`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Taint {
    /// E.g. `node.kubernetes.io/unreachable`.
    pub key: String,
    /// May be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
    /// Only of `NoExecute`, by the node lifecycle controller; kept as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_added: Option<String>,
}

/// The effect that plans use: who runs stays.
pub const NO_SCHEDULE: &str = "NoSchedule";

impl Taint {
    /// A taint that keeps new pods away.
    #[must_use]
    pub fn no_schedule(key: &str, value: &str) -> Self {
        Self { key: key.to_owned(), value: value.to_owned(), effect: NO_SCHEDULE.to_owned(), time_added: None }
    }
}

/// A node at one version of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// The version that the rest is of.
    pub resource_version: String,
    /// Its labels.
    pub labels: Map,
    /// Its annotations.
    pub annotations: Map,
    /// Its taints, in the order of the API server.
    pub taints: Vec<Taint>,
    /// Pods on it, as it says itself: the emptiest move first, those that do not say last.
    pub pods: Option<u32>,
    /// It is Ready, and not being removed.
    pub is_ready: bool,
    /// Which boot of its machine kubelet has told (`status.nodeInfo.bootID`); empty before.
    pub boot: String,
    /// Where other nodes reach it (`status.addresses` of type `InternalIP`).
    pub addresses: Vec<IpAddr>,
}

/// As the API server writes it.
#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    labels: Map,
    #[serde(default)]
    annotations: Map,
    deletion_timestamp: Option<String>,
}

#[derive(Deserialize, Default)]
struct Spec {
    #[serde(default)]
    taints: Vec<Taint>,
}

#[derive(Deserialize, Default)]
struct Status {
    #[serde(default)]
    conditions: Vec<Condition>,
    #[serde(default, rename = "nodeInfo")]
    info: Info,
    #[serde(default)]
    addresses: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    r#type: String,
    address: String,
}

#[derive(Deserialize, Default)]
struct Info {
    #[serde(default, rename = "bootID")]
    boot: String,
}

#[derive(Deserialize)]
struct Condition {
    r#type: String,
    status: String,
}

impl Node {
    /// Of an object of kind Node.
    ///
    /// # Errors
    /// Where it is none.
    pub fn of_object(object: &Value) -> Result<Self, serde_json::Error> {
        let Object { metadata, spec, status } = Object::deserialize(object)?;
        let internal = status.addresses.iter().filter(|it| it.r#type == "InternalIP");
        let is_ready = status.conditions.iter().any(|condition| condition.r#type == "Ready" && condition.status == "True");
        Ok(Self {
            name: metadata.name,
            resource_version: metadata.resource_version,
            labels: metadata.labels,
            annotations: metadata.annotations,
            taints: spec.taints,
            pods: None,
            is_ready: is_ready && metadata.deletion_timestamp.is_none(),
            boot: status.info.boot,
            addresses: internal.filter_map(|it| it.address.parse().ok()).collect(),
        })
    }

    /// Of what `kubectl get nodes -o json` prints.
    ///
    /// # Errors
    /// Where an item is no Node, or there are no items.
    pub fn of_list(list: &Value) -> Result<Vec<Self>, serde_json::Error> {
        let items = Vec::<Value>::deserialize(&list["items"])?;
        items.iter().map(Self::of_object).collect()
    }

    /// How full it is, among others.
    #[must_use]
    pub fn fullness(&self) -> u32 {
        self.pods.unwrap_or(u32::MAX)
    }

    /// Does it have all of `labels`?
    #[must_use]
    pub fn is_selected_by(&self, labels: &Map) -> bool {
        labels.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }
}

/// What is to become of a node: taints, labels and annotations that go or come, all or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// Taints of these keys and effect NoSchedule go.
    pub taints_gone: Vec<Taint>,
    /// These come.
    pub taints_new: Vec<Taint>,
    /// Labels; `None` is gone.
    pub labels: BTreeMap<String, Option<String>>,
    /// Annotations; `None` is gone.
    pub annotations: BTreeMap<String, Option<String>>,
}

impl Change {
    /// The node as it will be.
    #[must_use]
    pub fn applied_to(&self, node: &Node) -> Node {
        let mut node = node.clone();
        node.taints.retain(|taint| !self.taints_gone.contains(taint));
        for taint in &self.taints_new {
            if !node.taints.contains(taint) {
                node.taints.push(taint.clone());
            }
        }
        for (of_node, change) in [(&mut node.labels, &self.labels), (&mut node.annotations, &self.annotations)] {
            for (key, value) in change {
                match value {
                    Some(value) => drop(of_node.insert(key.clone(), value.clone())),
                    None => drop(of_node.remove(key)),
                }
            }
        }
        node
    }

    /// As an RFC 6902 patch that succeeds at this version of the node alone: what was decided on has not changed since.
    #[must_use]
    pub fn patch(&self, node: &Node) -> Vec<Value> {
        let after = self.applied_to(node);
        let mut patch = vec![json!({ "op": "test", "path": "/metadata/resourceVersion", "value": node.resource_version })];
        if after.taints != node.taints {
            patch.push(json!({ "op": "add", "path": "/spec/taints", "value": after.taints }));
        }
        for (field, before, change) in [("labels", &node.labels, &self.labels), ("annotations", &node.annotations, &self.annotations)] {
            let mut exists = !before.is_empty();
            for (key, value) in change.iter().filter(|(key, value)| before.get(*key) != value.as_ref()) {
                let path = format!("/metadata/{field}/{}", key.replace('~', "~0").replace('/', "~1"));
                if !exists {
                    patch.push(json!({ "op": "add", "path": format!("/metadata/{field}"), "value": {} }));
                    exists = true;
                }
                patch.push(match value {
                    Some(value) => json!({ "op": "add", "path": path, "value": value }),
                    None => json!({ "op": "remove", "path": path }),
                });
            }
        }
        patch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_read_as_the_api_server_writes_it() {
        let list = json!({ "items": [{
            "metadata": { "name": "a", "resourceVersion": "7", "labels": { "x": "y" } },
            "spec": { "taints": [{ "key": "k", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z" }] },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }], "nodeInfo": { "bootID": "b", "kernelVersion": "6" } },
        }, { "metadata": { "name": "b", "deletionTimestamp": "2026-01-01T00:00:00Z" }, "status": { "conditions": [{ "type": "Ready", "status": "True" }] } }] });
        let nodes = Node::of_list(&list).unwrap();
        assert!(nodes[0].is_ready && !nodes[1].is_ready && nodes[0].boot == "b" && nodes[1].boot.is_empty());
        assert_eq!(json!(nodes[0].taints), list["items"][0]["spec"]["taints"], "taints of others are kept to the letter");
        assert!(Node::of_list(&json!({ "kind": "Pod" })).is_err());
    }

    #[test]
    fn a_patch_is_of_one_version_and_leaves_the_rest() {
        let other = Taint::no_schedule("theirs", "");
        let node = Node { name: "a".to_owned(), resource_version: "7".to_owned(), taints: vec![other.clone()], ..Node::default() };
        let ours = Taint::no_schedule("ours", "x");
        let change = Change {
            taints_new: vec![ours.clone()],
            labels: [("a/b".to_owned(), Some("c".to_owned()))].into(),
            annotations: [("gone".to_owned(), None)].into(),
            ..Change::default()
        };
        assert_eq!(
            Value::from(change.patch(&node)),
            json!([
                { "op": "test", "path": "/metadata/resourceVersion", "value": "7" },
                { "op": "add", "path": "/spec/taints", "value": [other, ours] },
                { "op": "add", "path": "/metadata/labels", "value": {} },
                { "op": "add", "path": "/metadata/labels/a~1b", "value": "c" },
            ])
        );
    }
}
