//! `collabblocks health`: one question to the server on this machine.

use crate::{config, exit};
use clap::ArgMatches;
use collabblocks_server::config::{Config, ProxyMode};
use collabblocks_server::preflight::EXIT_CONFIG;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// More bytes than an answer has.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Runs the command; its exit code.
pub fn run(matches: &ArgMatches) -> u8 {
    let effective = match config::read(matches) {
        Ok(effective) => effective,
        Err(code) => return code,
    };
    let timeout_ms: u64 = *matches.get_one("timeout_ms").expect("it has a default");
    if let Some(why) = unreachable_by_health(&effective.config) {
        eprintln!("collabblocks: {why}");
        return EXIT_CONFIG;
    }
    let address = address(&effective.config);
    match ask(address, Duration::from_millis(timeout_ms)) {
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

/// Why a question in the clear cannot reach a server with this configuration, if it cannot.
fn unreachable_by_health(config: &Config) -> Option<&'static str> {
    if config.control_listen.is_some() {
        None
    } else if config.tls.certificate.is_some() {
        Some(
            "health asks in the clear, and listen speaks TLS: set control_listen, such as \"127.0.0.1:8081\"",
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

fn ask(address: SocketAddr, timeout: Duration) -> io::Result<Answer> {
    let deadline = Instant::now() + timeout;
    let left = || {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            Err(io::Error::from(io::ErrorKind::TimedOut))
        } else {
            Ok(left)
        }
    };
    let mut stream = TcpStream::connect_timeout(&address, left()?)?;
    stream.set_write_timeout(Some(left()?))?;
    // In one piece: a server may answer and close after the first.
    let request =
        format!("GET /health/ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    loop {
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&part[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
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
        assert!(unreachable_by_health(&config).unwrap().contains("TLS"));
        config.control_listen = Some("127.0.0.1:1".parse().unwrap());
        assert_eq!(unreachable_by_health(&config), None);
        config = Config::default();
        config.proxy.mode = ProxyMode::Required;
        assert!(unreachable_by_health(&config).unwrap().contains("PROXY"));
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
