//! The server as a library: starts a shard on each core, wires them together, stops them.

use crate::identity::{Asker, Asking, Authenticator};
use crate::mailbox::{self, Order, Post, Wake};
use crate::quarantine;
use crate::runtime::files::{FileWorkers, message_of};
use crate::runtime::heartbeat::Heartbeat;
use crate::runtime::watchdog::{Stall, Stalled, Watchdog, WatchdogConfig};
use crate::runtime::{
    Core, FILES_RESERVED, FILES_RESERVED_PER_SHARD, FrontRules, LogSync, Passed, Ports,
    RuntimeKind, placement,
};
use crate::shard::{ControlReply, ControlRequest, ShardId};
use collabblocks_wal::Disk;
use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc as tokio_mpsc;

/// Connections that wait to be accepted, for each core and address.
const BACKLOG: i32 = 4096;
/// How long the disk may take to note a room, before the process is ended without.
const QUARANTINE_TIMEOUT: Duration = Duration::from_secs(2);
/// Exit code of a process that a fatal error ends, as sysexits.h has it for software errors.
pub const EXIT_FATAL: i32 = 70;

/// Told once that a shard cannot go on; called on any thread. The server's state is unusable after it.
pub type OnFatal = Arc<dyn Fn(ShardId, &str) + Send + Sync>;

/// What the maker of a core is given, on the core's own thread.
#[derive(Clone, Debug)]
pub struct ShardContext {
    /// The shard to make.
    pub shard: ShardId,
    /// How many there are.
    pub shards: u16,
    /// Lets the core name the room that it is in, as a [`collabblocks_storage_engine::Watch`].
    pub heartbeat: Arc<Heartbeat>,
    /// Whether there is an authenticator: then the core has to ask it.
    pub authenticates: bool,
}

/// Makes one shard's core. Runs on the core's pinned thread and may block (open and replay the log).
pub type MakeCore<C> = Box<dyn FnOnce(&ShardContext) -> Result<C, String> + Send>;

/// Settings of a server to be started.
pub struct Builder {
    listen: Vec<SocketAddr>,
    cores: Vec<usize>,
    runtime: RuntimeKind,
    log_sync: LogSync,
    log_lag: Duration,
    front: FrontRules,
    file_workers: usize,
    files_max: u64,
    disk: Arc<dyn Disk>,
    watchdog: WatchdogConfig,
    quarantine_in: Option<PathBuf>,
    authenticator: Option<Arc<dyn Authenticator>>,
    on_fatal: OnFatal,
    replies: tokio_mpsc::UnboundedSender<(ShardId, ControlReply)>,
    passed: tokio_mpsc::Sender<Passed>,
}

impl Builder {
    /// Addresses to listen on, each on every core. Port 0 takes a free one.
    pub fn listen(mut self, addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.listen = addresses.into_iter().collect();
        self
    }

    /// The core of each shard; see [`placement::choose`].
    pub fn cores(mut self, cores: Vec<usize>) -> Self {
        self.cores = cores;
        self
    }

    /// Which runtime drives the shards.
    pub fn runtime(mut self, runtime: RuntimeKind) -> Self {
        self.runtime = runtime;
        self
    }

    /// How the log is made durable.
    pub fn log_sync(mut self, sync: LogSync) -> Self {
        self.log_sync = sync;
        self
    }

    /// How long a batch that is durable may wait, under load, to be noticed together with something
    /// else that wakes the core; 0 by default. Only the ring runtime makes use of it.
    pub fn log_lag(mut self, lag: Duration) -> Self {
        self.log_lag = lag;
        self
    }

    /// What connections begin with: a PROXY protocol header, TLS; neither by default.
    pub fn front(mut self, front: FrontRules) -> Self {
        self.front = front;
        self
    }

    /// Threads for blocking file work, over all shards; 2 by default.
    pub fn file_workers(mut self, count: usize) -> Self {
        self.file_workers = count;
        self
    }

    /// Descriptors that the process may have open. Sockets leave some of them to files, so that a
    /// flood of connections never keeps the log from its next segment. By default there is no bound.
    pub fn files_max(mut self, count: u64) -> Self {
        self.files_max = count;
        self
    }

    /// Times of the watchdog.
    pub fn watchdog(mut self, config: WatchdogConfig) -> Self {
        self.watchdog = config;
        self
    }

    /// Where a room that keeps its core for longer than the watchdog waits is put into quarantine: the
    /// data directory. Without it, nowhere.
    pub fn quarantine_in(mut self, data: PathBuf) -> Self {
        self.quarantine_in = Some(data);
        self
    }

    /// Who decides which clients are let into rooms, and what they may do there. Without it, whoever
    /// may connect may write.
    pub fn authenticator(mut self, authenticator: Arc<dyn Authenticator>) -> Self {
        self.authenticator = Some(authenticator);
        self
    }

    /// Replaces what a fatal error does: by default it is logged and the process ends with
    /// [`EXIT_FATAL`].
    pub fn on_fatal(mut self, on_fatal: OnFatal) -> Self {
        self.on_fatal = on_fatal;
        self
    }

    /// Binds, starts a thread for each core, makes the cores on them with `makers` (one for each
    /// shard), and listens once all are made. The error is a sentence.
    pub fn start<C: Core + 'static>(self, makers: Vec<MakeCore<C>>) -> Result<Server, String> {
        if self.cores.is_empty() || makers.len() != self.cores.len() {
            return Err(format!(
                "{} cores for {} shards: give one for each",
                self.cores.len(),
                makers.len()
            ));
        }
        let shards =
            u16::try_from(makers.len()).map_err(|_| "more than 65,535 shards".to_owned())?;
        let (sockets, addresses) = bind_all(&self.listen, makers.len())?;
        let on_panic = self.on_fatal.clone();
        let workers = FileWorkers::start(self.file_workers, self.disk.clone(), move |why: &str| {
            on_panic(ShardId(0), &format!("a file worker panicked: {why}"));
        })
        .map_err(|error| format!("file worker threads cannot be started: {error}"))?;
        let asking = self.authenticator.map(Asking::start).transpose();
        let asking =
            asking.map_err(|error| format!("the identity thread cannot be started: {error}"))?;
        let posts =
            mailbox::mesh(shards).map_err(|error| format!("eventfds cannot be made: {error}"))?;

        let reserved = FILES_RESERVED + FILES_RESERVED_PER_SHARD * u64::from(shards);
        let sockets_below = self.files_max.saturating_sub(reserved);
        let (reports, reported) = channel();
        // Should anything fail from here on, `goes` is dropped first, then the server, which stops and
        // joins the threads.
        let marks = workers.marks();
        let mut server = Server {
            addresses,
            threads: Vec::new(),
            watchdog: None,
            workers: Some(workers),
        };
        let mut goes = Vec::with_capacity(makers.len());
        let mut watched = Vec::with_capacity(makers.len());
        let each = makers.into_iter().zip(posts).zip(&self.cores).zip(0u16..);
        for (((make, post), core), number) in each {
            let shard = ShardId(number);
            let heartbeat = Arc::new(Heartbeat::default());
            watched.push((shard, heartbeat.clone()));
            let Post {
                inbox,
                outbox,
                wake,
                jobs,
                log,
                identity,
                control,
            } = post;
            let ports = Ports {
                shard,
                listeners: Vec::new(),
                inbox,
                outbox,
                jobs: server.workers.as_ref().expect("present until drop").sender(
                    shard,
                    jobs,
                    wake.clone(),
                ),
                wake: wake.clone(),
                log_ends: log,
                identity: Asker::new(asking.clone(), identity, wake.clone()),
                replies: self.replies.clone(),
                passed: self.passed.clone(),
                front: self.front.of_its_own(),
                heartbeat: heartbeat.clone(),
                log_sync: self.log_sync,
                sockets_below,
                log_lag: self.log_lag,
            };
            let (go, listeners) = sync_channel(1);
            let context = ShardContext {
                shard,
                shards,
                heartbeat,
                authenticates: asking.is_some(),
            };
            let life = Life {
                core: *core,
                runtime: self.runtime,
                reports: reports.clone(),
                listeners,
            };
            let on_fatal = self.on_fatal.clone();
            let thread = std::thread::Builder::new()
                .name(format!("shard-{number}"))
                .spawn(move || {
                    let shard = context.shard;
                    let lived = catch_unwind(AssertUnwindSafe(|| life.live(make, &context, ports)));
                    context.heartbeat.ends();
                    match lived {
                        Ok(Ok(())) => {}
                        Ok(Err(why)) => on_fatal(shard, &why),
                        Err(panic) => on_fatal(
                            shard,
                            &format!("the shard panicked: {}", message_of(&*panic)),
                        ),
                    }
                })
                .map_err(|error| format!("a shard's thread cannot be started: {error}"))?;
            goes.push(go);
            server.threads.push(ShardThread {
                wake,
                control,
                thread,
            });
        }
        drop(reports);
        await_all(&reported, shards)?;
        for (go, sockets) in goes.iter().zip(sockets) {
            let listeners = sockets
                .into_iter()
                .map(listen)
                .collect::<Result<Vec<_>, String>>()?;
            // A thread that has ended has reported why; `await_all` finds it.
            let _ = go.send(listeners);
        }
        await_all(&reported, shards)?;
        let (on_fatal, data) = (self.on_fatal, self.quarantine_in);
        let watchdog = Watchdog::start(watched, marks, self.watchdog, move |stall| {
            report(&stall, data.as_deref(), &on_fatal)
        });
        server.watchdog =
            Some(watchdog.map_err(|error| format!("the watchdog cannot be started: {error}"))?);
        Ok(server)
    }
}

fn report(stall: &Stall, data: Option<&Path>, on_fatal: &OnFatal) {
    let Stall {
        shard,
        what,
        lasted,
        room,
        hopeless,
    } = stall;
    let ms = lasted.as_millis();
    let place = room.as_ref().map_or("in no room".to_owned(), |room| {
        let cut = if room.whole { "" } else { "..." };
        format!("in room {:?}{cut}", room.name)
    });
    let held = match what {
        Stalled::Core(event) => format!("shard {} for {ms} ms in event {event}", shard.0),
        Stalled::Worker => format!("a file worker for {ms} ms, for shard {}", shard.0),
    };
    let what = match what {
        Stalled::Core(event) => format!("core stalled for {ms} ms in event {event}, {place}"),
        Stalled::Worker => format!("large work on a document has taken {ms} ms, {place}"),
    };
    if !*hopeless {
        return tracing::error!(shard = shard.0, "{what}");
    }
    if let (Some(data), Some(room)) = (data, room)
        && room.whole
    {
        let why = format!("it held {held}");
        put_in_quarantine(data.into(), room.name.clone(), why);
    }
    on_fatal(*shard, &what);
}

/// On a thread of its own, as a disk that hangs must not keep the process from ending.
fn put_in_quarantine(data: PathBuf, room: String, why: String) {
    let (ended, end) = sync_channel(1);
    let name = room.clone();
    let thread = std::thread::Builder::new()
        .name("quarantine".into())
        .spawn(move || drop(ended.send(quarantine::add(&data, &name, &why))));
    let added = match thread {
        Ok(_) => (end.recv_timeout(QUARANTINE_TIMEOUT))
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())),
        Err(error) => Err(error),
    };
    match added {
        Ok(()) => tracing::error!(
            "room {room:?} is in quarantine from the next start on: remove its line from the file {:?} \
             in the data directory to release it",
            quarantine::FILE
        ),
        Err(error) => tracing::error!(%error, "room {room:?} could not be put in quarantine"),
    }
}

/// Waits for one report of each shard.
fn await_all(reports: &Receiver<Result<(), String>>, shards: u16) -> Result<(), String> {
    for _ in 0..shards {
        reports
            .recv()
            .map_err(|_| "a shard ended while it was started".to_owned())??;
    }
    Ok(())
}

/// What a shard's thread needs beside its ports.
struct Life {
    core: usize,
    runtime: RuntimeKind,
    reports: Sender<Result<(), String>>,
    listeners: Receiver<Vec<TcpListener>>,
}

impl Life {
    /// From pinning to the end. Errors before the shard is up go to the starter, later ones are
    /// fatal.
    fn live<C: Core + 'static>(
        self,
        make: MakeCore<C>,
        context: &ShardContext,
        mut ports: Ports,
    ) -> Result<(), String> {
        let Life {
            core,
            runtime,
            reports,
            listeners,
        } = self;
        let made = placement::pin(core).and_then(|()| make(context));
        let core = match made {
            Ok(core) => core,
            Err(why) => {
                // The starter waits for it.
                let _ = reports.send(Err(why));
                return Ok(());
            }
        };
        let _ = reports.send(Ok(()));
        // Without listeners the start has failed elsewhere.
        let Ok(listeners) = listeners.recv() else {
            return Ok(());
        };
        ports.listeners = listeners;
        let up = std::cell::Cell::new(false);
        let ready = || {
            up.set(true);
            let _ = reports.send(Ok(()));
        };
        let ended = match runtime {
            RuntimeKind::Ring => crate::runtime::ring::run(core, ports, ready),
            RuntimeKind::Glommio => crate::runtime::glommio::run(core, ports, ready),
        };
        match ended {
            Err(why) if !up.get() => {
                let _ = reports.send(Err(why));
                Ok(())
            }
            ended => ended,
        }
    }
}

/// Binds every address once for each shard; nothing listens yet.
fn bind_all(
    listen: &[SocketAddr],
    shards: usize,
) -> Result<(Vec<Vec<Socket>>, Vec<SocketAddr>), String> {
    let mut sockets: Vec<Vec<Socket>> = (0..shards).map(|_| Vec::new()).collect();
    let mut addresses = Vec::with_capacity(listen.len());
    for address in listen {
        let mut address = *address;
        for of_shard in &mut sockets {
            let bound =
                bind(&address).map_err(|error| format!("{address} cannot be bound: {error}"))?;
            // Port 0 is settled by the first.
            address = bound.1;
            of_shard.push(bound.0);
        }
        addresses.push(address);
    }
    Ok((sockets, addresses))
}

fn bind(address: &SocketAddr) -> std::io::Result<(Socket, SocketAddr)> {
    let socket = Socket::new(
        Domain::for_address(*address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Accepted sockets inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&(*address).into())?;
    let bound = socket
        .local_addr()?
        .as_socket()
        .ok_or(std::io::ErrorKind::AddrNotAvailable)?;
    Ok((socket, bound))
}

fn listen(socket: Socket) -> Result<TcpListener, String> {
    socket
        .listen(BACKLOG)
        .map_err(|error| format!("a socket cannot listen: {error}"))?;
    Ok(socket.into())
}

struct ShardThread {
    wake: Arc<Wake>,
    control: SyncSender<Order>,
    thread: JoinHandle<()>,
}

/// A running server. Dropping it stops it as [`Server::stop`] does.
pub struct Server {
    addresses: Vec<SocketAddr>,
    threads: Vec<ShardThread>,
    workers: Option<FileWorkers>,
    watchdog: Option<Watchdog>,
}

impl Server {
    /// A server on `disk` that answers the control plane on `replies` and gives it sockets on
    /// `passed`.
    pub fn builder(
        disk: Arc<dyn Disk>,
        replies: tokio_mpsc::UnboundedSender<(ShardId, ControlReply)>,
        passed: tokio_mpsc::Sender<Passed>,
    ) -> Builder {
        Builder {
            listen: Vec::new(),
            cores: Vec::new(),
            runtime: RuntimeKind::default(),
            log_sync: LogSync::default(),
            log_lag: Duration::ZERO,
            front: FrontRules::default(),
            file_workers: 2,
            files_max: u64::MAX,
            disk,
            watchdog: WatchdogConfig::default(),
            quarantine_in: None,
            authenticator: None,
            on_fatal: Arc::new(|shard, why| {
                tracing::error!(shard = shard.0, "fatal: {why}");
                std::process::exit(EXIT_FATAL);
            }),
            replies,
            passed,
        }
    }

    /// Where it listens, with ports settled.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// A way for the control plane to ask the shards.
    pub fn control(&self) -> ControlLink {
        let of = |thread: &ShardThread| (thread.control.clone(), thread.wake.clone());
        ControlLink {
            shards: self.threads.iter().map(of).collect(),
        }
    }

    /// Ends the shards' loops, whatever is under way, and waits for their threads. For an orderly end
    /// ask for [`ControlRequest::Drain`] before and await the answers.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for thread in &self.threads {
            thread.wake.stop();
        }
        for ShardThread {
            thread, control, ..
        } in self.threads.drain(..)
        {
            drop(control);
            // Panics were caught and reported on the thread.
            let _ = thread.join();
        }
        drop(self.workers.take());
        // Last: what is waited for above may never come back.
        drop(self.watchdog.take());
    }
}

/// Asks shards on behalf of the control plane, from any thread, without blocking.
#[derive(Clone, Debug)]
pub struct ControlLink {
    shards: Vec<(SyncSender<Order>, Arc<Wake>)>,
}

impl ControlLink {
    /// How many shards there are.
    pub fn shards(&self) -> u16 {
        self.shards.len() as u16
    }

    /// Asks a shard; `false` if it has [`mailbox::MAILBOX_PARCELS_MAX`] requests waiting or has ended.
    pub fn ask(&self, shard: ShardId, request: ControlRequest) -> bool {
        self.order(shard, Order::Ask(request))
    }

    /// Has all shards show new connections this certificate; `false` if one of them did not hear it.
    pub fn show_certificate(&self, config: &ServerConfig) -> bool {
        let mut heard = true;
        for shard in 0..self.shards() {
            // Each its own, so that cores do not count references in the same place.
            let config = Arc::new(config.clone());
            heard &= self.order(ShardId(shard), Order::Certificate(config));
        }
        heard
    }

    fn order(&self, shard: ShardId, order: Order) -> bool {
        let (orders, wake) = &self.shards[usize::from(shard.0)];
        let heard = orders.try_send(order).is_ok();
        if heard {
            wake.notify();
        }
        heard
    }
}
