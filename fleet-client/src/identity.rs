//! Whose certificate it is: kubelet's, as Kubernetes' node authorizer reads it ("Using Node Authorization" of its manual), or a replica's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_cert::Certificate;
use x509_cert::der::asn1::{PrintableStringRef, Utf8StringRef};
use x509_cert::der::oid::db::rfc4519::{COMMON_NAME, ORGANIZATION_NAME};
use x509_cert::der::{Decode, asn1::AnyRef};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::tls::SERVER_NAME;

/// What a node's user name begins with.
const USER: &str = "system:node:";
/// The group of nodes.
const GROUP: &str = "system:nodes";
/// Groups of people who may know how the fleet stands: one of ours, and those that may everything in a cluster (kubeadm's `admin.conf` is of the
/// first of them since 1.29, its `super-admin.conf` of the second).
pub const OPERATORS: [&str; 3] = ["barewire:operators", "kubeadm:cluster-admins", "system:masters"];

/// Why a certificate is of no node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It cannot be read.
    #[error("a certificate that cannot be read: {0}")]
    Unreadable(String),
    /// It is somebody else's.
    #[error(
        "a certificate of {name:?} in the groups {groups:?}: a node has the name system:node:NAME and the group {GROUP}, a replica the DNS name {SERVER_NAME}, a person one of the groups {}", OPERATORS.join(", ")
    )]
    NoNode {
        /// Its common name.
        name: String,
        /// Its organizations.
        groups: Vec<String>,
    },
}

/// The name of the node that a certificate (DER) is of. Who has signed it is not asked here.
///
/// # Errors
/// See [`IdentityError`].
pub fn node_of(certificate: &[u8]) -> Result<String, IdentityError> {
    let certificate = Certificate::from_der(certificate).map_err(|error| IdentityError::Unreadable(error.to_string()))?;
    let (mut names, mut groups) = (Vec::new(), Vec::new());
    for attribute in certificate.tbs_certificate.subject.0.iter().flat_map(|name| name.0.iter()) {
        let Some(text) = text(&attribute.value) else { continue };
        match attribute.oid {
            COMMON_NAME => names.push(text),
            ORGANIZATION_NAME => groups.push(text),
            _ => {}
        }
    }
    // With two names it would depend on the reader whose it is.
    let node = if let [name] = &names[..] { name.strip_prefix(USER) } else { None };
    let node = node.filter(|node| !node.is_empty() && groups.iter().any(|group| group == GROUP));
    node.map(str::to_owned).ok_or_else(|| IdentityError::NoNode { name: names.join(", "), groups })
}

/// Who shows a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// The node with this name.
    Node(String),
    /// A replica of the fleet, by the DNS name that nodes know replicas by. Who is called as nodes are is none, whatever else is in it.
    Replica,
    /// A person, with this name, who may know how the fleet stands and is no node.
    Operator(String),
}

/// Whose certificate (DER) it is. Who has signed it is not asked here, nor what it may be used for: the handshake has.
///
/// # Errors
/// See [`IdentityError`].
pub fn peer_of(certificate: &[u8]) -> Result<Peer, IdentityError> {
    match node_of(certificate) {
        Ok(node) => Ok(Peer::Node(node)),
        Err(IdentityError::NoNode { name, .. }) if !name.contains(USER) && is_replica(certificate) => Ok(Peer::Replica),
        Err(IdentityError::NoNode { name, groups }) if !name.contains(USER) && is_operator(&groups) => Ok(Peer::Operator(name)),
        Err(error) => Err(error),
    }
}

fn is_operator(groups: &[String]) -> bool {
    groups.iter().any(|group| OPERATORS.contains(&&**group))
}

fn is_replica(certificate: &[u8]) -> bool {
    let Ok(certificate) = Certificate::from_der(certificate) else { return false };
    let Ok(Some((_, names))) = certificate.tbs_certificate.get::<SubjectAltName>() else { return false };
    names.0.iter().any(|name| matches!(name, GeneralName::DnsName(name) if name.as_str() == SERVER_NAME))
}

/// How long a certificate (DER) is valid from `now` on; nothing where it cannot be read.
#[must_use]
pub fn valid_for(certificate: &[u8], now: SystemTime) -> Option<Duration> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let end = UNIX_EPOCH + certificate.tbs_certificate.validity.not_after.to_unix_duration();
    Some(end.duration_since(now).unwrap_or_default())
}

fn text(value: &x509_cert::der::Any) -> Option<String> {
    let value = AnyRef::from(value);
    let utf8 = || value.decode_as::<Utf8StringRef<'_>>().ok().map(|text| text.as_str().to_owned());
    utf8().or_else(|| value.decode_as::<PrintableStringRef<'_>>().ok().map(|text| text.as_str().to_owned()))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn certificate(names: &[&str], groups: &[&str]) -> Vec<u8> {
        certificate_with(&[], names, groups)
    }

    fn certificate_with(dns: &[&str], names: &[&str], groups: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::new(dns.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        names.iter().for_each(|name| params.distinguished_name.push(DnType::CommonName, *name));
        groups.iter().for_each(|group| params.distinguished_name.push(DnType::OrganizationName, *group));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn kubelets_certificate_is_a_nodes_and_others_are_not() {
        assert_eq!(node_of(&certificate(&["system:node:a"], &["system:nodes"])).unwrap(), "a");
        for (names, groups) in [
            (&["a"][..], &["system:nodes"][..]),
            (&["system:node:"], &["system:nodes"]),
            (&["system:node:a"], &[]),
            (&["system:node:a"], &["system:masters"]),
            (&["system:kube-proxy"], &["system:node-proxier"]),
        ] {
            assert!(matches!(node_of(&certificate(names, groups)), Err(IdentityError::NoNode { .. })), "{names:?} {groups:?}");
        }
        assert!(matches!(node_of(b"garbage"), Err(IdentityError::Unreadable(_))));
    }

    #[test]
    fn who_may_know_how_the_fleet_stands_is_in_a_group_and_called_as_no_node_is() {
        for group in OPERATORS {
            assert_eq!(peer_of(&certificate(&["ann"], &["dev", group])).unwrap(), Peer::Operator("ann".to_owned()));
            assert!(peer_of(&certificate(&["system:node:a"], &[group])).is_err(), "{group}");
        }
        assert!(peer_of(&certificate(&["ann"], &["dev"])).is_err());
    }

    #[test]
    fn a_replica_has_the_name_that_nodes_know_and_a_node_is_never_one() {
        assert_eq!(peer_of(&certificate_with(&["x", SERVER_NAME], &["fleet"], &[])).unwrap(), Peer::Replica);
        assert_eq!(peer_of(&certificate_with(&[SERVER_NAME], &["system:node:a"], &["system:nodes"])).unwrap(), Peer::Node("a".to_owned()));
        for (dns, names) in [(&["other"][..], &["fleet"][..]), (&[], &[SERVER_NAME]), (&[SERVER_NAME], &["system:node:a"])] {
            assert!(matches!(peer_of(&certificate_with(dns, names, &[])), Err(IdentityError::NoNode { .. })), "{dns:?} {names:?}");
        }
    }
}
