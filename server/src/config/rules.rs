//! Rules over several keys.

use super::{Access, Config, ProxyMode};

/// Bytes that a frame has around its update at most.
const FRAME_OVERHEAD_BYTES: usize = 1 << 10;

/// What is wrong, each with the key that has to change.
pub(crate) fn broken(config: &Config) -> Vec<(&'static str, String)> {
    let mut broken = Vec::new();
    if config.listen.is_empty() {
        broken.push((
            "listen",
            "no address to listen on; give one such as \"127.0.0.1:8080\"".into(),
        ));
    }
    if let Some(twice) = config
        .listen
        .iter()
        .enumerate()
        .find(|(at, one)| one.port() != 0 && config.listen[..*at].contains(one))
    {
        broken.push(("listen", format!("{} is given twice", twice.1)));
    }
    if let Some(control) = config.control_listen
        && control.port() != 0
        && config.listen.contains(&control)
    {
        let what =
            format!("{control} is also in listen; the control port needs an address of its own");
        broken.push(("control_listen", what));
    }
    if config.access == Access::Loopback {
        let rooms = config.listen.iter().map(|address| ("listen", address));
        let control = config
            .control_listen
            .iter()
            .map(|address| ("control_listen", address));
        for (key, address) in rooms
            .chain(control)
            .filter(|(_, address)| !address.ip().is_loopback())
        {
            broken.push((
                key,
                format!(
                    "{address} is not a loopback address, and there is no authentication: listen on 127.0.0.1 and \
                     let a proxy that authenticates pass connections on, or set access = \"open\" if everyone who \
                     reaches this address may read and write all rooms"
                ),
            ));
        }
    }
    for origin in config
        .allowed_origins
        .iter()
        .filter(|origin| !is_origin(origin))
    {
        broken.push((
            "allowed_origins",
            format!("{origin:?} is no origin; give a scheme, a host and a port if it is not the usual, such as \"https://app.example.com\", or \"*\""),
        ));
    }
    let tls = &config.tls;
    match (&tls.certificate, &tls.key) {
        (Some(_), None) => broken.push(("tls.key", "tls.certificate is given, its private key is not".into())),
        (None, Some(_)) => broken.push(("tls.certificate", "tls.key is given, its certificate is not".into())),
        (None, None) if tls.client_ca.is_some() => broken.push((
            "tls.client_ca",
            "clients can only be asked for a certificate under TLS: give tls.certificate and tls.key".into(),
        )),
        _ => {}
    }
    if config.proxy.mode != ProxyMode::Off && config.proxy.trusted.is_empty() {
        broken.push((
            "proxy.trusted",
            "nobody is trusted to send a PROXY header: list the balancer's address, or set proxy.mode = \"off\"".into(),
        ));
    }
    let limits = &config.limits;
    if limits.frame_bytes_max < limits.update_bytes_max + FRAME_OVERHEAD_BYTES {
        broken.push((
            "limits.frame_bytes_max",
            format!(
                "{} leaves no room for an update of limits.update_bytes_max = {}; give at least {}",
                limits.frame_bytes_max,
                limits.update_bytes_max,
                limits.update_bytes_max + FRAME_OVERHEAD_BYTES
            ),
        ));
    }
    if limits.half_read_bytes_max < limits.frame_bytes_max {
        broken.push((
            "limits.half_read_bytes_max",
            format!(
                "{} is less than limits.frame_bytes_max = {}: the largest message could not arrive",
                limits.half_read_bytes_max, limits.frame_bytes_max
            ),
        ));
    }
    let segment_bytes = config.wal.segment_bytes;
    if segment_bytes < 2 * limits.update_bytes_max as u64 {
        broken.push((
            "wal.segment_bytes",
            format!(
                "a segment of {segment_bytes} bytes is less than twice limits.update_bytes_max = {}; an update has \
                 to fit a segment with room to spare",
                limits.update_bytes_max
            ),
        ));
    }
    if limits.queue_soft_bytes > limits.queue_hard_bytes {
        broken.push((
            "limits.queue_soft_bytes",
            format!(
                "{} is more than limits.queue_hard_bytes = {}",
                limits.queue_soft_bytes, limits.queue_hard_bytes
            ),
        ));
    }
    if limits.queue_core_bytes_max < limits.queue_hard_bytes {
        broken.push((
            "limits.queue_core_bytes_max",
            format!(
                "{} is less than limits.queue_hard_bytes = {}, which one session may take",
                limits.queue_core_bytes_max, limits.queue_hard_bytes
            ),
        ));
    }
    if limits.queue_hard_bytes < limits.frame_bytes_max {
        broken.push((
            "limits.queue_hard_bytes",
            format!(
                "{} is less than limits.frame_bytes_max = {}: the largest update could reach no peer",
                limits.queue_hard_bytes, limits.frame_bytes_max
            ),
        ));
    }
    broken
}

fn is_origin(text: &str) -> bool {
    if text == "*" {
        return true;
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    let scheme_ok = !scheme.is_empty()
        && scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    scheme_ok
        && !rest.is_empty()
        && rest
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"/?#@".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_names_the_key_to_change() {
        type Change = fn(&mut Config);
        let table: &[(Change, &str, &str)] = &[
            (|c| c.listen.clear(), "listen", "no address"),
            (
                |c| c.listen = vec!["127.0.0.1:1".parse().unwrap(); 2],
                "listen",
                "given twice",
            ),
            (
                |c| c.control_listen = Some(c.listen[0]),
                "control_listen",
                "of its own",
            ),
            (
                |c| c.listen = vec!["0.0.0.0:8080".parse().unwrap()],
                "listen",
                "set access = \"open\"",
            ),
            (
                |c| c.control_listen = Some("192.0.2.1:1".parse().unwrap()),
                "control_listen",
                "loopback",
            ),
            (
                |c| c.allowed_origins = vec!["example.com".into()],
                "allowed_origins",
                "no origin",
            ),
            (
                |c| c.allowed_origins = vec!["https://a.example/".into()],
                "allowed_origins",
                "no origin",
            ),
            (
                |c| c.tls.certificate = Some("a".into()),
                "tls.key",
                "private key is not",
            ),
            (
                |c| c.tls.key = Some("a".into()),
                "tls.certificate",
                "its certificate is not",
            ),
            (
                |c| c.tls.client_ca = Some("a".into()),
                "tls.client_ca",
                "only be asked",
            ),
            (
                |c| c.proxy.mode = ProxyMode::Optional,
                "proxy.trusted",
                "nobody is trusted",
            ),
            (
                |c| c.limits.frame_bytes_max = 2 << 10,
                "limits.frame_bytes_max",
                "at least",
            ),
            (
                |c| c.wal.segment_bytes = 1 << 20,
                "wal.segment_bytes",
                "twice",
            ),
            (
                |c| c.limits.half_read_bytes_max = 1 << 20,
                "limits.half_read_bytes_max",
                "could not arrive",
            ),
            (
                |c| c.limits.queue_soft_bytes = 65 << 20,
                "limits.queue_soft_bytes",
                "more than",
            ),
            (
                |c| c.limits.queue_core_bytes_max = 2 << 20,
                "limits.queue_core_bytes_max",
                "one session",
            ),
            (
                |c| c.limits.queue_hard_bytes = 2 << 20,
                "limits.queue_hard_bytes",
                "no peer",
            ),
        ];
        for (change, key, what) in table {
            let mut config = Config::default();
            change(&mut config);
            let broken = broken(&config);
            assert!(
                broken.iter().any(|(k, w)| k == key && w.contains(what)),
                "{key} {what}: {broken:?}"
            );
            assert_eq!(broken.len(), 1, "{broken:?}");
        }
    }

    #[test]
    fn open_access_and_free_ports_break_nothing() {
        let mut config = Config {
            access: Access::Open,
            ..Config::default()
        };
        config.listen = vec!["0.0.0.0:0".parse().unwrap(), "0.0.0.0:0".parse().unwrap()];
        config.control_listen = Some("0.0.0.0:0".parse().unwrap());
        config.allowed_origins = vec![
            "*".into(),
            "https://app.example.com:8443".into(),
            "tauri://localhost".into(),
        ];
        assert!(broken(&config).is_empty(), "{:?}", broken(&config));
    }
}
