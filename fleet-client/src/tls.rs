//! TLS 1.3 both ways: who is not signed by the authority of the configuration is not heard.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// The name in the certificate of every replica. Addresses are not in it: a replica proves what it is, not where.
pub const SERVER_NAME: &str = "barewire-fleet";

/// PEM, as files have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Who signs the peers.
    pub authority: Vec<u8>,
    /// What to show.
    pub certificate: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
}

/// Why there can be no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that is no PEM of what it should be.
    #[error("{what}: {source}")]
    Pem {
        /// Which.
        what: &'static str,
        /// What is wrong with it.
        source: rustls::pki_types::pem::Error,
    },
    /// No certificate at all.
    #[error("{0}: there is no certificate in it")]
    Empty(&'static str),
    /// A certificate that cannot be used.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
    /// An authority that cannot be used.
    #[error("the authority: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// For a replica: only who shows a certificate of the authority gets through the handshake.
///
/// # Errors
/// See [`TlsError`].
pub fn server(credentials: &Credentials) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = provider();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(credentials)?, Arc::clone(&provider)).build()?;
    let (chain, key) = own(credentials)?;
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13])?;
    let mut config = builder.with_client_cert_verifier(verifier).with_single_cert(chain, key)?;
    // A ticket would let in a node whose certificate has expired since, and is 5 KB of memory for each.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// For a node.
///
/// # Errors
/// See [`TlsError`].
pub fn client(credentials: &Credentials) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(credentials)?, Arc::clone(&provider)).build()?;
    let (chain, key) = own(credentials)?;
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13])?;
    Ok(Arc::new(builder.with_webpki_verifier(verifier).with_client_auth_cert(chain, key)?))
}

/// The certificate that is shown, without those of its issuers, as DER.
///
/// # Errors
/// See [`TlsError`].
pub fn leaf(credentials: &Credentials) -> Result<Vec<u8>, TlsError> {
    Ok(certificates("the certificate", &credentials.certificate)?.swap_remove(0).as_ref().to_vec())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn roots(credentials: &Credentials) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("the authority", &credentials.authority)? {
        roots.add(certificate)?;
    }
    Ok(Arc::new(roots))
}

fn own(credentials: &Credentials) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let key = PrivateKeyDer::from_pem_slice(&credentials.key).map_err(|source| TlsError::Pem { what: "the key", source })?;
    Ok((certificates("the certificate", &credentials.certificate)?, key))
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|source| TlsError::Pem { what, source })?;
    if found.is_empty() { Err(TlsError::Empty(what)) } else { Ok(found) }
}
