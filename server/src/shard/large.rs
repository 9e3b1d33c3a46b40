//! Large updates that are not copied: the buffer in which a message came goes to the job that applies
//! the update, and from there to all who are told of it.

use super::session::EMPTY_UPDATE;
use super::types::{ConnId, Instant};
use super::{Drain, Shard};
use crate::dialect::{Command, y_websocket};
use collabblocks_storage_engine::{LargeUpdate, RoomId};
use collabblocks_wal::Lsn;

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
                && self.engine.is_large(update.len())
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
        if !self.engine.is_large(update.len()) || *update == *EMPTY_UPDATE {
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

    /// Whether an update of so many bytes, which a job has applied, is told of in its own buffer.
    pub(super) fn goes_uncopied(&mut self, update_bytes: usize) -> bool {
        let limits = &self.config.limits;
        update_bytes >= limits.large_bytes() && self.answers.has_room(limits.answer_bytes_max)
    }

    /// As [`Shard::on_outcome`], of such an update.
    pub(super) fn on_uncopied(
        &mut self,
        id: ConnId,
        room_id: RoomId,
        update: LargeUpdate,
        relays: bool,
        at: Lsn,
    ) {
        self.count_update(relays, update.len());
        let answer = self.answers.update(update);
        self.hold_large(id, room_id, relays, Some(answer.clone()), at);
        self.hold_echo(id, answer, relays, at);
        if relays {
            self.ask_again(room_id);
        }
        if let Some(session) = self.session(id) {
            session.gap_repeats = 0;
        }
    }
}
