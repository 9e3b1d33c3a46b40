//! The certificate that clients are shown: read from files, and again when those have changed.

use crate::validity::Validity;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The only protocol that is spoken over TLS: a WebSocket begins as HTTP/1.1.
const ALPN: &[u8] = b"http/1.1";

/// Where the certificate stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Files {
    /// PEM: the server's certificate, then those between it and its root.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
    /// PEM: the roots that clients' certificates must lead to, if clients must show one.
    pub client_ca: Option<PathBuf>,
}

/// The files, and what was in them when they were read last. Lives with the control plane.
#[derive(Debug)]
pub struct Certificate {
    files: Files,
    seen: Contents,
    validity: Validity,
}

#[derive(PartialEq, Eq, Default)]
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl std::fmt::Debug for Contents {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contents").finish_non_exhaustive()
    }
}

impl Certificate {
    /// Reads the files. The error is a sentence.
    pub fn load(files: Files) -> Result<(Self, ServerConfig), String> {
        let seen = Contents::read(&files)?;
        let (config, validity) = seen.config(&files)?;
        let certificate = Self {
            files,
            seen,
            validity,
        };
        Ok((certificate, config))
    }

    /// Where it stands.
    pub fn path(&self) -> &Path {
        &self.files.certificate
    }

    /// Its dates: of the server's own certificate, as it was last usable.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Reads the files again; `None` if they are as they were when they were last looked at. The
    /// error is a sentence, and comes once for each change: what was served goes on being served.
    pub fn look_again(&mut self) -> Option<Result<ServerConfig, String>> {
        // Files that are just being replaced may be missing for a moment.
        let now = Contents::read(&self.files).unwrap_or_default();
        if now == self.seen {
            return None;
        }
        self.seen = now;
        let again = Contents::read(&self.files).and_then(|_| self.seen.config(&self.files));
        Some(again.map(|(config, validity)| {
            self.validity = validity;
            config
        }))
    }
}

impl Contents {
    fn read(files: &Files) -> Result<Self, String> {
        let read = |key: &str, path: &Path| {
            std::fs::read(path)
                .map_err(|error| format!("{key}: {} cannot be read: {error}", path.display()))
        };
        Ok(Self {
            certificate: read("tls.certificate", &files.certificate)?,
            key: read("tls.key", &files.key)?,
            client_ca: match &files.client_ca {
                Some(path) => Some(read("tls.client_ca", path)?),
                None => None,
            },
        })
    }

    fn config(&self, files: &Files) -> Result<(ServerConfig, Validity), String> {
        let wrong = |key: &str, path: &Path, what: &dyn std::fmt::Display| {
            format!("{key}: {}: {what}", path.display())
        };
        let chain = certificates(&self.certificate)
            .map_err(|what| wrong("tls.certificate", &files.certificate, &what))?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| {
            let what = format!("holds no private key in PEM ({error})");
            wrong("tls.key", &files.key, &what)
        })?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS cannot be set up: {error}"))?;
        let builder = match (&files.client_ca, &self.client_ca) {
            (Some(path), Some(pem)) => {
                let wrong = |what: &dyn std::fmt::Display| wrong("tls.client_ca", path, what);
                let roots = certificates(pem).map_err(|what| wrong(&what))?;
                builder.with_client_cert_verifier(
                    verifier(roots, provider).map_err(|what| wrong(&what))?,
                )
            }
            _ => builder.with_no_client_auth(),
        };
        let validity = Validity::of(&chain[0]);
        let mut config = builder.with_single_cert(chain, key).map_err(|error| {
            let what = format!("does not go with {}: {error}", files.key.display());
            wrong("tls.certificate", &files.certificate, &what)
        })?;
        let validity = validity.ok_or_else(|| {
            let what = "its dates cannot be read";
            wrong("tls.certificate", &files.certificate, &what)
        })?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.send_tls13_tickets = 1;
        // Sessions are resumed by tickets alone, so cores share nothing but their keys. Those are new
        // with each change of the files: nobody resumes a session that began under another root.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = rustls::crypto::ring::Ticketer::new()
            .map_err(|error| format!("keys for tickets cannot be made: {error}"))?;
        Ok((config, validity))
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err("holds no certificate in PEM".into()),
        Ok(all) => Ok(all),
        Err(error) => Err(format!("is no PEM: {error}")),
    }
}

fn verifier(
    roots: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, String> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store
            .add(root)
            .map_err(|error| format!("holds a certificate that is no root: {error}"))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider)
        .build()
        .map_err(|error| format!("cannot be used to verify clients: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validity::UnixSeconds;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    fn write(dir: &Path, name: &str) {
        write_until(dir, name, 3000);
    }

    /// One that expires with the beginning of a year.
    fn write_until(dir: &Path, name: &str, year: i32) -> rcgen::Certificate {
        let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        std::fs::write(dir.join(format!("{name}.pem")), cert.pem()).unwrap();
        std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
        cert
    }

    fn expires(certificate: &Certificate) -> UnixSeconds {
        certificate.validity().not_after
    }

    fn year(year: i32) -> UnixSeconds {
        UnixSeconds(date_time_ymd(year, 1, 1).unix_timestamp())
    }

    fn files(dir: &Path) -> Files {
        Files {
            certificate: dir.join("a.pem"),
            key: dir.join("a.key"),
            client_ca: None,
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_key_and_file() {
        let dir = tempfile::tempdir().unwrap();
        let wrong = |files: &Files| Certificate::load(files.clone()).map(|_| ()).unwrap_err();
        let mut files = files(dir.path());
        assert!(wrong(&files).starts_with("tls.certificate: "));
        write(dir.path(), "a");
        write(dir.path(), "b");
        Certificate::load(files.clone()).unwrap();
        files.key = dir.path().join("b.key");
        assert!(
            wrong(&files).contains("does not go with"),
            "{}",
            wrong(&files)
        );
        files.key = dir.path().join("a.pem");
        assert!(
            wrong(&files).contains("no private key"),
            "{}",
            wrong(&files)
        );
        files.key = dir.path().join("a.key");
        files.certificate = dir.path().join("a.key");
        assert!(
            wrong(&files).contains("no certificate"),
            "{}",
            wrong(&files)
        );
        files.certificate = dir.path().join("a.pem");
        files.client_ca = Some(dir.path().join("a.key"));
        assert!(
            wrong(&files).starts_with("tls.client_ca: "),
            "{}",
            wrong(&files)
        );
        files.client_ca = Some(dir.path().join("b.pem"));
        Certificate::load(files).unwrap();
    }

    #[test]
    fn a_change_is_seen_once_and_a_bad_one_does_not_end_anything() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a");
        let (mut certificate, _) = Certificate::load(files(dir.path())).unwrap();
        assert!(certificate.look_again().is_none());
        write(dir.path(), "a");
        assert!(matches!(certificate.look_again(), Some(Ok(_))));
        assert!(certificate.look_again().is_none());
        // Half of a change: a key that is not the certificate's.
        let next = write_until(dir.path(), "b", 3001);
        std::fs::copy(dir.path().join("b.key"), dir.path().join("a.key")).unwrap();
        assert!(matches!(certificate.look_again(), Some(Err(_))));
        assert!(certificate.look_again().is_none());
        assert_eq!(expires(&certificate), year(3000));
        std::fs::write(dir.path().join("a.pem"), next.pem()).unwrap();
        assert!(matches!(certificate.look_again(), Some(Ok(_))));
        assert_eq!(expires(&certificate), year(3001));
        std::fs::remove_file(dir.path().join("a.pem")).unwrap();
        assert!(matches!(certificate.look_again(), Some(Err(_))));
        assert!(certificate.look_again().is_none());
        std::fs::write(dir.path().join("a.pem"), next.pem()).unwrap();
        assert!(matches!(certificate.look_again(), Some(Ok(_))));
    }
}
