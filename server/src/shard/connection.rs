//! A connection on a shard: from the first byte of its request head to its last frame.

use super::echoes::Echoes;
use super::identity::{Access, Asked, Claims};
use super::pace::Late;
use super::stream::Stream;
use super::types::{ConnId, Instant};
use crate::edge::websocket::Decoder;
use collabblocks_storage_engine::RoomId;
use core::net::SocketAddr;
use std::time::Duration;

/// How far a connection has come.
#[derive(Debug)]
pub enum Stage {
    /// Its request head is being read: all bytes so far.
    Head(Vec<u8>),
    /// It is being found out who it is. It is not read meanwhile.
    Authenticating(Box<Asked>),
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
    /// The socket holds back bytes, and has taken none since then; nothing is sent meanwhile.
    pub blocked_since: Option<Instant>,
    /// What waited for its socket when that was counted last.
    pub held_back: usize,
    /// On the shard's list of connections to flush.
    pub touched: bool,
    /// A ping is unanswered.
    pub pinged: bool,
    /// Who is at the other end.
    pub peer: SocketAddr,
    /// Bytes the runtime holds back.
    pub unsent_bytes: usize,
    /// When any data was sent last.
    pub last_sent: Instant,
    /// When anything was received last.
    pub last_received: Instant,
    /// Frames of this turn for this connection alone.
    pub out: Vec<u8>,
    /// Bytes of them that are control frames, which clients do not count as a sign of life.
    pub out_control: usize,
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
    /// Its index among the room's live sessions, or those of its group, or among those that wait for it to load.
    pub index: usize,
    /// Its group, in a large room.
    pub group: u8,
    /// The stream offset up to which it needs to hear nothing of the room.
    pub heard: u64,
    /// Since when it is attached.
    pub since: Instant,
    /// Who it is and what it may do.
    pub claims: Claims,
    /// It was told that it may not write.
    pub told_read_only: bool,
    /// It was asked for what the room lacks and has not answered.
    pub asked: bool,
    /// Gaps that came after an answer.
    pub gap_repeats: u32,
    /// It wrote in this turn.
    pub wrote: bool,
    /// Clients whose presence it may own.
    pub clients: Vec<u64>,
    /// What it has missed, if it is behind. It hears nothing of the room meanwhile.
    pub behind: Option<Box<Behind>>,
    /// What it is to be told at the end of the turn, or when its connection is free for it.
    pub wants: Wants,
    /// On the shard's list of sessions to be told what they want.
    pub listed: bool,
    /// An answer to a sync request waits for the log.
    pub answering: bool,
    /// What it wrote and is to be told again, from a large update on.
    pub echoes: Option<Box<Echoes>>,
    /// A large answer on its way: one at a time.
    pub stream: Option<Stream>,
    /// On the shard's list of connections with slices to go.
    pub streaming: bool,
    /// Its stand-in at the room's home, if that is another core and the session is live.
    pub guest: Option<ConnId>,
    /// What it announced faster than it may.
    pub late: Vec<Late>,
    /// Until when its announcements are paid for.
    pub presence_paid: Instant,
    /// It is not read while nothing can be told to the room's home.
    pub unread: bool,
    /// On the shard's list of sessions whose answer waits for its turn.
    pub waiting: bool,
}

/// What a session is to be told. However often it asks within a turn, it is told once.
#[derive(Debug, Default)]
pub struct Wants {
    /// What it lacks, by the state vector that it sent last.
    pub state: Option<Box<[u8]>>,
    /// Who is there.
    pub presence: bool,
    /// To send what the room lacks.
    pub request: bool,
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

/// Bytes of what it missed that a session gets first, when its socket takes some again.
pub const PART_BYTES_MIN: usize = 16 << 10;

/// From where on a session misses what happened.
#[derive(Debug)]
pub struct Behind {
    /// The room's stream offset.
    pub from: u64,
    /// The room's state vector then.
    pub state_vector: Box<[u8]>,
    /// The room's presence version then.
    pub presence: u64,
    /// Bytes of what it missed that it gets next: twice as many as before, as long as its socket takes
    /// all. What a socket does not take is kept for it alone.
    pub part_bytes: usize,
    /// Where it was when its progress was looked at last, and when, once it got a part.
    looked_at: Option<(u64, Instant)>,
}

impl Behind {
    /// Behind from this stream offset on, with this state vector and presence version.
    pub fn new(from: u64, state_vector: Box<[u8]>, presence: u64) -> Self {
        Self {
            from,
            state_vector,
            presence,
            part_bytes: PART_BYTES_MIN,
            looked_at: None,
        }
    }

    /// It has been given all up to here, and there is more.
    pub fn got_part(&mut self, now: Instant, up_to: u64, part_bytes_max: usize) {
        self.looked_at.get_or_insert((self.from, now));
        self.from = up_to;
        self.part_bytes = (self.part_bytes * 2).min(part_bytes_max.max(PART_BYTES_MIN));
    }

    /// It is getting a large update, and then has all up to here. This state vector, if it is known, is
    /// of that or before.
    pub fn gets_large(&mut self, up_to: u64, state_vector: &[u8]) {
        self.from = up_to;
        if state_vector != [0] {
            self.state_vector = state_vector.into();
        }
        self.looked_at = None;
    }

    /// Whether less than `bytes` of the parts have gone in a time of `limit`.
    pub fn drags(&mut self, now: Instant, limit: Duration, bytes: usize) -> bool {
        match &mut self.looked_at {
            Some((at, since)) if self.from - *at >= bytes as u64 => {
                (*at, *since) = (self.from, now);
                false
            }
            Some((_, since)) => now.0.saturating_sub(since.0) > limit.as_nanos() as u64,
            None => false,
        }
    }
}

impl Connection {
    /// A connection whose request head is awaited.
    pub fn new(id: ConnId, peer: SocketAddr, now: Instant) -> Self {
        Self {
            generation: id.generation,
            blocked_since: None,
            held_back: 0,
            touched: false,
            pinged: false,
            peer,
            unsent_bytes: 0,
            last_sent: now,
            last_received: now,
            out: Vec::new(),
            out_control: 0,
            stage: Stage::Head(Vec::new()),
            decoder: Decoder::default(),
        }
    }

    /// Appends control frames: they may go between the slices of a message.
    pub fn control(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if let Stage::Session(session) = &mut self.stage
            && let Some(stream) = session.stream.as_mut().filter(|s| s.is_in_message())
        {
            return write(&mut stream.control);
        }
        let before = self.out.len();
        write(&mut self.out);
        self.out_control += self.out.len() - before;
    }

    /// Appends a close frame, the last one. Of a message that has begun no more goes, and to a socket
    /// that holds back bytes nothing but this.
    pub fn last_words(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.blocked_since.is_some() {
            self.out = Vec::new();
            self.out_control = 0;
            return write(&mut self.out);
        }
        if let Stage::Session(session) = &mut self.stage
            && let Some(stream) = session.stream.as_mut().filter(|s| s.is_in_message())
        {
            self.out = std::mem::take(&mut stream.control);
            self.out_control = self.out.len();
        }
        write(&mut self.out);
    }

    /// Bytes that wait for the socket.
    pub fn waiting_bytes(&self) -> usize {
        let of_session = match &self.stage {
            Stage::Session(session) => {
                let control = session.stream.as_ref().map_or(0, |s| s.control.len());
                control + session.echoes.as_ref().map_or(0, |echoes| echoes.size())
            }
            _ => 0,
        };
        self.unsent_bytes + self.out.len() + of_session
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
    /// A session whose room is not live for it yet; `index` is its place among those that wait.
    pub fn new(room: RoomId, index: usize, claims: Claims, now: Instant) -> Self {
        Self {
            room,
            loading: Some(LoadQueue::default()),
            index,
            group: 0,
            heard: 0,
            since: now,
            claims,
            told_read_only: false,
            asked: false,
            gap_repeats: 0,
            wrote: false,
            clients: Vec::new(),
            behind: None,
            wants: Wants::default(),
            listed: false,
            answering: false,
            echoes: None,
            stream: None,
            streaming: false,
            guest: None,
            late: Vec::new(),
            presence_paid: Instant(0),
            unread: false,
            waiting: false,
        }
    }

    /// It owns the presence of a client from now on, or no longer does.
    pub fn owns(&mut self, client: u64, present: bool) {
        match self.clients.iter().position(|c| *c == client) {
            None if present => self.clients.push(client),
            Some(at) if !present => {
                self.clients.swap_remove(at);
            }
            _ => {}
        }
    }

    /// Whether its updates are refused.
    pub fn is_read_only(&self) -> bool {
        self.claims.access == Access::ReadOnly
    }

    /// Whether nothing large is on its way to it.
    pub fn is_free(&self) -> bool {
        !self.answering && self.stream.is_none()
    }
}
