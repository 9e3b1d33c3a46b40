//! What sessions ask for and what they missed: told at the end of a turn, once, and one large thing at
//! a time, so that small questions cannot pile up large answers.

use super::Shard;
use super::acks::To;
use super::away::is_away;
use super::connection::Behind;
use super::guests::is_guest;
use super::room::WholeState;
use super::session::EMPTY_UPDATE;
use super::stream::Stream;
use super::types::{ConnId, Instant};
use crate::dialect::y_websocket;
use collabblocks_storage_engine::{RoomId, split_update};
use std::sync::Arc;

/// Bytes of large answers that all connections together get in a turn.
const STREAM_BYTES_PER_TURN: usize = 8 << 20;
/// Capacity that the buffer for diffs keeps.
const SCRATCH_BYTES_KEPT: usize = 1 << 20;

impl Shard {
    /// Puts a session on the list of those that are to be told what they want.
    pub(super) fn list(&mut self, id: ConnId) {
        if let Some(session) = self.session(id)
            && !session.listed
        {
            session.listed = true;
            self.wanting.push(id);
        }
    }

    /// Tells the sessions on the list what they want.
    pub(super) fn tell_wanting(&mut self, now: Instant) {
        let mut wanting = std::mem::take(&mut self.wanting);
        for id in wanting.drain(..) {
            self.tell(now, id);
        }
        wanting.append(&mut self.wanting);
        self.wanting = wanting;
    }

    fn tell(&mut self, now: Instant, id: ConnId) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        let blocked = connection.blocked_since.is_some();
        let Some(session) = connection.session() else {
            return;
        };
        session.listed = false;
        // It is put on the list again when it has drained, or when the answer under way is out.
        if blocked || !session.is_free() {
            return;
        }
        let room_id = session.room;
        let wants = std::mem::take(&mut session.wants);
        if let Some(behind) = session.behind.take() {
            self.catch_up(now, id, room_id, &behind);
        }
        if wants.presence {
            let mut states = Vec::new();
            self.room(room_id).presence.since(None, &mut states);
            if let Some(connection) = self.touch(id) {
                y_websocket::presence(&states, &mut connection.out);
            }
        }
        if wants.request {
            let mut vector = Vec::new();
            self.engine.state_vector(room_id, &mut vector);
            if let Some(connection) = self.touch(id) {
                y_websocket::sync_request(&vector, &mut connection.out);
            }
        }
        if let Some(vector) = wants.state
            && let Some(session) = self.session(id)
        {
            if session.is_free() {
                self.answer(now, id, room_id, &vector);
            } else {
                session.wants.state = Some(vector);
            }
        }
    }

    /// Answers a sync request, once all that the room holds is durable.
    fn answer(&mut self, now: Instant, id: ConnId, room_id: RoomId, vector: &[u8]) {
        if is_away(room_id) {
            return self.ask_home(id, room_id, vector);
        }
        let whole = vector == [0];
        if whole && let Some(slices) = self.shared_slices(room_id) {
            return self.answer_in_slices(id, room_id, slices);
        }
        let mut diff = std::mem::take(&mut self.scratch);
        diff.clear();
        match self.engine.diff(room_id, vector, &mut diff) {
            Ok(()) if diff.len() > self.config.limits.slice_bytes => {
                let slices = slices_of(&diff, self.config.limits.slice_bytes);
                if whole {
                    let seq = self.engine.room_seq(room_id);
                    let slices = Arc::downgrade(&slices);
                    self.room(room_id).whole_state = Some(WholeState { seq, slices });
                }
                self.answer_in_slices(id, room_id, slices);
            }
            Ok(()) => {
                let mut frame = Vec::with_capacity(diff.len() + 16);
                y_websocket::sync_reply(&diff, &mut frame);
                self.hold_answer(id, room_id, To::Answer(id), &frame);
            }
            Err(refusal) => self.on_refusal(now, id, &refusal),
        }
        diff.clear();
        diff.shrink_to(SCRATCH_BYTES_KEPT);
        self.scratch = diff;
    }

    fn shared_slices(&mut self, room_id: RoomId) -> Option<Arc<[Box<[u8]>]>> {
        let seq = self.engine.room_seq(room_id);
        let state = self.room(room_id).whole_state.as_ref()?;
        if state.seq == seq {
            state.slices.upgrade()
        } else {
            None
        }
    }

    fn answer_in_slices(&mut self, id: ConnId, room_id: RoomId, slices: Arc<[Box<[u8]>]>) {
        let to = To::Stream(id, Stream::new(slices));
        self.hold_answer(id, room_id, to, &[]);
    }

    fn hold_answer(&mut self, id: ConnId, room_id: RoomId, to: To, frame: &[u8]) {
        if let Some(session) = self.session(id) {
            session.answering = true;
        }
        let offset = self.room(room_id).stream_offset;
        if let Some(guest) = self.guests.get_mut(id) {
            guest.answer_at = offset;
        }
        self.acks
            .hold(self.engine.room_durable_at(room_id), to, frame);
        self.release(self.engine.durable_lsn());
        if self.session(id).is_some_and(|s| !s.is_free()) {
            // What comes after the answer builds on it: it is told after it, too.
            self.fall_behind(id);
        }
    }

    /// The socket of a session does not take more: from here on it is behind.
    pub(super) fn on_blocked(&mut self, now: Instant, id: ConnId, unsent_bytes: usize) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        connection.unsent_bytes = unsent_bytes;
        connection.blocked_since.get_or_insert(now);
        self.fall_behind(id);
    }

    /// From here on a session, if it is live, hears nothing of its room until it has caught up.
    pub(super) fn fall_behind(&mut self, id: ConnId) {
        // What a guest is told waits on the core that has its socket.
        if is_guest(id) {
            return;
        }
        let Some(session) = self.session(id) else {
            return;
        };
        if session.loading.is_some() || session.behind.is_some() {
            return;
        }
        let room_id = session.room;
        let mut vector = Vec::new();
        let room = self.room(room_id);
        if is_away(room_id) {
            // The home knows what the document held.
        } else if room.held > 0 || !room.turn.bytes.is_empty() {
            // The document is ahead of what was relayed; only the whole state surely has it all.
            vector.push(0);
        } else {
            self.engine.state_vector(room_id, &mut vector);
        }
        let room = self.room(room_id);
        room.behind += 1;
        let behind = Behind {
            from: room.stream_offset,
            state_vector: vector.into(),
            presence: room.presence.told(),
        };
        if let Some(session) = self.session(id) {
            session.behind = Some(Box::new(behind));
        }
    }

    /// It takes bytes again: it goes on with what it was getting, then is told what it missed.
    pub(super) fn on_drained(&mut self, id: ConnId) {
        let Some(connection) = self.touch(id) else {
            return;
        };
        connection.blocked_since = None;
        connection.unsent_bytes = 0;
        self.go_on_streaming(id);
        self.list(id);
    }

    /// Tells a session that was behind what it missed.
    fn catch_up(&mut self, now: Instant, id: ConnId, room_id: RoomId, behind: &Behind) {
        let mut missed = Vec::new();
        let room = self.room(room_id);
        let replayed = room.replay(behind.from, id, &mut missed);
        let mut states = Vec::new();
        if room.presence.since(Some(behind.presence), &mut states) {
            y_websocket::presence(&states, &mut missed);
        }
        room.caught_up();
        if let Some(connection) = self.touch(id) {
            connection.out.extend_from_slice(&missed);
        }
        if replayed {
            return;
        }
        if is_away(room_id) {
            self.ask_home_from(id, room_id, behind.from);
        } else {
            self.answer(now, id, room_id, &behind.state_vector);
        }
    }

    /// Puts a session that is getting a large answer on the list of those that get slices.
    pub(super) fn go_on_streaming(&mut self, id: ConnId) {
        if let Some(session) = self.session(id)
            && session.stream.is_some()
            && !session.streaming
        {
            session.streaming = true;
            self.streaming.push(id);
        }
    }

    /// The next slice of each large answer whose connection takes bytes, as far as a turn's share
    /// goes: who came first is served first.
    pub(super) fn continue_streams(&mut self) {
        let mut streaming = std::mem::take(&mut self.streaming);
        let mut bytes_left = STREAM_BYTES_PER_TURN;
        streaming.retain(|&id| bytes_left == 0 || self.continue_stream(id, &mut bytes_left));
        streaming.append(&mut self.streaming);
        self.streaming = streaming;
    }

    /// Whether there is more to go at once.
    fn continue_stream(&mut self, id: ConnId, bytes_left: &mut usize) -> bool {
        let Some(connection) = self.touch(id) else {
            return false;
        };
        let blocked = connection.blocked_since.is_some();
        let super::Stage::Session(session) = &mut connection.stage else {
            return false;
        };
        let Some(stream) = session.stream.as_mut().filter(|_| !blocked) else {
            // It is put back on the list when it has drained.
            session.streaming = false;
            return false;
        };
        if let Some(slice) = stream.next_slice() {
            connection.out.extend_from_slice(slice);
            *bytes_left = bytes_left.saturating_sub(slice.len());
        }
        if stream.is_done() {
            session.stream = None;
            session.streaming = false;
            self.list(id);
            return false;
        }
        true
    }
}

/// An answer as frames of about `bytes_max`: updates in causal order, closed by an empty step 2,
/// which is what makes a client say that it is synced.
fn slices_of(diff: &[u8], bytes_max: usize) -> Arc<[Box<[u8]>]> {
    let mut frames: Vec<Box<[u8]>> = Vec::new();
    for part in split_update(diff, bytes_max) {
        let mut frame = Vec::with_capacity(part.len() + 16);
        y_websocket::update(&part, &mut frame);
        frames.push(frame.into());
    }
    let mut last = Vec::new();
    y_websocket::sync_reply(EMPTY_UPDATE, &mut last);
    frames.push(last.into());
    frames.into()
}
