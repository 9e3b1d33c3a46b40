//! Runtimes: whoever owns a shard, feeds it events and carries out its effects.

pub mod files;
mod front;
pub mod glommio;
pub mod heartbeat;
mod log;
pub mod placement;
pub mod ring;
mod slots;
pub mod tls;
pub mod watchdog;

pub use front::FrontRules;

use crate::identity::Asker;
use crate::mailbox::{Inbox, Outbox, Wake};
use crate::shard::{ControlReply, Effects, Event, Instant, RuntimeStats, ShardId};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{Sender, UnboundedSender};

/// What a runtime drives: `shard::Shard`, and in tests a toy. Lives on its core's thread.
pub trait Core {
    /// Something happened at `now`; what is to be done is pushed to `effects`.
    fn on_event(&mut self, now: Instant, event: Event<'_>, effects: &mut Effects);
}

/// Which runtime drives the shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RuntimeKind {
    /// A plain loop on one io_uring a core.
    #[default]
    Ring,
    /// The glommio executor, with a ticker against its lost time; see [`glommio`].
    Glommio,
}

/// How a batch of the log is made durable. The ring's ways depend on the kernel's own per-core workers,
/// which an overcommitted core can leave waiting for seconds: a batch that takes longer than 20 ms is
/// written by a thread as well.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogSync {
    /// A write, and an fdatasync linked to it.
    Fdatasync,
    /// One write with RWF_DSYNC.
    #[default]
    Dsync,
    /// One write with RWF_DSYNC on a thread of its own: two thread switches a batch.
    Thread,
}

/// A socket whose request is not for a room, on its way to the control plane.
#[derive(Debug)]
pub struct Passed {
    /// The connected socket, non-blocking; or one end of a pair, at the other end of which a core
    /// speaks TLS for it.
    pub socket: OwnedFd,
    /// It is an end of a pair.
    pub paired: bool,
    /// All bytes read from it so far.
    pub bytes: Vec<u8>,
}

/// All that a runtime has beside its core.
#[derive(Debug)]
pub struct Ports {
    /// Which shard this is.
    pub shard: ShardId,
    /// Bound and listening sockets, this core's own.
    pub listeners: Vec<TcpListener>,
    /// From other threads.
    pub inbox: Inbox,
    /// To other cores.
    pub outbox: Outbox,
    /// How this core is woken.
    pub wake: Arc<Wake>,
    /// To the file workers.
    pub jobs: files::JobSender,
    /// Where the log's thread, if there is one, tells how batches ended.
    pub log_ends: std::sync::mpsc::Sender<crate::mailbox::LogEnd>,
    /// Answers to the control plane; bounded by its own requests.
    pub replies: UnboundedSender<(ShardId, ControlReply)>,
    /// Sockets for the control plane; when it is full the peer is answered 503.
    pub passed: Sender<Passed>,
    /// To whoever authenticates clients.
    pub identity: Asker,
    /// What connections begin with.
    pub front: FrontRules,
    /// What the watchdog looks at.
    pub heartbeat: Arc<heartbeat::Heartbeat>,
    /// How the log is synced.
    pub log_sync: LogSync,
    /// Accepted sockets have descriptors below this; the rest is for the log and other files.
    pub sockets_below: u64,
    /// How long a batch that ended may wait to be noticed with something else, under load.
    pub log_lag: Duration,
}

/// Descriptors that sockets leave to the log, snapshots and manifests, which would fail without:
/// these for all, and [`FILES_RESERVED_PER_SHARD`] for each shard.
pub(crate) const FILES_RESERVED: u64 = 32;
/// Files that one shard opens while it serves.
pub(crate) const FILES_RESERVED_PER_SHARD: u64 = 4;
/// The longest a core waits, so that its heartbeat shows that it can still wake up.
pub(crate) const WAIT_NS_MAX: u64 = 250_000_000;
/// How long accepting rests after it failed for want of file descriptors.
pub(crate) const ACCEPT_REST_NS: u64 = 100_000_000;
/// How long a closing connection may take to get its last bytes out and to be closed by its peer.
pub(crate) const CLOSE_NS_MAX: u64 = 1_000_000_000;

/// What a core is told as progress when a socket held back so many bytes: another part of this size
/// was taken.
pub(crate) fn progress_bytes(unsent_bytes: usize) -> usize {
    // One call takes at most what an int counts.
    (unsent_bytes / 16).clamp(128 << 10, 1 << 30)
}

/// What a peer reads when the control plane cannot take its request, or no descriptor is left for it.
pub const UNAVAILABLE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n";

/// The monotonic clock.
pub(crate) fn clock() -> Instant {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Instant(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// A core with what it is fed into: kept apart from the rest of a runtime, so that an event may
/// borrow the runtime's buffers.
pub(crate) struct Seat<C> {
    pub core: C,
    pub now: Instant,
    pub effects: Effects,
    pub heartbeat: Arc<heartbeat::Heartbeat>,
    /// Something was fed since the last turn's end.
    pub fed: bool,
}

impl<C: Core> Seat<C> {
    pub fn new(core: C, heartbeat: Arc<heartbeat::Heartbeat>) -> Self {
        Self {
            core,
            now: clock(),
            effects: Effects::default(),
            heartbeat,
            fed: false,
        }
    }

    pub fn feed(&mut self, event: Event<'_>) {
        self.heartbeat.enters(&event);
        self.fed = true;
        self.core.on_event(self.now, event, &mut self.effects);
    }

    /// Ends the turn, if there was one.
    pub fn end_turn(&mut self, stats: &mut RuntimeStats) {
        if self.fed {
            let began = self.now;
            self.now = clock();
            self.feed(Event::TurnEnd);
            self.fed = false;
            stats.turn_ns.saturating_record(clock().0 - began.0);
        }
    }
}

/// Gives a socket to the control plane, or answers for it when it cannot take more.
pub(crate) fn pass(passed: &Sender<Passed>, socket: OwnedFd, bytes: Vec<u8>, paired: bool) {
    let made = rustix::io::ioctl_fionbio(&socket, true);
    let refused = match made {
        Ok(()) => passed
            .try_send(Passed {
                socket,
                paired,
                bytes,
            })
            .err()
            .map(|error| error.into_inner().socket),
        Err(_) => Some(socket),
    };
    if let Some(socket) = refused {
        say_unavailable(&socket);
    }
}

/// Whether a socket that was accepted leaves enough descriptors to files. The kernel gives the
/// lowest free number, so one at the bound says that all below it are taken. A socket that does not
/// is answered, and is to be closed.
pub(crate) fn leaves_files(socket: impl AsFd, sockets_below: u64) -> bool {
    let socket = socket.as_fd();
    let fits = u64::try_from(socket.as_raw_fd()).is_ok_and(|number| number < sockets_below);
    if !fits {
        say_unavailable(socket);
    }
    fits
}

/// Best effort: a peer that does not take it is closed all the same.
fn say_unavailable(socket: impl AsFd) {
    use rustix::net::SendFlags;
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let _ = rustix::net::send(socket, UNAVAILABLE, flags);
}

/// Fills in what the runtime counts.
pub(crate) fn complete_reply(
    reply: &mut ControlReply,
    counted: &mut RuntimeStats,
    now: Instant,
    started: Instant,
) {
    if let ControlReply::Stats { stats, .. } = reply {
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        // A core that waits uses no CPU, so its CPU time is its busy time.
        counted.busy_ns = cpu.tv_sec as u64 * 1_000_000_000 + cpu.tv_nsec as u64;
        counted.elapsed_ns = now.0 - started.0;
        stats.runtime = counted.clone();
    }
}

/// Who is at the other end of a socket; `None` if the connection was reset already.
pub(crate) fn peer_of(socket: impl AsFd) -> Option<SocketAddr> {
    let peer = rustix::net::getpeername(socket).ok()??;
    SocketAddr::try_from(peer).ok()
}

/// Two sockets that are connected: one for the control plane, and one for a core that speaks TLS for
/// it. `None` if there is no descriptor left for them.
pub(crate) fn pair(sockets_below: u64) -> Option<(OwnedFd, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let (flags, stream) = (SocketFlags::CLOEXEC, SocketType::STREAM);
    let (ours, theirs) = socketpair(AddressFamily::UNIX, stream, flags, None).ok()?;
    let fits = |socket: &OwnedFd| {
        u64::try_from(socket.as_raw_fd()).is_ok_and(|number| number < sockets_below)
    };
    (fits(&ours) && fits(&theirs)).then_some((ours, theirs))
}
