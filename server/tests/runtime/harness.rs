//! Starts a server of toys, and talks to it.

use super::toy::{Counts, SEGMENT_BYTES, Toy};
use collabblocks_server::identity::Authenticator;
use collabblocks_server::runtime::watchdog::WatchdogConfig;
use collabblocks_server::runtime::{FrontRules, LogSync, Passed, RuntimeKind, placement};
use collabblocks_server::server::{MakeCore, Server};
use collabblocks_server::shard::{ControlReply, ShardId};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Tests count descriptors and load the cores: one runs at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Descriptors of this process.
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

pub struct Stage {
    pub server: Option<Server>,
    pub address: SocketAddr,
    pub counts: Arc<Counts>,
    pub replies: tokio::sync::mpsc::UnboundedReceiver<(ShardId, ControlReply)>,
    pub passed: tokio::sync::mpsc::Receiver<Passed>,
    pub fatal: Arc<Mutex<Vec<(ShardId, String)>>>,
    pub dir: tempfile::TempDir,
}

pub struct Set {
    pub runtime: RuntimeKind,
    pub shards: usize,
    pub sync: LogSync,
    pub segments: bool,
    pub front: FrontRules,
    pub watchdog: WatchdogConfig,
    pub authenticator: Option<Arc<dyn Authenticator>>,
}

impl Set {
    pub fn of(runtime: RuntimeKind) -> Self {
        Self {
            runtime,
            shards: 2,
            sync: LogSync::default(),
            segments: true,
            front: FrontRules::default(),
            watchdog: WatchdogConfig::default(),
            authenticator: None,
        }
    }

    pub fn start(self) -> Stage {
        let dir = tempfile::tempdir().unwrap();
        let counts = Arc::new(Counts::default());
        let (replies_in, replies) = tokio::sync::mpsc::unbounded_channel();
        let (passed_in, passed) = tokio::sync::mpsc::channel(2);
        let fatal = Arc::new(Mutex::new(Vec::new()));
        let usable = placement::choose(&collabblocks_server::config::Cores::Auto).unwrap();
        let cores = (0..self.shards)
            .map(|shard| usable[shard % usable.len()])
            .collect();
        let makers = (0..self.shards)
            .map(|shard| {
                let counts = counts.clone();
                let log = dir.path().join(format!("log-{shard}"));
                if self.segments {
                    // Zero-filled and synced, as the log's segments are.
                    std::fs::write(&log, vec![0; SEGMENT_BYTES as usize]).unwrap();
                    std::fs::File::open(&log).unwrap().sync_all().unwrap();
                }
                let make: MakeCore<Toy> =
                    Box::new(move |context| Ok(Toy::new(context, counts, log)));
                make
            })
            .collect();
        let seen = fatal.clone();
        let mut builder = Server::builder(Arc::new(NoDisk), replies_in, passed_in);
        if let Some(authenticator) = self.authenticator {
            builder = builder.authenticator(authenticator);
        }
        let server = builder
            .listen(["127.0.0.1:0".parse().unwrap()])
            .cores(cores)
            .runtime(self.runtime)
            .log_sync(self.sync)
            .front(self.front)
            .watchdog(self.watchdog)
            .quarantine_in(dir.path().into())
            .on_fatal(Arc::new(move |shard, why| {
                seen.lock().unwrap().push((shard, why.to_owned()))
            }))
            .start(makers)
            .unwrap();
        let address = server.addresses()[0];
        Stage {
            server: Some(server),
            address,
            counts,
            replies,
            passed,
            fatal,
            dir,
        }
    }
}

impl Stage {
    pub fn connect(&self, hello: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream.write_all(hello.as_bytes()).unwrap();
        stream
    }

    /// Stops the server, which must have had no fatal error.
    pub fn end(mut self) {
        self.server.take().unwrap().stop();
        assert_eq!(*self.fatal.lock().unwrap(), []);
    }
}

/// Sends and reads as much back.
pub fn echo(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
    expect(stream, bytes);
}

pub fn expect(stream: &mut TcpStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    stream.read_exact(&mut got).unwrap();
    assert!(got == bytes, "other bytes came back");
}

pub fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Waits until something holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Threads that burn CPU until they are dropped.
pub struct Hogs {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Hogs {
    pub fn start(count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..count)
            .map(|_| {
                let stop = stop.clone();
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                })
            })
            .collect();
        Self { stop, threads }
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

/// A disk that these tests never use.
struct NoDisk;

impl collabblocks_wal::Disk for NoDisk {
    fn list(&self, _: &Path) -> std::io::Result<Vec<String>> {
        unused()
    }
    fn create_dir(&self, _: &Path) -> std::io::Result<()> {
        unused()
    }
    fn len(&self, _: &Path) -> std::io::Result<u64> {
        unused()
    }
    fn read_at(&self, _: &Path, _: u64, _: &mut [u8]) -> std::io::Result<usize> {
        unused()
    }
    fn write_at(&self, _: &Path, _: u64, _: &[u8]) -> std::io::Result<()> {
        unused()
    }
    fn sync(&self, _: &Path) -> std::io::Result<()> {
        unused()
    }
    fn create_zeroed(&self, _: &Path, _: u64) -> std::io::Result<()> {
        unused()
    }
    fn truncate(&self, _: &Path, _: u64) -> std::io::Result<()> {
        unused()
    }
    fn rename(&self, _: &Path, _: &Path) -> std::io::Result<()> {
        unused()
    }
    fn remove(&self, _: &Path) -> std::io::Result<()> {
        unused()
    }
    fn remove_dir_all(&self, _: &Path) -> std::io::Result<()> {
        unused()
    }
    fn sync_dir(&self, _: &Path) -> std::io::Result<()> {
        unused()
    }
    fn free_bytes(&self, _: &Path) -> std::io::Result<u64> {
        unused()
    }
}

fn unused<T>() -> std::io::Result<T> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// A file's whole bytes.
pub fn file(dir: &Path, name: &str) -> Vec<u8> {
    let path: PathBuf = dir.join(name);
    std::fs::read(path).unwrap()
}
