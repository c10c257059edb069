//! Certificates of the webhook that the fleet makes itself, as they stand in a Secret, and what has to become of them. Pure: the time is an
//! argument.
//!
//! Whoever signs is made with each certificate and its key forgotten, so nothing that could sign is kept anywhere. API servers have to know a
//! new one before it is shown, and the one before it for as long as a replica may show that: a change takes two steps.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use super::serve::tls;

const DAY: Duration = Duration::from_secs(86_400);
/// How long a certificate is good: as kubeadm's and kubelet's are.
const LIFE: Duration = Duration::from_secs(365 * 86_400);
/// It is replaced when no more of its life is left: as kubelet does, and with months for whoever has to look why it was not.
const RENEWED: Duration = Duration::from_secs(120 * 86_400);
/// Clocks differ.
const BEFORE: Duration = DAY;
/// How long API servers are given to hear of a new authority.
const SETTLES: Duration = Duration::from_secs(120);

/// A certificate with its key and who has signed it. PEM.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) authority: String,
    pub(super) certificate: String,
    pub(super) key: String,
}

impl fmt::Debug for Pair {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Pair {
    /// A new one for these names.
    pub(super) fn issue(names: &[String], now: SystemTime) -> Result<Self, rcgen::Error> {
        let (from, to) = (now - BEFORE, now + LIFE);
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let named = |name: String| {
            let mut distinguished = DistinguishedName::new();
            distinguished.push(DnType::CommonName, name);
            distinguished
        };
        let mut authority = CertificateParams::default();
        authority.distinguished_name = named(format!("barewire-fleet admission {seconds}"));
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        (authority.not_before, authority.not_after) = (from.into(), to.into());
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        let mut certificate = CertificateParams::new(names)?;
        certificate.distinguished_name = named("barewire-fleet admission".to_owned());
        certificate.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        certificate.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        (certificate.not_before, certificate.not_after) = (from.into(), to.into());
        let key = KeyPair::generate()?;
        let certificate = certificate.signed_by(&key, &authority)?;
        Ok(Self { authority: authority.pem(), certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Whether whoever knows the authority takes the certificate, at this time and by each of the names; and it has its key.
    pub(super) fn is_good(&self, names: &[String], at: SystemTime) -> bool {
        tls(self.certificate.as_bytes(), self.key.as_bytes()).is_ok()
            && names.iter().all(|name| is_taken(&self.authority, &self.certificate, name, at))
    }
}

/// Whether whoever knows these authorities takes a certificate for a name. PEM.
pub(super) fn is_taken(authorities: &str, certificate: &str, name: &str, at: SystemTime) -> bool {
    let taken = || {
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots(authorities)?), Arc::new(ring::default_provider())).build().ok()?;
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).ok()?;
        let name = ServerName::try_from(name).ok()?;
        let at = UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).ok()?);
        verifier.verify_server_cert(&certificate, &[], &name, &[], at).ok()
    };
    taken().is_some()
}

/// Authorities as a verifier knows them; `None` where one of them is none, or there is none. PEM.
fn roots(authorities: &str) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        roots.add(authority.ok()?).ok()?;
    }
    (!roots.is_empty()).then_some(roots)
}

/// What the Secret has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    /// What replicas show.
    pub(super) shown: Pair,
    /// What they will show, once API servers know who has signed it.
    next: Option<Pair>,
    /// Who has signed what they showed before. PEM.
    before: String,
}

impl Kept {
    /// What API servers are to take: `caBundle` of the webhook configurations. PEM.
    pub(super) fn bundle(&self) -> String {
        let next = self.next.as_ref().map_or("", |next| &next.authority);
        [&self.shown.authority, next, &self.before].into_iter().filter(|part| !part.is_empty()).fold(String::new(), |mut all, part| {
            all.push_str(part.trim_end());
            all.push('\n');
            all
        })
    }

    /// Where there is none.
    pub(super) fn first(names: &[String], now: SystemTime) -> Result<Self, rcgen::Error> {
        Ok(Self { shown: Pair::issue(names, now)?, next: None, before: String::new() })
    }

    /// What it is to be now instead; `None` where it is right. `published` is for how long API servers have had its bundle.
    pub(super) fn due(&self, names: &[String], now: SystemTime, published: Option<Duration>) -> Result<Option<Self>, rcgen::Error> {
        // What is no authority would spoil the bundle for those that are.
        let before = if roots(&self.shown.authority).is_some() { &self.shown.authority } else { "" };
        let promoted = |next: Pair| Self { shown: next, next: None, before: before.to_owned() };
        let next = self.next.as_ref().filter(|next| next.is_good(names, now));
        if !self.shown.is_good(names, now) {
            // Nobody takes what is shown: there is nothing to wait for.
            let next = next.map_or_else(|| Pair::issue(names, now), |next| Ok(next.clone()))?;
            return Ok(Some(promoted(next)));
        }
        Ok(match next {
            Some(next) => published.is_some_and(|since| since >= SETTLES).then(|| promoted(next.clone())),
            None if self.next.is_some() || !self.shown.is_good(names, now + RENEWED) => {
                Some(Self { next: Some(Pair::issue(names, now)?), ..self.clone() })
            }
            None => None,
        })
    }

    /// As the Secret's data has it; `None` where something is missing or is no text.
    pub(super) fn read(data: &BTreeMap<String, ByteString>) -> Option<Self> {
        let text = |key: &str| data.get(key).and_then(|value| String::from_utf8(value.0.clone()).ok());
        let pair = |authority: &str, certificate: &str, key: &str| {
            Some(Pair { authority: text(authority)?, certificate: text(certificate)?, key: text(key)? })
        };
        Some(Self {
            shown: pair("ca.crt", "tls.crt", "tls.key")?,
            next: pair("next-ca.crt", "next-tls.crt", "next-tls.key"),
            before: text("before-ca.crt").unwrap_or_default(),
        })
    }

    /// The Secret's data.
    pub(super) fn data(&self) -> BTreeMap<String, ByteString> {
        let shown = [("ca.crt", &self.shown.authority), ("tls.crt", &self.shown.certificate), ("tls.key", &self.shown.key)];
        let next = self
            .next
            .iter()
            .flat_map(|next| [("next-ca.crt", &next.authority), ("next-tls.crt", &next.certificate), ("next-tls.key", &next.key)]);
        let before = Some(("before-ca.crt", &self.before)).filter(|(_, text)| !text.is_empty());
        let all = shown.into_iter().chain(next).chain(before);
        all.map(|(key, text)| (key.to_owned(), ByteString(text.clone().into_bytes()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        ["127.0.0.1", "fleet.example"].map(str::to_owned).into()
    }

    fn at(days: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000) + DAY * u32::try_from(days).unwrap()
    }

    fn due(kept: &Kept, now: SystemTime, published: Option<Duration>) -> Option<Kept> {
        kept.due(&names(), now, published).unwrap()
    }

    /// Five years, a look a day: API servers may be a look behind the configuration, and a replica a look behind the Secret.
    #[test]
    fn at_any_time_what_a_replica_shows_is_taken_by_every_api_server() {
        let mut kept = Kept::first(&names(), at(0)).unwrap();
        // As of the last look: what a late replica shows, and what a late API server takes; and since when that is the same bundle.
        let (mut shown, mut bundle, mut published) = (kept.shown.clone(), kept.bundle(), None);
        let mut certificates = 1;
        for day in 1..5 * 365 {
            let now = at(day);
            for replica in [&shown, &kept.shown] {
                for api_server in [&bundle, &kept.bundle()] {
                    for name in names() {
                        assert!(is_taken(api_server, &replica.certificate, &name, now), "day {day}");
                    }
                }
            }
            (shown, bundle) = (kept.shown.clone(), kept.bundle());
            if let Some(next) = due(&kept, now, published) {
                certificates += usize::from(next.shown != kept.shown);
                kept = Kept::read(&next.data()).unwrap();
                assert_eq!(kept, next, "as the Secret has it");
            }
            published = (kept.bundle() == bundle).then_some(DAY);
        }
        assert_eq!(certificates, 8, "a certificate is shown for 245 days and two looks");
    }

    #[test]
    fn what_nobody_takes_is_replaced_at_once_and_what_is_good_stays() {
        let good = Kept::first(&names(), at(0)).unwrap();
        assert_eq!(due(&good, at(1), Some(DAY)), None);
        assert!(due(&good, at(250), None).is_some_and(|next| next.shown == good.shown && next.next.is_some()));
        let other = Pair::issue(&["other.example".to_owned()], at(0)).unwrap();
        let foreign = Pair { authority: good.shown.authority.clone(), ..other.clone() };
        let garbage = Pair { certificate: "-----BEGIN CERTIFICATE-----\n?".to_owned(), ..good.shown.clone() };
        let wrong_key = Pair { key: other.key.clone(), ..good.shown.clone() };
        for bad in [other, foreign, garbage, wrong_key] {
            let replaced = due(&Kept { shown: bad.clone(), ..good.clone() }, at(1), None).unwrap();
            assert!(replaced.shown.is_good(&names(), at(1)) && replaced.bundle().contains(bad.authority.trim_end()), "{bad:?}");
            // One that waits and is no good is made anew; the one that is shown stays.
            let again = due(&Kept { next: Some(bad), ..good.clone() }, at(1), Some(DAY)).unwrap();
            assert!(again.shown == good.shown && again.next.is_some_and(|next| next.is_good(&names(), at(1))));
        }
        let no_authority = Pair { authority: "-----BEGIN CERTIFICATE-----\n?".to_owned(), ..good.shown.clone() };
        let replaced = due(&Kept { shown: no_authority, ..good.clone() }, at(1), None).unwrap();
        assert_eq!(replaced.bundle(), replaced.shown.authority, "it would spoil the bundle");
        // Nobody has looked for a year.
        assert!(due(&good, at(400), None).is_some_and(|next| next.shown.is_good(&names(), at(400))));
        assert_eq!(Kept::read(&BTreeMap::from([("tls.crt".to_owned(), ByteString(vec![0xff]))])), None);
    }

    #[test]
    fn no_key_is_in_a_log() {
        let kept = Kept::first(&names(), at(0)).unwrap();
        assert!(!format!("{kept:?}").contains("PRIVATE"));
    }
}
