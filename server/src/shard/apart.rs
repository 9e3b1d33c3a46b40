//! Rooms whose document a job has, for work that would keep the core from all other rooms: a large
//! update, or a large answer. What needs the document waits until it is back; presence does not.

use super::types::{ConnId, Instant};
use super::{Drain, Shard};
use collabblocks_storage_engine::{Applied, LargeUpdate, Outcome, Refusal, RoomId};

/// What a room's document is away for, and what waits for it.
#[derive(Debug, Default)]
pub struct Apart {
    /// Who sent the update that is being applied, and whether as an answer.
    applying: Option<(ConnId, bool)>,
    making: Option<Making>,
    updates: Vec<Waiting>,
    bytes: usize,
    /// Sessions that wait for an answer.
    asking: Vec<ConnId>,
}

/// An answer that is being made.
#[derive(Debug)]
struct Making {
    to: ConnId,
    /// The state vector that it is for, as it was asked for and as the room knows it.
    vector: Box<[u8]>,
    clamped: Box<[u8]>,
}

/// An update that waits.
#[derive(Debug)]
struct Waiting {
    from: ConnId,
    update: LargeUpdate,
    reply: bool,
}

impl Waiting {
    /// Bytes that it takes. Of small ones the place in the queue is most of it.
    fn bytes(&self) -> usize {
        self.update.memory_bytes() + size_of::<Self>()
    }
}

impl Apart {
    /// Bytes of the updates that wait, and of the queue.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Shard {
    /// A large update: a job applies it.
    pub(super) fn apply_apart(
        &mut self,
        now: Instant,
        id: ConnId,
        room_id: RoomId,
        update: LargeUpdate,
        reply: bool,
    ) {
        self.mark_before_large(room_id);
        match self.engine.apply_apart(room_id, update, reply) {
            Ok(()) => self.apart(room_id).applying = Some((id, reply)),
            Err((Refusal::Unavailable(_), update)) if self.engine.is_apart(room_id) => {
                self.keep_until_back(now, id, room_id, update, reply);
            }
            Err((refusal, _)) => self.on_refusal(now, id, &refusal),
        }
    }

    fn apart(&mut self, room_id: RoomId) -> &mut Apart {
        self.room(room_id).apart.get_or_insert_default()
    }

    /// An update for a room whose document is away.
    pub(super) fn keep_until_back(
        &mut self,
        now: Instant,
        id: ConnId,
        room_id: RoomId,
        update: LargeUpdate,
        reply: bool,
    ) {
        let limits = self.config.limits;
        let waiting = Waiting {
            from: id,
            update,
            reply,
        };
        let bytes = waiting.bytes();
        let all = self.apart_bytes + bytes;
        let apart = self.apart(room_id);
        let of_room = apart.bytes + bytes;
        if all > limits.load_queue_core_bytes_max || of_room > limits.load_queue_room_bytes_max {
            self.count_refused("load_queue");
            let reason = "too much waits for the room's document; try later";
            return self.close(now, id, 1013, reason, true);
        }
        apart.bytes = of_room;
        apart.updates.push(waiting);
        self.apart_bytes = all;
    }

    /// What waited for a room's document, and goes on waiting as it is.
    fn keep_rest(&mut self, room_id: RoomId, rest: std::vec::IntoIter<Waiting>) {
        let bytes = rest.as_slice().iter().map(Waiting::bytes).sum::<usize>();
        self.apart_bytes += bytes;
        let apart = self.apart(room_id);
        debug_assert!(apart.updates.is_empty(), "nothing came since");
        apart.bytes += bytes;
        apart.updates = rest.collect();
    }

    /// A large answer: a job makes it. Others who lack the same share it then.
    pub(super) fn answer_apart(
        &mut self,
        now: Instant,
        id: ConnId,
        room_id: RoomId,
        vector: Box<[u8]>,
        clamped: &[u8],
    ) {
        let part_bytes = self.config.limits.slice_bytes;
        match self.engine.diff_apart(room_id, clamped, part_bytes) {
            Ok(()) => {
                self.apart(room_id).making = Some(Making {
                    to: id,
                    vector: vector.clone(),
                    clamped: clamped.into(),
                });
                self.ask_when_back(id, room_id, vector);
            }
            Err(refusal) => self.on_refusal(now, id, &refusal),
        }
    }

    /// A session's answer waits for the document. It hears nothing of the room before.
    pub(super) fn ask_when_back(&mut self, id: ConnId, room_id: RoomId, vector: Box<[u8]>) {
        let Some(session) = self.session(id) else {
            return;
        };
        session.wants.state = Some(vector);
        self.apart(room_id).asking.push(id);
        self.fall_behind(id);
    }

    /// A large update was applied, or refused.
    pub(super) fn on_applied(
        &mut self,
        now: Instant,
        room_id: RoomId,
        update: LargeUpdate,
        outcome: Result<Outcome, Refusal>,
    ) {
        // Who comes into a room that all had left is told of it by the document.
        let room = self.room_if_kept(room_id);
        let apart = room.and_then(|room| room.apart.as_mut());
        if let Some((id, reply)) = apart.and_then(|apart| apart.applying.take()) {
            // What somebody wrote who has left waits for the disk, as what was an answer does.
            let reply = reply || self.session(id).is_none();
            match outcome {
                Ok(Outcome {
                    applied: applied @ (Applied::New | Applied::Known),
                    durable_at,
                    ..
                }) if self.goes_uncopied(update.len()) => {
                    let relays = applied == Applied::New;
                    self.on_uncopied(id, room_id, update, relays, durable_at);
                }
                outcome => self.on_outcome(now, id, room_id, &update, reply, outcome),
            }
        }
    }

    /// A large answer was made.
    pub(super) fn on_diff(
        &mut self,
        now: Instant,
        room_id: RoomId,
        diff: Result<Vec<Vec<u8>>, Refusal>,
    ) {
        let room = self.room_if_kept(room_id);
        let apart = room.and_then(|room| room.apart.as_mut());
        let Some(making) = apart.and_then(|apart| apart.making.take()) else {
            return;
        };
        let id = making.to;
        let Some(connection) = self.connection(id) else {
            return;
        };
        let blocked = connection.blocked_since.is_some();
        let Some(session) = connection.session() else {
            return;
        };
        // One that cannot take it now, or has asked anew, is answered later.
        if blocked || !session.is_free() || session.wants.state.as_ref() != Some(&making.vector) {
            return;
        }
        session.wants.state = None;
        match diff {
            Ok(parts) => self.give(id, room_id, parts, &making.clamped),
            Err(refusal) => self.on_refusal(now, id, &refusal),
        }
    }

    /// The document is back: what waited for it goes on, in the order in which it came.
    pub(super) fn on_back(&mut self, now: Instant, room_id: RoomId) {
        let Some(apart) = self
            .room_if_kept(room_id)
            .and_then(|room| room.apart.take())
        else {
            return;
        };
        self.apart_bytes -= apart.bytes;
        let mut waiting = apart.updates.into_iter();
        for Waiting {
            from,
            update,
            reply,
        } in waiting.by_ref()
        {
            // At the end what is not acknowledged is sent again elsewhere.
            let here = self.session(from).is_some_and(|s| s.room == room_id);
            if here && self.drain == Drain::No {
                self.on_owned_update(now, from, room_id, update, reply);
            }
            if self.engine.is_apart(room_id) {
                // There may be much of it, each time.
                self.keep_rest(room_id, waiting);
                break;
            }
        }
        for id in apart.asking {
            self.list(id);
        }
    }
}
