//! What a server needs of its machine, probed before anything else is done.
//!
//! Each thing that is missing is told in one sentence that says what to do. What the process may
//! raise itself (limits) it raises. Nothing here depends on the runtime that is used later.

mod data;
mod limits;
mod listen;
mod ring;

pub use data::DataLock;

use crate::certificate::Certificate;
use crate::config::{Effective, Runtime, Source};
use crate::runtime::placement;
use rustls::ServerConfig;
use std::fmt;
use std::net::SocketAddr;

/// The exit code when the configuration has to change (`EX_CONFIG`).
pub const EXIT_CONFIG: u8 = 78;

/// The exit code when the machine has to change (`EX_UNAVAILABLE`).
pub const EXIT_UNAVAILABLE: u8 = 69;

/// Why the server does not start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// [`EXIT_CONFIG`] or [`EXIT_UNAVAILABLE`].
    pub exit_code: u8,
    /// What is missing and what to do about it, in one sentence.
    pub sentence: String,
}

impl Refusal {
    fn config(sentence: impl Into<String>) -> Self {
        Self {
            exit_code: EXIT_CONFIG,
            sentence: sentence.into(),
        }
    }

    fn unavailable(sentence: impl Into<String>) -> Self {
        Self {
            exit_code: EXIT_UNAVAILABLE,
            sentence: sentence.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Refusal {}

/// A machine that is ready for a server.
#[derive(Debug)]
pub struct Prepared {
    /// Holds the data directory; the server keeps it until it has ended.
    pub lock: DataLock,
    /// The cores to run shards on, by number.
    pub cores: Vec<usize>,
    /// The addresses to listen on: those configured, without default ones that the machine has not.
    pub listen: Vec<SocketAddr>,
    /// Files, sockets included, that the process may have open.
    pub files_max: u64,
    /// The certificate, if there is to be TLS, and the configuration made of it.
    pub certificate: Option<(Certificate, ServerConfig)>,
    /// What an operator should know and is no reason to refuse.
    pub warnings: Vec<String>,
}

/// Probes the machine, raises the limits that the process may raise, and locks the data directory.
pub fn prepare(effective: &Effective) -> Result<Prepared, Refusal> {
    let config = &effective.config;
    let mut warnings = Vec::new();
    let certificate = match config.certificate().map(Certificate::load) {
        Some(loaded) => Some(loaded.map_err(Refusal::config)?),
        None => None,
    };
    let cores = placement::choose(&config.cores).map_err(Refusal::config)?;
    let memlock_bytes = limits::raise_memlock();
    let files_max = limits::raise_files(&mut warnings)?;
    ring::probe(config.runtime, memlock_bytes)?;
    limits::judge_memlock(
        memlock_bytes,
        config.runtime == Runtime::Glommio,
        cores.len(),
        &mut warnings,
    )?;
    // Before the directory, so that a port that is taken leaves none behind.
    let optional = *effective.source("listen") == Source::Default;
    let listen = listen::probe(&config.listen, optional)?;
    listen::probe(config.control_listen.as_slice(), false)?;
    let lock = data::prepare(config, cores.len(), &mut warnings)?;
    Ok(Prepared {
        lock,
        cores,
        listen,
        files_max,
        certificate,
        warnings,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Inputs, load};

    fn effective(data: &std::path::Path, more: &[(&'static str, &str)]) -> Effective {
        let mut flags = vec![
            ("data", data.display().to_string()),
            ("listen", "127.0.0.1:0".into()),
            ("snapshots.disk_reserve_bytes", "0".into()),
            ("wal.segment_bytes", "67108864".into()),
        ];
        flags.extend(more.iter().map(|(key, text)| (*key, text.to_string())));
        load(&Inputs {
            flags,
            ..Inputs::default()
        })
        .unwrap()
    }

    #[test]
    fn a_fresh_directory_is_prepared_and_locked_once() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("a/b");
        let prepared = prepare(&effective(&data, &[])).unwrap();
        assert!(!prepared.cores.is_empty());
        assert_eq!(
            prepared.listen,
            ["127.0.0.1:0".parse::<SocketAddr>().unwrap()]
        );
        assert!(prepared.files_max >= 256);
        let second = prepare(&effective(&data, &[])).unwrap_err();
        assert_eq!(second.exit_code, EXIT_UNAVAILABLE);
        assert!(
            second
                .sentence
                .contains(&format!("process {}", std::process::id())),
            "{second}"
        );
        drop(prepared);
        prepare(&effective(&data, &[])).unwrap();
    }

    #[test]
    fn probing_leaves_nothing_behind_but_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let prepared = prepare(&effective(dir.path(), &[])).unwrap();
        let names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["lock"]);
        drop(prepared);
    }

    #[test]
    fn cores_that_may_not_be_used_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refusal = prepare(&effective(dir.path(), &[("cores", "4000")])).unwrap_err();
        assert_eq!(refusal.exit_code, EXIT_CONFIG);
        assert!(refusal.sentence.contains("affinity mask"), "{refusal}");
    }

    #[test]
    fn a_certificate_that_cannot_be_used_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key.pem").display().to_string();
        let more = [("tls.certificate", key.as_str()), ("tls.key", &key)];
        let refusal = prepare(&effective(dir.path(), &more)).unwrap_err();
        assert_eq!(refusal.exit_code, EXIT_CONFIG);
        assert!(
            refusal.sentence.starts_with("tls.certificate: "),
            "{refusal}"
        );
    }

    #[test]
    fn a_taken_port_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        for key in ["listen", "control_listen"] {
            let data = dir.path().join("data");
            let refusal = prepare(&effective(&data, &[(key, &address)])).unwrap_err();
            assert_eq!(refusal.exit_code, EXIT_UNAVAILABLE);
            assert!(refusal.sentence.contains(&address), "{refusal}");
            assert!(!data.exists(), "nothing is left behind");
        }
    }
}
