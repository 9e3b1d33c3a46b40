//! What a session says, and what it is told.

use super::acks::To;
use super::connection::{Behind, Stage};
use super::effect::{Effect, Effects};
use super::presence::{Verdict, removal};
use super::room::WholeState;
use super::stream::Stream;
use super::types::{ConnId, Instant};
use super::{Drain, Shard};
use crate::dialect::{BadFrame, Command, y_websocket};
use crate::edge::websocket::{self, Message};
use collabblocks_storage_engine::guard::{self, Refusal};
use collabblocks_storage_engine::{Applied, RoomId, split_update};
use collabblocks_wal::Lsn;
use std::rc::Rc;

/// An update that holds nothing.
const EMPTY_UPDATE: &[u8] = &[0, 0];

impl Shard {
    pub(super) fn on_received(
        &mut self,
        now: Instant,
        id: ConnId,
        bytes: &mut [u8],
        effects: &mut Effects,
    ) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        connection.last_received = now;
        connection.pinged = false;
        match &mut connection.stage {
            Stage::Session(_) => self.on_frames(now, id, bytes, effects),
            Stage::Head(head) => {
                let mut head = std::mem::take(head);
                head.extend_from_slice(bytes);
                self.on_head(now, id, head, effects);
            }
            Stage::Closing { .. } => {}
        }
    }

    pub(super) fn on_frames(
        &mut self,
        now: Instant,
        id: ConnId,
        bytes: &mut [u8],
        effects: &mut Effects,
    ) {
        let max = self.config.limits.frame_bytes_max;
        let Some(connection) = self.connection(id) else {
            return;
        };
        let mut decoder = std::mem::take(&mut connection.decoder);
        let result = decoder.feed(bytes, max, &mut |message| {
            self.on_message(now, id, message, effects);
            self.session(id).is_some()
        });
        if let Some(connection) = self.connection(id) {
            connection.decoder = decoder;
        }
        if let Err(violation) = result {
            self.count_refused("websocket");
            self.close(now, id, violation.code, violation.reason, true);
        }
    }

    fn on_message(
        &mut self,
        now: Instant,
        id: ConnId,
        message: Message<'_>,
        effects: &mut Effects,
    ) {
        match message {
            Message::Binary(bytes) => {
                let limits = &self.config.limits;
                let (count_max, bytes_max) =
                    (limits.load_queue_commands_max, limits.load_queue_bytes_max);
                let Some(session) = self.session(id) else {
                    return;
                };
                let Some(queue) = &mut session.loading else {
                    return self.on_binary(now, id, bytes);
                };
                queue.bytes += bytes.len();
                queue.messages.push(bytes.into());
                if !queue.paused && (queue.messages.len() >= count_max || queue.bytes >= bytes_max)
                {
                    queue.paused = true;
                    effects.list.push(Effect::Read {
                        conn: id,
                        on: false,
                    });
                }
            }
            Message::Text(_) => {
                self.count_refused("text_frame");
                self.close(now, id, 1003, "rooms speak binary frames only", true);
            }
            Message::Ping(payload) => {
                if let Some(connection) = self.touch(id) {
                    websocket::pong(payload, &mut connection.out);
                }
            }
            Message::Pong => {}
            Message::Close(code) => self.close(now, id, code.unwrap_or(1000), "", true),
        }
    }

    /// A binary message of a live session.
    pub(super) fn on_binary(&mut self, now: Instant, id: ConnId, bytes: &[u8]) {
        if self.drain != Drain::No {
            // Not acknowledged, so the client sends it again where it reconnects.
            return;
        }
        for command in y_websocket::commands(bytes) {
            let Some(session) = self.session(id) else {
                return;
            };
            let room = session.room;
            match command {
                Ok(Command::Update(update)) => self.on_update(now, id, room, update, false),
                Ok(Command::SyncReply(update)) => {
                    session.asked = false;
                    if update != EMPTY_UPDATE {
                        self.on_update(now, id, room, update, true);
                    }
                }
                Ok(Command::SyncRequest(vector)) => self.on_sync_request(now, id, room, vector),
                Ok(Command::Presence(states)) => self.on_presence(now, id, room, states),
                Ok(Command::PresenceRequest) => {
                    let mut states = Vec::new();
                    self.room(room).presence.since(0, &mut states);
                    if let Some(connection) = self.touch(id) {
                        y_websocket::presence(&states, &mut connection.out);
                    }
                }
                Err(BadFrame(reason)) => {
                    self.count_refused("bad_frame");
                    self.close(now, id, 4400, reason, true);
                }
            }
        }
    }

    fn on_update(&mut self, now: Instant, id: ConnId, room_id: RoomId, update: &[u8], reply: bool) {
        let Some(session) = self.session(id) else {
            return;
        };
        if session.read_only {
            self.count_refused("read_only");
            return;
        }
        if self.acks.held_bytes() > self.config.limits.queue_hard_bytes {
            self.count_refused("acks_full");
            return self.close(now, id, 1013, "the disk cannot keep up; try later", true);
        }
        match self.engine.apply(now.0, room_id, update, reply) {
            Ok(outcome) => {
                let (relay, cut) = match &outcome.applied {
                    Applied::New => (Some(update), false),
                    Applied::Known => (None, false),
                    Applied::Cut(part) => (Some(part.as_slice()), true),
                    Applied::CutKnown => (None, true),
                };
                if relay.is_some() {
                    self.stats.updates += 1;
                    self.stats.update_bytes += update.len() as u64;
                } else {
                    self.stats.updates_known += 1;
                }
                // What was cut away is not confirmed: only the part that was taken is echoed.
                self.accept(
                    id,
                    room_id,
                    relay,
                    if cut { relay } else { Some(update) },
                    outcome.durable_at,
                    reply,
                );
                if cut {
                    self.count_refused("gap_cut");
                    self.count_gap(now, id, true);
                } else if let Some(session) = self.session(id) {
                    session.gap_repeats = 0;
                }
            }
            Err(Refusal::Gap) => {
                self.count_refused("gap");
                self.on_gap(now, id, room_id);
            }
            Err(refusal) => self.on_refusal(now, id, &refusal),
        }
    }

    /// Relays an update to the room and echoes it to its sender once it is durable. A reply may hold
    /// what others wrote and lost to a crash: it would tell them that it is safe, so it is relayed once
    /// it is, and what follows it waits with it, as it may build on it.
    fn accept(
        &mut self,
        id: ConnId,
        room_id: RoomId,
        relay: Option<&[u8]>,
        echo: Option<&[u8]>,
        at: Lsn,
        reply: bool,
    ) {
        let waits = self.config.strict || reply || self.room(room_id).held > 0;
        if waits || relay.is_none() {
            let mut frame = std::mem::take(&mut self.scratch);
            frame.clear();
            if let Some(bytes) = relay.or(echo) {
                y_websocket::update(bytes, &mut frame);
                if relay.is_some() {
                    self.room(room_id).held += 1;
                    self.acks.hold(at, To::Room(room_id, id), &frame);
                }
                self.acks.hold(at, To::Conn(id), &frame);
            }
            self.scratch = frame;
        } else if let Some(bytes) = relay {
            let room = self.touch_room(room_id);
            let start = room.turn.bytes.len();
            y_websocket::update(bytes, &mut room.turn.bytes);
            room.turn.frame_done(Some(id));
            let room = self.rooms[room_id.slot as usize]
                .as_ref()
                .expect("touched above");
            self.acks.hold(at, To::Conn(id), &room.turn.bytes[start..]);
            if let Some(session) = self.session(id) {
                session.wrote = true;
            }
        }
        // A known update may be durable already.
        if relay.is_none() {
            self.release(self.engine.durable_lsn());
        }
    }

    /// The client builds on what the room lacks: ask it, unless it was asked and has not answered.
    fn on_gap(&mut self, now: Instant, id: ConnId, room_id: RoomId) {
        if self.session(id).is_none_or(|s| s.asked) || !self.count_gap(now, id, false) {
            return;
        }
        let mut vector = Vec::new();
        self.engine.state_vector(room_id, &mut vector);
        if let Some(connection) = self.touch(id) {
            y_websocket::sync_request(&vector, &mut connection.out);
            if let Some(session) = connection.session() {
                session.asked = true;
            }
        }
    }

    fn count_gap(&mut self, now: Instant, id: ConnId, in_reply: bool) -> bool {
        let max = self.config.limits.gap_repeats_max;
        let Some(session) = self.session(id) else {
            return false;
        };
        session.gap_repeats += 1;
        if session.gap_repeats > max {
            let reason = if in_reply {
                "the client's own document lacks what its updates build on"
            } else {
                "the updates go on building on content that was never sent"
            };
            self.close(now, id, 4409, reason, true);
            return false;
        }
        true
    }

    fn on_refusal(&mut self, now: Instant, id: ConnId, refusal: &Refusal) {
        let (label, code) = match refusal {
            Refusal::Malformed { reason, .. } => (*reason, 4400),
            Refusal::TooLarge { what, .. } => (*what, 4413),
            Refusal::Gap => ("gap", 4409),
            Refusal::Rejected(_) => ("rejected", 4400),
            Refusal::Unavailable(_) => ("unavailable", 1013),
        };
        self.count_refused(label);
        self.close(now, id, code, &refusal.to_string(), true);
    }

    fn on_sync_request(&mut self, now: Instant, id: ConnId, room_id: RoomId, vector: &[u8]) {
        let whole = vector == [0];
        let at = self.engine.room_durable_at(room_id);
        if whole && let Some(slices) = self.shared_slices(room_id) {
            return self.answer_in_slices(id, slices, at);
        }
        let mut diff = std::mem::take(&mut self.scratch);
        diff.clear();
        match self.engine.diff(room_id, vector, &mut diff) {
            Ok(()) if diff.len() > self.config.limits.slice_bytes => {
                let slices = slices_of(&diff, self.config.limits.slice_bytes);
                if whole {
                    let seq = self.engine.room_seq(room_id);
                    let slices = Rc::downgrade(&slices);
                    self.room(room_id).whole_state = Some(WholeState { seq, slices });
                }
                self.answer_in_slices(id, slices, at);
            }
            Ok(()) => {
                let mut frame = Vec::with_capacity(diff.len() + 16);
                y_websocket::sync_reply(&diff, &mut frame);
                self.acks.hold(at, To::Conn(id), &frame);
                self.release(self.engine.durable_lsn());
            }
            Err(refusal) => self.on_refusal(now, id, &refusal),
        }
        self.scratch = diff;
    }

    fn shared_slices(&mut self, room_id: RoomId) -> Option<Rc<[Box<[u8]>]>> {
        let seq = self.engine.room_seq(room_id);
        let state = self.room(room_id).whole_state.as_ref()?;
        if state.seq == seq {
            state.slices.upgrade()
        } else {
            None
        }
    }

    fn answer_in_slices(&mut self, id: ConnId, slices: Rc<[Box<[u8]>]>, at: Lsn) {
        self.acks.hold(at, To::Stream(id, Stream::new(slices)), &[]);
        self.release(self.engine.durable_lsn());
    }

    fn on_presence(&mut self, now: Instant, id: ConnId, room_id: RoomId, states: &[u8]) {
        let entries = match guard::awareness(states, &self.config.guard) {
            Ok(entries) => entries,
            Err(refusal) => return self.on_refusal(now, id, &refusal),
        };
        let max = self.config.limits.awareness_clients_max;
        for entry in entries {
            let Some(session) = self.session(id) else {
                return;
            };
            if !session.clients.contains(&entry.client) && entry.state.is_some() {
                if session.clients.len() >= max {
                    self.count_refused("presence_clients");
                    continue;
                }
                session.clients.push(entry.client);
            }
            match self.room(room_id).presence.apply(
                id,
                entry.client,
                entry.clock,
                entry.state.map(str::as_bytes),
            ) {
                Verdict::Taken => {
                    self.stats.presence_states += 1;
                    self.touch_room(room_id);
                }
                Verdict::Stale => {}
                Verdict::Removed => {
                    let mut states = Vec::new();
                    removal(entry.client, entry.clock, &mut states);
                    if let Some(connection) = self.touch(id) {
                        y_websocket::presence(&states, &mut connection.out);
                    }
                }
            }
        }
    }

    /// Lets go what waited for the log.
    pub(super) fn release(&mut self, durable: Lsn) {
        let mut acks = std::mem::take(&mut self.acks);
        while let Some((to, bytes)) = acks.next(durable) {
            match to {
                To::Conn(id) => {
                    if let Some(connection) = self.touch(id)
                        && matches!(connection.stage, Stage::Session(_))
                    {
                        bytes.append_to(&mut connection.out);
                    }
                }
                To::Stream(id, stream) => {
                    if let Some(session) = self.session(id) {
                        session.streams.push(stream);
                        self.streaming.push(id);
                    }
                }
                To::Room(room_id, author) => {
                    if self.rooms[room_id.slot as usize]
                        .as_ref()
                        .is_some_and(|r| r.id == room_id)
                    {
                        let room = self.touch_room(room_id);
                        bytes.append_to(&mut room.turn.bytes);
                        room.turn.frame_done(Some(author));
                        room.held = (room.held.checked_sub(1))
                            .expect("each frame held for a room is counted");
                        if let Some(session) = self.session(author) {
                            session.wrote = true;
                        }
                    }
                }
            }
        }
        self.acks = acks;
    }

    /// The socket of a session does not take more: from here on it is behind.
    pub(super) fn on_blocked(&mut self, now: Instant, id: ConnId, unsent_bytes: usize) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        connection.unsent_bytes = unsent_bytes;
        connection.blocked_since.get_or_insert(now);
        let Some(session) = connection.session() else {
            return;
        };
        if session.loading.is_some() || session.behind.is_some() {
            return;
        }
        let room_id = session.room;
        let mut vector = Vec::new();
        if self.room(room_id).held > 0 {
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
            presence: room.presence.version().max(1),
        };
        if let Some(session) = self.session(id) {
            session.behind = Some(Box::new(behind));
        }
    }

    /// It takes bytes again: tell it what it missed.
    pub(super) fn on_drained(&mut self, now: Instant, id: ConnId) {
        let Some(connection) = self.touch(id) else {
            return;
        };
        connection.blocked_since = None;
        connection.unsent_bytes = 0;
        let Some(session) = connection.session() else {
            return;
        };
        if !session.streams.is_empty() {
            self.streaming.push(id);
        }
        let Some(session) = self.session(id) else {
            return;
        };
        let room_id = session.room;
        let Some(behind) = session.behind.take() else {
            return;
        };
        let mut missed = Vec::new();
        let room = self.room(room_id);
        let replayed = room.replay(behind.from, id, &mut missed);
        let mut states = Vec::new();
        if room.presence.since(behind.presence, &mut states) {
            y_websocket::presence(&states, &mut missed);
        }
        room.caught_up();
        if let Some(connection) = self.connection(id) {
            connection.out.extend_from_slice(&missed);
        }
        if !replayed {
            self.on_sync_request(now, id, room_id, &behind.state_vector);
        }
    }
}

/// An answer as frames of about `bytes_max`: updates in causal order, closed by an empty step 2,
/// which is what makes a client say that it is synced.
fn slices_of(diff: &[u8], bytes_max: usize) -> Rc<[Box<[u8]>]> {
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
