//! Under which names plain HTTP is served. A page of another name that was made to resolve to this
//! machine (DNS rebinding) would be of this server's own origin, and could read what stands here.

use std::net::IpAddr;

/// The hosts that a request may name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hosts {
    /// Any: whoever reaches the port may read.
    Any,
    /// Names and addresses of loopback, the address that was connected to, and these.
    Local(Vec<String>),
}

impl Hosts {
    /// Of a server that serves its own machine, and pages of these origins.
    pub fn local(origins: &[String]) -> Self {
        if origins.iter().any(|origin| origin == "*") {
            return Self::Any;
        }
        let hosts = origins.iter().filter_map(|origin| origin.split_once("://"));
        Self::Local(hosts.map(|(_, host)| name_of(host).to_owned()).collect())
    }

    /// Whether a request with this `Host` is served on a socket with this address.
    pub(super) fn allow(&self, host: &str, connected_to: Option<IpAddr>) -> bool {
        let Self::Local(listed) = self else {
            return true;
        };
        let name = name_of(host.trim());
        let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
        let own = match bare.unwrap_or(name).parse::<IpAddr>() {
            Ok(ip) => {
                let ip = ip.to_canonical();
                ip.is_loopback() || connected_to.is_some_and(|to| to.to_canonical() == ip)
            }
            Err(_) => {
                // Browsers and resolvers keep these to loopback themselves.
                let lower = name.trim_end_matches('.').to_ascii_lowercase();
                lower == "localhost" || lower.ends_with(".localhost")
            }
        };
        own || listed.iter().any(|host| host.eq_ignore_ascii_case(name))
    }
}

/// A host without its port.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_of_its_own_machine_answers_to_loopback_and_its_address() {
        let hosts = Hosts::local(&["https://app.example:8443".into()]);
        let to = Some("10.0.0.5".parse().unwrap());
        for host in [
            "localhost",
            "localhost:8080",
            "LOCALHOST.:1",
            "a.localhost",
            "127.0.0.1:8080",
            "127.8.8.8",
            "[::1]:8080",
            "[::1]",
            "[::ffff:127.0.0.1]:8080",
            "10.0.0.5:9090",
            "app.example",
            "App.Example:443",
        ] {
            assert!(hosts.allow(host, to), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.6",
            "0.0.0.0:8080",
            "[::2]",
            "notlocalhost",
            "app.example.evil",
        ] {
            assert!(!hosts.allow(host, to), "{host}");
        }
        assert!(!hosts.allow("10.0.0.5", None));
    }

    #[test]
    fn an_open_server_answers_to_any() {
        assert!(Hosts::Any.allow("10.1.2.3", None));
        assert_eq!(Hosts::local(&["*".into()]), Hosts::Any);
    }
}
