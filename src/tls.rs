//! Whom HTTPS is trusted to. One configuration for every HTTP client, made here, so that none falls back to a crypto
//! provider of its own choice.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

/// Certificates of authorities that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// Not read.
    #[error("could not read the CA certificates in {0}: {1}")]
    File(std::path::PathBuf, #[source] std::io::Error),
    /// No PEM.
    #[error("expected CA certificates as PEM: {0}")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// PEM, and nothing in it.
    #[error("expected CA certificates as PEM (-----BEGIN CERTIFICATE-----), found none")]
    None,
    /// In PEM, and no certificate.
    #[error("a CA certificate is malformed: {0}")]
    Certificate(#[source] rustls::Error),
    /// This build of rustls.
    #[error("TLS can't be set up: {0}")]
    Setup(#[source] rustls::Error),
}

/// Trusts the authorities of the system (those of the image, in a container) and those in `extra`, as PEM. A system that
/// has none is no error: then only `extra` is trusted.
///
/// # Errors
/// If `extra` holds no certificate, or one that is malformed.
pub fn trusting(extra: Option<&[u8]>) -> Result<ClientConfig, TrustError> {
    let mut roots = RootCertStore::empty();
    if let Some(pem) = extra {
        let certificates: Vec<CertificateDer<'_>> =
            CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(TrustError::Pem)?;
        if certificates.is_empty() {
            return Err(TrustError::None);
        }
        for certificate in certificates {
            roots.add(certificate.into_owned()).map_err(TrustError::Certificate)?;
        }
    }
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::debug!(%error, "a CA certificate of the system is left out");
    }
    roots.add_parsable_certificates(system.certs);
    with_roots(roots)
}

/// Trusts nobody: for clients that speak plain HTTP only.
///
/// # Errors
/// If TLS can't be set up at all.
pub fn trusting_nobody() -> Result<ClientConfig, TrustError> {
    with_roots(RootCertStore::empty())
}

fn with_roots(roots: RootCertStore) -> Result<ClientConfig, TrustError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(TrustError::Setup)?.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_must_hold_certificates() {
        assert!(matches!(trusting(Some(b"")), Err(TrustError::None)));
        let error =
            trusting(Some(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")).expect_err("none");
        assert!(matches!(error, TrustError::Certificate(_)), "{error}");
        assert!(trusting(None).is_ok(), "a system without certificates is no error");
    }
}
