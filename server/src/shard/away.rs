//! Sessions of hot rooms on the cores that accepted them: the sockets are here, the room is elsewhere.
//! An away room is what this core keeps of it: its sessions here, the frames of the turn as the home
//! sent them, a copy of who is present, and what slow readers missed.

use super::Shard;
use super::connection::{Session, Stage};
use super::effect::{Effect, Effects};
use super::identity::Claims;
use super::mail::{Item, Letter};
use super::presence;
use super::room::{Large, Room};
use super::stream::Stream;
use super::types::{ConnId, Instant, ShardId};
use crate::dialect::lib0::write_uint;
use crate::dialect::{BadFrame, Command, y_websocket};
use crate::edge::http::Upgrade;
use collabblocks_storage_engine::{RoomId, home_shard};
use foldhash::fast::FixedState;
use std::collections::{HashMap, HashSet};

/// Set in the slot of an away room's id: the engine numbers its rooms below.
const AWAY: u32 = 1 << 31;

/// Whether a room is at home on another core.
pub fn is_away(id: RoomId) -> bool {
    id.slot & AWAY != 0
}

/// The latest that a session here said of a client, and the home was not told yet.
#[derive(Debug)]
struct Said {
    guest: ConnId,
    clock: u32,
    state: Option<Box<[u8]>>,
}

#[derive(Debug)]
struct AwayRoom {
    room: Room,
    name: Box<str>,
    home: ShardId,
    /// The home's stream offset, with what of this turn has come.
    offset: u64,
    /// A diff came in this turn: what was kept for those who are behind is not all.
    jumped: bool,
    said: HashMap<u64, Said, FixedState>,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    room: Option<Box<AwayRoom>>,
}

/// All that a core has of rooms of other cores.
#[derive(Debug)]
pub struct Away {
    slots: Vec<Slot>,
    free: Vec<u32>,
    names: HashMap<Box<str>, RoomId, FixedState>,
    /// Rooms of other cores that are hot.
    hot: HashSet<Box<str>, FixedState>,
    /// Sessions whose updates went into a letter in this turn.
    spoke: Vec<ConnId>,
    /// Rooms with presence to tell the home.
    talking: Vec<RoomId>,
}

impl Away {
    /// Nothing yet. Clients choose names and numbers: hashes are seeded.
    pub fn new(hash_seed: u64) -> Self {
        let hasher = FixedState::with_seed(hash_seed);
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            names: HashMap::with_hasher(hasher.clone()),
            hot: HashSet::with_hasher(hasher),
            spoke: Vec::new(),
            talking: Vec::new(),
        }
    }

    /// Whether sessions of a room stay where they are accepted.
    pub fn is_hot(&self, name: &str) -> bool {
        self.hot.contains(name)
    }

    /// Whether no session here is away from its room.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Sessions that are away from their rooms.
    pub fn sessions(&self) -> usize {
        self.all().map(|away| away.room.len()).sum()
    }

    /// Those of them that are behind.
    pub fn behind(&self) -> usize {
        self.all().map(|away| away.room.behind).sum()
    }

    fn all(&self) -> impl Iterator<Item = &AwayRoom> {
        self.slots.iter().filter_map(|slot| slot.room.as_deref())
    }

    fn get(&mut self, id: RoomId) -> Option<&mut AwayRoom> {
        let slot = self.slots.get_mut((id.slot & !AWAY) as usize)?;
        (is_away(id) && slot.generation == id.generation)
            .then_some(slot.room.as_deref_mut())
            .flatten()
    }

    /// What is kept of a room, as long as anybody here is in it.
    pub fn room(&mut self, id: RoomId) -> Option<&mut Room> {
        self.get(id).map(|away| &mut away.room)
    }

    fn enter(&mut self, name: &str, home: ShardId, hash_seed: u64) -> RoomId {
        if let Some(id) = self.names.get(name) {
            return *id;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() as u32 - 1
        });
        let place = &mut self.slots[slot as usize];
        place.generation = place.generation.wrapping_add(1);
        let id = RoomId {
            slot: slot | AWAY,
            generation: place.generation,
        };
        place.room = Some(Box::new(AwayRoom {
            room: Room::new(id, 0, hash_seed),
            name: name.into(),
            home,
            offset: 0,
            jumped: false,
            said: HashMap::with_hasher(FixedState::with_seed(hash_seed)),
        }));
        self.names.insert(name.into(), id);
        id
    }

    fn remove(&mut self, id: RoomId) {
        let slot = id.slot & !AWAY;
        if let Some(away) = self.slots[slot as usize].room.take() {
            self.names.remove(&away.name);
            self.free.push(slot);
        }
    }

    /// Whether a diff came in this turn, and the stream goes on from elsewhere.
    pub fn has_jumped(&mut self, id: RoomId) -> bool {
        self.get(id).is_some_and(|away| away.jumped)
    }

    /// The turn's frames have gone to the sessions.
    pub fn turn_ended(&mut self, id: RoomId) {
        let away = self.get(id).expect("its turn ended");
        away.room.stream_offset = away.offset;
        if std::mem::take(&mut away.jumped) {
            away.room.lose_backlog();
        }
    }
}

impl Shard {
    /// A connection to a hot room of another core stays here; its session enters by mail.
    pub(super) fn stay_away(
        &mut self,
        now: Instant,
        id: ConnId,
        mut bytes: Vec<u8>,
        upgrade: &Upgrade,
        claims: Claims,
        effects: &mut Effects,
    ) {
        let home = ShardId(home_shard(&upgrade.room, self.config.shards));
        let room_id = (self.away).enter(&upgrade.room, home, self.config.hash_seed);
        let room = self.away.room(room_id).expect("just entered");
        let index = room.loading.len();
        room.loading.push(id);
        let connection = self.touch(id).expect("its head was read");
        upgrade.accept(&mut connection.out);
        let session = Session::new(room_id, index, claims.clone(), now);
        connection.stage = Stage::Session(Box::new(session));
        effects.list.push(Effect::Established { conn: id });
        let name = upgrade.room.as_str().into();
        let attach = Item::Attach {
            conn: id,
            room: room_id,
            name,
            claims: Box::new(claims),
        };
        self.post.push(home, attach);
        let mut rest = bytes.split_off(upgrade.head_bytes);
        if !rest.is_empty() {
            self.on_frames(now, id, &mut rest, effects);
        }
    }

    /// A binary message of a live session whose room is elsewhere.
    pub(super) fn on_away_binary(&mut self, now: Instant, id: ConnId, guest: ConnId, bytes: &[u8]) {
        for command in y_websocket::commands(bytes) {
            let Some(session) = self.session(id) else {
                return;
            };
            let room_id = session.room;
            let (update, reply) = match command {
                Ok(Command::Update(update)) => (update, false),
                Ok(Command::SyncReply(update)) => (update, true),
                Ok(Command::SyncRequest(vector)) => {
                    session.wants.state = Some(vector.into());
                    self.list(id);
                    continue;
                }
                Ok(Command::Presence(states)) => {
                    self.on_presence(now, id, room_id, states);
                    continue;
                }
                Ok(Command::PresenceRequest) => {
                    session.wants.presence = true;
                    self.list(id);
                    continue;
                }
                Err(BadFrame(reason)) => {
                    self.count_refused("bad_frame");
                    return self.close(now, id, 4400, reason, true);
                }
            };
            if session.is_read_only() {
                self.refuse_update(id, reply);
                continue;
            }
            let home = self.home_of(room_id);
            let letter = &mut self.post.lane(home).letter;
            let bytes = letter.put(update);
            letter.items.push(Item::Update {
                guest,
                bytes,
                reply,
            });
            self.away.spoke.push(id);
        }
    }

    pub(super) fn home_of(&mut self, room_id: RoomId) -> ShardId {
        let away = self.away.get(room_id);
        away.expect("a session's room is kept").home
    }

    /// Of each client only the latest state goes to the home, once a turn.
    pub(super) fn hear_away(
        &mut self,
        id: ConnId,
        room_id: RoomId,
        client: u64,
        clock: u32,
        state: Option<&[u8]>,
    ) {
        let Some(session) = self.session(id) else {
            return;
        };
        let Some(guest) = session.guest else {
            return;
        };
        session.owns(client, state.is_some());
        let away = self.away.get(room_id).expect("a session's room is kept");
        if let Some(said) = away.said.get(&client)
            && (said.clock > clock
                || (said.clock == clock && (state.is_some() || said.guest != guest)))
        {
            return;
        }
        let news = away.said.is_empty();
        let said = Said {
            guest,
            clock,
            state: state.map(Into::into),
        };
        away.said.insert(client, said);
        if news {
            self.away.talking.push(room_id);
        }
    }

    /// A session lacks what a state vector lacks: its home answers.
    pub(super) fn ask_home(&mut self, id: ConnId, room_id: RoomId, vector: &[u8]) {
        let home = self.home_of(room_id);
        let letter = &mut self.post.lane(home).letter;
        let bytes = letter.put(vector);
        self.expect_answer(id, home, |guest| Item::Ask { guest, bytes });
    }

    /// A session missed more than is kept here: its home makes up for it.
    pub(super) fn ask_home_from(&mut self, id: ConnId, room_id: RoomId, from: u64) {
        let home = self.home_of(room_id);
        self.expect_answer(id, home, |guest| Item::CatchUp { guest, from });
    }

    fn expect_answer(&mut self, id: ConnId, home: ShardId, ask: impl FnOnce(ConnId) -> Item) {
        let Some(session) = self.session(id) else {
            return;
        };
        session.answering = true;
        let guest = session.guest.expect("who asks is live");
        self.post.push(home, ask(guest));
        // What comes after the answer builds on it: it is told after it, too.
        self.fall_behind(id);
    }

    /// A session is no longer on the lists of its away room.
    pub(super) fn left_away(&mut self, room_id: RoomId, guest: Option<ConnId>) {
        let away = self.away.get(room_id).expect("a session's room is kept");
        let home = away.home;
        if away.room.is_empty() {
            self.away.remove(room_id);
        }
        if let Some(guest) = guest {
            self.post.push(home, Item::Leave { guest });
        }
    }

    /// The end of a turn: presence goes into the letters; who speaks faster than the home listens is
    /// not read until it does.
    pub(super) fn flush_away(&mut self, effects: &mut Effects) {
        let mut talking = std::mem::take(&mut self.away.talking);
        talking.retain(|room_id| !self.tell_presence(*room_id));
        self.away.talking = talking;
        let mut spoke = std::mem::take(&mut self.away.spoke);
        for id in spoke.drain(..) {
            let Some(room_id) = self.session(id).filter(|s| !s.unread).map(|s| s.room) else {
                continue;
            };
            let home = self.home_of(room_id);
            if self.post.lane(home).is_full() {
                self.post.lane(home).paused.push(id);
                self.set_read(id, false, effects);
            }
        }
        self.away.spoke = spoke;
        for shard in self.post.others() {
            if !self.post.lane(shard).is_free() {
                continue;
            }
            for id in std::mem::take(&mut self.post.lane(shard).paused) {
                self.set_read(id, true, effects);
            }
        }
    }

    fn set_read(&mut self, conn: ConnId, on: bool, effects: &mut Effects) {
        if let Some(session) = self.session(conn) {
            session.unread = !on;
            effects.list.push(Effect::Read { conn, on });
        }
    }

    /// Whether nothing is left to tell.
    fn tell_presence(&mut self, room_id: RoomId) -> bool {
        let Some(away) = self.away.get(room_id) else {
            return true;
        };
        let lane = self.post.lane(away.home);
        if !lane.is_free() {
            return false;
        }
        let mut said: Vec<(u64, Said)> = away.said.drain().collect();
        said.sort_unstable_by_key(|(client, said)| (said.guest, *client));
        for of_guest in said.chunk_by(|(_, a), (_, b)| a.guest == b.guest) {
            let start = lane.letter.bytes.len();
            write_uint(of_guest.len() as u64, &mut lane.letter.bytes);
            for (client, said) in of_guest {
                let state = said.state.as_deref();
                presence::write_parts(*client, said.clock, state, &mut lane.letter.bytes);
            }
            lane.letter.items.push(Item::Presence {
                guest: of_guest[0].1.guest,
                bytes: start..lane.letter.bytes.len(),
            });
        }
        true
    }

    /// A letter of another core.
    pub(super) fn on_letter(
        &mut self,
        now: Instant,
        from: ShardId,
        letter: &Letter,
        effects: &mut Effects,
    ) {
        for item in &letter.items {
            self.on_item(now, from, &letter.bytes, item, effects);
        }
    }

    fn on_item(
        &mut self,
        now: Instant,
        from: ShardId,
        bytes: &[u8],
        item: &Item,
        effects: &mut Effects,
    ) {
        match item {
            Item::Heat { name, on: true } => {
                self.away.hot.insert(name.clone());
            }
            Item::Heat { name, on: false } => {
                self.away.hot.remove(name);
            }
            Item::Attach {
                conn,
                room,
                name,
                claims,
            } => self.on_attach(now, from, *conn, *room, name, claims),
            Item::Leave { .. }
            | Item::Streamed { .. }
            | Item::Update { .. }
            | Item::Presence { .. }
            | Item::Ask { .. }
            | Item::CatchUp { .. } => self.on_guest(now, bytes, item),
            Item::Live {
                conn,
                guest,
                room,
                heard,
                fresh,
            } => {
                if let Some((offset, states)) = fresh
                    && let Some(away) = self.away.get(*room)
                {
                    away.begin(*offset, &bytes[states.clone()]);
                }
                self.on_live(now, from, *conn, (*guest, *heard), effects);
            }
            Item::Frames { conn, bytes: range } => {
                self.tell_in_order(*conn, |out| out.extend_from_slice(&bytes[range.clone()]));
            }
            Item::Answered { conn, at } => {
                if self.answered(*conn, *at).is_some() {
                    self.list(*conn);
                }
            }
            Item::Stream { conn, messages, at } => {
                if let Some(session) = self.answered(*conn, *at) {
                    session.stream = Some(Stream::of(messages.clone()));
                    self.streams += 1;
                    self.go_on_streaming(*conn);
                }
            }
            Item::Echo { conn, messages } => {
                let answer = self.answers.count(messages.clone());
                self.echo(*conn, answer);
            }
            Item::Close {
                conn,
                bytes: range,
                goodbye,
            } => {
                let Some(connection) = self.touch(*conn) else {
                    return;
                };
                let Some(session) = connection.session() else {
                    return;
                };
                // The home knows it no longer.
                session.guest = None;
                connection.out.extend_from_slice(&bytes[range.clone()]);
                match goodbye {
                    Some((code, reason)) => self.close(now, *conn, *code, reason, true),
                    None => self.give_up(now, *conn),
                }
            }
            Item::Turn {
                room,
                from,
                bytes: range,
                frames,
                large,
                size,
            } => {
                let Some(away) = self.away.get(*room) else {
                    return;
                };
                assert_eq!(
                    away.offset, *from,
                    "a room's frames come in order, without holes"
                );
                away.offset += range.len() as u64;
                away.room.size_told = *size;
                let turn = &mut away.room.turn;
                let start = turn.bytes.len();
                turn.bytes.extend_from_slice(&bytes[range.clone()]);
                for frame in frames {
                    turn.frame_ends(frame.author, start + frame.end);
                }
                let max = self.config.limits.answer_bytes_max;
                for (end, messages) in large {
                    let has_room = self.answers.has_room(max);
                    let messages = messages.clone().filter(|_| has_room);
                    let answer = messages.map(|messages| self.answers.far_update(messages));
                    turn.large.push(Large::new(answer.as_ref(), start + end));
                }
                self.touch_room(*room);
                for author in frames.iter().filter_map(|frame| frame.author) {
                    if let Some(session) = self.session(author) {
                        session.wrote = true;
                    }
                }
            }
            Item::Diff {
                room,
                at,
                bytes: range,
            } => {
                if let Some(away) = self.away.get(*room) {
                    away.offset = *at;
                    away.jumped = true;
                    let turn = &mut away.room.turn;
                    match range {
                        Some(range) => {
                            turn.bytes.extend_from_slice(&bytes[range.clone()]);
                            turn.frame_done(None);
                        }
                        None => turn.push_large(None, None),
                    }
                    self.touch_room(*room);
                }
            }
            Item::States {
                room,
                bytes: range,
                size,
            } => {
                if let Some(away) = self.away.get(*room) {
                    away.room.size_told = *size;
                    away.copy_presence(&bytes[range.clone()]);
                    self.touch_room(*room);
                }
            }
        }
    }

    /// The answer that a session waited for has come; it holds all up to a stream offset.
    fn answered(&mut self, conn: ConnId, at: u64) -> Option<&mut Session> {
        let session = self.session(conn)?;
        session.answering = false;
        if let Some(behind) = &mut session.behind {
            behind.from = behind.from.max(at);
        }
        Some(session)
    }

    /// A session's room can be used.
    fn on_live(
        &mut self,
        now: Instant,
        home: ShardId,
        id: ConnId,
        (guest, heard): (ConnId, u64),
        effects: &mut Effects,
    ) {
        let waits = |session: &&mut Session| session.loading.is_some();
        let Some(session) = self.session(id).filter(waits) else {
            return self.post.push(home, Item::Leave { guest });
        };
        let (room_id, index) = (session.room, session.index);
        self.take_off_list(id, room_id, index, false);
        let room = self.room(room_id);
        let (group, index, _) = room.admit(id);
        let anyone = room.presence.present() > 0;
        let connection = self.connection(id).expect("it waits");
        let blocked = connection.blocked_since.is_some();
        let session = connection.session().expect("it waits");
        session.index = index;
        session.group = group;
        session.heard = heard;
        session.guest = Some(guest);
        session.wants.presence = anyone;
        let queue = session.loading.take().expect("it waits");
        self.loading_bytes -= queue.bytes;
        self.room(room_id).loading_bytes -= queue.bytes;
        if anyone {
            self.list(id);
        }
        if blocked {
            self.fall_behind(id);
        }
        if queue.paused {
            effects.list.push(Effect::Read { conn: id, on: true });
        }
        for message in &queue.messages {
            self.on_binary(now, id, message);
        }
    }
}

impl AwayRoom {
    /// The first session here that the home knows of is in.
    fn begin(&mut self, offset: u64, states: &[u8]) {
        let loading = self.room.loading.len();
        assert_eq!(self.room.len(), loading, "none was in before");
        self.room.begin(offset);
        self.offset = offset;
        self.jumped = false;
        self.said.clear();
        self.copy_presence(states);
        // Newcomers are told of all who are present.
        self.room.presence.take_changes(&mut Vec::new());
    }

    fn copy_presence(&mut self, states: &[u8]) {
        for (client, clock, state) in presence::entries(states) {
            self.room.presence.copy(client, clock, state);
        }
    }
}
