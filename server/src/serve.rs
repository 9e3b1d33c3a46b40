//! A whole server from a checked configuration: storage, shards, runtime, control plane.

use crate::config::{self, Config};
use crate::control::{self, Control, Ended, Hosts, PASSED_SOCKETS_MAX, Shards};
use crate::edge::proxy;
use crate::identity::Authenticator;
use crate::preflight::Prepared;
use crate::quarantine;
use crate::runtime::watchdog::WatchdogConfig;
use crate::runtime::{Core, FrontRules, LogSync, RuntimeKind, clock};
use crate::server::{ControlLink, MakeCore, Server, ShardContext};
use crate::shard::{
    Admission, ControlRequest, Effects, Event, Instant, Pace, SessionLimits, Shard, ShardConfig,
    ShardId,
};
use collabblocks_storage_engine::{EngineConfig, OpenReport, Store, WorkLimits};
use collabblocks_wal::{Disk, FsDisk, LogConfig, OpenError};
use rustls::ServerConfig;
use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Why serving did not begin, or did not end well. A sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory cannot be opened.
    #[error("{0}")]
    Store(#[from] OpenError),
    /// A shard or a socket could not be started.
    #[error("{0}")]
    Start(String),
    /// The operating system said no.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What it said.
        error: std::io::Error,
    },
    /// The shards did not flush in time; what was not acknowledged may be lost.
    #[error(
        "the shutdown took longer than limits.shutdown_timeout_ms; what was not acknowledged may be lost"
    )]
    DrainTimedOut,
}

/// Serves until SIGTERM or SIGINT, then drains. Blocks.
pub fn serve(config: Config, prepared: Prepared) -> Result<(), ServeError> {
    let (_stop, stopped) = watch::channel(false);
    let scheme = match prepared.certificate {
        Some(_) => "https",
        None => "http",
    };
    serve_until(config, prepared, stopped, |addresses| {
        for address in addresses {
            let host = host_to_open(*address);
            tracing::info!(%address, "listening: open {scheme}://{host}/ to try it");
        }
    })
}

/// What a browser on this machine opens to reach a server that listens there.
fn host_to_open(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        format!("localhost:{}", address.port())
    } else {
        address.to_string()
    }
}

/// As [`serve`], and also ends once `stop` says so; `on_listening` is told the addresses as soon as
/// clients can connect.
pub fn serve_until(
    config: Config,
    prepared: Prepared,
    stop: watch::Receiver<bool>,
    on_listening: impl FnOnce(&[SocketAddr]),
) -> Result<(), ServeError> {
    serve_with(config, prepared, Extensions::default(), stop, on_listening)
}

/// What a program that embeds the server adds to it.
#[derive(Clone, Default)]
pub struct Extensions {
    /// Decides who is let in; without it, all whom `access` and `allowed_origins` let in may write.
    pub authenticator: Option<Arc<dyn Authenticator>>,
}

/// As [`serve_until`], with what an embedding program adds.
pub fn serve_with(
    config: Config,
    mut prepared: Prepared,
    extensions: Extensions,
    stop: watch::Receiver<bool>,
    on_listening: impl FnOnce(&[SocketAddr]),
) -> Result<(), ServeError> {
    let (certificate, tls) = prepared.certificate.take().unzip();
    let (config, prepared) = (&config, &prepared);
    if extensions.authenticator.is_none() && config.access == config::Access::Open {
        tracing::warn!("{}", who_may_write(config));
    }
    let shards = u16::try_from(prepared.cores.len())
        .map_err(|_| ServeError::Start("more than 65,535 cores".into()))?;
    let entropy = entropy()?;
    let disk: Arc<dyn Disk> = Arc::new(FsDisk::new());
    let engine_config = engine_config(config, shards);
    let store = Store::open(&disk, prepared.lock.data(), shards, &engine_config, entropy);
    let store = Arc::new(store.map_err(open_error)?);
    let segment_bytes = config.wal.segment_bytes;
    if store.segment_bytes() != segment_bytes {
        tracing::warn!(
            in_use = store.segment_bytes(),
            configured = segment_bytes,
            "wal.segment_bytes is not what the store was made with, which stays in use: a log keeps the size of its \
             segments"
        );
    }
    let data = prepared.lock.data();
    let closed = quarantine::rooms(data).map_err(|error| ServeError::Io {
        what: "the file `quarantine` of the data directory cannot be read",
        error,
    })?;
    let closed: BTreeSet<String> = closed.into_iter().collect();
    for room in &closed {
        tracing::warn!(
            "room {room:?} is in quarantine, as it stopped the server before: to release it, remove its line from \
             the file {:?} and start the server again",
            data.join(quarantine::FILE)
        );
    }
    let control_listener = match config.control_listen {
        Some(address) => Some(TcpListener::bind(address).map_err(|error| ServeError::Io {
            what: "control_listen cannot be bound",
            error,
        })?),
        None => None,
    };

    let (replies_sender, replies) = mpsc::unbounded_channel();
    let (passed_sender, sockets) = mpsc::channel(PASSED_SOCKETS_MAX);
    let makers = (0..shards)
        .map(|number| {
            let maker = Maker {
                disk: disk.clone(),
                store: store.clone(),
                engine: engine_config.clone(),
                shard: ShardConfig {
                    quarantine: closed.clone(),
                    ..shard_config(config, ShardId(number), shards)
                },
            };
            Box::new(move |context: &ShardContext| maker.make(context)) as MakeCore<Shard>
        })
        .collect();
    let mut builder = Server::builder(disk.clone(), replies_sender, passed_sender);
    if let Some(authenticator) = extensions.authenticator {
        builder = builder.authenticator(authenticator);
    }
    let server = builder
        .listen(prepared.listen.iter().copied())
        .cores(prepared.cores.clone())
        .runtime(match config.runtime {
            config::Runtime::Ring => RuntimeKind::Ring,
            config::Runtime::Glommio => RuntimeKind::Glommio,
        })
        .log_sync(match config.wal.sync {
            config::WalSync::Fdatasync => LogSync::Fdatasync,
            config::WalSync::Dsync => LogSync::Dsync,
            config::WalSync::Thread => LogSync::Thread,
        })
        .files_max(prepared.files_max)
        .front(FrontRules {
            proxy: proxy::Rules {
                mode: match config.proxy.mode {
                    config::ProxyMode::Off => proxy::Mode::Off,
                    config::ProxyMode::Optional => proxy::Mode::Optional,
                    config::ProxyMode::Required => proxy::Mode::Required,
                },
                trusted: config.proxy.trusted.clone(),
            },
            tls: tls.map(Arc::new),
        })
        .log_lag(match config.durability {
            config::Durability::Ack => Duration::from_micros(config.wal.commit_delay_us),
            // Deliveries wait for the log.
            config::Durability::Strict => Duration::ZERO,
        })
        .watchdog(WatchdogConfig {
            exit_after: Duration::from_millis(config.limits.watchdog_stall_exit_ms),
            job_exit_after: Duration::from_millis(config.limits.watchdog_job_exit_ms),
            ..WatchdogConfig::default()
        })
        .quarantine_in(data.into())
        .start(makers)
        .map_err(ServeError::Start)?;

    let ended = control::run(
        Control {
            shards: Box::new(server.control()),
            replies,
            sockets,
            listener: control_listener,
            certificate,
            hosts: match config.access {
                config::Access::Loopback => Hosts::local(&config.allowed_origins),
                config::Access::Open => Hosts::Any,
            },
            drain_timeout: Duration::from_millis(config.limits.shutdown_timeout_ms),
        },
        stop,
        || on_listening(server.addresses()),
    )
    .map_err(|error| ServeError::Io {
        what: "the control plane cannot run",
        error,
    })?;
    server.stop();
    match ended {
        Ended::Drained => {
            tracing::info!("stopped: everything acknowledged is on disk");
            Ok(())
        }
        Ended::TimedOut => Err(ServeError::DrainTimedOut),
    }
}

/// What an operator of an open server should know.
fn who_may_write(config: &Config) -> &'static str {
    match config.tls.client_ca {
        None => {
            "access = \"open\": everyone who reaches the port may read and write all rooms; let in only whom you \
             trust, by a firewall, a proxy that authenticates or tls.client_ca"
        }
        Some(_) => {
            "access = \"open\": everyone who reaches the port with a certificate of tls.client_ca may read and write \
             all rooms"
        }
    }
}

/// Makes a shard on its own thread.
struct Maker {
    disk: Arc<dyn Disk>,
    store: Arc<Store>,
    engine: EngineConfig,
    shard: ShardConfig,
}

impl Maker {
    fn make(self, context: &ShardContext) -> Result<Shard, String> {
        let number = context.shard.0;
        let (mut engine, report) = self
            .store
            .open_shard(&self.disk, number, &self.engine)
            .map_err(|error| open_error(error).to_string())?;
        tracing::info!(
            shard = number,
            rooms = report.rooms,
            records = report.records,
            torn_at = report.torn_at.map(|lsn| lsn.0),
            clean = ended_in_order(&report),
            "shard opened"
        );
        engine.watch(context.heartbeat.clone());
        let shard = ShardConfig {
            authenticates: context.authenticates,
            ..self.shard
        };
        Ok(Shard::new(shard, engine))
    }
}

/// Whether a log was closed in order, or is as empty as it was made: what is new has not ended badly.
fn ended_in_order(report: &OpenReport) -> bool {
    report.clean || (report.rooms == 0 && report.records == 0 && report.torn_at.is_none())
}

/// An error of the disk with what to do about it.
fn open_error(error: OpenError) -> ServeError {
    match error {
        OpenError::Io { path, error } if error.kind() == std::io::ErrorKind::StorageFull => {
            ServeError::Start(format!(
                "the disk of {} is full, and opening needs some space there: free some",
                path.display()
            ))
        }
        error => ServeError::Store(error),
    }
}

impl Core for Shard {
    fn on_event(&mut self, now: Instant, event: Event<'_>, effects: &mut Effects) {
        Shard::on_event(self, now, event, effects);
    }
}

impl Shards for ControlLink {
    fn count(&self) -> u16 {
        self.shards()
    }

    fn ask(&self, shard: ShardId, request: ControlRequest) {
        // A shard whose mailbox is full has not answered for long: it shows as not answering.
        let _ = ControlLink::ask(self, shard, request);
    }

    fn show_certificate(&self, config: &ServerConfig) -> bool {
        ControlLink::show_certificate(self, config)
    }
}

fn entropy() -> Result<[u8; 32], ServeError> {
    let mut bytes = [0; 32];
    let read = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(
        |error| ServeError::Io {
            what: "the system gives no random bytes",
            error: error.into(),
        },
    )?;
    assert_eq!(read, bytes.len(), "getrandom gives up to 256 bytes whole");
    Ok(bytes)
}

fn engine_config(config: &Config, shards: u16) -> EngineConfig {
    EngineConfig {
        log: LogConfig {
            segment_bytes: config.wal.segment_bytes,
            ..LogConfig::default()
        },
        limits: config.limits.guard(),
        segments_max: config.wal.segments_max,
        commit_delay: Duration::from_micros(config.wal.commit_delay_us),
        commit_bytes: config.wal.commit_bytes,
        evict_after: Duration::from_secs(config.snapshots.evict_after_s),
        memory_bytes_max: config.snapshots.memory_bytes_max / usize::from(shards),
        disk_reserve_bytes: config.snapshots.disk_reserve_bytes,
        snapshot_segment_bytes: config.snapshots.segment_bytes,
        work: WorkLimits {
            clock: || clock().0,
            // Well before the watchdog takes it for work that never comes back.
            update_time_max: Duration::from_millis(config.limits.watchdog_job_exit_ms) / 3,
            ..WorkLimits::default()
        },
        ..EngineConfig::default()
    }
}

fn shard_config(config: &Config, id: ShardId, shards: u16) -> ShardConfig {
    let limits = &config.limits;
    let ms = Duration::from_millis;
    ShardConfig {
        id,
        shards,
        strict: config.durability == config::Durability::Strict,
        quarantine: BTreeSet::new(),
        admission: match config.access {
            config::Access::Loopback => Admission::Loopback(config.allowed_origins.clone()),
            config::Access::Open => Admission::Open(config.allowed_origins.clone()),
        },
        authenticates: false,
        hash_seed: RandomState::new().hash_one(id.0),
        limits: SessionLimits {
            connections_max: limits.connections_max.div_ceil(usize::from(shards)),
            sessions_per_room_max: limits.sessions_per_room_max,
            hot_room_sessions: limits.hot_room_sessions,
            presence_rate_max: limits.presence_rate_max,
            presence_burst: limits.presence_burst_max,
            pace: Pace {
                interval_max: ms(limits.delivery_interval_max_ms),
                ..Pace::default()
            },
            http_head_bytes_max: limits.http_head_bytes_max,
            http_head_timeout: ms(limits.http_head_timeout_ms),
            authenticate_timeout: ms(limits.authenticate_timeout_ms),
            authenticating_max: limits.authenticating_max.div_ceil(usize::from(shards)),
            frame_bytes_max: limits.frame_bytes_max,
            half_read_bytes_max: limits.half_read_bytes_max,
            room_name_bytes_max: limits.room_name_bytes_max,
            awareness_clients_max: limits.awareness_clients_max,
            queue_soft_bytes: limits.queue_soft_bytes,
            queue_hard_bytes: limits.queue_hard_bytes,
            queue_core_bytes_max: limits.queue_core_bytes_max,
            slow_reader_timeout: ms(limits.slow_reader_timeout_ms),
            load_queue_commands_max: limits.load_queue_commands_max,
            load_queue_bytes_max: limits.load_queue_bytes_max,
            load_queue_room_bytes_max: limits.load_queue_room_bytes_max,
            load_queue_core_bytes_max: limits.load_queue_core_bytes_max,
            answer_bytes_max: limits.answer_bytes_max,
            load_timeout: ms(limits.load_timeout_ms),
            gap_repeats_max: limits.gap_repeats_max,
            keepalive: ms(limits.keepalive_ms),
            ping: ms(limits.ping_ms),
            ..SessionLimits::default()
        },
        guard: limits.guard(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::heartbeat::{Heartbeat, RoomName};
    use crate::shard::ConnId;

    #[test]
    fn what_is_to_be_opened_is_an_address() {
        let open = |address: &str| host_to_open(address.parse().unwrap());
        assert_eq!(open("0.0.0.0:80"), "localhost:80");
        assert_eq!(open("[::]:80"), "localhost:80");
        assert_eq!(open("[::1]:80"), "[::1]:80");
        assert_eq!(open("192.0.2.1:80"), "192.0.2.1:80");
    }

    #[test]
    fn what_is_new_did_not_end_badly() {
        let new = OpenReport::default();
        assert!(!new.clean && ended_in_order(&new));
        let whole = OpenReport {
            records: 1,
            ..OpenReport::default()
        };
        assert!(!ended_in_order(&whole));
        let torn = OpenReport {
            torn_at: Some(collabblocks_wal::Lsn(1)),
            ..OpenReport::default()
        };
        assert!(!ended_in_order(&torn));
        assert!(ended_in_order(&OpenReport {
            clean: true,
            ..whole
        }));
    }

    #[test]
    fn who_may_write_is_told_as_it_is() {
        let mut config = Config::default();
        let told = who_may_write(&config);
        assert!(told.contains("everyone who reaches the port may read and write all rooms"));
        config.tls.client_ca = Some("a".into());
        assert!(who_may_write(&config).contains("with a certificate of tls.client_ca"));
    }

    #[test]
    fn whoever_holds_the_sender_ends_it() {
        type End = fn(watch::Sender<bool>);
        let ends: [End; 2] = [|stop| stop.send(true).unwrap(), drop];
        for end in ends {
            let dir = tempfile::tempdir().unwrap();
            let flags = vec![
                ("data", dir.path().display().to_string()),
                ("listen", "127.0.0.1:0".into()),
                ("cores", "1".into()),
                ("snapshots.disk_reserve_bytes", "0".into()),
                ("limits.update_bytes_max", "262144".into()),
                ("wal.segment_bytes", "1048576".into()),
            ];
            let effective = config::load(&config::Inputs {
                flags,
                ..config::Inputs::default()
            })
            .unwrap();
            let prepared = crate::preflight::prepare(&effective).unwrap();
            let (stop, stopped) = watch::channel(false);
            let (heard, listening) = std::sync::mpsc::channel();
            let serving = std::thread::spawn(move || {
                serve_until(effective.config, prepared, stopped, |addresses| {
                    heard.send(addresses.to_vec()).unwrap();
                })
            });
            let address = listening.recv().unwrap()[0];
            std::net::TcpStream::connect(address).unwrap();
            end(stop);
            serving.join().unwrap().unwrap();
        }
    }

    #[test]
    fn a_shard_waits_for_answers_as_the_configuration_says() {
        let mut config = Config::default();
        config.limits.authenticate_timeout_ms = 1234;
        config.limits.authenticating_max = 10;
        let limits = shard_config(&config, ShardId(0), 4).limits;
        assert_eq!(limits.authenticate_timeout, Duration::from_millis(1234));
        assert_eq!(limits.authenticating_max, 3, "its part, rounded up");
    }

    #[test]
    fn a_shard_tells_its_heartbeat_which_room_it_goes_into() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::default();
        let disk: Arc<dyn Disk> = Arc::new(FsDisk::new());
        let engine = engine_config(&config, 1);
        let store = Store::open(&disk, dir.path(), 1, &engine, [7; 32]).unwrap();
        let maker = Maker {
            disk,
            store: Arc::new(store),
            engine,
            shard: shard_config(&config, ShardId(0), 1),
        };
        let heartbeat = Arc::new(Heartbeat::default());
        let context = ShardContext {
            shard: ShardId(0),
            shards: 1,
            heartbeat: heartbeat.clone(),
            authenticates: false,
        };
        let mut shard = maker.make(&context).unwrap();
        let mut effects = Effects::default();
        let conn = ConnId {
            slot: 0,
            generation: 0,
        };
        let peer = ([127, 0, 0, 1], 1).into();
        shard.on_event(Instant(1), Event::Accepted { conn, peer }, &mut effects);
        let bytes = &mut b"GET /the-room HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"[..].to_vec();
        shard.on_event(Instant(1), Event::Received { conn, bytes }, &mut effects);
        let room = RoomName {
            name: "the-room".into(),
            whole: true,
        };
        assert_eq!(heartbeat.room_name(), room);
    }
}
