//! What shards tell each other: at most one letter for each pair of cores and turn, with all that the
//! turn has for the other core. A letter that finds the mailbox full comes back and is tried again;
//! meanwhile nothing is written but what is small and must not be lost.

use super::effect::{Effect, Effects};
use super::event::Mail;
use super::identity::Claims;
use super::room::TurnFrame;
use super::stream::Messages;
use super::types::{ConnId, Instant, ShardId};
use collabblocks_storage_engine::RoomId;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Time between two tries to deliver a letter.
const RETRY: Duration = Duration::from_millis(1);
/// Bytes of a letter that cannot be sent before the sessions that add to it are no longer read.
const LETTER_BYTES_MAX: usize = 256 << 10;

/// All that a turn has to say to another core. Owns its bytes: they are copied once for a core.
#[derive(Debug, Default)]
pub struct Letter {
    pub(super) bytes: Vec<u8>,
    pub(super) items: Vec<Item>,
}

/// One thing said. `conn` is a connection, and `room` an away room, of the core that has the socket;
/// `guest` is that connection's stand-in at the room's home. Ranges are of the letter's bytes.
#[derive(Debug)]
pub(super) enum Item {
    /// To all: sessions of the room stay where they are accepted from now on, or no longer do.
    Heat { name: Box<str>, on: bool },

    /// To the home: a session wants in. Answered with `Live` or `Close`; it says nothing before.
    Attach {
        conn: ConnId,
        room: RoomId,
        name: Box<str>,
        claims: Box<Claims>,
    },
    /// It is gone.
    Leave { guest: ConnId },
    /// It sent an update, or a reply to a sync request.
    Update {
        guest: ConnId,
        bytes: Range<usize>,
        reply: bool,
    },
    /// Presence of clients that it owns: the latest of each.
    Presence { guest: ConnId, bytes: Range<usize> },
    /// It lacks what this state vector lacks. One question at a time: `Answered` or `Stream` follows.
    Ask { guest: ConnId, bytes: Range<usize> },
    /// It lacks all from this stream offset on. Answered like `Ask`.
    CatchUp { guest: ConnId, from: u64 },
    /// It has got all of a `Stream`.
    Streamed { guest: ConnId },

    /// From the home: the session is in.
    Live {
        conn: ConnId,
        guest: ConnId,
        room: RoomId,
        /// The stream offset up to which it has missed nothing.
        heard: u64,
        /// The first of its core: the room's stream offset, and all who are present.
        fresh: Option<(u64, Range<usize>)>,
    },
    /// Frames for one session alone.
    Frames { conn: ConnId, bytes: Range<usize> },
    /// The answer is in the frames before; it holds all up to this stream offset.
    Answered { conn: ConnId, at: u64 },
    /// The answer is large; its slices are shared.
    Stream {
        conn: ConnId,
        messages: Arc<Messages>,
        at: u64,
    },
    /// What it wrote is durable, and large.
    Echo {
        conn: ConnId,
        messages: Arc<Messages>,
    },
    /// The session is to be closed with a code and a reason, after these frames; without a word if it
    /// has none.
    Close {
        conn: ConnId,
        bytes: Range<usize>,
        goodbye: Option<(u16, Box<str>)>,
    },
    /// A room's document frames, from this stream offset on. Authors are of the receiving core.
    Turn {
        room: RoomId,
        from: u64,
        bytes: Range<usize>,
        frames: Vec<TurnFrame>,
        /// Where large updates stand among them.
        large: Vec<(usize, Option<Arc<Messages>>)>,
        /// Sessions of the room, on all cores.
        size: usize,
    },
    /// In the place of frames that the core missed: one that holds all up to this stream offset. Where
    /// that would be large, none, and each session asks for what it lacks.
    Diff {
        room: RoomId,
        at: u64,
        bytes: Option<Range<usize>>,
    },
    /// The latest presence of the clients that changed.
    States {
        room: RoomId,
        bytes: Range<usize>,
        /// Sessions of the room, on all cores.
        size: usize,
    },
}

impl Letter {
    /// Copies bytes in.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    /// Bytes that were copied into it.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Its size, for the figures.
    pub(super) fn size(&self) -> usize {
        self.bytes.len() + self.items.len() * size_of::<Item>()
    }
}

/// Whether a lane takes more.
#[derive(Debug)]
enum State {
    Free,
    /// A letter came back.
    Stuck {
        letter: Box<Letter>,
        retry_at: Instant,
    },
    /// It is tried again: if it does not come back before the turn ends, the lane is free.
    Trying,
}

/// The way to one other core.
#[derive(Debug)]
pub(super) struct Lane {
    state: State,
    /// The next letter.
    pub letter: Letter,
    /// Home rooms that the core is to be told more of, once the lane is free.
    pub rooms: Vec<RoomId>,
    /// Connections here that are not read until the lane is free.
    pub paused: Vec<ConnId>,
}

impl Lane {
    /// Whether the next letter goes at the end of this turn.
    pub fn is_free(&self) -> bool {
        matches!(self.state, State::Free)
    }

    /// Whether sessions are to be kept from adding to the letter.
    pub fn is_full(&self) -> bool {
        !self.is_free() && self.letter.bytes.len() > LETTER_BYTES_MAX
    }
}

/// The ways to all other cores. Lives with its shard.
#[derive(Debug)]
pub(super) struct Post {
    lanes: Vec<Lane>,
    own: ShardId,
}

impl Post {
    pub fn new(own: ShardId, shards: u16) -> Self {
        let lane = || Lane {
            state: State::Free,
            letter: Letter::default(),
            rooms: Vec::new(),
            paused: Vec::new(),
        };
        Self {
            lanes: (0..shards).map(|_| lane()).collect(),
            own,
        }
    }

    /// The way to a core.
    pub fn lane(&mut self, to: ShardId) -> &mut Lane {
        assert_ne!(to, self.own, "a shard sends no mail to itself");
        &mut self.lanes[usize::from(to.0)]
    }

    /// Adds to the next letter to a core.
    pub fn push(&mut self, to: ShardId, item: Item) {
        self.lane(to).letter.items.push(item);
    }

    /// All other cores.
    pub fn others(&self) -> impl Iterator<Item = ShardId> + use<> {
        let own = self.own;
        (0..self.lanes.len() as u16)
            .map(ShardId)
            .filter(move |shard| *shard != own)
    }

    /// A letter came back.
    pub fn on_refused(&mut self, now: Instant, to: ShardId, letter: Box<Letter>) {
        let lane = self.lane(to);
        assert!(
            !matches!(lane.state, State::Stuck { .. }),
            "one letter for each core and turn"
        );
        let retry_at = now.after(RETRY);
        lane.state = State::Stuck { letter, retry_at };
    }

    /// The turn ends: what was tried and did not come back was taken. Those lanes are free again.
    pub fn settle(&mut self) {
        for lane in &mut self.lanes {
            if matches!(lane.state, State::Trying) {
                lane.state = State::Free;
            }
        }
    }

    /// Sends the letters of the turn, and again what came back.
    pub fn send(&mut self, now: Instant, effects: &mut Effects) -> (u64, u64) {
        let (mut letters, mut bytes) = (0, 0);
        for (to, lane) in self.lanes.iter_mut().enumerate() {
            let to = ShardId(to as u16);
            let letter = match std::mem::replace(&mut lane.state, State::Trying) {
                State::Stuck { letter, retry_at } if retry_at <= now => letter,
                State::Free if !lane.letter.items.is_empty() => {
                    lane.state = State::Free;
                    let letter = Box::new(std::mem::take(&mut lane.letter));
                    letters += 1;
                    bytes += letter.size() as u64;
                    letter
                }
                other => {
                    lane.state = other;
                    continue;
                }
            };
            let mail = Mail::Letter(letter);
            effects.list.push(Effect::Mail { to, mail });
        }
        (letters, bytes)
    }

    /// When the next turn is wanted, at the latest.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        let lanes = self.lanes.iter();
        lanes
            .filter_map(|lane| match lane.state {
                State::Stuck { retry_at, .. } => Some(retry_at),
                State::Trying => Some(now),
                State::Free if !lane.rooms.is_empty() => Some(now),
                State::Free => None,
            })
            .min()
    }
}
