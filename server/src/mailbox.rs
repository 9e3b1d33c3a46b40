//! Mailboxes between shards: one bounded SPSC ring for each ordered pair of cores, and the wake.
//!
//! A sender never waits: what finds a mailbox full is given back to it. A core that is about to wait
//! says so in its [`Wake`], so that a busy core is never poked.

use crate::runtime::tls::Session;
use crate::shard::{Authenticated, ControlRequest, Mail, ShardId};
use collabblocks_storage_engine::JobDone;
use collabblocks_wal::WriteJob;
use rustls::ServerConfig;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::task::Waker;

/// Parcels one mailbox holds. At the bound [`Outbox::send`] gives the parcel back.
pub const MAILBOX_PARCELS_MAX: usize = 1024;

/// A message, with the socket that belongs to it.
#[derive(Debug)]
pub struct Parcel {
    /// The message.
    pub mail: Mail,
    /// The socket, for a handoff; a letter has none.
    pub socket: Option<OwnedFd>,
    /// Its TLS, with what was received and not decrypted yet.
    pub tls: Option<Box<Session>>,
}

/// How a core is woken and told to stop. Shared by its core and all who send to it.
///
/// The two atomics are on the allow-list of shared state. `state` is what senders and the core agree
/// by on who looks where, and cannot be a message: a sender pushes, then swaps in [`CALLED`]; the core
/// looks at its queues after it swapped that out, and goes to sleep only in its absence. All changes
/// are read-modify-writes of the one word, so a push is either seen by the core that swaps after it, or
/// its sender finds the core asleep. `stop` is a shutdown flag.
#[derive(Debug)]
pub struct Wake {
    state: AtomicU8,
    stop: AtomicBool,
    event: OwnedFd,
    ring: OnceLock<OwnedFd>,
    /// Locked for a moment by who wakes, and twice in the core's life by itself.
    waker: Mutex<Option<Waker>>,
}

/// Nothing was pushed since the core last looked, and it will look again before it sleeps.
const AWAKE: u8 = 0;
/// Nothing was pushed, and the core waits, or is about to.
const ASLEEP: u8 = 1;
/// Something was pushed.
const CALLED: u8 = 2;

impl Wake {
    /// A wake of a core that is awake.
    pub fn new() -> io::Result<Self> {
        // Blocking on purpose: io_uring fails a read at once on a non-blocking file.
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
        Ok(Self {
            state: AtomicU8::new(AWAKE),
            stop: AtomicBool::new(false),
            event,
            ring: OnceLock::new(),
            waker: Mutex::new(None),
        })
    }

    /// The core says that it is about to wait; `false` if it must look at its queues first.
    #[must_use]
    pub fn falls_asleep(&self) -> bool {
        self.state
            .compare_exchange(AWAKE, ASLEEP, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// The core is awake; `true` if there is something in its queues.
    #[must_use]
    pub fn awoke(&self) -> bool {
        self.state.swap(AWAKE, Ordering::SeqCst) == CALLED
    }

    /// After pushing to a queue of the core: whether the caller must wake it (once; other senders
    /// may then rely on this caller).
    pub fn must_wake(&self) -> bool {
        self.state.swap(CALLED, Ordering::SeqCst) == ASLEEP
    }

    /// The core runs on an executor: it is woken through this waker from now on.
    pub fn set_waker(&self, waker: Option<Waker>) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = waker;
    }

    /// Wakes the core through its waker, or else through its eventfd, from any thread.
    pub fn poke(&self) {
        if let Some(waker) = &*self.waker.lock().unwrap_or_else(PoisonError::into_inner) {
            return waker.wake_by_ref();
        }
        // The counter cannot overflow: the core resets it each time. An error can only mean that, and
        // then the core is awake anyway.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// After pushing to a queue of the core, from a thread without a ring: wakes it if it sleeps.
    pub fn notify(&self) {
        if self.must_wake() {
            self.poke();
        }
    }

    /// Tells the core to end its loop.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.poke();
    }

    /// Whether the core was told to stop.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The eventfd that [`Wake::poke`] writes to.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// The core runs on this ring: other rings may message it.
    pub fn set_ring(&self, ring: OwnedFd) {
        assert!(self.ring.set(ring).is_ok(), "a core has one ring");
    }

    /// The core's ring, where it has one.
    pub fn ring(&self) -> Option<BorrowedFd<'_>> {
        self.ring.get().map(OwnedFd::as_fd)
    }
}

/// How a batch of the log ended that a thread wrote.
#[derive(Debug)]
pub struct LogEnd {
    /// The batch.
    pub job: WriteJob,
    /// Bytes written and synced, or the error.
    pub result: io::Result<usize>,
}

/// What came from elsewhere.
#[derive(Debug)]
pub enum Incoming {
    /// From another shard.
    Parcel(ShardId, Parcel),
    /// From a file worker.
    Job(JobDone),
    /// From the log's thread.
    Log(LogEnd),
    /// From whoever authenticates clients.
    Authenticated(Authenticated),
    /// From the control plane.
    Control(ControlRequest),
    /// From the control plane: new connections are to be shown this certificate.
    Certificate(Arc<ServerConfig>),
}

/// What the control plane sends.
#[derive(Debug)]
pub enum Order {
    /// A question or request for the shard.
    Ask(ControlRequest),
    /// For the runtime: new connections are to be shown this certificate.
    Certificate(Arc<ServerConfig>),
}

impl From<Order> for Incoming {
    fn from(order: Order) -> Self {
        match order {
            Order::Ask(request) => Incoming::Control(request),
            Order::Certificate(config) => Incoming::Certificate(config),
        }
    }
}

/// All that other threads send to a core. Lives on that core.
#[derive(Debug)]
pub struct Inbox {
    mail: Vec<(ShardId, rtrb::Consumer<Parcel>)>,
    jobs: mpsc::Receiver<JobDone>,
    log: mpsc::Receiver<LogEnd>,
    identity: mpsc::Receiver<Authenticated>,
    control: mpsc::Receiver<Order>,
}

impl Inbox {
    /// Takes what is there, at most a mailbox full from each sender. Returns whether there may be more.
    pub fn take(&mut self, into: &mut VecDeque<Incoming>) -> bool {
        let mut more = false;
        for (from, consumer) in &mut self.mail {
            let mut taken = 0;
            while taken < MAILBOX_PARCELS_MAX
                && let Ok(parcel) = consumer.pop()
            {
                into.push_back(Incoming::Parcel(*from, parcel));
                taken += 1;
            }
            more |= taken == MAILBOX_PARCELS_MAX;
        }
        let mut others = |all: &mut dyn Iterator<Item = Incoming>| {
            let before = into.len();
            into.extend(all.take(MAILBOX_PARCELS_MAX));
            more |= into.len() - before == MAILBOX_PARCELS_MAX;
        };
        others(&mut self.jobs.try_iter().map(Incoming::Job));
        others(&mut self.control.try_iter().map(Incoming::from));
        others(&mut self.identity.try_iter().map(Incoming::Authenticated));
        others(&mut self.log.try_iter().map(Incoming::Log));
        more
    }
}

/// A core's way to all others. Lives on that core.
#[derive(Debug)]
pub struct Outbox {
    mail: Vec<Option<rtrb::Producer<Parcel>>>,
    wakes: Vec<Arc<Wake>>,
}

impl Outbox {
    /// Pushes a parcel; gives it back if the mailbox is full. On success tells whether the receiver
    /// must be woken by the caller, through its [`Outbox::wake_of`].
    // The error is the parcel itself: nothing is boxed on the way of a handoff.
    #[allow(clippy::result_large_err)]
    pub fn send(&mut self, to: ShardId, parcel: Parcel) -> Result<bool, Parcel> {
        let index = usize::from(to.0);
        let producer = self.mail[index]
            .as_mut()
            .expect("a shard sends no mail to itself");
        match producer.push(parcel) {
            Ok(()) => Ok(self.wakes[index].must_wake()),
            Err(rtrb::PushError::Full(parcel)) => Err(parcel),
        }
    }

    /// The wake of a shard.
    pub fn wake_of(&self, shard: ShardId) -> &Arc<Wake> {
        &self.wakes[usize::from(shard.0)]
    }
}

/// Both ends of what one shard has, and the senders that other threads use.
#[derive(Debug)]
pub struct Post {
    /// What comes in.
    pub inbox: Inbox,
    /// What goes out.
    pub outbox: Outbox,
    /// The shard's wake.
    pub wake: Arc<Wake>,
    /// For file workers.
    pub jobs: mpsc::Sender<JobDone>,
    /// For the log's thread.
    pub log: mpsc::Sender<LogEnd>,
    /// For whoever authenticates clients; as many answers as there are questions.
    pub identity: mpsc::Sender<Authenticated>,
    /// For the control plane; bounded by [`MAILBOX_PARCELS_MAX`].
    pub control: mpsc::SyncSender<Order>,
}

/// Makes the mailboxes of all shards.
pub fn mesh(shards: u16) -> io::Result<Vec<Post>> {
    let count = usize::from(shards);
    let wakes = (0..count)
        .map(|_| Wake::new().map(Arc::new))
        .collect::<io::Result<Vec<_>>>()?;
    let mut posts: Vec<Post> = wakes
        .iter()
        .map(|wake| {
            let (jobs, jobs_in) = mpsc::channel();
            let (log, log_in) = mpsc::channel();
            let (identity, identity_in) = mpsc::channel();
            let (control, control_in) = mpsc::sync_channel(MAILBOX_PARCELS_MAX);
            Post {
                inbox: Inbox {
                    mail: Vec::new(),
                    jobs: jobs_in,
                    log: log_in,
                    identity: identity_in,
                    control: control_in,
                },
                outbox: Outbox {
                    mail: Vec::new(),
                    wakes: wakes.clone(),
                },
                wake: wake.clone(),
                jobs,
                log,
                identity,
                control,
            }
        })
        .collect();
    for from in 0..count {
        for to in 0..count {
            if from == to {
                posts[from].outbox.mail.push(None);
                continue;
            }
            let (producer, consumer) = rtrb::RingBuffer::new(MAILBOX_PARCELS_MAX);
            posts[from].outbox.mail.push(Some(producer));
            posts[to].inbox.mail.push((ShardId(from as u16), consumer));
        }
    }
    Ok(posts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::ControlRequest;

    #[test]
    fn a_core_that_was_called_looks_before_it_sleeps() {
        let wake = Wake::new().unwrap();
        assert!(!wake.awoke(), "nobody called");
        assert!(!wake.must_wake(), "it is awake");
        assert!(!wake.falls_asleep(), "it was called");
        assert!(wake.awoke());
        assert!(!wake.awoke(), "it has looked");
        assert!(wake.falls_asleep());
        assert!(wake.must_wake());
        assert!(!wake.must_wake(), "one wake is enough");
        assert!(wake.awoke());
        assert!(wake.falls_asleep());
        assert!(!wake.awoke(), "something else woke it");
    }

    #[test]
    fn what_a_take_leaves_is_announced() {
        let mut post = mesh(1).unwrap().remove(0);
        let mut into = VecDeque::new();
        assert!(!post.inbox.take(&mut into) && into.is_empty());
        for _ in 0..MAILBOX_PARCELS_MAX {
            let drain = Order::Ask(ControlRequest::Drain);
            post.control.try_send(drain).unwrap();
        }
        assert!(post.inbox.take(&mut into), "there might be more");
        assert_eq!(into.len(), MAILBOX_PARCELS_MAX);
        assert!(!post.inbox.take(&mut into));
        assert_eq!(into.len(), MAILBOX_PARCELS_MAX);
    }

    #[test]
    fn no_push_is_slept_over() {
        let wake = Arc::new(Wake::new().unwrap());
        let (sender, receiver) = mpsc::channel();
        let waker = wake.clone();
        const PUSHES: u64 = 20_000;
        let pusher = std::thread::spawn(move || {
            for push in 0..PUSHES {
                sender.send(push).unwrap();
                waker.notify();
            }
        });
        let mut got = 0;
        while got < PUSHES {
            if wake.falls_asleep() {
                // Hangs for ever if a push was missed.
                let mut counter = [0; 8];
                rustix::io::read(wake.event(), &mut counter).unwrap();
            }
            if wake.awoke() {
                got += receiver.try_iter().count() as u64;
            }
        }
        pusher.join().unwrap();
    }
}
