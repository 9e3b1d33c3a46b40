//! A small core for the tests of the runtimes: a line says what a connection wants.

use collabblocks_server::runtime::Core;
use collabblocks_server::server::ShardContext;
use collabblocks_server::shard::{
    Claims, ConnId, ControlReply, ControlRequest, Effect, Effects, Event, Handoff, Instant,
    Request, ShardId, Stats,
};
use collabblocks_storage_engine::{RoomId, Watch};
use collabblocks_wal::{AlignedBuf, SegmentId, WriteJob};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What the toys of a server count, to be read by the tests.
#[derive(Debug, Default)]
pub struct Counts {
    pub accepted: AtomicU64,
    pub handed_off: AtomicU64,
    pub refused: AtomicU64,
    pub blocked: AtomicU64,
    pub progress: AtomicU64,
    pub drained: AtomicU64,
    pub closed: AtomicU64,
    pub received_bytes: AtomicU64,
    pub timers: AtomicU64,
    pub log_errors: AtomicU64,
}

impl Counts {
    fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

/// What a connection wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wish {
    Unknown,
    /// Gets back what it sends.
    Echo,
    /// What it sends goes to all of these on its shard.
    Broadcast,
    /// Each byte makes a log write; "w" when it is durable, "e" when it failed.
    Log,
    /// Is sent a pattern of bytes, then nothing.
    Pour(usize),
    /// As `Pour`, then it is closed.
    PourAndClose(usize),
    /// Is sent as many at once; when its socket holds some back, it is told so and closed.
    Flood(usize),
    /// Is sent as many at once.
    Gush(usize),
    /// Echo, with reading off for a while after each piece.
    Choke,
    /// "t" comes back a while after each piece.
    Delay,
}

struct Conn {
    wish: Wish,
    head: Vec<u8>,
    /// Bytes to be sent to it alone.
    out: Vec<u8>,
    poured: usize,
    blocked: bool,
    peer: SocketAddr,
    unsent: usize,
}

const UNKNOWN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Whether a peer is on this machine.
fn is_near(peer: SocketAddr) -> bool {
    peer.ip().to_canonical().is_loopback()
}

/// What a flooded connection is told before it is closed.
pub const FAREWELL: &[u8] = b"farewell";

pub struct Toy {
    context: ShardContext,
    counts: Arc<Counts>,
    log: PathBuf,
    log_offset: u64,
    log_busy: bool,
    log_waits: Vec<ConnId>,
    conns: HashMap<ConnId, Conn>,
    broadcast: Vec<u8>,
    /// Connections to be read again, or told, when the timer comes.
    due: Vec<(Instant, ConnId)>,
    sleep: Option<Duration>,
}

/// Bytes that are poured are numbered, so that a lost or moved one shows.
pub fn pattern(at: usize) -> u8 {
    (at % 251) as u8
}

/// Bytes of the file that is written to, zero-filled before.
pub const SEGMENT_BYTES: u64 = 1 << 20;
const POUR_BYTES: usize = 200_000;
/// The room that "stick" stays in.
pub const STICKY_ROOM: &str = "a/sticky%20room";
pub const CHOKE_NS: u64 = 30_000_000;

impl Toy {
    pub fn new(context: &ShardContext, counts: Arc<Counts>, log: PathBuf) -> Self {
        Self {
            context: context.clone(),
            counts,
            log,
            log_offset: 0,
            log_busy: false,
            log_waits: Vec::new(),
            conns: HashMap::new(),
            broadcast: Vec::new(),
            due: Vec::new(),
            sleep: None,
        }
    }

    fn add(&mut self, conn: ConnId) {
        let state = Conn {
            wish: Wish::Unknown,
            head: Vec::new(),
            out: Vec::new(),
            poured: 0,
            blocked: false,
            peer: UNKNOWN,
            unsent: 0,
        };
        assert!(
            self.conns.insert(conn, state).is_none(),
            "an id is given once"
        );
    }

    fn on_bytes(&mut self, now: Instant, conn: ConnId, bytes: &[u8], effects: &mut Effects) {
        Counts::add(&self.counts.received_bytes, bytes.len() as u64);
        let Some(state) = self.conns.get_mut(&conn) else {
            return;
        };
        match state.wish {
            Wish::Unknown => {
                state.head.extend_from_slice(bytes);
                self.on_head(now, conn, effects);
            }
            Wish::Echo => state.out.extend_from_slice(bytes),
            Wish::Broadcast => self.broadcast.extend_from_slice(bytes),
            Wish::Log => self.log_waits.extend(bytes.iter().map(|_| conn)),
            Wish::Pour(_) | Wish::PourAndClose(_) | Wish::Flood(_) | Wish::Gush(_) => {}
            Wish::Choke => {
                state.out.extend_from_slice(bytes);
                effects.list.push(Effect::Read { conn, on: false });
                self.later(now, conn);
            }
            Wish::Delay => self.later(now, conn),
        }
    }

    fn later(&mut self, now: Instant, conn: ConnId) {
        if !self.due.iter().any(|(_, waiting)| *waiting == conn) {
            self.due.push((Instant(now.0 + CHOKE_NS), conn));
        }
    }

    fn on_head(&mut self, now: Instant, conn: ConnId, effects: &mut Effects) {
        let state = self.conns.get_mut(&conn).expect("it just got bytes");
        let Some(end) = state.head.iter().position(|byte| *byte == b'\n') else {
            return;
        };
        let line = String::from_utf8_lossy(&state.head[..end]).into_owned();
        let rest = state.head[end + 1..].to_vec();
        let (word, number) = line.split_once(' ').unwrap_or((&line, "0"));
        let number = number.parse::<usize>().unwrap_or(0);
        let shards = self.context.shards;
        let target = match word {
            "other" => Some(ShardId((self.context.shard.0 + 1) % shards)),
            "first" => Some(ShardId(0)),
            _ => None,
        };
        if let Some(to) = target {
            // The rest of the line is what the other shard is to do with it.
            let rest = [
                line.split_once(' ').map_or("", |(_, rest)| rest).as_bytes(),
                b"\n",
                &rest,
            ]
            .concat();
            if to == self.context.shard {
                state.head.clear();
                return self.on_bytes(now, conn, &rest, effects);
            }
            let handoff = Box::new(Handoff {
                bytes: rest,
                peer: state.peer,
                claims: Claims::default(),
            });
            // Its state is kept: the handoff may be refused.
            effects.list.push(Effect::Handoff { conn, to, handoff });
            return;
        }
        state.wish = match word {
            "echo" => Wish::Echo,
            // Is told whether it is on this machine.
            "who" => {
                let answer = if is_near(state.peer) {
                    b"near"
                } else {
                    b"far!"
                };
                state.out.extend_from_slice(answer);
                Wish::Echo
            }
            "broadcast" => Wish::Broadcast,
            "log" => Wish::Log,
            "pour" => Wish::Pour(number),
            "flood" => Wish::Flood(number),
            "gush" => Wish::Gush(number),
            "pourclose" => Wish::PourAndClose(number),
            "choke" => Wish::Choke,
            "delay" => Wish::Delay,
            "sleep" => {
                self.sleep = Some(Duration::from_millis(number as u64));
                Wish::Echo
            }
            "stick" => {
                let room = RoomId {
                    slot: 3,
                    generation: 1,
                };
                self.context.heartbeat.enters_room(room, STICKY_ROOM);
                std::thread::sleep(Duration::from_millis(number as u64));
                self.context.heartbeat.leaves_room();
                Wish::Echo
            }
            // Says who it is, and is not read until that was heard.
            "ask" => {
                let request = Box::new(Request {
                    room: number.to_string(),
                    peer: state.peer,
                    certificate: None,
                    head: Box::default(),
                });
                effects.list.push(Effect::Read { conn, on: false });
                effects.list.push(Effect::Authenticate { conn, request });
                return;
            }
            "fatal" => {
                effects.list.push(Effect::Fatal("asked to".into()));
                return;
            }
            "pass" => {
                let bytes = std::mem::take(&mut state.head);
                effects.list.push(Effect::PassToControl { conn, bytes });
                self.conns.remove(&conn);
                return;
            }
            _ => {
                effects.list.push(Effect::Close { conn, flush: false });
                self.conns.remove(&conn);
                return;
            }
        };
        effects.list.push(Effect::Established { conn });
        if !rest.is_empty() {
            self.on_bytes(now, conn, &rest, effects);
        }
    }

    fn end_turn(&mut self, now: Instant, effects: &mut Effects) {
        if let Some(time) = self.sleep.take() {
            std::thread::sleep(time);
        }
        let from = effects.frames.len();
        effects.frames.extend_from_slice(&self.broadcast);
        let shared = from..effects.frames.len();
        let mut gone = Vec::new();
        for (id, conn) in &mut self.conns {
            let mut close = false;
            if conn.wish == Wish::Broadcast && !shared.is_empty() {
                if conn.blocked || !conn.out.is_empty() {
                    conn.out.extend_from_slice(&self.broadcast);
                } else {
                    effects.list.push(Effect::Send {
                        conn: *id,
                        range: shared.clone(),
                    });
                    continue;
                }
            }
            if conn.blocked && matches!(conn.wish, Wish::Flood(_)) {
                let from = effects.frames.len();
                effects.frames.extend_from_slice(FAREWELL);
                effects.list.push(Effect::Send {
                    conn: *id,
                    range: from..effects.frames.len(),
                });
                close = true;
            } else if conn.blocked {
                continue;
            }
            if let Wish::Flood(total) | Wish::Gush(total) = conn.wish
                && conn.poured < total
            {
                conn.out.extend((0..total).map(pattern));
                conn.poured = total;
            }
            if let Wish::Pour(total) | Wish::PourAndClose(total) = conn.wish {
                let until = total.min(conn.poured + POUR_BYTES);
                conn.out.extend((conn.poured..until).map(pattern));
                conn.poured = until;
                close = until == total && matches!(conn.wish, Wish::PourAndClose(_));
            }
            if !conn.out.is_empty() {
                let from = effects.frames.len();
                effects.frames.append(&mut conn.out);
                effects.list.push(Effect::Send {
                    conn: *id,
                    range: from..effects.frames.len(),
                });
            }
            if close {
                effects.list.push(Effect::Close {
                    conn: *id,
                    flush: true,
                });
                gone.push(*id);
            }
        }
        for id in gone {
            self.conns.remove(&id);
        }
        self.broadcast.clear();
        if !self.log_busy && !self.log_waits.is_empty() {
            self.log_busy = true;
            let job = self.next_job();
            effects.list.push(Effect::WriteLog { job, lazy: false });
        }
        // What is poured goes on in the next turn.
        let pouring = self.conns.values().any(|conn| {
            matches!(conn.wish, Wish::Pour(total) | Wish::PourAndClose(total) if conn.poured < total && !conn.blocked)
        });
        let due = self.due.iter().map(|(at, _)| *at).min();
        if let Some(at) = if pouring { Some(now) } else { due } {
            effects.list.push(Effect::SetTimer(at));
        }
    }

    fn next_job(&mut self) -> WriteJob {
        let mut buffer = AlignedBuf::zeroed(4096);
        let bytes = buffer.as_mut_slice();
        bytes.fill(b'x');
        bytes[..8].copy_from_slice(&self.log_offset.to_le_bytes());
        let offset = self.log_offset;
        // As the log's segments, the file never grows.
        self.log_offset = (self.log_offset + 4096) % SEGMENT_BYTES;
        WriteJob {
            segment: SegmentId(7),
            path: self.log.as_path().into(),
            offset,
            buffer,
        }
    }

    fn drain(&mut self, effects: &mut Effects) {
        effects.list.push(Effect::StopAccepting);
        for (conn, _) in self.conns.drain() {
            effects.list.push(Effect::Close { conn, flush: true });
        }
        effects.list.push(Effect::Reply(ControlReply::Drained));
    }
}

impl Core for Toy {
    fn on_event(&mut self, now: Instant, event: Event<'_>, effects: &mut Effects) {
        match event {
            Event::Accepted { conn, peer } => {
                assert!(is_near(peer));
                Counts::add(&self.counts.accepted, 1);
                self.add(conn);
                self.conns.get_mut(&conn).expect("just added").peer = peer;
            }
            Event::Proxied { conn, peer } => {
                let state = self.conns.get_mut(&conn);
                state.expect("it was accepted").peer = peer;
            }
            Event::Authenticated { conn, verdict } => {
                let state = self.conns.get_mut(&conn).expect("it waits");
                let said: &[u8] = if verdict.is_ok() { b"in" } else { b"no" };
                state.out.extend_from_slice(said);
                // What came along with the question.
                let head = std::mem::take(&mut state.head);
                let rest = head.splitn(2, |byte| *byte == b'\n').nth(1);
                state.out.extend_from_slice(rest.expect("a line"));
                state.wish = Wish::Echo;
                effects.list.push(Effect::Read { conn, on: true });
                effects.list.push(Effect::Established { conn });
            }
            Event::HandedOff { conn, handoff } => {
                Counts::add(&self.counts.handed_off, 1);
                self.add(conn);
                self.conns.get_mut(&conn).expect("just added").peer = handoff.peer;
                self.on_bytes(now, conn, &handoff.bytes, effects);
            }
            Event::HandoffRefused { conn } => {
                Counts::add(&self.counts.refused, 1);
                let state = self
                    .conns
                    .get_mut(&conn)
                    .expect("a refused connection is still here");
                state.wish = Wish::Echo;
                state.out.extend_from_slice(b"full");
                effects.list.push(Effect::Established { conn });
            }
            Event::Received { conn, bytes } => {
                // The bytes are the core's to change.
                bytes.iter_mut().for_each(|byte| *byte ^= 0xff);
                bytes.iter_mut().for_each(|byte| *byte ^= 0xff);
                self.on_bytes(now, conn, bytes, effects);
            }
            Event::Blocked { conn, unsent_bytes } => {
                assert!(unsent_bytes > 0);
                if let Some(state) = self.conns.get_mut(&conn) {
                    let counter = if state.blocked {
                        &self.counts.progress
                    } else {
                        &self.counts.blocked
                    };
                    Counts::add(counter, 1);
                    assert!(!state.blocked || unsent_bytes < state.unsent, "progress");
                    state.blocked = true;
                    state.unsent = unsent_bytes;
                }
            }
            Event::Drained { conn } => {
                Counts::add(&self.counts.drained, 1);
                if let Some(state) = self.conns.get_mut(&conn) {
                    assert!(state.blocked);
                    state.blocked = false;
                }
            }
            Event::Closed { conn } => {
                Counts::add(&self.counts.closed, 1);
                assert!(
                    self.conns.remove(&conn).is_some(),
                    "closed once, and not after it was let go"
                );
            }
            Event::LogWritten { job, result } => {
                self.log_busy = false;
                let answer = if matches!(result, Ok(4096)) {
                    b"w"
                } else {
                    b"e"
                };
                if result.is_err() {
                    Counts::add(&self.counts.log_errors, 1);
                }
                assert_eq!(
                    job.buffer.as_slice().len(),
                    4096,
                    "the job comes back whole"
                );
                let conn = self.log_waits.remove(0);
                if let Some(state) = self.conns.get_mut(&conn) {
                    state.out.extend_from_slice(answer);
                }
            }
            Event::JobDone(_) | Event::Mail { .. } | Event::MailRefused { .. } => {
                unreachable!("never asked for")
            }
            Event::Control(ControlRequest::Stats { id }) => {
                effects.list.push(Effect::Reply(ControlReply::Stats {
                    id,
                    stats: Box::new(Stats::default()),
                }));
            }
            Event::Control(ControlRequest::Drain) => self.drain(effects),
            Event::Timer => {
                Counts::add(&self.counts.timers, 1);
                let (due, later) = std::mem::take(&mut self.due)
                    .into_iter()
                    .partition(|(at, _)| *at <= now);
                self.due = later;
                for (_, conn) in due as Vec<(Instant, ConnId)> {
                    if let Some(state) = self.conns.get_mut(&conn) {
                        match state.wish {
                            Wish::Choke => effects.list.push(Effect::Read { conn, on: true }),
                            _ => state.out.push(b't'),
                        }
                    }
                }
            }
            Event::TurnEnd => self.end_turn(now, effects),
        }
    }
}
