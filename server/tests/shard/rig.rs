//! A shard by hand: events go in, effects are checked against the contract and carried out only when
//! the test says so.

use collabblocks_server::dialect::lib0::write_uint;
use collabblocks_server::shard::{
    Admission, ConnId, ControlReply, ControlRequest, Effect, Effects, Event, Handoff, Instant,
    Mail, Request, SessionLimits, Shard, ShardConfig, ShardId, Stats,
};
use collabblocks_storage_engine::{Engine, EngineConfig, Job, Limits};
use collabblocks_wal::sim_disk::SimDisk;
use collabblocks_wal::{Disk, Identity, LogConfig, WriteJob};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use yrs::updates::decoder::Decode;
use yrs::{Doc, GetString, Options, ReadTxn, StateVector, Text, Transact, Update};

const IDENTITY: Identity = Identity {
    store: [7; 16],
    shard: 0,
};

/// Where clients are.
pub const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4321);
/// A room that is not opened.
pub const QUARANTINED: &str = "quarantined";

pub struct Rig {
    pub shard: Shard,
    pub disk: Arc<dyn Disk>,
    pub now: u64,
    effects: Effects,
    pub write: Option<WriteJob>,
    pub jobs: Vec<Job>,
    pub timer: Option<u64>,
    pub replies: Vec<ControlReply>,
    /// Mail of the turn, to whom it may concern.
    pub mail: Vec<(ShardId, Mail)>,
    /// Questions who a client is.
    pub asked: Vec<(ConnId, Box<Request>)>,
    /// Connections that went to other shards.
    pub handed_off: Vec<(ConnId, ShardId, Box<Handoff>)>,
    received: HashMap<ConnId, Vec<u8>>,
    /// The slices that were heard of messages whose last one was not.
    begun: HashMap<ConnId, Vec<u8>>,
    pub closed: HashSet<ConnId>,
    blocked: HashSet<ConnId>,
    pub paused: HashSet<ConnId>,
    next_slot: u32,
    /// Bytes of the turn's frames, at most.
    pub frames_peak: usize,
}

pub fn engine_config() -> EngineConfig {
    EngineConfig {
        log: LogConfig {
            segment_bytes: 4 << 20,
            ..LogConfig::default()
        },
        commit_delay: Duration::ZERO,
        disk_reserve_bytes: 0,
        apart_bytes_min: usize::MAX,
        ..EngineConfig::default()
    }
}

/// A shard that asks nobody who its clients are.
pub fn config(strict: bool, limits: SessionLimits, id: u16, shards: u16) -> ShardConfig {
    ShardConfig {
        id: ShardId(id),
        shards,
        strict,
        admission: Admission::Loopback(Vec::new()),
        authenticates: false,
        hash_seed: 7,
        quarantine: [QUARANTINED.to_owned()].into(),
        limits,
        guard: Limits::default(),
    }
}

impl Rig {
    pub fn new(strict: bool, limits: SessionLimits) -> Self {
        Self::over(&(Arc::new(SimDisk::new()) as Arc<dyn Disk>), strict, limits)
    }

    pub fn over(disk: &Arc<dyn Disk>, strict: bool, limits: SessionLimits) -> Self {
        Self::of(disk, strict, limits, 0, 1)
    }

    /// One of several shards, each with a disk of its own.
    pub fn of(
        disk: &Arc<dyn Disk>,
        strict: bool,
        limits: SessionLimits,
        id: u16,
        shards: u16,
    ) -> Self {
        Self::made(disk, config(strict, limits, id, shards))
    }

    /// One with any configuration.
    pub fn made(disk: &Arc<dyn Disk>, config: ShardConfig) -> Self {
        Self::apart(disk, config, usize::MAX)
    }

    /// One whose jobs apply updates of so many bytes, and encode documents of four times as many.
    pub fn apart(disk: &Arc<dyn Disk>, config: ShardConfig, apart_bytes_min: usize) -> Self {
        let engine = EngineConfig {
            evict_after: Duration::from_millis(1),
            apart_bytes_min,
            ..engine_config()
        };
        Self::with_engine(disk, config, engine)
    }

    /// One with any engine.
    pub fn with_engine(disk: &Arc<dyn Disk>, config: ShardConfig, engine: EngineConfig) -> Self {
        let (engine, _) = Engine::open(disk, Path::new("/shard"), IDENTITY, engine).unwrap();
        let mut rig = Self {
            shard: Shard::new(config, engine),
            disk: disk.clone(),
            now: 1,
            effects: Effects::default(),
            write: None,
            jobs: Vec::new(),
            timer: None,
            replies: Vec::new(),
            mail: Vec::new(),
            asked: Vec::new(),
            handed_off: Vec::new(),
            received: HashMap::new(),
            begun: HashMap::new(),
            closed: HashSet::new(),
            blocked: HashSet::new(),
            paused: HashSet::new(),
            next_slot: 0,
            frames_peak: 0,
        };
        rig.turn();
        rig.settle();
        rig
    }

    pub fn feed(&mut self, event: Event<'_>) {
        self.shard
            .on_event(Instant(self.now), event, &mut self.effects);
    }

    /// Ends the turn and takes its effects.
    pub fn turn(&mut self) {
        self.feed(Event::TurnEnd);
        let (mut sent, mut farewells) = (HashSet::new(), Vec::new());
        self.frames_peak = self.frames_peak.max(self.effects.frames.len());
        for effect in std::mem::take(&mut self.effects.list) {
            match effect {
                Effect::Send { conn, range } => {
                    assert!(sent.insert(conn), "two sends in a turn to {conn:?}");
                    if self.blocked.contains(&conn) {
                        farewells.push(conn);
                    }
                    assert!(!self.closed.contains(&conn), "a send after close");
                    let bytes = &self.effects.frames[range];
                    self.received.entry(conn).or_default().extend(bytes);
                }
                Effect::Close { conn, flush } => {
                    assert!(self.closed.insert(conn), "closed twice");
                    assert!(flush || !farewells.contains(&conn));
                }
                Effect::Read { conn, on: true } => assert!(self.paused.remove(&conn)),
                Effect::Read { conn, on: false } => assert!(self.paused.insert(conn)),
                Effect::WriteLog { job, .. } => assert!(self.write.replace(job).is_none()),
                Effect::RunJob(job) => self.jobs.push(job),
                Effect::SetTimer(at) => self.timer = Some(at.0),
                Effect::Reply(reply) => self.replies.push(reply),
                Effect::Mail { to, mail } => self.mail.push((to, mail)),
                Effect::Authenticate { conn, request } => self.asked.push((conn, request)),
                Effect::Handoff { conn, to, handoff } => self.handed_off.push((conn, to, handoff)),
                Effect::Established { .. } | Effect::StopAccepting => {}
                other => panic!("{other:?}"),
            }
        }
        self.effects.frames.clear();
        for conn in farewells {
            assert!(self.closed.contains(&conn), "a send while blocked");
        }
    }

    /// The log's write under way ends, in a turn of its own.
    pub fn commit(&mut self) {
        self.finish_write();
        self.turn();
    }

    pub fn finish_write(&mut self) {
        let job = self.write.take().expect("a write is under way");
        let result = job.run(&*self.disk);
        self.feed(Event::LogWritten { job, result });
    }

    pub fn run_jobs(&mut self) {
        for job in std::mem::take(&mut self.jobs) {
            let done = job.run(&*self.disk);
            self.feed(Event::JobDone(done));
        }
        self.turn();
    }

    /// Time passes until then; the timer fires when it is due.
    pub fn until(&mut self, then: u64) {
        while let Some(at) = self.timer.filter(|at| *at <= then) {
            self.now = self.now.max(at);
            self.timer = None;
            self.feed(Event::Timer);
            self.turn();
        }
        self.now = self.now.max(then);
    }

    pub fn pass(&mut self, duration: Duration) {
        self.until(self.now + duration.as_nanos() as u64);
    }

    /// All that is under way ends, and what follows from it.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.write.is_some() {
                self.commit();
            } else if !self.jobs.is_empty() {
                self.run_jobs();
            } else if self.timer.is_some_and(|at| at <= self.now) {
                self.until(self.now);
            } else {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    pub fn open_without_turn(&mut self, room: &str) -> ConnId {
        let conn = ConnId {
            slot: self.next_slot,
            generation: 1,
        };
        self.next_slot += 1;
        self.feed(Event::Accepted { conn, peer: PEER });
        let mut head = upgrade(room);
        self.feed(Event::Received {
            conn,
            bytes: &mut head,
        });
        conn
    }

    /// A client that has been greeted.
    pub fn open(&mut self, room: &str) -> ConnId {
        let conn = self.open_without_turn(room);
        self.turn();
        self.skip_head(conn);
        conn
    }

    /// Throws the answer to the upgrade away.
    pub fn skip_head(&mut self, conn: ConnId) {
        let bytes = self.received.get_mut(&conn).expect("an answer");
        let head = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        assert!(bytes.starts_with(b"HTTP/1.1 101 "));
        bytes.drain(..head);
    }

    /// Binary messages, in one receive, without the turn's end.
    pub fn say(&mut self, conn: ConnId, messages: &[&[u8]]) {
        let mut bytes = Vec::new();
        for message in messages {
            frame(0x82, message, &mut bytes);
        }
        self.raw(conn, bytes);
    }

    pub fn raw(&mut self, conn: ConnId, mut bytes: Vec<u8>) {
        self.feed(Event::Received {
            conn,
            bytes: &mut bytes,
        });
    }

    /// The shard's figures.
    pub fn stats(&mut self) -> Box<Stats> {
        self.feed(Event::Control(ControlRequest::Stats { id: 0 }));
        self.turn();
        match self.replies.pop() {
            Some(ControlReply::Stats { stats, .. }) => stats,
            other => panic!("{other:?}"),
        }
    }

    pub fn block(&mut self, conn: ConnId) {
        self.block_with(conn, 1);
    }

    /// The socket holds back so many bytes, still or for the first time.
    pub fn block_with(&mut self, conn: ConnId, unsent_bytes: usize) {
        self.blocked.insert(conn);
        self.feed(Event::Blocked { conn, unsent_bytes });
    }

    pub fn drain(&mut self, conn: ConnId) {
        assert!(self.blocked.remove(&conn));
        self.feed(Event::Drained { conn });
    }

    /// The whole messages and control frames that came since it was asked last: opcode and payload.
    /// Of a message in slices the rest may come later.
    pub fn heard(&mut self, conn: ConnId) -> Vec<(u8, Vec<u8>)> {
        let bytes = self.bytes(conn);
        let mut rest = bytes.as_slice();
        let mut frames = Vec::new();
        let mut begun = self.begun.remove(&conn);
        while let [first, len, tail @ ..] = rest {
            let (len, tail) = match len {
                126 => (u16::from_be_bytes([tail[0], tail[1]]) as usize, &tail[2..]),
                127 => (
                    u64::from_be_bytes(tail[..8].try_into().unwrap()) as usize,
                    &tail[8..],
                ),
                n => (*n as usize, tail),
            };
            let payload = tail[..len].to_vec();
            rest = &tail[len..];
            match (first & 15, first & 0x80 != 0) {
                (opcode @ 8.., true) => frames.push((opcode, payload)),
                (0, last) => {
                    let mut message = begun.take().expect("the rest of something");
                    message.extend(payload);
                    if last {
                        frames.push((2, message));
                    } else {
                        begun = Some(message);
                    }
                }
                (2, true) => {
                    assert!(begun.is_none(), "a message within another");
                    frames.push((2, payload));
                }
                (2, false) => assert!(begun.replace(payload).is_none()),
                other => panic!("a frame of {other:?}"),
            }
        }
        self.begun.extend(begun.map(|begun| (conn, begun)));
        frames
    }

    /// All that it was sent, as it came.
    pub fn bytes(&mut self, conn: ConnId) -> Vec<u8> {
        self.received.remove(&conn).unwrap_or_default()
    }

    /// As [`Rig::heard`], only the binary ones.
    pub fn data(&mut self, conn: ConnId) -> Vec<Vec<u8>> {
        let frames = self.heard(conn).into_iter();
        frames.filter(|(op, _)| *op == 2).map(|(_, p)| p).collect()
    }

    /// The code of the close frame, if it was closed.
    pub fn close_code(&mut self, conn: ConnId) -> Option<u16> {
        let frames = self.heard(conn);
        let (_, payload) = frames.iter().find(|(op, _)| *op == 8)?;
        assert!(self.closed.contains(&conn));
        Some(u16::from_be_bytes([payload[0], payload[1]]))
    }
}

/// The request of a room's socket.
pub fn upgrade(room: &str) -> Vec<u8> {
    format!(
        "GET /{room} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes()
}

/// A client's frame.
pub fn frame(first: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(first);
    match payload.len() {
        n @ 0..126 => out.push(0x80 | n as u8),
        n @ 126..65536 => {
            out.push(0x80 | 126);
            out.extend((n as u16).to_be_bytes());
        }
        n => {
            out.push(0x80 | 127);
            out.extend((n as u64).to_be_bytes());
        }
    }
    out.extend([0; 4]);
    out.extend(payload);
}

/// A sync message: step 1, step 2 or an update.
pub fn sync(step: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![0, step];
    write_uint(body.len() as u64, &mut message);
    message.extend(body);
    message
}

pub fn awareness(entries: &[(u64, u32, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    write_uint(entries.len() as u64, &mut body);
    for (client, clock, state) in entries {
        write_uint(*client, &mut body);
        write_uint(u64::from(*clock), &mut body);
        write_uint(state.len() as u64, &mut body);
        body.extend(state.as_bytes());
    }
    let mut message = vec![1];
    write_uint(body.len() as u64, &mut message);
    message.extend(body);
    message
}

/// A client's document.
pub struct Replica(Doc);

impl Replica {
    pub fn new(client: u64) -> Self {
        Self(Doc::with_options(Options::with_client_id(
            yrs::block::ClientID::new(client),
        )))
    }

    /// Appends text; the update of it.
    pub fn write(&self, text: &str) -> Vec<u8> {
        let root = self.0.get_or_insert_text("t");
        let before = self.0.transact().state_vector();
        let mut txn = self.0.transact_mut();
        let end = root.len(&txn);
        root.insert(&mut txn, end, text);
        drop(txn);
        self.0.transact().encode_diff_v1(&before)
    }

    /// Puts this in the place of all text, so many times, backwards: each is a struct of its own. The
    /// update of it.
    pub fn replace(&self, text: &str, times: u32) -> Vec<u8> {
        let root = self.0.get_or_insert_text("t");
        let before = self.0.transact().state_vector();
        let mut txn = self.0.transact_mut();
        let len = root.len(&txn);
        root.remove_range(&mut txn, 0, len);
        for _ in 0..times {
            root.insert(&mut txn, 0, text);
        }
        drop(txn);
        self.0.transact().encode_diff_v1(&before)
    }

    /// Appends bold text; the update of it. A document with marks goes out in one message.
    pub fn write_bold(&self, text: &str) -> Vec<u8> {
        let root = self.0.get_or_insert_text("t");
        let before = self.0.transact().state_vector();
        let mut txn = self.0.transact_mut();
        let end = root.len(&txn);
        let bold = yrs::types::Attrs::from([("b".into(), true.into())]);
        root.insert_with_attributes(&mut txn, end, text, bold);
        drop(txn);
        self.0.transact().encode_diff_v1(&before)
    }

    pub fn state(&self) -> Vec<u8> {
        self.0.transact().encode_diff_v1(&StateVector::default())
    }

    pub fn apply(&self, update: &[u8]) {
        let update = Update::decode_v1(update).unwrap();
        self.0.transact_mut().apply_update(update).unwrap();
    }

    /// Takes the sync messages among what was heard.
    pub fn hear(&self, messages: &[Vec<u8>]) {
        for message in messages {
            if let [0, 1 | 2, rest @ ..] = message.as_slice() {
                let mut rest = rest;
                let body = collabblocks_server::dialect::lib0::read_bytes(&mut rest).unwrap();
                self.apply(body);
            }
        }
    }

    pub fn text(&self) -> String {
        let root = self.0.get_or_insert_text("t");
        root.get_string(&self.0.transact())
    }
}
