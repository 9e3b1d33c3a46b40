//! What a session says, and what it is told.

use super::acks::To;
use super::away::is_away;
use super::connection::Stage;
use super::effect::{Effect, Effects};
use super::guests::is_guest;
use super::pace::Late;
use super::presence::{Verdict, removal};
use super::room::{ASKS_MAX, Room};
use super::stream::Answer;
use super::types::{ConnId, Instant};
use super::{Drain, Shard};
use crate::dialect::{BadFrame, Command, y_websocket};
use crate::edge::websocket::{self, Message};
use collabblocks_storage_engine::guard::{self, Refusal};
use collabblocks_storage_engine::{Applied, Outcome, RoomId};
use collabblocks_wal::Lsn;
use std::rc::Rc;

/// An update that holds nothing.
pub(super) const EMPTY_UPDATE: &[u8] = &[0, 0];
/// Half-read bytes that a connection may hold whatever the others hold.
const HALF_READ_FREE: usize = 64 << 10;
/// Bytes that a session may have waiting for its room to load whatever the others have.
const LOADING_FREE: usize = 64 << 10;

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
                self.on_head(now, id, head, None, effects);
            }
            Stage::Authenticating(asked) => asked.bytes.extend_from_slice(bytes),
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
        self.half_read_bytes -= decoder.held_bytes();
        let result = decoder.feed(bytes, max, &mut |message| {
            self.on_message(now, id, message, effects);
            self.session(id).is_some()
        });
        let held = decoder.held_bytes();
        if let Some(connection) = self.connection(id) {
            connection.decoder = decoder;
            self.half_read_bytes += held;
        }
        if held > HALF_READ_FREE && self.half_read_bytes > self.config.limits.half_read_bytes_max {
            self.count_refused("half_read");
            let reason = "too much is half-sent by all clients together; try later";
            self.close(now, id, 1013, reason, true);
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
                let Some(session) = self.session(id) else {
                    return;
                };
                if session.loading.is_none() {
                    self.on_binary(now, id, bytes);
                } else {
                    self.keep_until_loaded(now, id, bytes.to_vec(), effects);
                }
            }
            Message::Large(bytes) => {
                let Some(session) = self.session(id) else {
                    return;
                };
                if session.loading.is_none() {
                    self.on_large_binary(now, id, bytes);
                } else {
                    self.keep_until_loaded(now, id, bytes, effects);
                }
            }
            Message::Text(_) => {
                self.count_refused("text_frame");
                self.close(now, id, 1003, "rooms speak binary frames only", true);
            }
            Message::Ping(payload) => {
                if let Some(connection) = self.touch(id) {
                    connection.control(|out| websocket::pong(payload, out));
                }
            }
            Message::Pong => {}
            Message::Close(code) => self.close(now, id, code.unwrap_or(1000), "", true),
        }
    }

    /// A binary message of a session whose room is being loaded.
    fn keep_until_loaded(
        &mut self,
        now: Instant,
        id: ConnId,
        bytes: Vec<u8>,
        effects: &mut Effects,
    ) {
        let limits = self.config.limits;
        let Some(room_id) = self.session(id).map(|session| session.room) else {
            return;
        };
        let all = self.loading_bytes + bytes.len();
        let of_room = self.room(room_id).loading_bytes + bytes.len();
        let full =
            all > limits.load_queue_core_bytes_max || of_room > limits.load_queue_room_bytes_max;
        let Some(queue) = self.session(id).and_then(|s| s.loading.as_mut()) else {
            return;
        };
        if full && queue.bytes + bytes.len() > LOADING_FREE {
            self.count_refused("load_queue");
            let reason = "too much waits for rooms to load; try later";
            return self.close(now, id, 1013, reason, true);
        }
        queue.bytes += bytes.len();
        queue.messages.push(bytes.into_boxed_slice());
        let pauses = full
            || queue.messages.len() >= limits.load_queue_commands_max
            || queue.bytes >= limits.load_queue_bytes_max;
        if pauses && !queue.paused {
            queue.paused = true;
            effects.list.push(Effect::Read {
                conn: id,
                on: false,
            });
        }
        self.loading_bytes = all;
        self.room(room_id).loading_bytes = of_room;
    }

    /// A binary message of a live session.
    pub(super) fn on_binary(&mut self, now: Instant, id: ConnId, bytes: &[u8]) {
        if self.drain != Drain::No {
            // Not acknowledged, so the client sends it again where it reconnects.
            return;
        }
        if let Some(session) = self.session(id)
            && let Some(guest) = session.guest
        {
            return self.on_away_binary(now, id, guest, bytes);
        }
        for command in y_websocket::commands(bytes) {
            let Some(session) = self.session(id) else {
                return;
            };
            let room = session.room;
            match command {
                Ok(Command::Update(update)) => self.on_update(now, id, room, update, false),
                Ok(Command::SyncReply(update)) => self.on_reply(now, id, room, update),
                Ok(Command::SyncRequest(vector)) => {
                    session.wants.state = Some(vector.into());
                    self.list(id);
                }
                Ok(Command::Presence(states)) => self.on_presence(now, id, room, states),
                Ok(Command::PresenceRequest) => {
                    session.wants.presence = true;
                    self.list(id);
                }
                Err(BadFrame(reason)) => {
                    self.count_refused("bad_frame");
                    self.close(now, id, 4400, reason, true);
                }
            }
        }
    }

    /// What a client answered that was asked.
    pub(super) fn on_reply(&mut self, now: Instant, id: ConnId, room_id: RoomId, update: &[u8]) {
        let may_write = self.session(id).is_some_and(|s| !s.is_read_only());
        if may_write && self.engine.is_apart(room_id) {
            // It answers after what the client sent before it.
            return self.keep_until_back(now, id, room_id, update.into(), true);
        }
        if let Some(session) = self.session(id) {
            session.asked = false;
        }
        if update != EMPTY_UPDATE {
            self.on_update(now, id, room_id, update, true);
        }
    }

    pub(super) fn on_update(
        &mut self,
        now: Instant,
        id: ConnId,
        room_id: RoomId,
        update: &[u8],
        reply: bool,
    ) {
        if !self.may_update(now, id, reply) {
            return;
        }
        if self.engine.takes_apart(room_id, update) {
            return self.apply_apart(now, id, room_id, update.into(), reply);
        }
        match self.engine.apply(now.0, room_id, update, reply) {
            Err(Refusal::Unavailable(_)) if self.engine.is_apart(room_id) => {
                self.keep_until_back(now, id, room_id, update.into(), reply);
            }
            outcome => self.on_outcome(now, id, room_id, update, reply, outcome),
        }
    }

    /// Whether an update of a session's is taken, whatever it holds.
    #[inline]
    pub(super) fn may_update(&mut self, now: Instant, id: ConnId, reply: bool) -> bool {
        let Some(session) = self.session(id) else {
            return false;
        };
        if session.is_read_only() {
            self.refuse_update(id, reply);
            return false;
        }
        if self.acks.held_bytes() > self.config.limits.queue_hard_bytes {
            self.count_refused("acks_full");
            self.close(now, id, 1013, "the disk cannot keep up; try later", true);
            return false;
        }
        true
    }

    /// The document took an update, or not.
    pub(super) fn on_outcome(
        &mut self,
        now: Instant,
        id: ConnId,
        room_id: RoomId,
        update: &[u8],
        reply: bool,
        outcome: Result<Outcome, Refusal>,
    ) {
        match outcome {
            Ok(outcome) => {
                let (relay, cut) = match &outcome.applied {
                    Applied::New => (Some(update), false),
                    Applied::Known => (None, false),
                    Applied::Cut(part) => (Some(part.as_slice()), true),
                    Applied::CutKnown => (None, true),
                };
                self.count_update(relay.is_some(), update.len());
                // What was cut away is not confirmed: only the part that was taken is echoed.
                self.accept(
                    id,
                    room_id,
                    relay,
                    if cut { relay } else { Some(update) },
                    outcome.durable_at,
                    reply,
                );
                if relay.is_some() {
                    self.ask_again(room_id);
                }
                if cut {
                    self.count_refused("gap_cut");
                    self.ask_later(id, room_id, outcome.wanted);
                    self.count_gap(now, id, true);
                } else if let Some(session) = self.session(id) {
                    session.gap_repeats = 0;
                }
            }
            Err(Refusal::Gap) => {
                self.count_refused("gap");
                self.on_gap(now, id);
            }
            Err(refusal) => self.on_refusal(now, id, &refusal),
        }
    }

    #[inline]
    pub(super) fn count_update(&mut self, relayed: bool, bytes: usize) {
        if relayed {
            self.stats.updates += 1;
            self.stats.update_bytes += bytes as u64;
        } else {
            self.stats.updates_known += 1;
        }
    }

    /// Relays an update to the room and echoes it to its sender once it is durable. A reply may hold
    /// what others wrote and lost to a crash: it would tell them that it is safe, so it is relayed once
    /// it is, and what follows it waits with it, as it may build on it. So is one that is large, once
    /// for all.
    fn accept(
        &mut self,
        id: ConnId,
        room_id: RoomId,
        relay: Option<&[u8]>,
        echo: Option<&[u8]>,
        at: Lsn,
        reply: bool,
    ) {
        if self.accept_large(id, room_id, relay, echo, at) {
            return;
        }
        let waits = self.config.strict
            || reply
            || self.room(room_id).held > 0
            || self.has_moved(id, room_id);
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
            self.has_written(id);
        }
        // A known update may be durable already.
        if relay.is_none() {
            self.release(self.engine.durable_lsn());
        }
    }

    /// Whether it is large, and taken care of.
    fn accept_large(
        &mut self,
        id: ConnId,
        room_id: RoomId,
        relay: Option<&[u8]>,
        echo: Option<&[u8]>,
        at: Lsn,
    ) -> bool {
        let limits = &self.config.limits;
        let (large, slice) = (limits.large_bytes(), limits.slice_bytes);
        let Some(update) = relay.or(echo).filter(|update| update.len() >= large) else {
            return false;
        };
        let has_room = self.answers.has_room(limits.answer_bytes_max);
        if !has_room && (relay.is_none() || update.len() <= slice) {
            return false;
        }
        let answer = has_room.then(|| self.answers.update(update.into()));
        self.hold_large(id, room_id, relay.is_some(), answer.clone(), at);
        match answer {
            Some(answer) => self.hold_echo(id, answer, relay.is_some(), at),
            None => {
                let mut frame = Vec::new();
                y_websocket::update(update, &mut frame);
                self.acks.hold(at, To::Conn(id), &frame);
            }
        }
        if relay.is_none() {
            self.release(self.engine.durable_lsn());
        }
        true
    }

    /// A large update waits for the log with those who are to hear of it.
    pub(super) fn hold_large(
        &mut self,
        id: ConnId,
        room_id: RoomId,
        relays: bool,
        answer: Option<Rc<Answer>>,
        at: Lsn,
    ) {
        if relays {
            self.room(room_id).held += 1;
            self.acks.hold(at, To::Large(room_id, id, answer), &[]);
        }
    }

    /// So does its echo, which what was known may get at once.
    pub(super) fn hold_echo(&mut self, id: ConnId, answer: Rc<Answer>, relays: bool, at: Lsn) {
        self.acks.hold(at, To::Echo(id, answer), &[]);
        if !relays {
            self.release(self.engine.durable_lsn());
        }
    }

    /// The room lacks what the client's content builds on: the client is asked again when that came.
    fn ask_later(&mut self, id: ConnId, room_id: RoomId, wanted: Vec<(u64, u32)>) {
        if self.session(id).is_none() {
            return;
        }
        let room = self.room(room_id);
        room.asks.retain(|ask| ask.0 != id);
        let free = ASKS_MAX.saturating_sub(room.asks.len());
        let wanted = wanted.into_iter().take(free);
        room.asks
            .extend(wanted.map(|(client, clock)| (id, client, clock)));
    }

    /// The room has grown: whoever has content that builds on it is asked.
    pub(super) fn ask_again(&mut self, room_id: RoomId) {
        if self.room(room_id).asks.is_empty() {
            return;
        }
        let mut asks = std::mem::take(&mut self.room(room_id).asks);
        let mut asked = Vec::new();
        for &(id, client, clock) in &asks {
            if !asked.contains(&id) && self.engine.has(room_id, client, clock) {
                asked.push(id);
            }
        }
        asks.retain(|ask| !asked.contains(&ask.0));
        self.room(room_id).asks = asks;
        for id in asked {
            if let Some(session) = self.session(id) {
                session.asked = true;
                session.gap_repeats = 0;
                session.wants.request = true;
            }
            self.list(id);
        }
    }

    /// Whether a client of the session's is on another connection by now. That one would take what
    /// comes late on this one for its own echo, so it hears of it once it is durable.
    fn has_moved(&self, id: ConnId, room_id: RoomId) -> bool {
        let connection = if is_guest(id) {
            self.guests.get(id).map(|guest| &guest.connection)
        } else {
            self.connections[id.slot as usize].as_ref()
        };
        let session = match connection.map(|c| &c.stage) {
            Some(Stage::Session(session)) => session,
            _ => return false,
        };
        let room = self.rooms[room_id.slot as usize].as_ref();
        room.is_some_and(|room| room.presence.is_elsewhere(id, &session.clients))
    }

    /// The client builds on what the room lacks: ask it, unless it was asked and has not answered.
    fn on_gap(&mut self, now: Instant, id: ConnId) {
        if self.session(id).is_none_or(|s| s.asked) || !self.count_gap(now, id, false) {
            return;
        }
        if let Some(session) = self.session(id) {
            session.asked = true;
            session.wants.request = true;
        }
        self.list(id);
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

    pub(super) fn on_refusal(&mut self, now: Instant, id: ConnId, refusal: &Refusal) {
        let (label, code) = match refusal {
            Refusal::Malformed { reason, .. } => (*reason, 4400),
            Refusal::TooLarge { what, .. } => (*what, 4413),
            Refusal::TooSlow => ("work", 4413),
            Refusal::Gap => ("gap", 4409),
            Refusal::Rejected(_) => ("rejected", 4400),
            Refusal::Unavailable(_) => ("unavailable", 1013),
        };
        self.count_refused(label);
        self.close(now, id, code, &refusal.to_string(), true);
    }

    pub(super) fn on_presence(&mut self, now: Instant, id: ConnId, room_id: RoomId, states: &[u8]) {
        let mut entries = match guard::awareness(states, &self.config.guard) {
            Ok(entries) => entries,
            Err(refusal) => return self.on_refusal(now, id, &refusal),
        };
        let Some(session) = self.session(id) else {
            return;
        };
        let clients = std::mem::take(&mut session.clients);
        let presence = &self.room(room_id).presence;
        entries.retain(|entry| {
            let own = clients.contains(&entry.client);
            presence.may_change(entry.client, entry.clock, entry.state.is_some(), own)
        });
        if let Some(session) = self.session(id) {
            session.clients = clients;
        }
        if entries.is_empty() {
            return;
        }
        let late = |entry: &guard::AwarenessEntry<'_>| Late {
            client: entry.client,
            clock: entry.clock,
            state: entry.state.map(|state| state.as_bytes().into()),
        };
        // A guest was paced where its socket is.
        if !is_guest(id) && self.paces(now, id, || entries.iter().map(late).collect()) {
            return;
        }
        for entry in entries {
            let state = entry.state.map(str::as_bytes);
            self.hear(id, room_id, entry.client, entry.clock, state);
        }
    }

    /// Takes what a session says of a client.
    pub(super) fn hear(
        &mut self,
        id: ConnId,
        room_id: RoomId,
        client: u64,
        clock: u32,
        state: Option<&[u8]>,
    ) {
        let max = self.config.limits.awareness_clients_max;
        let Some(session) = self.session(id) else {
            return;
        };
        let own = session.clients.contains(&client);
        if !own && state.is_some() && session.clients.len() >= max {
            return self.count_refused("presence_clients");
        }
        if is_away(room_id) {
            return self.hear_away(id, room_id, client, clock, state);
        }
        match self.room(room_id).presence.apply(id, client, clock, state) {
            Verdict::Taken => {
                self.stats.presence_states += 1;
                self.tally(room_id);
                self.touch_room(room_id);
                if let Some(session) = self.session(id) {
                    session.owns(client, state.is_some());
                }
            }
            Verdict::Stale => {}
            Verdict::Removed => {
                let mut states = Vec::new();
                removal(client, clock, &mut states);
                if let Some(connection) = self.touch(id) {
                    y_websocket::presence(&states, &mut connection.out);
                }
            }
        }
    }

    /// Lets go what waited for the log.
    pub(super) fn release(&mut self, durable: Lsn) {
        let mut acks = std::mem::take(&mut self.acks);
        while let Some((to, bytes)) = acks.next(durable) {
            match to {
                To::Conn(id) => self.tell_in_order(id, |out| bytes.append_to(out)),
                To::Answer(id) => {
                    if let Some(connection) = self.touch(id)
                        && let Stage::Session(session) = &mut connection.stage
                    {
                        bytes.append_to(&mut connection.out);
                        session.answering = false;
                        self.list(id);
                    }
                    if let Some(guest) = self.guests.get_mut(id) {
                        guest.answered = true;
                    }
                }
                To::Core {
                    room,
                    shard,
                    their_room,
                    at,
                } => {
                    let frame = Some(|out: &mut Vec<u8>| bytes.append_to(out));
                    self.core_answered(room, shard, their_room, at, frame);
                }
                To::Stream(id, answer) => {
                    if let Some(session) = self.session(id) {
                        session.answering = false;
                        self.stream(id, answer);
                    }
                }
                To::Echo(id, answer) => self.echo(id, answer),
                To::Large(room_id, author, answer) => {
                    if let Some(room) = self.relays_held(room_id) {
                        room.turn.push_large(Some(author), answer.as_ref());
                        self.has_written(author);
                    }
                }
                To::Room(room_id, author) => {
                    if let Some(room) = self.relays_held(room_id) {
                        bytes.append_to(&mut room.turn.bytes);
                        room.turn.frame_done(Some(author));
                        self.has_written(author);
                    }
                }
            }
        }
        self.acks = acks;
    }

    fn has_written(&mut self, id: ConnId) {
        if let Some(session) = self.session(id) {
            session.wrote = true;
        }
    }

    /// A session is told that something large that it wrote is durable.
    pub(super) fn echo(&mut self, id: ConnId, answer: Rc<Answer>) {
        if let Some(guest) = self.guests.get_mut(id) {
            guest.echoes.push(answer);
            self.guests.touch(id);
        } else if let Some(session) = self.session(id) {
            session.echoes.get_or_insert_default().push(answer);
            self.list(id);
            self.touch(id);
        }
    }

    /// A session is told that what it wrote is durable, after what it wrote before.
    pub(super) fn tell_in_order(&mut self, id: ConnId, write: impl FnOnce(&mut Vec<u8>)) {
        if let Some(guest) = self.guests.get_mut(id)
            && !guest.echoes.is_empty()
        {
            return write(guest.echoes.frames());
        }
        if let Some(connection) = self.touch(id)
            && let Stage::Session(session) = &mut connection.stage
        {
            match &mut session.echoes {
                Some(echoes) => write(echoes.frames()),
                None => write(&mut connection.out),
            }
        }
    }

    /// The room, if it is still there, for a frame that was held for it.
    fn relays_held(&mut self, room_id: RoomId) -> Option<&mut Room> {
        self.rooms[room_id.slot as usize]
            .as_ref()
            .filter(|room| room.id == room_id)?;
        let room = self.touch_room(room_id);
        room.held = (room.held.checked_sub(1)).expect("each frame held for a room is counted");
        Some(room)
    }
}
