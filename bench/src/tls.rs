//! TLS towards servers that run with a certificate of this tool's own.

use crate::{Error, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use std::path::Path;
use std::sync::Arc;

/// Makes encrypted connections of which no certificate is checked: the servers are this tool's own.
#[derive(Clone, Debug)]
pub struct Connector(Arc<ClientConfig>);

impl Connector {
    /// For TLS 1.3 and 1.2, without resumption: each connection pays for its own handshake.
    pub fn new() -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::new(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }

    /// A connection that has said nothing yet.
    pub fn connect(&self) -> Result<ClientConnection> {
        let name = ServerName::try_from("localhost").expect("it is a name");
        let mut connection = ClientConnection::new(self.0.clone(), name)
            .map_err(|error| Error::new(error.to_string()))?;
        connection.set_buffer_limit(None);
        Ok(connection)
    }
}

/// Writes a self-signed certificate for localhost and its key.
pub fn write_certificate(certificate: &Path, key: &Path) -> Result<()> {
    let signed = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])
        .map_err(|error| Error::new(error.to_string()))?;
    std::fs::write(certificate, signed.cert.pem())?;
    std::fs::write(key, signed.signing_key.serialize_pem())?;
    Ok(())
}

/// Takes any certificate and signature: checking them is a client's cost, and one generator stands for
/// thousands.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{Connection, Received};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    /// A server that sends back what it is told, until it is told nothing more.
    fn echo(listener: TcpListener, certificate: &Path, key: &Path) {
        let certificate = CertificateDer::from_pem_file(certificate).unwrap();
        let key = PrivateKeyDer::from_pem_file(key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let (mut socket, _) = listener.accept().unwrap();
        let mut tls = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream = rustls::Stream::new(&mut tls, &mut socket);
        let mut buffer = vec![0; 100_000];
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..read]).unwrap();
        }
    }

    #[test]
    fn what_is_written_before_the_handshake_arrives_after_it_however_large() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
        write_certificate(&certificate, &key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        stream.set_nonblocking(true).unwrap();
        let server = std::thread::spawn(move || echo(listener, &certificate, &key));
        let tls = Connector::new().unwrap().connect().unwrap();
        let mut connection = Connection::with_tls(stream, tls);
        let sent: Vec<u8> = (0..3 << 20).map(|i| (i % 251) as u8).collect();
        connection.out().extend_from_slice(&sent);
        let (mut buffer, mut received) = (vec![0; 1 << 10], Vec::new());
        while received.len() < sent.len() {
            connection.flush();
            match connection.receive(&mut buffer) {
                Received::Bytes(read) => received.extend_from_slice(&buffer[..read]),
                Received::Nothing => std::thread::sleep(std::time::Duration::from_millis(1)),
                Received::Gone => panic!("the server is gone"),
            }
        }
        assert!(received == sent);
        drop(connection);
        server.join().unwrap();
    }
}
