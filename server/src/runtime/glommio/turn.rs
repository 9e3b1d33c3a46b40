//! The turn: feeds the core what the tasks got, carries out its effects.

use super::conn::{Conn, Leaving, Phase, Stream};
use super::tasks::{self, Got, Queue};
use crate::mailbox::{Incoming, LogEnd, Parcel};
use crate::runtime::front::{Front, HANDSHAKES_PER_TURN, Through};
use crate::runtime::log::LogThread;
use crate::runtime::slots::{Deadlines, Slots};
use crate::runtime::tls::Sealed;
use crate::runtime::{Core, Ports, Seat, clock, complete_reply, leaves_files, pass, peer_of};
use crate::shard::{
    Authenticated, ConnId, ControlReply, Effect, Event, Instant, Mail, RuntimeStats, ShardId,
};
use ::glommio::Task;
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

/// What the turn tells its core in the next one.
pub(super) enum Pending {
    Blocked(ConnId, usize),
    Refused(ConnId),
    MailRefused(ShardId, Mail),
    /// Reading is on again: what was read meanwhile is due.
    Held(ConnId),
    /// A send failed.
    Failed(ConnId),
}

pub(super) struct Turn<C> {
    pub(super) seat: Seat<C>,
    /// What went through a connection's front, and ciphertext on its way.
    pub(super) through: Through,
    pub(super) sealed: Sealed,
    pub(super) handshakes_left: u32,
    pub(super) ports: Ports,
    pub(super) conns: Slots<Conn>,
    pub(super) queue: Rc<Queue>,
    acceptors: Vec<Task<()>>,
    log: LogThread,
    pub(super) stats: RuntimeStats,
    started: Instant,
    timer: Option<Instant>,
    armed: Option<(Instant, Task<()>)>,
    pub(super) closing: Deadlines,
    incoming: VecDeque<Incoming>,
    /// There may be something in the inbox.
    called: bool,
    pub(super) pending: VecDeque<Pending>,
    /// Connections whose readers go on when the effects have been carried out.
    pub(super) go: Vec<ConnId>,
    asked: Arc<AtomicBool>,
    waker_set: bool,
    fatal: Option<String>,
}

impl<C: Core> Turn<C> {
    pub fn new(core: C, mut ports: Ports, asked: Arc<AtomicBool>) -> io::Result<Self> {
        let name = format!("log-{}", ports.shard.0);
        let log = LogThread::start(name, ports.log_ends.clone(), ports.wake.clone())?;
        let queue = Rc::new(Queue::default());
        let accept = |listener| ::glommio::spawn_local(tasks::accept(listener, queue.clone()));
        let acceptors = std::mem::take(&mut ports.listeners)
            .into_iter()
            .map(accept)
            .collect();
        Ok(Self {
            seat: Seat::new(core, ports.heartbeat.clone()),
            through: Through::default(),
            sealed: Sealed::default(),
            handshakes_left: HANDSHAKES_PER_TURN,
            ports,
            conns: Slots::default(),
            acceptors,
            queue,
            log,
            stats: RuntimeStats::default(),
            started: clock(),
            timer: None,
            armed: None,
            closing: Deadlines::default(),
            incoming: VecDeque::new(),
            called: false,
            pending: VecDeque::new(),
            go: Vec::new(),
            asked,
            waker_set: false,
            fatal: None,
        })
    }

    pub async fn run(mut self) -> Result<(), String> {
        // The core may have something to do before anything happens, such as setting its timer.
        self.seat.fed = true;
        loop {
            self.seat.end_turn(&mut self.stats);
            self.carry_out();
            if let Some(why) = self.fatal.take() {
                return Err(why);
            }
            if self.ports.wake.stopped() {
                return Ok(());
            }
            self.wait().await;
            self.seat.now = clock();
            self.ports.heartbeat.beat();
            self.stats.turns += 1;
            self.handshakes_left = HANDSHAKES_PER_TURN;
            self.take_pending();
            self.take_queue();
            self.take_others();
        }
    }

    /// Waits until something is to be done: until a task fills the queue, or another thread pokes.
    /// The ticker does so too. Others run at least once meanwhile.
    async fn wait(&mut self) {
        let mut polled = false;
        let queue = self.queue.clone();
        let mut filled = std::pin::pin!(queue.filled.wait());
        poll_fn(|context| {
            if polled {
                // Whoever woke this task, the turn goes around.
                return Poll::Ready(());
            }
            polled = true;
            if !self.waker_set {
                // A task keeps its waker for life.
                self.waker_set = true;
                self.ports.wake.set_waker(Some(context.waker().clone()));
            }
            let busy = filled.as_mut().poll(context).is_ready()
                | self.called
                | !self.ports.wake.falls_asleep()
                | !self.pending.is_empty()
                | !self.queue.is_empty();
            if busy {
                context.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await;
        self.called |= self.ports.wake.awoke();
        self.asked.store(false, Ordering::Relaxed);
    }

    pub(super) fn insert(&mut self, stream: Stream, front: Front) -> Option<ConnId> {
        let stream = Rc::new(stream);
        let queue = &self.queue;
        self.conns.insert(|id| Conn {
            _reader: ::glommio::spawn_local(tasks::read(id, stream.clone(), queue.clone())),
            stream,
            phase: Phase::Live,
            front,
            read_on: true,
            reader_waits: false,
            ended: false,
            held: Vec::new(),
            blocked: false,
            farewell: Vec::new(),
            writer: None,
        })
    }

    pub(super) fn live(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.conns.get(id).filter(|conn| conn.is_live())
    }

    fn take_pending(&mut self) {
        for pending in std::mem::take(&mut self.pending) {
            match pending {
                Pending::Blocked(conn, unsent_bytes) => {
                    if self.live(conn).is_some() {
                        self.seat.feed(Event::Blocked { conn, unsent_bytes });
                    }
                }
                Pending::Refused(conn) => {
                    if self.live(conn).is_some() {
                        self.seat.feed(Event::HandoffRefused { conn });
                        self.go.push(conn);
                    }
                }
                Pending::MailRefused(to, mail) => {
                    self.seat.feed(Event::MailRefused { to, mail });
                }
                Pending::Held(conn) => self.feed_held(conn),
                Pending::Failed(conn) => self.lose(conn),
            }
        }
    }

    fn take_queue(&mut self) {
        // A bound on one turn: what comes while it runs is for the next.
        while let Some(got) = self.queue.pop() {
            match got {
                Got::Accepted(tcp) => self.on_accepted(Stream::new(tcp)),
                Got::AcceptFailed => self.stats.accept_errors += 1,
                Got::Bytes(conn, bytes) => self.on_bytes(conn, bytes),
                Got::End(conn) => self.on_end(conn),
                Got::Progress(conn, unsent_bytes) => {
                    if self.live(conn).is_some() {
                        self.seat.feed(Event::Blocked { conn, unsent_bytes });
                    }
                }
                Got::Drained(conn, bytes) => self.on_drained(conn, bytes),
                Got::SendFailed(conn) => self.lose(conn),
                Got::Timer(at) => {
                    if self.armed.as_ref().is_some_and(|(armed, _)| *armed == at) {
                        self.armed = None;
                    }
                }
            }
        }
    }

    fn take_others(&mut self) {
        if self.called {
            self.called = self.ports.inbox.take(&mut self.incoming);
        }
        while let Some(incoming) = self.incoming.pop_front() {
            match incoming {
                Incoming::Parcel(from, Parcel { mail, socket, tls }) => {
                    let handoff = match mail {
                        Mail::Handoff(handoff) => handoff,
                        mail => {
                            self.seat.feed(Event::Mail { from, mail });
                            continue;
                        }
                    };
                    let socket = socket.expect("a handoff comes with its socket");
                    // Without a number left the socket is closed: 16 million are open already.
                    let front = Front::of_tls(tls);
                    if let Some(conn) = self.insert(Stream::adopt(socket), front) {
                        self.seat.feed(Event::HandedOff { conn, handoff });
                        self.take_kept(conn);
                    }
                }
                Incoming::Job(done) => self.seat.feed(Event::JobDone(done)),
                Incoming::Log(LogEnd { job, result }) => {
                    self.seat.feed(Event::LogWritten { job, result })
                }
                Incoming::Authenticated(Authenticated { conn, verdict }) => {
                    self.seat.feed(Event::Authenticated { conn, verdict });
                }
                Incoming::Control(request) => self.seat.feed(Event::Control(request)),
                Incoming::Certificate(tls) => self.ports.front.tls = Some(tls),
            }
        }
        self.ports.jobs.retry();
        if self.timer.is_some_and(|at| at <= self.seat.now) {
            self.timer = None;
            self.seat.feed(Event::Timer);
        }
        while let Some(conn) = self.closing.pop_due(self.seat.now) {
            if self.conns.get(conn).is_some() {
                drop(self.conns.remove(conn));
            }
        }
    }

    fn on_accepted(&mut self, stream: Stream) {
        let below = self.ports.sockets_below;
        if stream.with(|fd| leaves_files(fd, below)) == Some(false) {
            self.stats.accept_errors += 1;
            return;
        }
        // Without a peer the connection was reset already.
        let Some(Some(peer)) = stream.with(|fd| peer_of(fd)) else {
            return;
        };
        let Some(front) = self.ports.front.front_of(peer) else {
            self.stats.fronts_refused += 1;
            return;
        };
        if let Some(conn) = self.insert(stream, front) {
            self.seat.feed(Event::Accepted { conn, peer });
        }
    }

    fn on_bytes(&mut self, id: ConnId, mut bytes: Vec<u8>) {
        let Some(conn) = self.conns.get(id) else {
            return;
        };
        conn.reader_waits = true;
        match &mut conn.phase {
            Phase::Live => {
                self.stats.bytes_received += bytes.len() as u64;
                if conn.read_on && !conn.front.is_clear() {
                    self.take_through(id, bytes);
                } else if conn.read_on {
                    self.seat.feed(Event::Received {
                        conn: id,
                        bytes: &mut bytes,
                    });
                    self.go.push(id);
                } else {
                    conn.held = bytes;
                }
            }
            Phase::Leaving(Leaving::Shard(_, handoff)) => match &mut conn.front {
                Front::Tls(session) => session.keep(&bytes),
                Front::Clear | Front::Opening(_) => handoff.bytes.append(&mut bytes),
            },
            Phase::Spliced(_) => self.take_through(id, bytes),
            Phase::Leaving(Leaving::Control(read)) => read.append(&mut bytes),
            Phase::Flushing | Phase::Lingering => self.go.push(id),
        }
    }

    fn feed_held(&mut self, id: ConnId) {
        let Some(conn) = self.live(id).filter(|conn| conn.read_on) else {
            return;
        };
        let mut bytes = std::mem::take(&mut conn.held);
        if !conn.front.is_clear() {
            return self.take_through(id, bytes);
        }
        if !bytes.is_empty() {
            self.seat.feed(Event::Received {
                conn: id,
                bytes: &mut bytes,
            });
        }
        self.go.push(id);
    }

    pub(super) fn on_end(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else {
            return;
        };
        conn.ended = true;
        match conn.phase {
            Phase::Live => self.lose(id),
            Phase::Lingering => drop(self.conns.remove(id)),
            Phase::Spliced(to) => self.end_of_spliced(id, to),
            Phase::Flushing | Phase::Leaving(_) => {}
        }
    }

    fn on_drained(&mut self, id: ConnId, bytes: usize) {
        let Some(conn) = self.conns.get(id) else {
            return;
        };
        conn.blocked = false;
        conn.writer = None;
        if !conn.farewell.is_empty() {
            let farewell = std::mem::take(&mut conn.farewell);
            let writer = tasks::write(id, conn.stream.clone(), farewell, self.queue.clone());
            conn.blocked = true;
            conn.writer = Some(::glommio::spawn_local(writer));
        }
        self.stats.bytes_sent += bytes as u64;
        match conn.phase {
            Phase::Live => {
                self.send_owed(id);
                self.seat.feed(Event::Drained { conn: id });
            }
            Phase::Spliced(from) => {
                self.send_owed(id);
                self.go.push(from);
            }
            _ => self.go_on(id),
        }
    }

    /// The peer closed or the socket failed.
    pub(super) fn lose(&mut self, id: ConnId) {
        if self.conns.get(id).is_none() {
            return;
        }
        match self.conns.remove(id).phase {
            Phase::Live => self.seat.feed(Event::Closed { conn: id }),
            Phase::Spliced(to) if self.conns.get(to).is_some() => drop(self.conns.remove(to)),
            _ => {}
        }
    }

    fn carry_out(&mut self) {
        let mut list = std::mem::take(&mut self.seat.effects.list);
        for effect in list.drain(..) {
            match effect {
                Effect::Send { conn, range } => self.send(conn, range),
                // Reading is the same before and after.
                Effect::Established { .. } => {}
                Effect::Close { conn, flush } => self.close(conn, flush),
                Effect::Read { conn, on } => self.read(conn, on),
                Effect::Handoff { conn, to, handoff } => {
                    assert_ne!(to, self.ports.shard, "a shard hands nothing to itself");
                    self.leave(conn, Leaving::Shard(to, handoff));
                }
                Effect::Authenticate { conn, mut request } => {
                    let state = self.live(conn);
                    request.certificate = state.and_then(|state| state.front.certificate());
                    self.ports.identity.ask(conn, *request);
                }
                Effect::PassToControl { conn, bytes } => self.leave(conn, Leaving::Control(bytes)),
                Effect::Mail { to, mail } => self.mail(to, mail),
                Effect::WriteLog { job, .. } => self.log.send(job),
                Effect::RunJob(job) => self.ports.jobs.send(job),
                Effect::SetTimer(at) => self.timer = Some(at),
                Effect::Reply(reply) => self.reply(reply),
                Effect::StopAccepting => self.acceptors.clear(),
                Effect::Fatal(why) => {
                    self.fatal.get_or_insert(why);
                }
            }
        }
        self.seat.effects.list = list;
        self.seat.effects.frames.clear();
        self.sealed.clear();
        for id in std::mem::take(&mut self.go) {
            let Some(conn) = self.conns.get(id) else {
                continue;
            };
            let wanted = match conn.phase {
                Phase::Live => conn.read_on && conn.held.is_empty(),
                Phase::Flushing | Phase::Lingering | Phase::Spliced(_) => true,
                Phase::Leaving(_) => false,
            };
            if wanted && conn.reader_waits {
                conn.reader_waits = false;
                conn.stream.go.set();
            }
        }
        self.arm_timer();
    }

    /// Has the timer's task wait for the time that was set; one that ends earlier is good enough.
    fn arm_timer(&mut self) {
        let Some(at) = self.timer else { return };
        if self.armed.as_ref().is_some_and(|(armed, _)| *armed <= at) {
            return;
        }
        let time = Duration::from_nanos(at.0.saturating_sub(clock().0));
        let task = ::glommio::spawn_local(tasks::wait(at, time, self.queue.clone()));
        self.armed = Some((at, task));
    }

    fn send(&mut self, id: ConnId, range: Range<usize>) {
        let Some(conn) = self.conns.get(id).filter(|conn| conn.is_live()) else {
            return;
        };
        let bytes = &self.seat.effects.frames[range];
        if bytes.is_empty() {
            return;
        }
        let bytes = match &mut conn.front {
            Front::Clear => bytes,
            Front::Tls(session) => match session.seal(bytes, &mut self.sealed) {
                Some(piece) => self.sealed.bytes(piece),
                None if session.is_ready() => return self.pending.push_back(Pending::Failed(id)),
                // There is no way to tell a client anything yet.
                None => return,
            },
            Front::Opening(opening) if opening.is_clear() => bytes,
            Front::Opening(_) => return,
        };
        if conn.blocked {
            assert!(conn.farewell.is_empty(), "a blocked connection is closed");
            conn.farewell = bytes.to_vec();
            return;
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = match conn.stream.with(|fd| rustix::net::send(fd, bytes, flags)) {
            Some(Ok(sent)) => sent,
            Some(Err(Errno::AGAIN | Errno::INTR)) => 0,
            Some(Err(_)) | None => {
                self.pending.push_back(Pending::Failed(id));
                return;
            }
        };
        self.stats.bytes_sent += sent as u64;
        if sent < bytes.len() {
            let unsent = bytes[sent..].to_vec();
            self.pending.push_back(Pending::Blocked(id, unsent.len()));
            let writer = tasks::write(id, conn.stream.clone(), unsent, self.queue.clone());
            conn.blocked = true;
            conn.writer = Some(::glommio::spawn_local(writer));
        }
    }

    fn close(&mut self, id: ConnId, flush: bool) {
        if self.live(id).is_none() {
            return;
        }
        if !flush {
            drop(self.conns.remove(id));
            return;
        }
        self.flush(id);
    }

    fn read(&mut self, id: ConnId, on: bool) {
        let Some(conn) = self.live(id) else { return };
        conn.read_on = on;
        if on && conn.reader_waits {
            self.pending.push_back(Pending::Held(id));
        }
    }

    fn leave(&mut self, id: ConnId, leaving: Leaving) {
        let Some(conn) = self.live(id) else { return };
        match leaving {
            Leaving::Control(bytes) if !conn.front.is_clear() => self.splice(id, bytes),
            leaving => {
                conn.phase = Phase::Leaving(leaving);
                self.go_on(id);
            }
        }
    }

    /// Takes a connection that is on its way out as far as it can go now.
    pub(super) fn go_on(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id).filter(|conn| !conn.blocked) else {
            return;
        };
        match std::mem::replace(&mut conn.phase, Phase::Lingering) {
            Phase::Live => conn.phase = Phase::Live,
            Phase::Lingering => {}
            Phase::Flushing if conn.ended => drop(self.conns.remove(id)),
            Phase::Flushing => self.shut(id),
            Phase::Spliced(to) => conn.phase = Phase::Spliced(to),
            Phase::Leaving(leaving) => self.let_go(id, leaving),
        }
    }

    /// Gives a connection away, through a duplicate of its descriptor: glommio lets none go.
    fn let_go(&mut self, id: ConnId, leaving: Leaving) {
        let conn = self.conns.get(id).expect("it is leaving");
        let socket = match conn.stream.with(|fd| fd.try_clone_to_owned()) {
            Some(Ok(socket)) => socket,
            _ => return self.refuse(id),
        };
        match leaving {
            Leaving::Control(bytes) => {
                drop(self.conns.remove(id));
                pass(&self.ports.passed, socket, bytes, false);
            }
            Leaving::Shard(to, handoff) => {
                let tls = std::mem::take(&mut conn.front).into_tls();
                let parcel = Parcel {
                    mail: Mail::Handoff(handoff),
                    socket: Some(socket),
                    tls,
                };
                match self.ports.outbox.send(to, parcel) {
                    Ok(wake) => {
                        drop(self.conns.remove(id));
                        if wake {
                            self.ports.outbox.wake_of(to).poke();
                        }
                    }
                    Err(parcel) => {
                        self.stats.mailbox_full += 1;
                        let conn = self.conns.get(id).expect("it was leaving");
                        conn.front = Front::of_tls(parcel.tls);
                        self.refuse(id);
                    }
                }
            }
        }
    }

    fn mail(&mut self, to: ShardId, mail: Mail) {
        let socket = None;
        match self.ports.outbox.send(
            to,
            Parcel {
                mail,
                socket,
                tls: None,
            },
        ) {
            Ok(false) => {}
            Ok(true) => self.ports.outbox.wake_of(to).poke(),
            Err(parcel) => {
                self.stats.mailbox_full += 1;
                self.pending
                    .push_back(Pending::MailRefused(to, parcel.mail));
            }
        }
    }

    /// It could not be given away: the shard has it again.
    fn refuse(&mut self, id: ConnId) {
        let conn = self.conns.get(id).expect("it was leaving");
        conn.phase = Phase::Live;
        let ended = conn.ended;
        self.pending.push_back(Pending::Refused(id));
        if ended {
            self.pending.push_back(Pending::Failed(id));
        }
    }

    fn reply(&mut self, mut reply: ControlReply) {
        let shard: ShardId = self.ports.shard;
        complete_reply(&mut reply, &mut self.stats, self.seat.now, self.started);
        // Without a control plane nobody wants the answer.
        let _ = self.ports.replies.send((shard, reply));
    }
}
