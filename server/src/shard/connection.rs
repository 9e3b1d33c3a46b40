//! A connection on a shard: from the first byte of its request head to its last frame.

use super::stream::Stream;
use super::types::{ConnId, Instant};
use crate::edge::websocket::Decoder;
use collabblocks_storage_engine::RoomId;

/// How far a connection has come.
#[derive(Debug)]
pub enum Stage {
    /// Its request head is being read: all bytes so far.
    Head(Vec<u8>),
    /// It is a session of a room.
    Session(Box<Session>),
    /// It will be closed at the end of the turn; what it sends is ignored.
    Closing {
        /// Whether what is unsent goes out first.
        flush: bool,
    },
}

/// One socket.
#[derive(Debug)]
pub struct Connection {
    /// Which use of its slot this is.
    pub generation: u32,
    /// The socket holds back bytes since then; nothing is sent meanwhile.
    pub blocked_since: Option<Instant>,
    /// On the shard's list of connections to flush.
    pub touched: bool,
    /// A ping is unanswered.
    pub pinged: bool,
    /// The peer's address is loopback.
    pub loopback: bool,
    /// Bytes the runtime holds back.
    pub unsent_bytes: usize,
    /// When anything was sent last.
    pub last_sent: Instant,
    /// When anything was received last.
    pub last_received: Instant,
    /// Frames of this turn for this connection alone.
    pub out: Vec<u8>,
    /// How far it has come.
    pub stage: Stage,
    /// Reads its frames.
    pub decoder: Decoder,
}

/// A client attached to a room.
#[derive(Debug)]
pub struct Session {
    /// The room.
    pub room: RoomId,
    /// Messages that came while the room loads; `None` once it is live.
    pub loading: Option<LoadQueue>,
    /// Its index among the room's live sessions.
    pub index: usize,
    /// Since when it is attached.
    pub since: Instant,
    /// Its updates are dropped.
    pub read_only: bool,
    /// It was asked for what the room lacks and has not answered.
    pub asked: bool,
    /// Gaps that came after an answer.
    pub gap_repeats: u32,
    /// It wrote in this turn.
    pub wrote: bool,
    /// Clients whose presence it may own.
    pub clients: Vec<u64>,
    /// What it has missed, if it is behind.
    pub behind: Option<Box<Behind>>,
    /// Large answers on their way.
    pub streams: Vec<Stream>,
}

/// Messages of a session whose room is being loaded.
#[derive(Debug, Default)]
pub struct LoadQueue {
    /// They, as they came.
    pub messages: Vec<Box<[u8]>>,
    /// Their bytes.
    pub bytes: usize,
    /// Reading was stopped.
    pub paused: bool,
}

/// From where on a session misses what happened.
#[derive(Debug)]
pub struct Behind {
    /// The room's stream offset.
    pub from: u64,
    /// The room's state vector then.
    pub state_vector: Box<[u8]>,
    /// The room's presence version then.
    pub presence: u64,
}

impl Connection {
    /// A connection whose request head is awaited.
    pub fn new(id: ConnId, loopback: bool, now: Instant) -> Self {
        Self {
            generation: id.generation,
            blocked_since: None,
            touched: false,
            pinged: false,
            loopback,
            unsent_bytes: 0,
            last_sent: now,
            last_received: now,
            out: Vec::new(),
            stage: Stage::Head(Vec::new()),
            decoder: Decoder::default(),
        }
    }

    /// Its session, if it is one.
    pub fn session(&mut self) -> Option<&mut Session> {
        match &mut self.stage {
            Stage::Session(session) => Some(session),
            _ => None,
        }
    }
}

impl Session {
    /// A session whose room is not live for it yet.
    pub fn new(room: RoomId, read_only: bool, now: Instant) -> Self {
        Self {
            room,
            loading: Some(LoadQueue::default()),
            index: 0,
            since: now,
            read_only,
            asked: false,
            gap_repeats: 0,
            wrote: false,
            clients: Vec::new(),
            behind: None,
            streams: Vec::new(),
        }
    }
}
