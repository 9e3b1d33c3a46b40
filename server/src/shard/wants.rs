//! What sessions ask for and what they missed: told at the end of a turn, once, and one large thing at
//! a time, so that small questions cannot pile up large answers.

use super::Shard;
use super::acks::To;
use super::away::is_away;
use super::connection::{Behind, Connection, PART_BYTES_MIN, Stage};
use super::guests::is_guest;
use super::mail::Item;
use super::room::Part;
use super::stream::{Answer, Stream};
use super::types::{ConnId, Instant};
use crate::dialect::y_websocket;
use collabblocks_storage_engine::{RoomId, in_parts};
use std::rc::Rc;

/// Bytes of large answers that are made in a turn, and that all connections together get in one: past
/// it the others have their turn first.
const ANSWER_BYTES_PER_TURN: usize = 8 << 20;
/// Bytes of slices that all connections together are getting: with more connections the slices are
/// smaller, down to [`SLICE_BYTES_MIN`].
const SLICES_BYTES_MAX: usize = 64 << 20;
/// Smallest slice, as far as the configured one is not smaller.
const SLICE_BYTES_MIN: usize = 16 << 10;
/// A larger answer is shared, and goes out at the socket's pace.
const SMALL_ANSWER_BYTES_MAX: usize = 4 << 10;

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

    /// Tells the sessions on the list what they want, those first that have waited for it.
    pub(super) fn tell_wanting(&mut self, now: Instant) {
        self.answer_bytes_left = ANSWER_BYTES_PER_TURN;
        if self.may_answer_waiting() {
            for id in std::mem::take(&mut self.waiting) {
                if let Some(session) = self.session(id) {
                    session.waiting = false;
                    self.tell(now, id);
                }
            }
        }
        let mut wanting = std::mem::take(&mut self.wanting);
        let mut bytes_left = ANSWER_BYTES_PER_TURN;
        wanting.retain(|&id| {
            if bytes_left == 0 {
                return true;
            }
            if let Some(session) = self.session(id) {
                session.listed = false;
                let before = self.out_bytes(id);
                self.tell(now, id);
                bytes_left = bytes_left.saturating_sub(self.out_bytes(id).saturating_sub(before));
            }
            false
        });
        wanting.append(&mut self.wanting);
        self.wanting = wanting;
    }

    fn out_bytes(&mut self, id: ConnId) -> usize {
        self.connection(id).map_or(0, |c| c.out.len())
    }

    /// Whether there is a session that waited for its answer, and may have it now.
    pub(super) fn may_answer_waiting(&mut self) -> bool {
        let max = self.config.limits.answer_bytes_max;
        !self.waiting.is_empty() && self.answers.has_room(max)
    }

    fn tell(&mut self, now: Instant, id: ConnId) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        let blocked = connection.blocked_since.is_some();
        let Some(session) = connection.session() else {
            return;
        };
        // It is put on the list again when it has drained, or when the answer under way is out.
        if blocked || !session.is_free() {
            return;
        }
        if session.echoes.is_some()
            && let Some(answer) = self.next_echo(id)
        {
            self.stream(id, answer);
            return self.fall_behind(id);
        }
        let Some(session) = self.session(id) else {
            return;
        };
        let room_id = session.room;
        let mut wants = std::mem::take(&mut session.wants);
        if let Some(behind) = session.behind.take() {
            // An answer to what it asked holds all that it missed.
            let replays = wants.state.is_none();
            match self.catch_up(now, id, room_id, behind, replays) {
                Ok(()) => {}
                Err(behind) if replays && is_away(room_id) => {
                    self.ask_home_from(id, room_id, behind.from);
                }
                Err(behind) => {
                    wants.state.get_or_insert(behind.state_vector);
                }
            }
        }
        if wants.presence {
            let states = self.room(room_id).presence.everyone();
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
        if let Some(vector) = wants.state {
            self.answer(now, id, room_id, vector);
        }
    }

    /// Answers a sync request, once all that the room holds is durable. Who asks for what another one
    /// is getting shares it.
    fn answer(&mut self, now: Instant, id: ConnId, room_id: RoomId, vector: Box<[u8]>) {
        if is_away(room_id) {
            return self.ask_home(id, room_id, &vector);
        }
        if self.engine.is_apart(room_id) {
            return self.ask_when_back(id, room_id, vector);
        }
        let mut clamped = std::mem::take(&mut self.scratch);
        clamped.clear();
        if let Err(refusal) = self.engine.clamp(room_id, &vector, &mut clamped) {
            self.on_refusal(now, id, &refusal);
        } else if let Some(answer) = self.given_before(room_id, &clamped) {
            self.hold_answer(id, room_id, To::Stream(id, answer), &[]);
        } else if !self.may_make_answer(room_id) {
            self.wait_for_answer(id, vector);
        } else if self.engine.encodes_apart(room_id) {
            self.answer_apart(now, id, room_id, vector, &clamped);
        } else {
            match self.engine.diff(room_id, &clamped) {
                Ok(diff) => {
                    let parts = in_parts(diff, self.config.limits.slice_bytes);
                    self.give(id, room_id, parts, &clamped);
                }
                Err(refusal) => self.on_refusal(now, id, &refusal),
            }
        }
        self.scratch = clamped;
    }

    fn given_before(&mut self, room_id: RoomId, clamped: &[u8]) -> Option<Rc<Answer>> {
        let seq = self.engine.room_seq(room_id);
        let answers = &mut self.room(room_id).answers;
        answers.retain(|given| given.lives(seq));
        let same = answers.iter().find(|given| *given.vector == *clamped)?;
        same.answer()
    }

    /// Whether there is memory for one more answer, and time in this turn. Small rooms may use as much
    /// again when large ones have used up theirs.
    fn may_make_answer(&mut self, room_id: RoomId) -> bool {
        let limits = &self.config.limits;
        let small = self.engine.state_bytes_max(room_id) <= limits.slice_bytes;
        let max = limits.answer_bytes_max * if small { 2 } else { 1 };
        self.answer_bytes_left > 0 && self.answers.has_room(max)
    }

    pub(super) fn give(
        &mut self,
        id: ConnId,
        room_id: RoomId,
        parts: Vec<Vec<u8>>,
        clamped: &[u8],
    ) {
        let slice_bytes = self.config.limits.slice_bytes;
        let bytes = parts.iter().map(Vec::len).sum();
        self.answer_bytes_left = self.answer_bytes_left.saturating_sub(bytes);
        if let [diff] = &*parts
            && diff.len() <= SMALL_ANSWER_BYTES_MAX.min(slice_bytes)
        {
            let mut frame = Vec::with_capacity(diff.len() + 16);
            y_websocket::sync_reply(diff, &mut frame);
            return self.hold_answer(id, room_id, To::Answer(id), &frame);
        }
        let answer = self.answers.make(parts);
        let seq = self.engine.room_seq(room_id);
        let given = self.answers.keep(&answer, seq, clamped);
        self.room(room_id).answers.push(given);
        self.hold_answer(id, room_id, To::Stream(id, answer), &[]);
    }

    /// It is answered when others have got theirs, and hears nothing of the room before.
    fn wait_for_answer(&mut self, id: ConnId, vector: Box<[u8]>) {
        let Some(session) = self.session(id) else {
            return;
        };
        session.wants.state = Some(vector);
        if !std::mem::replace(&mut session.waiting, true) {
            self.waiting.push(id);
        }
        self.fall_behind(id);
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
        // The time limit starts anew with each part that was taken.
        if connection.blocked_since.is_none() || unsent_bytes < connection.unsent_bytes {
            connection.blocked_since = Some(now);
        }
        connection.unsent_bytes = unsent_bytes;
        if let Some(session) = connection.session()
            && let Some(behind) = &mut session.behind
        {
            behind.part_bytes = PART_BYTES_MIN;
        }
        self.count_held_back(id);
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
        let (room_id, group, heard) = (session.room, session.group, session.heard);
        let mut vector = Vec::new();
        let room = self.room(room_id);
        let all = (room.stream_offset, room.presence.told());
        let (told, presence) = match &room.spread {
            Some(spread) => spread.told(group),
            None => all,
        };
        // A session that came in this turn has heard of it.
        let from = told.max(heard);
        if is_away(room_id) {
            // The home knows what the document held.
        } else if room.held > 0 || !room.turn.bytes.is_empty() || from < room.stream_offset {
            // The document is ahead of what was relayed: what it held before surely is behind. Of small
            // rooms that is not kept.
            vector.extend_from_slice(room.marks.before(from));
        } else {
            self.engine.state_vector(room_id, &mut vector);
        }
        self.room(room_id).fell_behind(1);
        let behind = Behind::new(from, vector.into(), presence);
        if let Some(session) = self.session(id) {
            session.behind = Some(Box::new(behind));
        }
        self.tally(room_id);
    }

    /// It takes bytes again: it goes on with what it was getting, then is told what it missed.
    pub(super) fn on_drained(&mut self, id: ConnId) {
        let Some(connection) = self.touch(id) else {
            return;
        };
        connection.blocked_since = None;
        connection.unsent_bytes = 0;
        self.count_held_back(id);
        self.go_on_streaming(id);
        self.list(id);
    }

    /// Tells a session that was behind what it missed, or a part of it, the rest of which is told in the
    /// next turns. It comes back if that needs a diff.
    fn catch_up(
        &mut self,
        now: Instant,
        id: ConnId,
        room_id: RoomId,
        mut behind: Box<Behind>,
        replays: bool,
    ) -> Result<(), Box<Behind>> {
        let part_bytes_max = self.config.limits.slice_bytes;
        let mut missed = Vec::new();
        let room = self.room(room_id);
        let part = if replays {
            room.replay(behind.from, id, behind.part_bytes, &mut missed)
        } else {
            None
        };
        let has_all = part.is_some();
        if let Some(Part { up_to, large }) = part
            && (large.is_some() || up_to < room.stream_offset)
        {
            match &large {
                Some(_) => behind.gets_large(up_to, room.marks.before(up_to)),
                None => behind.got_part(now, up_to, part_bytes_max),
            }
            if let Some(connection) = self.touch(id) {
                connection.out.extend_from_slice(&missed);
            }
            if let Some(session) = self.session(id) {
                session.behind = Some(behind);
            }
            match large {
                Some(answer) => self.stream(id, answer),
                None => self.list(id),
            }
            return Ok(());
        }
        let mut states = Vec::new();
        if room.presence.since(Some(behind.presence), &mut states) {
            y_websocket::presence(&states, &mut missed);
        }
        room.caught_up();
        let heard = room.stream_offset;
        self.tally(room_id);
        if let Some(connection) = self.touch(id) {
            connection.out.extend_from_slice(&missed);
            if let Some(session) = connection.session() {
                session.heard = session.heard.max(heard);
            }
        }
        if has_all { Ok(()) } else { Err(behind) }
    }

    /// Tells a session what it wrote, up to a large update, which is next.
    fn next_echo(&mut self, id: ConnId) -> Option<Rc<Answer>> {
        let Connection { out, stage, .. } = self.touch(id)?;
        let Stage::Session(session) = stage else {
            return None;
        };
        let answer = session.echoes.as_mut()?.next(out);
        if answer.is_none() {
            session.echoes = None;
        }
        answer
    }

    /// A large answer, or a large update, is on its way to a session.
    pub(super) fn stream(&mut self, id: ConnId, answer: Rc<Answer>) {
        if is_guest(id) {
            self.stream_far(id, &answer);
        }
        let Some(session) = self.session(id) else {
            return;
        };
        session.stream = Some(Stream::new(answer));
        self.streams += 1;
        if !is_guest(id) {
            self.go_on_streaming(id);
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
        let mut bytes_left = ANSWER_BYTES_PER_TURN;
        let share = SLICES_BYTES_MAX / self.streams.max(1);
        let slice_bytes = share
            .max(SLICE_BYTES_MIN)
            .min(self.config.limits.slice_bytes);
        streaming.retain(|&id| bytes_left == 0 || self.grant(id, slice_bytes, &mut bytes_left));
        streaming.append(&mut self.streaming);
        self.streaming = streaming;
    }

    /// Whether there is more to go at once.
    fn grant(&mut self, id: ConnId, slice_bytes: usize, bytes_left: &mut usize) -> bool {
        let Some(connection) = self.touch(id) else {
            return false;
        };
        let blocked = connection.blocked_since.is_some();
        let Some(session) = connection.session() else {
            return false;
        };
        let Some(stream) = session.stream.as_mut().filter(|_| !blocked) else {
            // It is put back on the list when it has drained.
            session.streaming = false;
            return false;
        };
        stream.granted = stream.left().min(slice_bytes);
        *bytes_left = bytes_left.saturating_sub(stream.granted);
        session.streaming = stream.granted < stream.left();
        session.streaming
    }

    /// An answer that has all gone out makes way for what else is wanted.
    pub(super) fn end_stream(&mut self, id: ConnId) {
        if let Some(session) = self.session(id)
            && let Some(stream) = session.stream.take_if(|stream| stream.is_done())
        {
            session.echoes.take_if(|echoes| echoes.has_gone());
            let guest = session.guest.filter(|_| stream.is_far());
            let away = guest.map(|guest| (guest, session.room));
            self.streams -= 1;
            self.list(id);
            if let Some((guest, room_id)) = away {
                let home = self.home_of(room_id);
                self.post.push(home, Item::Streamed { guest });
            }
        }
    }
}
