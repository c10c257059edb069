//! Objects of the API server as entries of tables: the fields that nodes need, and no others. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use fleet_api::message::{Endpoint, Protocol, Service, ServicePort, SliceHead, SlicePort};
use fleet_api::{Change, EndpointsKey, Kind, Table};
use serde::Deserialize;
use serde_json::Value;

/// Which objects are asked for: what kube-proxy asks for, too. Headless services and those of another proxy never leave the API server.
pub const SELECTOR: &str = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";

/// The label of a slice that names its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// An object that makes no sense. It is skipped; what is known of it stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {why}")]
pub struct BadObject {
    /// `namespace/name`, as far as it has them.
    pub object: String,
    /// What is wrong.
    pub why: String,
}

/// What changes in `table` with an object as it is now.
///
/// # Errors
/// See [`BadObject`].
pub fn applied(kind: Kind, table: &Table, object: Value) -> Result<Vec<Change>, BadObject> {
    let name = name_of(&object);
    let bad = |why: String| BadObject { object: name.clone(), why };
    let meta: WithMeta = serde_json::from_value(object.clone()).map_err(|error| bad(error.to_string()))?;
    let entries = match kind {
        Kind::Services => service(&meta.metadata, object),
        Kind::Endpoints => slice(&meta.metadata, object),
    };
    let entries = entries.map_err(bad)?;
    let gone =
        keys(kind, table, &meta.metadata).into_iter().filter(|key| !entries.contains_key(key)).map(Change::delete).collect::<Vec<_>>();
    Ok(gone.into_iter().chain(entries.into_iter().map(|(key, value)| Change { key, value: Some(value) })).collect())
}

/// What changes in `table` when an object is no more.
///
/// # Errors
/// See [`BadObject`].
pub fn deleted(kind: Kind, table: &Table, object: Value) -> Result<Vec<Change>, BadObject> {
    let name = name_of(&object);
    let meta: WithMeta = serde_json::from_value(object).map_err(|error| BadObject { object: name, why: error.to_string() })?;
    Ok(keys(kind, table, &meta.metadata).into_iter().map(Change::delete).collect())
}

/// As of which `resourceVersion` an object is, even if nothing else of it makes sense.
#[must_use]
pub fn version_of(object: &Value) -> Option<u64> {
    object.pointer("/metadata/resourceVersion")?.as_str()?.parse().ok()
}

fn name_of(object: &Value) -> String {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or("?");
    format!("{}/{}", text("/metadata/namespace"), text("/metadata/name"))
}

/// The keys of an object that `table` has.
fn keys(kind: Kind, table: &Table, meta: &Meta) -> Vec<Vec<u8>> {
    match kind {
        Kind::Services => table.get(&meta.key()).map(|_| meta.key()).into_iter().collect(),
        Kind::Endpoints => {
            let Ok(uid) = uid(meta) else { return Vec::new() };
            table.starting_with(&uid).map(|(key, _)| key.to_vec()).collect()
        }
    }
}

#[derive(Deserialize)]
struct WithMeta {
    metadata: Meta,
}

#[derive(Deserialize)]
struct Meta {
    namespace: String,
    name: String,
    uid: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

impl Meta {
    fn key(&self) -> Vec<u8> {
        format!("{}/{}", self.namespace, self.name).into_bytes()
    }
}

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

fn put(entries: &mut Entries, key: Vec<u8>, value: &impl prost::Message) {
    entries.insert(key, value.encode_to_vec());
}

fn service(meta: &Meta, object: Value) -> Result<Entries, String> {
    #[derive(Deserialize)]
    struct Object {
        spec: Spec,
        #[serde(default)]
        status: Status,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Spec {
        #[serde(default, rename = "type")]
        kind: String,
        #[serde(default, rename = "clusterIPs")]
        cluster_ips: Vec<String>,
        #[serde(default, rename = "externalIPs")]
        external_ips: Vec<String>,
        #[serde(default)]
        ports: Vec<Port>,
        #[serde(default)]
        load_balancer_source_ranges: Vec<String>,
        #[serde(default)]
        internal_traffic_policy: String,
        #[serde(default)]
        external_traffic_policy: String,
        #[serde(default)]
        session_affinity: String,
        #[serde(default)]
        session_affinity_config: AffinityConfig,
        #[serde(default)]
        health_check_node_port: u16,
    }
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase")]
    struct AffinityConfig {
        #[serde(default, rename = "clientIP")]
        client_ip: ClientIp,
    }
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase")]
    struct ClientIp {
        timeout_seconds: Option<u32>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Port {
        #[serde(default)]
        name: String,
        #[serde(default)]
        protocol: String,
        port: u16,
        #[serde(default)]
        node_port: u16,
    }
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase")]
    struct Status {
        #[serde(default)]
        load_balancer: LoadBalancer,
    }
    #[derive(Deserialize, Default)]
    struct LoadBalancer {
        #[serde(default)]
        ingress: Vec<Ingress>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Ingress {
        #[serde(default)]
        ip: String,
        #[serde(default)]
        ip_mode: String,
    }

    let Object { spec, status } = serde_json::from_value(object).map_err(|error| error.to_string())?;
    let mut entries = Entries::new();
    // The selector keeps most of these away; the label is an afterthought of a controller.
    if spec.kind == "ExternalName" || spec.cluster_ips.iter().all(|address| address == "None" || address.is_empty()) {
        return Ok(entries);
    }
    let port = |port: Port| {
        let protocol = protocol(&port.protocol)?;
        Ok(ServicePort { name: port.name, protocol, port: port.port.into(), node_port: port.node_port.into() })
    };
    let ingress = status.load_balancer.ingress.into_iter().filter(|ingress| ingress.ip_mode != "Proxy" && !ingress.ip.is_empty());
    // API server's own default, where an affinity comes without a time.
    let affinity =
        if spec.session_affinity == "ClientIP" { spec.session_affinity_config.client_ip.timeout_seconds.unwrap_or(10_800) } else { 0 };
    let service = Service {
        cluster_ips: addresses(spec.cluster_ips)?,
        ports: spec.ports.into_iter().map(port).collect::<Result<_, String>>()?,
        external_ips: addresses(spec.external_ips)?,
        load_balancer_ips: addresses(ingress.map(|ingress| ingress.ip))?,
        source_ranges: spec.load_balancer_source_ranges,
        internal_local: spec.internal_traffic_policy == "Local",
        external_local: spec.external_traffic_policy == "Local",
        affinity_seconds: affinity,
        health_check_node_port: spec.health_check_node_port.into(),
    };
    put(&mut entries, meta.key(), &service);
    Ok(entries)
}

fn slice(meta: &Meta, object: Value) -> Result<Entries, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Object {
        address_type: String,
        #[serde(default)]
        endpoints: Option<Vec<Item>>,
        #[serde(default)]
        ports: Option<Vec<Port>>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Item {
        addresses: Vec<String>,
        #[serde(default)]
        conditions: Conditions,
        #[serde(default)]
        node_name: Option<String>,
        #[serde(default)]
        zone: Option<String>,
        #[serde(default)]
        hints: Option<Hints>,
    }
    #[derive(Deserialize, Default)]
    struct Conditions {
        ready: Option<bool>,
        serving: Option<bool>,
        terminating: Option<bool>,
    }
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase")]
    struct Hints {
        #[serde(default)]
        for_zones: Vec<Named>,
        #[serde(default)]
        for_nodes: Vec<Named>,
    }
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    #[derive(Deserialize)]
    struct Port {
        #[serde(default)]
        name: Option<String>,
        #[serde(default)]
        protocol: Option<String>,
        port: Option<u16>,
    }

    let object: Object = serde_json::from_value(object).map_err(|error| error.to_string())?;
    let mut entries = Entries::new();
    // Names instead of addresses: nothing that a node could send to.
    if object.address_type == "FQDN" {
        return Ok(entries);
    }
    let service = meta.labels.get(SERVICE_NAME).ok_or_else(|| format!("it has no label {SERVICE_NAME}"))?;
    let uid = uid(meta)?;
    let ports = object.ports.unwrap_or_default().into_iter().filter_map(|port| {
        // Without a number it means all ports, which a service's port cannot.
        let number = port.port?;
        let protocol = protocol(&port.protocol.unwrap_or_default());
        Some(protocol.map(|protocol| SlicePort { name: port.name.unwrap_or_default(), protocol, port: number.into() }))
    });
    let head = SliceHead { service: format!("{}/{service}", meta.namespace), ports: ports.collect::<Result<_, _>>()? };
    put(&mut entries, EndpointsKey::Slice(uid).encode(), &head);
    for item in object.endpoints.unwrap_or_default() {
        // More than one are interchangeable, and the first is what everybody uses.
        let Some(first) = item.addresses.first() else { continue };
        let address: IpAddr = first.parse().map_err(|_| format!("{first:?} is no address"))?;
        let hints = item.hints.unwrap_or_default();
        let ready = item.conditions.ready.unwrap_or(true);
        let endpoint = Endpoint {
            ready,
            serving: item.conditions.serving.unwrap_or(ready),
            terminating: item.conditions.terminating.unwrap_or(false),
            node: item.node_name.unwrap_or_default(),
            zone: item.zone.unwrap_or_default(),
            for_zones: hints.for_zones.into_iter().map(|named| named.name).collect(),
            for_nodes: hints.for_nodes.into_iter().map(|named| named.name).collect(),
        };
        put(&mut entries, EndpointsKey::Endpoint(uid, address).encode(), &endpoint);
    }
    Ok(entries)
}

/// The sixteen bytes of a UID.
fn uid(meta: &Meta) -> Result<[u8; 16], String> {
    let digits: String = meta.uid.chars().filter(|character| *character != '-').collect();
    let number = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32);
    number.map(u128::to_be_bytes).ok_or_else(|| format!("the UID {:?} is none", meta.uid))
}

fn addresses(texts: impl IntoIterator<Item = String>) -> Result<Vec<Vec<u8>>, String> {
    let address = |text: String| match text.parse() {
        Ok(IpAddr::V4(address)) => Ok(address.octets().to_vec()),
        Ok(IpAddr::V6(address)) => Ok(address.octets().to_vec()),
        Err(_) => Err(format!("{text:?} is no address")),
    };
    texts.into_iter().map(address).collect()
}

fn protocol(name: &str) -> Result<i32, String> {
    match name {
        "TCP" | "" => Ok(Protocol::Tcp.into()),
        "UDP" => Ok(Protocol::Udp.into()),
        "SCTP" => Ok(Protocol::Sctp.into()),
        other => Err(format!("{other:?} is no protocol of a service")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const UID: &str = "00000000-0000-0000-0000-000000000001";

    fn apply(kind: Kind, table: &mut Table, object: Value) -> usize {
        let changes = applied(kind, table, object).unwrap();
        changes.into_iter().filter(|change| table.apply(change.clone())).count()
    }

    fn slice_of(addresses: &[&str], ready: bool) -> Value {
        let endpoints: Vec<_> =
            addresses.iter().map(|address| json!({ "addresses": [address], "conditions": { "ready": ready } })).collect();
        json!({
            "metadata": { "namespace": "default", "name": "web-x", "uid": UID, "labels": { SERVICE_NAME: "web" }, "managedFields": [] },
            "addressType": "IPv4", "ports": [{ "name": "", "port": 80, "protocol": "TCP" }], "endpoints": endpoints,
        })
    }

    #[test]
    fn one_endpoint_of_a_slice_is_one_change() {
        let mut table = Table::default();
        assert_eq!(apply(Kind::Endpoints, &mut table, slice_of(&["10.0.0.1", "10.0.0.2"], true)), 3);
        assert_eq!(apply(Kind::Endpoints, &mut table, slice_of(&["10.0.0.1", "10.0.0.3"], true)), 2);
        assert_eq!(apply(Kind::Endpoints, &mut table, slice_of(&["10.0.0.1", "10.0.0.3"], true)), 0);
        assert_eq!(apply(Kind::Endpoints, &mut table, slice_of(&["10.0.0.1", "10.0.0.3"], false)), 2);
        for change in deleted(Kind::Endpoints, &table, slice_of(&[], true)).unwrap() {
            table.apply(change);
        }
        assert!(table.is_empty());
    }

    #[test]
    fn a_service_that_loses_its_address_is_no_more() {
        let service = |spec: Value| json!({ "metadata": { "namespace": "a", "name": "b", "uid": UID }, "spec": spec });
        let mut table = Table::default();
        let with = service(
            json!({ "clusterIPs": ["10.96.0.1", "fd00::1"], "ports": [{ "port": 53, "protocol": "UDP" }], "sessionAffinity": "ClientIP" }),
        );
        assert_eq!(apply(Kind::Services, &mut table, with), 1);
        let read: Service = fleet_api::decode(table.get(b"a/b").unwrap()).unwrap();
        assert_eq!((read.cluster_ips.len(), read.ports[0].protocol, read.affinity_seconds), (2, 1, 10_800));
        assert_eq!(apply(Kind::Services, &mut table, service(json!({ "type": "ExternalName", "externalName": "example.org" }))), 1);
        assert!(table.is_empty());
        assert_eq!(apply(Kind::Services, &mut table, service(json!({ "clusterIPs": ["None"] }))), 0);
    }

    #[test]
    fn a_bad_object_is_named_and_leaves_what_is_known() {
        let table = Table::default();
        let mut bad = slice_of(&["10.0.0.1"], true);
        bad["endpoints"][0]["addresses"][0] = json!("10.0.0.1/24");
        let error = applied(Kind::Endpoints, &table, bad).unwrap_err().to_string();
        assert_eq!(error, "default/web-x: \"10.0.0.1/24\" is no address");
        let error =
            applied(Kind::Services, &table, json!({ "metadata": { "name": "x", "resourceVersion": "7" }, "spec": [] })).unwrap_err();
        assert!(error.to_string().starts_with("?/x: missing field `namespace`"), "{error}");
        assert_eq!(version_of(&json!({ "metadata": { "resourceVersion": "7" } })), Some(7));
        assert!(applied(Kind::Services, &table, json!("a string")).is_err());
    }
}
