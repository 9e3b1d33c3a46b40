//! `collabblocks health`: one question to the server on this machine.

use crate::{config, exit, trust};
use clap::ArgMatches;
use collabblocks_server::config::{Config, ProxyMode};
use collabblocks_server::preflight::EXIT_CONFIG;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, ClientConnection};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// More bytes than an answer has.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Runs the command; its exit code.
pub fn run(matches: &ArgMatches) -> u8 {
    // The key stays with the server, where another user may not read it.
    let effective = match config::read_without(matches, &["tls.key"]) {
        Ok(effective) => effective,
        Err(code) => return code,
    };
    let timeout_ms: u64 = *matches.get_one("timeout_ms").expect("it has a default");
    if let Some(why) = unreachable_by_health(&effective.config) {
        eprintln!("collabblocks: {why}");
        return EXIT_CONFIG;
    }
    let ca = matches.get_one::<PathBuf>("ca_file");
    let tls = match tls(&effective.config, ca.map(PathBuf::as_path)) {
        Ok(tls) => tls.map(Arc::new),
        Err(why) => {
            eprintln!("collabblocks: {why}");
            return EXIT_CONFIG;
        }
    };
    let address = address(&effective.config);
    match ask(address, tls, Duration::from_millis(timeout_ms)) {
        Ok(answer) if answer.status == 200 => {
            println!("ready");
            exit::OK
        }
        Ok(answer) => {
            eprintln!(
                "{address} is not ready: {} {}",
                answer.status,
                answer.body.trim()
            );
            exit::FAILED
        }
        Err(error) => {
            eprintln!("{address} does not answer: {error}");
            exit::FAILED
        }
    }
}

/// Whom to trust, if the port that is asked speaks TLS. The error is a sentence.
fn tls(config: &Config, ca: Option<&Path>) -> Result<Option<ClientConfig>, String> {
    let Some(certificate) = &config.tls.certificate else {
        return match ca {
            Some(_) => {
                Err("--ca-file is given, and tls.certificate is not: listen speaks no TLS".into())
            }
            None => Ok(None),
        };
    };
    if config.control_listen.is_some() {
        return Ok(None);
    }
    match ca {
        Some(file) => trust::signed_by(file).map_err(|why| format!("--ca-file: {why}")),
        None => trust::only(certificate).map_err(|why| format!("tls.certificate: {why}")),
    }
    .map(Some)
}

/// Why no question reaches a server with this configuration, if none does.
fn unreachable_by_health(config: &Config) -> Option<&'static str> {
    if config.control_listen.is_some() {
        None
    } else if config.tls.client_ca.is_some() {
        Some(
            "health shows no certificate, and tls.client_ca requires one: set control_listen, such as \"127.0.0.1:8081\"",
        )
    } else if config.proxy.mode == ProxyMode::Required {
        Some(
            "health sends no PROXY header, and listen requires one: set control_listen, such as \"127.0.0.1:8081\"",
        )
    } else {
        None
    }
}

/// Where a server with this configuration answers; where it listens on all addresses, on loopback.
fn address(config: &Config) -> SocketAddr {
    let listen = config.control_listen.unwrap_or(config.listen[0]);
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

struct Answer {
    status: u16,
    body: String,
}

/// A connection of which no single call lasts beyond a point in time, nor all of them together.
struct Timed {
    stream: TcpStream,
    deadline: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(left)
    }
}

/// What a timeout of a socket is called.
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}

impl Read for Timed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(into).map_err(timed_out)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(bytes).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

fn ask(
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    timeout: Duration,
) -> io::Result<Answer> {
    let deadline = Instant::now() + timeout;
    let stream = TcpStream::connect_timeout(&address, timeout)?;
    let mut stream = Timed { stream, deadline };
    let Some(config) = tls else {
        return converse(&mut stream, address);
    };
    let connection =
        ClientConnection::new(config, ServerName::from(address.ip())).map_err(io::Error::other)?;
    converse(&mut rustls::StreamOwned::new(connection, stream), address).map_err(explained)
}

/// An error of TLS with what it means here.
fn explained(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|e| e.downcast_ref());
    match inner {
        Some(rustls::Error::InvalidCertificate(
            CertificateError::ApplicationVerificationFailure,
        )) => io::Error::new(
            error.kind(),
            "it shows another certificate than the first in tls.certificate; a changed file is served within \
             seconds, unless it cannot be used, which the log of the server says",
        ),
        Some(rustls::Error::InvalidMessage(_)) => io::Error::new(
            error.kind(),
            format!("what answers speaks no TLS ({error})"),
        ),
        _ => error,
    }
}

fn converse(stream: &mut (impl Read + Write), address: SocketAddr) -> io::Result<Answer> {
    // In one piece: a server may answer and close after the first.
    let request =
        format!("GET /health/ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    loop {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&part[..count]),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(error),
            // The whole answer may have come before the connection was reset.
            Err(_) if parse(&bytes).is_some() => break,
            Err(error) => return Err(error),
        }
        if bytes.len() > ANSWER_BYTES_MAX {
            break;
        }
    }
    parse(&bytes)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "what answers is no HTTP server"))
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut words = head.lines().next()?.split(' ');
    if !words.next()?.starts_with("HTTP/1.") {
        return None;
    }
    Some(Answer {
        status: words.next()?.parse().ok()?,
        body: body.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_asked_is_one_that_can_be_reached() {
        let address = |listen: &str, control: Option<&str>| {
            let control_listen = control.map(|control| control.parse().unwrap());
            address(&Config {
                listen: vec![listen.parse().unwrap()],
                control_listen,
                ..Config::default()
            })
            .to_string()
        };
        assert_eq!(address("0.0.0.0:80", None), "127.0.0.1:80");
        assert_eq!(address("[::]:80", None), "[::1]:80");
        assert_eq!(address("192.0.2.1:80", None), "192.0.2.1:80");
        assert_eq!(
            address("192.0.2.1:80", Some("127.0.0.1:81")),
            "127.0.0.1:81"
        );
    }

    #[test]
    fn what_cannot_be_asked_is_told() {
        let mut config = Config::default();
        assert_eq!(unreachable_by_health(&config), None);
        config.tls.certificate = Some("a".into());
        assert_eq!(unreachable_by_health(&config), None);
        config.tls.client_ca = Some("a".into());
        let why = unreachable_by_health(&config).unwrap();
        assert!(why.contains("tls.client_ca"), "{why}");
        config.control_listen = Some("127.0.0.1:1".parse().unwrap());
        assert_eq!(unreachable_by_health(&config), None);
        config = Config::default();
        config.proxy.mode = ProxyMode::Required;
        assert!(unreachable_by_health(&config).unwrap().contains("PROXY"));
    }

    #[test]
    fn tls_is_spoken_where_the_port_that_is_asked_speaks_it() {
        let nothing = tempfile::NamedTempFile::new().unwrap();
        let mut config = Config::default();
        assert!(tls(&config, None).unwrap().is_none());
        let why = tls(&config, Some(nothing.path())).unwrap_err();
        assert!(why.starts_with("--ca-file is given"), "{why}");
        config.tls.certificate = Some(nothing.path().into());
        let why = tls(&config, None).unwrap_err();
        assert!(why.contains("no certificate in PEM"), "{why}");
        let why = tls(&config, Some(Path::new("/nowhere.pem"))).unwrap_err();
        assert!(why.starts_with("--ca-file: /nowhere.pem: "), "{why}");
        config.control_listen = Some("127.0.0.1:1".parse().unwrap());
        assert!(tls(&config, None).unwrap().is_none());
    }

    #[test]
    fn answers_are_parsed() {
        let answer = parse(b"HTTP/1.1 503 Service Unavailable\r\nA: b\r\n\r\nloading").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (503, "loading"));
        for bad in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "SSH-2.0\r\n\r\n",
            "HTTP/1.1 ok\r\n\r\n",
        ] {
            assert!(parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
