//! The default runtime: a plain loop on one io_uring a core.
//!
//! A turn takes all that is ready, feeds it to the core, ends with [`Event::TurnEnd`], carries out the
//! effects, and goes into the kernel once, for submission and for waiting. Sends of a turn point
//! straight into its frames: they do not wait, so they have ended when that call returns, and only
//! those that failed or were short post a completion, which is looked at before anything else.

mod accept;
mod buffers;
mod commits;
mod conn;
mod effects;
mod front;
mod hedge;
mod log;
mod socket;
mod uring;

use super::front::{Front, HANDSHAKES_PER_TURN, Through};
use super::log::LogThread;
use super::slots::Deadlines;
use super::tls::Sealed;
use super::{Core, LogSync, Ports, Seat, WAIT_NS_MAX, clock};
use crate::mailbox::{Incoming, LogEnd, Parcel};
use crate::shard::{
    Authenticated, ConnId, ControlReply, Event, Instant, Mail, RuntimeStats, ShardId,
};
use accept::Acceptor;
use buffers::Buffers;
use collabblocks_wal::WriteJob;
use commits::start_log_thread;
use conn::{Conn, Conns};
use hedge::{Hedge, Writer};
use log::{LogWriter, Written};
use std::collections::VecDeque;
use std::io;
use uring::{Done, LOG_ENTRIES, MAIN_ENTRIES, Op, Uring};

/// Runs a core on the calling thread until it is told to stop ([`crate::mailbox::Wake::stop`]) or
/// fails; the error is a sentence. `ready` is called once it accepts connections.
pub fn run<C: Core>(core: C, ports: Ports, ready: impl FnOnce()) -> Result<(), String> {
    let mut runtime = Ring::new(core, ports).map_err(|error| format!("io_uring: {error}"))?;
    ready();
    runtime
        .run()
        .map_err(|error| format!("io_uring: {error}"))?;
    runtime.fatal.take().map_or(Ok(()), Err)
}

/// How far off an alarm may be and stay though it is too early.
const ALARM_FAR_NS: u64 = 20_000_000;

/// What the runtime tells its core in the next turn.
enum Pending {
    /// A handoff found the mailbox full.
    Refused(ConnId),
    /// So did a letter.
    MailRefused(ShardId, Mail),
    /// Reading is on again: what was received meanwhile is due.
    Held(ConnId),
    /// A batch of the log ended without a completion.
    Written(Written),
}

struct Ring<C> {
    uring: Uring,
    /// Nobody waits on this one: what ends on it is noticed with whatever wakes the core. Under load
    /// that spares the core, and the clients it then tells, a wake-up for each batch of the log.
    log_uring: Uring,
    buffers: Buffers,
    seat: Seat<C>,
    /// What went through a connection's front, and the turn's ciphertext.
    through: Through,
    sealed: Sealed,
    handshakes_left: u32,
    ports: Ports,
    conns: Conns,
    acceptor: Acceptor,
    log: LogWriter,
    /// Who writes which batch.
    hedge: Hedge,
    /// A batch that waits for the end of a late write.
    log_waits: Option<(WriteJob, bool)>,
    /// A late write failed: no batch counts as durable any more.
    log_failed: Option<String>,
    /// The batch under way is on `log_uring`, and is looked for at this time at the latest.
    log_due: Option<Instant>,
    /// Writes the log instead, if so configured, or what the ring is slow with, from then on.
    log_thread: Option<LogThread>,
    /// The answer to a drain, kept back until no write is late.
    drained: Option<ControlReply>,
    stats: RuntimeStats,
    started: Instant,
    /// Numbers the turns, from 1. Sends of this turn may not have ended.
    turn: u64,
    timer: Option<Instant>,
    /// When the ring's timer fires, at which the core looks what is due.
    alarm: Option<u64>,
    closing: Deadlines,
    done: Vec<Done>,
    incoming: VecDeque<Incoming>,
    /// There may be something in the inbox.
    called: bool,
    pending: VecDeque<Pending>,
    /// Connections whose receive is to be started when the effects have been carried out.
    arm: Vec<ConnId>,
    /// Connections that go on their way when this turn's sends have ended.
    after_sends: Vec<ConnId>,
    /// Connections whose sends failed in this reap.
    failed: Vec<ConnId>,
    poked: Box<[u8; 8]>,
    fatal: Option<String>,
}

impl<C: Core> Ring<C> {
    fn new(core: C, mut ports: Ports) -> io::Result<Self> {
        let uring = Uring::new(MAIN_ENTRIES)?;
        let log_uring = Uring::new(LOG_ENTRIES)?;
        let mut buffers = Buffers::new()?;
        buffers.register(&uring.submitter())?;
        ports.wake.set_ring(uring.duplicate()?);
        let listeners = std::mem::take(&mut ports.listeners);
        let thread_only = ports.log_sync == LogSync::Thread;
        let log_thread = thread_only.then(|| start_log_thread(&ports)).transpose()?;
        let mut runtime = Self {
            uring,
            log_uring,
            buffers,
            seat: Seat::new(core, ports.heartbeat.clone()),
            through: Through::default(),
            sealed: Sealed::default(),
            handshakes_left: HANDSHAKES_PER_TURN,
            conns: Conns::default(),
            acceptor: Acceptor::new(listeners),
            log: LogWriter::new(ports.log_sync),
            hedge: Hedge::new(thread_only),
            log_waits: None,
            log_failed: None,
            log_due: None,
            log_thread,
            drained: None,
            ports,
            stats: RuntimeStats::default(),
            started: clock(),
            turn: 1,
            timer: None,
            alarm: None,
            closing: Deadlines::default(),
            done: Vec::new(),
            incoming: VecDeque::new(),
            called: false,
            pending: VecDeque::new(),
            arm: Vec::new(),
            after_sends: Vec::new(),
            failed: Vec::new(),
            poked: Box::default(),
            fatal: None,
        };
        runtime.acceptor.start(&mut runtime.uring)?;
        runtime.listen_to_pokes()?;
        // The core may have something to do before anything happens, such as setting its timer.
        runtime.seat.fed = true;
        Ok(runtime)
    }

    fn run(&mut self) -> io::Result<()> {
        loop {
            self.seat.end_turn(&mut self.stats);
            self.carry_out()?;
            let ends = self.fatal.is_some() || self.ports.wake.stopped();
            if !ends && self.may_wait()? {
                self.uring.wait()?;
            } else {
                self.uring.enter(None)?;
            }
            if ends {
                // Close frames of the last turn are out.
                return Ok(());
            }
            self.called |= self.ports.wake.awoke();
            self.seat.now = clock();
            self.ports.heartbeat.beat();
            self.stats.turns += 1;
            self.take_completions()?;
            self.take_log()?;
            self.take_others()?;
            self.hedge_log();
        }
    }

    /// Whether there is nothing to do until something happens. The timer is then set.
    fn may_wait(&mut self) -> io::Result<bool> {
        if !self.pending.is_empty() || !self.after_sends.is_empty() || self.uring.has_reaped() {
            return Ok(false);
        }
        if self.called || !self.ports.wake.falls_asleep() {
            return Ok(false);
        }
        let now = self.seat.now.0;
        let mut until = now + WAIT_NS_MAX;
        for time in [
            self.timer,
            self.closing.next(),
            self.acceptor.rests_until(),
            self.log_due,
            self.hedge.due(),
        ]
        .into_iter()
        .flatten()
        {
            until = until.min(time.0);
        }
        if self.ports.jobs.retry() {
            until = until.min(now + 5_000_000);
        }
        // What is due now is a matter of the next turn.
        self.set_alarm(now, until.max(now + 1))?;
        Ok(true)
    }

    /// Sees that the core is woken by `until`. An alarm that is far off and too early stays: it is one
    /// wake-up, and to move it with every wait would cost more.
    fn set_alarm(&mut self, now: u64, until: u64) -> io::Result<()> {
        let stays = |at: u64| at == until || at < until && at > now + ALARM_FAR_NS;
        if self.alarm.is_some_and(stays) {
            return Ok(());
        }
        self.uring.set_timer(Instant(until), self.alarm.is_some())?;
        self.alarm = Some(until);
        Ok(())
    }

    fn take_completions(&mut self) -> io::Result<()> {
        let mut done = std::mem::take(&mut self.done);
        self.uring.take_reaped(&mut done);
        self.conns.warm(done.iter().map(|entry| entry.conn));
        // What the sockets did not take lies in the frames: saved first.
        for entry in &done {
            if entry.op == Op::SendNow {
                self.on_sent_short(*entry)?;
            }
        }
        self.seat.effects.frames.clear();
        self.sealed.clear();
        self.handshakes_left = HANDSHAKES_PER_TURN;
        self.turn += 1;
        for conn in std::mem::take(&mut self.after_sends) {
            self.go_on(conn)?;
        }
        for entry in done.drain(..) {
            match entry.op {
                Op::SendNow | Op::Messaged | Op::Cancel | Op::TimerGone => {}
                Op::Timer => self.alarm = None,
                Op::Recv => self.on_received(entry)?,
                Op::SendRest => self.on_rest_sent(entry)?,
                Op::Accept => self.on_accepted(entry)?,
                Op::Poked => self.listen_to_pokes()?,
                Op::MessageFailed => {
                    self.ports
                        .outbox
                        .wake_of(crate::shard::ShardId(entry.conn.slot as u16))
                        .poke();
                }
                Op::LogWrite | Op::LogSync => {
                    if let Some(written) = self.log.end(entry) {
                        self.log_ended(Writer::Ring, written)?;
                    }
                }
            }
        }
        self.done = done;
        for conn in std::mem::take(&mut self.failed) {
            self.lose(conn)?;
        }
        Ok(())
    }

    fn take_others(&mut self) -> io::Result<()> {
        for pending in std::mem::take(&mut self.pending) {
            match pending {
                Pending::Refused(conn) => {
                    if self.conns.live(conn).is_some() {
                        self.seat.feed(Event::HandoffRefused { conn });
                    }
                }
                Pending::MailRefused(to, mail) => {
                    self.seat.feed(Event::MailRefused { to, mail });
                }
                Pending::Held(conn) => self.feed_held(conn)?,
                Pending::Written(written) => self.log_ended(Writer::Ring, written)?,
            }
        }
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
                    if let Some(conn) = self.conns.insert(|_| Conn::through(front, socket)) {
                        self.seat.feed(Event::HandedOff { conn, handoff });
                        self.take_kept(conn)?;
                        self.queue_arm(conn);
                    }
                }
                Incoming::Job(done) => self.seat.feed(Event::JobDone(done)),
                Incoming::Log(LogEnd { job, result }) => {
                    self.log_ended(Writer::Thread, (job, result))?;
                }
                Incoming::Authenticated(Authenticated { conn, verdict }) => {
                    self.seat.feed(Event::Authenticated { conn, verdict });
                }
                Incoming::Control(request) => self.seat.feed(Event::Control(request)),
                Incoming::Certificate(tls) => self.ports.front.tls = Some(tls),
            }
        }
        if self.timer.is_some_and(|at| at <= self.seat.now) {
            self.timer = None;
            self.seat.feed(Event::Timer);
        }
        while let Some(conn) = self.closing.pop_due(self.seat.now) {
            self.give_up(conn)?;
        }
        self.acceptor.go_on(&mut self.uring, self.seat.now)
    }
}

impl<C> Drop for Ring<C> {
    fn drop(&mut self) {
        self.uring.quiesce();
        self.log_uring.quiesce();
        if let Err(error) = self.buffers.unregister(&self.uring.submitter()) {
            tracing::error!(%error, "the receive buffers could not be taken back");
        }
    }
}
