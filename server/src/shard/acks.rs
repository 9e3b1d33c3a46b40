//! What waits for the log: frames that would tell a client that its own content is safe, released
//! in arrival order once the log has reached them.

use super::stream::Answer;
use super::types::{ConnId, ShardId};
use collabblocks_storage_engine::RoomId;
use collabblocks_wal::Lsn;
use std::collections::VecDeque;
use std::rc::Rc;

/// To whom released frames go.
#[derive(Debug)]
pub enum To {
    /// One connection.
    Conn(ConnId),
    /// One connection: the answer to its sync request.
    Answer(ConnId),
    /// One connection: that answer, in slices.
    Stream(ConnId, Rc<Answer>),
    /// All sessions of a room but the one that wrote it.
    Room(RoomId, ConnId),
    /// The same, of a large update. Without its messages only a diff helps.
    Large(RoomId, ConnId, Option<Rc<Answer>>),
    /// One connection: what it wrote, which is large.
    Echo(ConnId, Rc<Answer>),
    /// All sessions of a room on another core, in the place of what they missed.
    Core {
        /// The room.
        room: RoomId,
        /// The core.
        shard: ShardId,
        /// The room's id there.
        their_room: RoomId,
        /// The room's stream offset that it reaches to.
        at: u64,
    },
}

#[derive(Debug)]
struct Held {
    at: Lsn,
    bytes: usize,
    to: To,
}

impl Held {
    /// Bytes of a large update that waits, which are counted with its echo.
    fn large_bytes(&self) -> usize {
        match &self.to {
            To::Echo(_, answer) => answer.size(),
            _ => 0,
        }
    }
}

/// A FIFO of frames, each with the log address it waits for.
#[derive(Debug, Default)]
pub struct Acks {
    queue: VecDeque<Held>,
    bytes: VecDeque<u8>,
    large_bytes: usize,
}

impl Acks {
    /// Holds a frame until `durable_lsn >= at`, and no later frame is released before it.
    pub fn hold(&mut self, at: Lsn, to: To, frame: &[u8]) {
        let at = self.queue.back().map_or(at, |last| last.at.max(at));
        self.bytes.extend(frame);
        let held = Held {
            at,
            bytes: frame.len(),
            to,
        };
        self.large_bytes += held.large_bytes();
        self.queue.push_back(held);
    }

    /// The next frame that may go, if any.
    pub fn next(&mut self, durable: Lsn) -> Option<(To, Released<'_>)> {
        if self.queue.front()?.at > durable {
            return None;
        }
        let held = self.queue.pop_front()?;
        self.large_bytes -= held.large_bytes();
        Some((
            held.to,
            Released {
                bytes: &mut self.bytes,
                len: held.bytes,
            },
        ))
    }

    /// Frames held for a room.
    pub fn held_for(&self, room: RoomId) -> usize {
        let of =
            |held: &&Held| matches!(held.to, To::Room(id, _) | To::Large(id, ..) if id == room);
        self.queue.iter().filter(of).count()
    }

    /// Bytes held, with those of the notes of whom they are for.
    pub fn held_bytes(&self) -> usize {
        self.bytes.len() + self.large_bytes + self.queue.len() * size_of::<Held>()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

/// The bytes of a released frame; they leave the queue when this is dropped.
#[derive(Debug)]
pub struct Released<'a> {
    bytes: &'a mut VecDeque<u8>,
    len: usize,
}

impl Released<'_> {
    /// Appends them.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        let (front, back) = self.bytes.as_slices();
        let cut = self.len.min(front.len());
        out.extend_from_slice(&front[..cut]);
        out.extend_from_slice(&back[..self.len - cut]);
    }
}

impl Drop for Released<'_> {
    fn drop(&mut self) {
        self.bytes.drain(..self.len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ConnId = ConnId {
        slot: 1,
        generation: 1,
    };

    fn released(acks: &mut Acks, durable: u64) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while let Some((_, bytes)) = acks.next(Lsn(durable)) {
            let mut out = Vec::new();
            bytes.append_to(&mut out);
            all.push(out);
        }
        all
    }

    #[test]
    fn in_arrival_order_and_only_when_durable() {
        let mut acks = Acks::default();
        acks.hold(Lsn(10), To::Conn(A), b"ten");
        acks.hold(Lsn(20), To::Conn(A), b"twenty");
        acks.hold(Lsn(5), To::Conn(A), b"known since five");
        assert_eq!(released(&mut acks, 9), Vec::<Vec<u8>>::new());
        assert_eq!(released(&mut acks, 10), [b"ten".to_vec()]);
        assert_eq!(
            released(&mut acks, 19),
            Vec::<Vec<u8>>::new(),
            "five waits behind twenty"
        );
        assert_eq!(
            released(&mut acks, 20),
            [b"twenty".to_vec(), b"known since five".to_vec()]
        );
        assert!(acks.is_empty() && acks.held_bytes() == 0);
    }

    #[test]
    fn frames_survive_the_wrap_of_the_ring() {
        let mut acks = Acks::default();
        for i in 0..1000u64 {
            acks.hold(Lsn(i), To::Conn(A), &[i as u8; 37]);
            if i >= 7 {
                assert_eq!(released(&mut acks, i - 7), [vec![(i - 7) as u8; 37]]);
            }
        }
    }
}
