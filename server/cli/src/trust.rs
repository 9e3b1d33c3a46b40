//! TLS as `collabblocks health` speaks it: to an address rather than a name, so the certificate
//! counts, and not what names are in it.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore};
use rustls::{Error, SignatureScheme};
use std::path::Path;
use std::sync::Arc;

/// Trusts the one certificate that stands first in this file, whatever its names and dates. The error
/// is a sentence.
pub fn only(file: &Path) -> Result<ClientConfig, String> {
    let first = read(file)?.swap_remove(0);
    config(Who::This(first))
}

/// Trusts certificates that lead to one in this file and are of today. The error is a sentence.
pub fn signed_by(file: &Path) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    for root in read(file)? {
        roots.add(root).map_err(|error| {
            let file = file.display();
            format!("{file}: holds a certificate that is no root: {error}")
        })?;
    }
    config(Who::SignedBy(roots))
}

fn read(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let pem = std::fs::read(file).map_err(|error| wrong(&error))?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(wrong(&"holds no certificate in PEM")),
        Err(error) => Err(wrong(&error)),
    }
}

fn config(who: Who) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trust { algorithms, who }))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[derive(Debug)]
struct Trust {
    algorithms: WebPkiSupportedAlgorithms,
    who: Who,
}

#[derive(Debug)]
enum Who {
    This(CertificateDer<'static>),
    SignedBy(RootCertStore),
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.who {
            Who::This(only) if only == end_entity => {}
            Who::This(_) => {
                return Err(CertificateError::ApplicationVerificationFailure.into());
            }
            Who::SignedBy(roots) => verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(end_entity)?,
                roots,
                intermediates,
                now,
                self.algorithms.all,
            )?,
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
