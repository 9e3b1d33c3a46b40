//! Large updates: the bytes that a client sent go to the job that applies them, to its peers and back to
//! it as they are, in slices at each socket's pace. The core copies no more of them in a turn than that.

use super::acks::To;
use super::connection::{Behind, Echo};
use super::guests::is_guest;
use super::hot::cores_fall_behind;
use super::session::EMPTY_UPDATE;
use super::stream::Answer;
use super::types::{ConnId, Instant};
use super::{Drain, Shard};
use crate::dialect::{Command, y_websocket};
use collabblocks_storage_engine::{Applied, LargeUpdate, Outcome, RoomId};
use std::rc::Rc;

impl Shard {
    /// A binary message of a live session, in a buffer of its own.
    pub(super) fn on_large_binary(&mut self, now: Instant, id: ConnId, bytes: Vec<u8>) {
        let here = self
            .session(id)
            .filter(|session| session.guest.is_none())
            .map(|session| session.room);
        let update = match y_websocket::commands(&bytes).next() {
            Some(Ok(Command::Update(update))) => Some((update, false)),
            Some(Ok(Command::SyncReply(update))) => Some((update, true)),
            _ => None,
        };
        // One that is the last thing in its message, as all that clients send are.
        let update = update.filter(|(update, _)| {
            update.as_ptr_range().end == bytes.as_ptr_range().end
                && self.engine.takes_apart(update.len())
        });
        match (here, update) {
            (Some(room_id), Some((update, reply))) if self.drain == Drain::No => {
                let start = bytes.len() - update.len();
                self.on_owned_update(now, id, room_id, LargeUpdate::new(bytes, start), reply);
            }
            _ => self.on_binary(now, id, &bytes),
        }
    }

    /// What [`Shard::on_update`] and [`Shard::on_reply`] do, of an update that need not be copied.
    pub(super) fn on_owned_update(
        &mut self,
        now: Instant,
        id: ConnId,
        room_id: RoomId,
        update: LargeUpdate,
        reply: bool,
    ) {
        if !self.engine.takes_apart(update.len()) || *update == *EMPTY_UPDATE {
            return if reply {
                self.on_reply(now, id, room_id, &update)
            } else {
                self.on_update(now, id, room_id, &update, false)
            };
        }
        if reply {
            let may_write = self.session(id).is_some_and(|s| !s.is_read_only());
            if may_write && self.engine.is_apart(room_id) {
                // It answers after what the client sent before it.
                return self.keep_until_back(now, id, room_id, update, true);
            }
            if let Some(session) = self.session(id) {
                session.asked = false;
            }
        }
        if self.may_update(now, id, reply) {
            self.apply_apart(now, id, room_id, update, reply);
        }
    }

    /// As [`Shard::on_outcome`], of an update that is not to be copied.
    pub(super) fn on_large_applied(
        &mut self,
        now: Instant,
        id: ConnId,
        room_id: RoomId,
        update: LargeUpdate,
        reply: bool,
        outcome: Outcome,
    ) {
        let bytes = update.len();
        let (relays, cut, told) = match outcome.applied {
            Applied::New => (true, false, Some(update)),
            Applied::Known => (false, false, Some(update)),
            Applied::Cut(part) => (true, true, Some(part.into())),
            Applied::CutKnown => (false, true, None),
        };
        self.count_update(relays, bytes);
        if let Some(told) = told {
            let update = self.answers.make_update(told);
            self.accept_large(id, room_id, update, relays, outcome.durable_at, reply);
        }
        self.after_update(now, id, room_id, relays, cut.then_some(outcome.wanted));
    }

    fn accept_large(
        &mut self,
        id: ConnId,
        room_id: RoomId,
        update: Rc<Answer>,
        relays: bool,
        at: collabblocks_wal::Lsn,
        reply: bool,
    ) {
        if relays && self.relay_waits(id, room_id, reply) {
            self.room(room_id).held += 1;
            let to = To::Update(room_id, id, update.clone());
            self.acks.hold(at, to, &[]);
        } else if relays {
            self.relay_large(room_id, id, update.clone());
        }
        self.acks.hold(at, To::Echo(id, update), &[]);
        if !relays {
            // What is known may be durable already.
            self.release(self.engine.durable_lsn());
        }
    }

    /// Tells a room of a large update.
    pub(super) fn relay_large(&mut self, room_id: RoomId, author: ConnId, update: Rc<Answer>) {
        let has_memory = self.answers.update_bytes() <= self.config.limits.answer_bytes_max;
        let room = self.touch_room(room_id);
        if room.spread.is_none() && !room.has_cores() {
            return room.turn.add_large(author, has_memory.then_some(update));
        }
        update.frame(&mut room.turn.bytes);
        room.turn.frame_done(Some(author));
        if let Some(session) = self.session(author) {
            session.wrote = true;
        }
    }

    /// The end of a room's turn with a large update in it: all its sessions have missed the turn, and are
    /// told what they missed.
    pub(super) fn tell_large(&mut self, room_id: RoomId) {
        let room = self.rooms[room_id.slot as usize]
            .as_deref_mut()
            .expect("looked at before");
        let (offset, presence) = (room.stream_offset, room.presence.told());
        self.scratch.clear();
        if room.presence.has_changes() {
            room.presence.take_changes(&mut self.scratch);
        }
        let mut behind = 0;
        for &id in &room.sessions {
            let connection = self.connections[id.slot as usize].as_mut();
            let session = connection.and_then(|connection| connection.session());
            let session = session.expect("a room's sessions are connected");
            session.wrote = false;
            if session.behind.is_some() {
                continue;
            }
            let from = offset.max(session.heard);
            let vector = room.marks.before(offset).into();
            session.behind = Some(Box::new(Behind::new(from, vector, presence)));
            behind += 1;
            if !session.listed {
                session.listed = true;
                self.wanting.push(id);
            }
        }
        room.fell_behind(behind);
        cores_fall_behind(room, &mut self.post);
        room.end_turn(self.config.limits.queue_soft_bytes);
        self.mark(room_id);
        self.tally(room_id);
    }

    /// A large update is durable: who wrote it is told so.
    pub(super) fn echo_large(&mut self, id: ConnId, update: Rc<Answer>) {
        let guest = is_guest(id);
        if let Some(connection) = self.touch(id) {
            if guest {
                update.frame(&mut connection.out);
            } else if let Some(session) = connection.session() {
                session.echoes.push(Echo {
                    update: Some(update),
                    after: Vec::new(),
                });
                self.next_echo(id);
            }
        }
    }

    /// The next echo of a large update goes out, if there is one and its session is free for it.
    pub(super) fn next_echo(&mut self, id: ConnId) {
        if let Some(session) = self.session(id)
            && session.is_free()
            && let Some(echo) = session.echoes.first_mut()
        {
            let update = echo
                .update
                .take()
                .expect("a session that is free gets none");
            self.begin_stream(id, update);
        }
    }

    /// Something large is out. If it was an echo, those of what came after it go now.
    pub(super) fn echo_ended(&mut self, id: ConnId) {
        let Some(session) = self.session(id) else {
            return;
        };
        // A connection without one is not touched: blocked, it would be looked at as one that is to hear
        // more.
        if session.echoes.first().is_some_and(|echo| echo.update.is_none()) {
            let after = session.echoes.remove(0).after;
            if let Some(connection) = self.touch(id) {
                connection.out.extend_from_slice(&after);
            }
        }
        self.next_echo(id);
    }
}
