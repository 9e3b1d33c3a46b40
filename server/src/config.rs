//! The configuration: one TOML file, every key of which an environment variable or a flag overrides.
//!
//! The structs, their defaults, their documentation, the flags, the environment variables, the
//! documented default file and the table in `docs/configuration.md` all come from the one
//! declaration in this file. [`Config`] is plain data: it is loaded once, checked, and cloned to
//! whoever needs a part of it.

mod keys;
mod kinds;
mod load;
mod reference;
mod rules;
mod value;

pub use keys::{Bound, Key};
pub use kinds::{Access, Cores, Durability, LogFormat, LogLevel, ProxyMode, Runtime, WalSync};
pub use load::{Effective, Inputs, Problem, Source, load};
pub use reference::{default_file, markdown_table};
pub use value::{Setting, Value};

use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

/// The port that the default addresses have.
pub const DEFAULT_PORT: u16 = 8080;

fn default_listen() -> Vec<SocketAddr> {
    vec![
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_PORT),
        SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), DEFAULT_PORT),
    ]
}

keys::config! {
    /// The whole configuration of a server.
    Config {
        /// Addresses to listen on, `host:port` each; port 0 takes a free one.
        /// A default address that the machine does not have (no IPv6) is left out.
        listen: Vec<SocketAddr> = default_listen(), Bound::Any;
        /// The data directory. It is made if it is not there, and locked against a second server.
        data: PathBuf = PathBuf::from("./collabblocks-data"), Bound::Any;
        /// Cores to run on, one shard each: `auto` (all that the process may use, but one for the
        /// rest of the machine if there are more than three), a count, or a list of core numbers
        /// such as `[0, 2]` (as text: `0,2` or `4-7`).
        cores: Cores = Cores::Auto, Bound::Any;
        /// What drives the shards: `ring` (io_uring, one ring a core) or `glommio`.
        runtime: Runtime = Runtime::Ring, Bound::Any;
        /// `ack`: peers see an edit at once and its sender's acknowledgement waits for the disk.
        /// `strict`: peers too wait for the disk.
        durability: Durability = Durability::Ack, Bound::Any;
        /// Who may connect: `loopback` (everyone on this machine, and no other address is
        /// listened on) or `open` (everyone who reaches the server may read and write all rooms, but for those
        /// whom an embedding program's authenticator does not let in).
        access: Access = Access::Loopback, Bound::Any;
        /// Origins of further pages that may connect, such as `https://app.example.com` or a dev
        /// server's `http://localhost:5173`; `*` allows all. Without being listed, pages of this machine
        /// may with `access = "loopback"` (`localhost`, `127.0.0.1`, `[::1]`, any port), and pages of the
        /// host and port that they connect to with `open`.
        allowed_origins: Vec<String> = Vec::new(), Bound::Any;
        /// A further address for the page, health and metrics, always in the clear; the rooms' port
        /// goes on serving them. Empty for none.
        control_listen: Option<SocketAddr> = None, Bound::Any;
    }

    /// What is logged, and how. Logs go to standard error.
    log: Log {
        /// `json` (one object a line) or `text`.
        format: LogFormat = LogFormat::Json, Bound::Any;
        /// `error`, `warn`, `info`, `debug` or `trace`.
        level: LogLevel = LogLevel::Info, Bound::Any;
    }

    /// TLS, spoken on all of `listen` if there is a certificate. The files are read again on SIGHUP, and
    /// within seconds when they have changed; connections that are open keep what they have.
    tls: Tls {
        /// File with the server's certificate and those between it and its root, in PEM; empty for
        /// no TLS.
        certificate: Option<PathBuf> = None, Bound::Any;
        /// File with the certificate's private key, in PEM.
        key: Option<PathBuf> = None, Bound::Any;
        /// File with the roots that clients' certificates must lead to, in PEM. With it, clients
        /// without such a certificate are refused; empty to ask for none.
        client_ca: Option<PathBuf> = None, Bound::Any;
    }

    /// The PROXY protocol's header (versions 1 and 2), by which a balancer says for whom it speaks.
    proxy: Proxy {
        /// `off`: connections begin with their own bytes. `optional`: those of trusted peers may begin
        /// with a header; that of another peer is refused as a malformed request. `required`:
        /// connections of trusted peers must begin with one, and other peers are not served.
        mode: ProxyMode = ProxyMode::Off, Bound::Any;
        /// Balancers' addresses or ranges, such as `10.0.0.0/8`.
        trusted: Vec<IpNet> = Vec::new(), Bound::Any;
    }

    /// The write-ahead log, one for each shard.
    wal: Wal {
        /// Bytes of a segment, a multiple of 4096. A data directory keeps the size that it was made with,
        /// unless it is opened with another number of cores; the log says so at start.
        segment_bytes: u64 = 64 << 20, Bound::Blocks(1 << 20, 1 << 30);
        /// Segments kept by a shard before the rooms that pin the oldest are snapshotted.
        segments_max: u64 = 16, Bound::Range(2, 65_536);
        /// How a batch is made durable: `dsync` (one write with RWF_DSYNC), `fdatasync` (a write, and
        /// an fdatasync linked to it), or `thread` (as `dsync`, on a thread of its own). In the first
        /// two a batch that takes longer than 20 ms is written by a thread as well, and whichever ends
        /// first counts: where other work keeps the cores busy `thread` spares that wait, and costs
        /// more CPU. The glommio runtime always uses a thread.
        sync: WalSync = WalSync::Dsync, Bound::Any;
        /// Microseconds that a commit may wait for company. Where updates come further apart than
        /// twice this, each is committed at once. Otherwise a commit waits for at least half of this, and
        /// with `durability = "ack"` on the ring runtime one that is durable may be noticed this
        /// much later. Acknowledgements wait for it; delivery to peers waits with
        /// `durability = "strict"` alone.
        commit_delay_us: u64 = 2_000, Bound::Range(0, 2_000);
        /// Pending bytes at which a commit does not wait.
        commit_bytes: usize = 256 << 10, Bound::Range(0, 64 << 20);
    }

    /// Snapshots of rooms, and rooms in memory.
    snapshots: Snapshots {
        /// Seconds that a room without sessions stays in memory.
        evict_after_s: u64 = 300, Bound::Range(0, 31_536_000);
        /// Bytes of documents in memory, all shards together (an estimate), above which rooms
        /// without sessions are put to disk at once.
        memory_bytes_max: usize = 1 << 30, Bound::Range(1 << 20, 1 << 46);
        /// Free bytes on the disk below which updates are refused.
        disk_reserve_bytes: u64 = 256 << 20, Bound::Range(0, 1 << 46);
        /// Bytes of a snapshot segment before a new one is begun, a multiple of 4096.
        segment_bytes: u64 = 64 << 20, Bound::Blocks(1 << 20, 1 << 34);
    }

    /// Caps on what clients send and hold. What happens at each is told in its line.
    limits: Limits {
        /// Bytes of one update; a larger one closes its session.
        update_bytes_max: usize = 32 << 20, Bound::Range(1 << 10, 1 << 30);
        /// Structs in one update; more are refused.
        update_structs_max: usize = 1_000_000, Bound::Range(1, 1 << 32);
        /// Delete ranges in one update; more are refused.
        update_deletes_max: usize = 500_000, Bound::Range(1, 1 << 32);
        /// Client sections in one update or state vector; more are refused.
        clients_max: usize = 100_000, Bound::Range(1, 1 << 32);
        /// Nesting of plain values (objects and lists) in an update; deeper ones are refused.
        any_depth_max: usize = 64, Bound::Range(1, 1_000);
        /// Nesting of shared types; deeper ones are refused.
        type_depth_max: usize = 128, Bound::Range(1, 1_000);
        /// Bytes of a room's encoded state; updates past it are refused.
        document_bytes_max: usize = 64 << 20, Bound::Range(1 << 10, 1 << 34);
        /// Sub-documents in one room; more are refused.
        subdocs_max: usize = 1_000, Bound::Range(0, 1 << 32);
        /// Bytes of an HTTP request's head; a larger one is answered 431.
        http_head_bytes_max: usize = 16 << 10, Bound::Range(1 << 10, 1 << 20);
        /// Milliseconds for a request's head to arrive, with the PROXY header and the TLS handshake
        /// before it; a slower one is answered 408 if it can be told so, and closed.
        http_head_timeout_ms: u64 = 10_000, Bound::Range(100, 600_000);
        /// Milliseconds for an embedder's authenticator to answer; a client that waits longer is
        /// answered 503. Of no use without one.
        authenticate_timeout_ms: u64 = 10_000, Bound::Range(10, 600_000);
        /// Clients for which an embedder's authenticator was asked and has not answered, over all
        /// cores; a further one is answered 503.
        authenticating_max: usize = 4096, Bound::Range(1, 1_000_000);
        /// Bytes of a WebSocket message, all its fragments together; a larger one closes its
        /// connection with 1009. Not less than `limits.update_bytes_max` and 1 KiB.
        frame_bytes_max: usize = (32 << 20) + (64 << 10), Bound::Range(2 << 10, 2 << 30);
        /// Bytes of half-sent messages that all connections of a core together may have under way; past
        /// it, whoever sends more of a message over 64 KiB is closed with 1013 (try again later).
        half_read_bytes_max: usize = 256 << 20, Bound::Range(64 << 10, 1 << 40);
        /// Bytes of one client's awareness state; a larger one closes its session.
        awareness_bytes_max: usize = 64 << 10, Bound::Range(64, 16 << 20);
        /// Awareness entries in one message; more close its session.
        awareness_entries_max: usize = 1_000, Bound::Range(1, 1 << 20);
        /// Clients whose presence one session may own; that of further ones is ignored.
        awareness_clients_max: usize = 64, Bound::Range(1, 1_000);
        /// Bytes of a room's name; a longer one is closed with 4400.
        room_name_bytes_max: usize = 512, Bound::Range(1, 4_096);
        /// Sessions in one room; a further one is closed with 1013 (try again later).
        sessions_per_room_max: usize = 10_000, Bound::Range(1, 1 << 24);
        /// Sessions in one room above which further ones stay on the cores that accept them, so that
        /// all cores write to them; 0 keeps every session on its room's core. The room cools down
        /// at half of it.
        hot_room_sessions: usize = 512, Bound::Range(0, 1 << 24);
        /// Awareness messages of one session in a second that are heard at once; of more, the latest
        /// state of each client is heard later; 0 for any number.
        presence_rate_max: u32 = 20, Bound::Range(0, 1_000_000);
        /// Awareness messages that are heard at once after a silence.
        presence_burst_max: u32 = 5, Bound::Range(1, 1_000_000);
        /// Milliseconds that deliveries of a large room wait for company at most: presence from 200
        /// sessions on, updates from 1,000, for as long as this from 2,000 on; 0 for never.
        delivery_interval_max_ms: u64 = 30, Bound::Range(0, 1_000);
        /// Connections of the whole server; a further one is answered 503. The file limit of the
        /// process may allow fewer.
        connections_max: usize = 1_000_000, Bound::Range(1, 1 << 24);
        /// Bytes of updates kept for the sessions of a room that are behind; above it each is told
        /// by one diff. Of presence, they are told the latest in any case.
        queue_soft_bytes: usize = 1 << 20, Bound::Range(4 << 10, 1 << 30);
        /// Bytes waiting for one session above which its connection is dropped; it may come back.
        queue_hard_bytes: usize = 64 << 20, Bound::Range(4 << 10, 16 << 30);
        /// Bytes waiting for all sessions of a core whose sockets take none; above it those for whom
        /// most waits are dropped; they may come back.
        queue_core_bytes_max: usize = 256 << 20, Bound::Range(1 << 20, 64 << 30);
        /// Milliseconds within which a client must take a sixteenth of what its socket holds back
        /// (at least 128 KiB, or all), else its connection is dropped; it may come back.
        slow_reader_timeout_ms: u64 = 30_000, Bound::Range(100, 3_600_000);
        /// Commands that wait for a room that is loading; at the cap their connections are not
        /// read any further.
        load_queue_commands_max: usize = 1_000, Bound::Range(1, 1 << 24);
        /// Bytes of commands that wait for a room that is loading; at the cap as above.
        load_queue_bytes_max: usize = 5 << 20, Bound::Range(4 << 10, 1 << 30);
        /// Bytes of commands of all sessions of a room that is loading. At the cap those who send
        /// more are not read any further; one that has sent more than 64 KiB is closed with 1013.
        load_queue_room_bytes_max: usize = 32 << 20, Bound::Range(64 << 10, 16 << 30);
        /// Bytes of commands for all rooms of a core that are loading; at the cap as above.
        load_queue_core_bytes_max: usize = 256 << 20, Bound::Range(64 << 10, 64 << 30);
        /// Bytes of distinct sync answers that a core is sending; those who ask for what another one is
        /// getting share it. Once there are so many, further ones wait until some have gone out.
        answer_bytes_max: usize = 128 << 20, Bound::Range(1 << 20, 64 << 30);
        /// Milliseconds that a session waits for its room to load before it is closed with 1013
        /// (try again later).
        load_timeout_ms: u64 = 10_000, Bound::Range(100, 600_000);
        /// Times in a row that a session may send updates that build on content the server has not
        /// seen and was asked for, before it is closed.
        gap_repeats_max: u32 = 5, Bound::Range(1, 1_000);
        /// Milliseconds without data to a client after which it is sent some (its own awareness
        /// clock or an empty one), since clients close connections that are silent for 30 s.
        keepalive_ms: u64 = 20_000, Bound::Range(100, 29_000);
        /// Milliseconds without data from a client after which it is pinged; it is closed if
        /// nothing comes for as long again.
        ping_ms: u64 = 30_000, Bound::Range(100, 3_600_000);
        /// Milliseconds that a shutdown may take before it stops waiting for clients.
        shutdown_timeout_ms: u64 = 10_000, Bound::Range(0, 600_000);
        /// Milliseconds that a core's loop may stand still before the watchdog ends the process. A room
        /// that kept the core is in quarantine from the next start on.
        watchdog_stall_exit_ms: u64 = 30_000, Bound::Range(1_000, 3_600_000);
        /// Milliseconds that a file worker may be in one room's document before the watchdog ends the
        /// process; the room is in quarantine from the next start on. The largest documents keep one for
        /// seconds.
        watchdog_job_exit_ms: u64 = 60_000, Bound::Range(100, 3_600_000);
    }
}

impl Config {
    /// The files of the certificate, if there is to be TLS.
    pub fn certificate(&self) -> Option<crate::certificate::Files> {
        Some(crate::certificate::Files {
            certificate: self.tls.certificate.clone()?,
            key: self.tls.key.clone()?,
            client_ca: self.tls.client_ca.clone(),
        })
    }
}

impl Limits {
    /// The part that the storage engine's guard enforces.
    pub fn guard(&self) -> collabblocks_storage_engine::Limits {
        collabblocks_storage_engine::Limits {
            update_bytes_max: self.update_bytes_max,
            update_structs_max: self.update_structs_max,
            update_deletes_max: self.update_deletes_max,
            clients_max: self.clients_max,
            any_depth_max: self.any_depth_max,
            type_depth_max: self.type_depth_max,
            document_bytes_max: self.document_bytes_max,
            subdocs_max: self.subdocs_max,
            awareness_entries_max: self.awareness_entries_max,
            awareness_state_bytes_max: self.awareness_bytes_max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guards_defaults_and_the_configurations_are_the_same() {
        assert_eq!(
            Limits::default().guard(),
            collabblocks_storage_engine::Limits::default()
        );
    }

    #[test]
    fn the_default_configuration_breaks_no_rule() {
        assert!(rules::broken(&Config::default()).is_empty());
    }
}
