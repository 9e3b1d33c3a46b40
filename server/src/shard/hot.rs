//! Hot rooms, at their home: what the guests say, and what their cores are told. The document frames
//! of a turn go out once for each core that has guests, whatever the number of its sessions.

use super::acks::To;
use super::connection::Connection;
use super::echoes::{Echo, Echoes};
use super::fanout::RESTARTS;
use super::guests::{Guest, Guests, is_guest};
use super::identity::Claims;
use super::mail::{Item, Post};
use super::room::{Room, TurnFrame};
use super::stream::Answer;
use super::types::{ConnId, Instant, ShardId};
use super::{Drain, Shard};
use crate::dialect::y_websocket;
use collabblocks_storage_engine::RoomId;
use core::net::{Ipv4Addr, SocketAddr};

/// A guest's peer is the business of the core with its socket.
const ELSEWHERE: SocketAddr = SocketAddr::new(core::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// What a room has beside, while it is hot or has guests.
#[derive(Debug)]
pub struct Hot {
    name: Box<str>,
    /// The other cores were told that it is hot.
    on: bool,
    /// Guests that are live.
    pub guests: Vec<ConnId>,
    cores: Vec<Core>,
}

/// A core with guests of a room.
#[derive(Debug)]
struct Core {
    shard: ShardId,
    /// The room's id there.
    room: RoomId,
    /// Guests of it, those that are not live yet included.
    guests: usize,
    /// None of them is live: it was told nothing yet.
    fresh: bool,
    /// The stream offset up to which it was told the room's frames.
    told: u64,
    /// The version of the presence that it was told.
    presence: u64,
    /// It misses what came since, because its lane is stuck.
    behind: bool,
    /// A diff for it waits for the log.
    answering: bool,
}

impl Hot {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            on: false,
            guests: Vec::new(),
            cores: Vec::new(),
        }
    }

    fn core(&mut self, shard: ShardId) -> Option<&mut Core> {
        self.cores.iter_mut().find(|core| core.shard == shard)
    }
}

impl Shard {
    /// A session of another core wants into a room of this one.
    pub(super) fn on_attach(
        &mut self,
        now: Instant,
        core: ShardId,
        conn: ConnId,
        their_room: RoomId,
        name: &str,
        claims: &Claims,
    ) {
        if self.drain != Drain::No {
            return self.turn_away(core, conn);
        }
        let id = self.guests.insert(|id| Guest {
            connection: Connection::new(id, ELSEWHERE, now),
            core,
            conn,
            answer_at: 0,
            answered: false,
            stream: None,
            echoes: Echoes::default(),
        });
        let (room_id, status) = self.enter(now, id, name, claims.clone());
        let room = self.room(room_id);
        let hot = room.hot.get_or_insert_with(|| Box::new(Hot::new(name)));
        match hot.core(core) {
            Some(known) => {
                known.guests += 1;
                if known.room != their_room {
                    // All who it told of are gone there.
                    known.room = their_room;
                    known.fresh = true;
                    known.answering = false;
                    if std::mem::take(&mut known.behind) {
                        room.caught_up();
                    }
                }
            }
            None => hot.cores.push(Core {
                shard: core,
                room: their_room,
                guests: 1,
                fresh: true,
                told: 0,
                presence: 0,
                behind: false,
                answering: false,
            }),
        }
        self.settle_in(now, id, room_id, status, name);
    }

    fn turn_away(&mut self, core: ShardId, conn: ConnId) {
        let goodbye = Some((1012, RESTARTS.into()));
        let bytes = 0..0;
        let item = Item::Close {
            conn,
            bytes,
            goodbye,
        };
        self.post.push(core, item);
    }

    /// Whether the room has become hot, or no longer is; the other cores are told.
    pub(super) fn look_at_heat(&mut self, room_id: RoomId, name: Option<&str>) {
        let high = self.config.limits.hot_room_sessions;
        if high == 0 || self.config.shards == 1 {
            return;
        }
        let room = self.room(room_id);
        let sessions = room.len();
        if sessions > high
            && room.hot.is_none()
            && let Some(name) = name
        {
            room.hot = Some(Box::new(Hot::new(name)));
        }
        let Some(hot) = &mut room.hot else {
            return;
        };
        let on = sessions > if hot.on { high / 2 } else { high };
        if hot.on == on {
            if !on && hot.guests.is_empty() && hot.cores.is_empty() {
                room.hot = None;
            }
            return;
        }
        hot.on = on;
        let name = hot.name.clone();
        self.stats.hot_rooms = if on {
            self.stats.hot_rooms + 1
        } else {
            self.stats.hot_rooms - 1
        };
        for shard in self.post.others() {
            let name = name.clone();
            self.post.push(shard, Item::Heat { name, on });
        }
    }

    /// A guest is no longer in its room.
    pub(super) fn guest_left(&mut self, room_id: RoomId, core: ShardId) {
        let room = self.room(room_id);
        let hot = room.hot.as_mut().expect("a room with guests is hot");
        let at = hot.cores.iter().position(|known| known.shard == core);
        let at = at.expect("a guest's core is known");
        hot.cores[at].guests -= 1;
        if hot.cores[at].guests == 0 && hot.cores.swap_remove(at).behind {
            room.caught_up();
        }
    }

    /// A guest's room can be used: its core is told.
    pub(super) fn guest_live(&mut self, id: ConnId, room_id: RoomId, heard: u64) {
        let guest = self.guests.get(id).expect("it goes live");
        let (shard, conn) = (guest.core, guest.conn);
        let room = self.rooms[room_id.slot as usize]
            .as_mut()
            .expect("a session's room is kept while it is attached");
        let offset = room.stream_offset;
        let hot = room.hot.as_mut().expect("a room with guests is hot");
        let core = hot.core(shard).expect("a guest's core is known");
        let their_room = core.room;
        let letter = &mut self.post.lane(shard).letter;
        let mut fresh = None;
        if std::mem::take(&mut core.fresh) {
            core.told = offset;
            core.presence = room.presence.told();
            self.scratch.clear();
            room.presence.since(None, &mut self.scratch);
            fresh = Some((offset, letter.put(&self.scratch)));
        }
        letter.items.push(Item::Live {
            conn,
            guest: id,
            room: their_room,
            heard,
            fresh,
        });
        self.mark(room_id);
    }

    /// Remembers what the document holds at this stream offset, now and then, if nothing is in it that
    /// was not relayed.
    pub(super) fn mark(&mut self, room_id: RoomId) {
        let Some(room) = self.rooms[room_id.slot as usize].as_mut() else {
            return;
        };
        // Some within what is kept for those who are behind.
        let spacing = (self.config.limits.queue_soft_bytes as u64 / 16).max(1);
        let relayed = room.held == 0 && room.turn.bytes.is_empty();
        let offset = room.stream_offset;
        let has_cores = room.hot.as_ref().is_some_and(|hot| !hot.cores.is_empty());
        if relayed && (has_cores || room.spread.is_some()) && room.marks.wants(offset, spacing) {
            self.scratch.clear();
            self.engine.state_vector(room_id, &mut self.scratch);
            room.marks.add(offset, &self.scratch);
        }
    }

    /// Remembers what the document holds before a large update: those who do not get that as it is get
    /// a diff from here.
    pub(super) fn mark_before_large(&mut self, room_id: RoomId) {
        let room = self.rooms[room_id.slot as usize].as_mut();
        let room = room.expect("a session's room is kept while it is attached");
        let offset = room.stream_offset + room.turn.bytes.len() as u64;
        if room.held == 0 && room.marks.wants(offset, 1) && !self.engine.is_apart(room_id) {
            self.scratch.clear();
            self.engine.state_vector(room_id, &mut self.scratch);
            room.marks.add(offset, &self.scratch);
        }
    }

    /// What a guest said.
    pub(super) fn on_guest(&mut self, now: Instant, bytes: &[u8], item: &Item) {
        match item {
            Item::Leave { guest } => {
                if self.guests.get(*guest).is_some() {
                    self.forget(now, *guest);
                }
                return;
            }
            Item::Streamed { guest } => {
                if let Some(session) = self.session(*guest)
                    && session.stream.take().is_some()
                {
                    self.streams -= 1;
                    self.list(*guest);
                }
                return;
            }
            // Not acknowledged, so the client sends it again where it reconnects.
            _ if self.drain != Drain::No => return,
            _ => {}
        }
        let (Item::Update { guest, .. }
        | Item::Presence { guest, .. }
        | Item::Ask { guest, .. }
        | Item::CatchUp { guest, .. }) = item
        else {
            unreachable!("no other item is of a guest")
        };
        let id = *guest;
        let Some(session) = self.session(id) else {
            return;
        };
        assert!(session.loading.is_none(), "a guest speaks once it is live");
        let room_id = session.room;
        match item {
            Item::Update {
                bytes: range,
                reply,
                ..
            } => {
                let update = &bytes[range.clone()];
                if *reply {
                    self.on_reply(now, id, room_id, update);
                } else {
                    self.on_update(now, id, room_id, update, false);
                }
            }
            Item::Presence { bytes: range, .. } => {
                self.on_presence(now, id, room_id, &bytes[range.clone()]);
            }
            Item::Ask { bytes: range, .. } => {
                session.wants.state = Some(bytes[range.clone()].into());
                self.list(id);
            }
            Item::CatchUp { from, .. } => {
                let vector = self.room(room_id).marks.before(*from).into();
                if let Some(session) = self.session(id) {
                    // An answer to what its client asked holds that, too.
                    session.wants.state.get_or_insert(vector);
                }
                self.list(id);
            }
            _ => unreachable!("looked at above"),
        }
    }

    /// A large answer goes out at the pace of a guest's socket, from where that is. It counts here
    /// until it has.
    pub(super) fn stream_far(&mut self, id: ConnId, answer: &Answer) {
        self.guests.touch(id);
        if let Some(guest) = self.guests.get_mut(id) {
            guest.stream = Some(answer.messages());
        }
    }

    /// Closes a guest: it leaves at once, and its core says `goodbye` to the client, if it is to. The
    /// letter says so before anything of a session that comes after it.
    pub(super) fn close_guest(
        &mut self,
        now: Instant,
        id: ConnId,
        goodbye: Option<(u16, Box<str>)>,
    ) {
        if self.guests.get(id).is_none() {
            return;
        }
        self.leave(now, id);
        let guest = self.guests.get_mut(id).expect("it has left its room alone");
        let letter = &mut self.post.lane(guest.core).letter;
        let out = guest.connection.out.as_slice();
        let bytes = letter.put(if goodbye.is_some() { out } else { &[] });
        letter.items.push(Item::Close {
            conn: guest.conn,
            bytes,
            goodbye,
        });
        self.guests.remove(id);
    }

    /// Puts what the turn has for single guests into the letters, before the rooms' frames.
    pub(super) fn flush_guests(&mut self, now: Instant) {
        let mut touched = std::mem::take(&mut self.guests.touched);
        touched.retain(|&id| self.flush_guest(now, id));
        touched.append(&mut self.guests.touched);
        self.guests.touched = touched;
    }

    /// Whether it is to be looked at again.
    fn flush_guest(&mut self, now: Instant, id: ConnId) -> bool {
        let hard = self.config.limits.queue_hard_bytes;
        let Some(guest) = self.guests.get_mut(id) else {
            return false;
        };
        let lane = self.post.lane(guest.core);
        let connection = &mut guest.connection;
        if !lane.is_free() {
            if connection.out.len() > hard {
                self.give_up(now, id);
            }
            return true;
        }
        connection.touched = false;
        let conn = guest.conn;
        if !connection.out.is_empty() {
            let bytes = lane.letter.put(&connection.out);
            connection.out = Vec::new();
            lane.letter.items.push(Item::Frames { conn, bytes });
        }
        while let Some(echo) = guest.echoes.pop() {
            let item = match echo {
                Echo::Frames(frames) => Item::Frames {
                    conn,
                    bytes: lane.letter.put(&frames),
                },
                Echo::Large(answer) => Item::Echo {
                    conn,
                    messages: answer.messages(),
                },
            };
            lane.letter.items.push(item);
        }
        let at = guest.answer_at;
        if std::mem::take(&mut guest.answered) {
            lane.letter.items.push(Item::Answered { conn, at });
        }
        if let Some(messages) = guest.stream.take() {
            let item = Item::Stream { conn, messages, at };
            lane.letter.items.push(item);
        }
        false
    }

    /// Tells the cores whose lanes are free again what they missed of rooms.
    pub(super) fn catch_cores_up(&mut self, now: Instant) {
        for shard in self.post.others() {
            while self.post.lane(shard).is_free()
                && let Some(room_id) = self.post.lane(shard).rooms.pop()
            {
                self.catch_core_up(now, room_id, shard);
            }
        }
    }

    fn catch_core_up(&mut self, now: Instant, room_id: RoomId, shard: ShardId) {
        let Some(room) = self.rooms[room_id.slot as usize]
            .as_mut()
            .filter(|room| room.id == room_id)
        else {
            return;
        };
        let Some(hot) = &mut room.hot else { return };
        let Some(core) = hot.core(shard) else { return };
        if !core.behind || core.answering {
            return;
        }
        let (told, seen, their_room) = (core.told, core.presence, core.room);
        let size = room.len();
        let lane = self.post.lane(shard);
        self.scratch.clear();
        let mut frames = Vec::new();
        let replayed = room.replay_frames(told, &mut self.scratch, |author, end| {
            frames.push(TurnFrame {
                author: self.guests.on_core(author, shard),
                end,
            });
        });
        if !replayed {
            return self.diff_for_core(now, room_id, shard);
        }
        if !frames.is_empty() {
            let bytes = lane.letter.put(&self.scratch);
            lane.letter.items.push(Item::Turn {
                room: their_room,
                from: told,
                bytes,
                frames,
                large: Vec::new(),
                size,
            });
        }
        self.scratch.clear();
        if room.presence.since(Some(seen), &mut self.scratch) {
            let bytes = lane.letter.put(&self.scratch);
            let room = their_room;
            lane.letter.items.push(Item::States { room, bytes, size });
        }
        let (offset, version) = (room.stream_offset, room.presence.told());
        let hot = room.hot.as_mut().expect("looked at above");
        let core = hot.core(shard).expect("looked at above");
        core.told = offset;
        core.presence = version;
        core.behind = false;
        room.caught_up();
        self.tally(room_id);
    }

    /// A core has missed more than is kept: one diff for all of its sessions, once it is durable. If it
    /// may be large, they ask for it.
    fn diff_for_core(&mut self, now: Instant, room_id: RoomId, shard: ShardId) {
        let in_parts = self.engine.is_apart(room_id) || self.engine.encodes_apart(room_id);
        let room = self.room(room_id);
        let at = room.stream_offset;
        let hot = room.hot.as_mut().expect("a core of its is behind");
        let core = hot.core(shard).expect("it is behind");
        core.answering = true;
        let (told, their_room) = (core.told, core.room);
        if in_parts {
            return self.core_answered(room_id, shard, their_room, at, NO_FRAME);
        }
        let vector: Box<[u8]> = room.marks.before(told).into();
        let diff = match self.engine.diff(room_id, &vector) {
            Ok(diff) => diff,
            Err(refusal) => {
                // The room cannot be read: its sessions there may try again later.
                let guests = self.room(room_id).guests().to_vec();
                for id in guests {
                    if self.guests.get(id).is_some_and(|guest| guest.core == shard) {
                        self.on_refusal(now, id, &refusal);
                    }
                }
                return;
            }
        };
        let mut frame = Vec::with_capacity(diff.len() + 16);
        y_websocket::update(&diff, &mut frame);
        let to = To::Core {
            room: room_id,
            shard,
            their_room,
            at,
        };
        self.acks
            .hold(self.engine.room_durable_at(room_id), to, &frame);
        self.release(self.engine.durable_lsn());
    }

    /// The diff for a core is durable, or its sessions are to ask.
    pub(super) fn core_answered(
        &mut self,
        room_id: RoomId,
        shard: ShardId,
        their_room: RoomId,
        at: u64,
        frame: Option<impl FnOnce(&mut Vec<u8>)>,
    ) {
        let room = self.rooms[room_id.slot as usize]
            .as_mut()
            .filter(|room| room.id == room_id);
        let Some(core) = room
            .and_then(|room| room.hot.as_mut())
            .and_then(|hot| hot.core(shard))
            .filter(|core| core.room == their_room && core.answering)
        else {
            return;
        };
        core.answering = false;
        core.told = at;
        let lane = self.post.lane(shard);
        let bytes = frame.map(|frame| {
            let start = lane.letter.bytes.len();
            frame(&mut lane.letter.bytes);
            start..lane.letter.bytes.len()
        });
        lane.letter.items.push(Item::Diff {
            room: their_room,
            at,
            bytes,
        });
        lane.rooms.push(room_id);
    }

    /// Guests, like all others, are told that the server cannot go on, or restarts.
    pub(super) fn close_guests(&mut self, now: Instant, code: u16, reason: &str) {
        for id in self.guests.ids() {
            self.close(now, id, code, reason, true);
        }
    }
}

const NO_FRAME: Option<fn(&mut Vec<u8>)> = None;

/// The end of a room's turn: each core with guests gets its frames, and what changed of its presence.
pub(super) fn tell_cores(room: &mut Room, presence: &[u8], guests: &Guests, post: &mut Post) {
    let size = room.len();
    let Some(hot) = room.hot.as_deref_mut() else {
        return;
    };
    let mut behind = 0;
    for core in hot.cores.iter_mut().filter(|core| !core.fresh) {
        let lane = post.lane(core.shard);
        if core.behind || !lane.is_free() {
            if !core.behind {
                core.behind = true;
                behind += 1;
                lane.rooms.push(room.id);
            }
            continue;
        }
        if !room.turn.bytes.is_empty() {
            let frames = room.turn.frames.iter().map(|frame| TurnFrame {
                author: guests.on_core(frame.author, core.shard),
                end: frame.end,
            });
            let large = room.turn.large.iter().map(|large| {
                let messages = large.answer.upgrade().map(|answer| answer.messages());
                (large.end, messages)
            });
            let bytes = lane.letter.put(&room.turn.bytes);
            lane.letter.items.push(Item::Turn {
                room: core.room,
                from: room.stream_offset,
                bytes,
                frames: frames.collect(),
                large: large.collect(),
                size,
            });
            core.told = room.stream_offset + room.turn.bytes.len() as u64;
        }
        if !presence.is_empty() {
            let bytes = lane.letter.put(presence);
            lane.letter.items.push(Item::States {
                room: core.room,
                bytes,
                size,
            });
        }
        core.presence = room.presence.told();
    }
    if behind > 0 {
        room.fell_behind(behind);
    }
}

impl Room {
    /// Sessions of it, wherever their sockets are, those that wait for it to load included.
    pub fn len(&self) -> usize {
        let live = self.spread.as_ref().map_or(0, |spread| spread.len());
        self.sessions.len() + live + self.loading.len() + self.guests().len()
    }

    /// Takes a session that is live now in: its group, its place there, and the stream offset up to
    /// which it has missed nothing.
    pub fn admit(&mut self, id: ConnId) -> (u8, usize, u64) {
        let group = self.spread.as_ref().map_or(0, |spread| spread.smallest());
        let heard = self.stream_offset + self.turn.bytes.len() as u64;
        let list = self.list_of(id, true, group);
        list.push(id);
        (group, list.len() - 1, heard)
    }

    /// Guests of it that are live.
    pub fn guests(&self) -> &[ConnId] {
        self.hot.as_ref().map_or(&[], |hot| &hot.guests)
    }

    /// The list that a session is on.
    pub fn list_of(&mut self, id: ConnId, live: bool, group: u8) -> &mut Vec<ConnId> {
        match live {
            false => &mut self.loading,
            true if is_guest(id) => {
                &mut self.hot.as_mut().expect("a room with guests is hot").guests
            }
            true => match &mut self.spread {
                Some(spread) => spread.list(group),
                None => &mut self.sessions,
            },
        }
    }
}
