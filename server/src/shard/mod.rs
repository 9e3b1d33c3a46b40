//! The shard: a pure state machine that owns connections, sessions and rooms. No I/O, no clock, no
//! randomness, no await inside.

mod acks;
mod apart;
mod authenticate;
mod away;
mod config;
mod connect;
mod connection;
mod echoes;
mod effect;
mod event;
mod fanout;
mod guests;
mod held_back;
mod hot;
mod identity;
mod large;
mod mail;
mod marks;
mod pace;
mod presence;
mod room;
mod session;
mod spread;
mod stats;
mod stream;
mod sweep;
mod tally;
mod tell;
mod types;
mod wants;

pub use config::{Admission, SessionLimits, ShardConfig};
pub use effect::{Effect, Effects};
pub use event::{ControlReply, ControlRequest, Event, Handoff, Mail};
pub use identity::{Access, Authenticated, Claims, Denied, Request, Verdict};
pub use mail::Letter;
pub use pace::Pace;
pub use stats::{RuntimeStats, Stats};
pub use types::{ConnId, Instant, ShardId};

use crate::edge::websocket;
use acks::Acks;
use away::{Away, is_away};
use collabblocks_storage_engine::{Engine, Notice, RoomId};
use connection::{Connection, Session, Stage};
use guests::{Guests, is_guest};
use mail::Post;
use pace::Paced;
use room::Room;

/// One shard. Lives on its core's thread; [`Shard::on_event`] is the only way its state changes.
pub struct Shard {
    config: ShardConfig,
    engine: Engine,
    connections: Vec<Option<Connection>>,
    /// Connections that are there.
    live: usize,
    rooms: Vec<Option<Box<Room>>>,
    acks: Acks,
    /// Sessions of rooms here, with their sockets on other cores.
    guests: Guests,
    /// Rooms of other cores, with sessions that have their sockets here.
    away: Away,
    post: Post,
    paced: Paced,
    /// Connections with bytes to flush, or to close, at the end of the turn.
    touched: Vec<ConnId>,
    /// Rooms with frames to flush at the end of the turn.
    dirty: Vec<RoomId>,
    /// Connections with slices of a large answer to go.
    streaming: Vec<ConnId>,
    /// Connections that are getting a large answer.
    streams: usize,
    /// Large answers.
    answers: stream::Answers,
    /// Bytes of them that may still be made in this turn.
    answer_bytes_left: usize,
    /// Bytes that may still be copied in this turn for sessions that wrote in it.
    own_copies_left: usize,
    /// Sessions of large rooms that may still be told of it in this turn.
    spread_sends_left: usize,
    /// Sessions that are to be told what they want.
    wanting: Vec<ConnId>,
    /// Sessions whose answer waits for its turn, first come first.
    waiting: Vec<ConnId>,
    /// Questions under way who a client is.
    authenticating: usize,
    /// When a page that may not connect was last logged.
    origin_logged: Option<Instant>,
    /// Bytes of half-sent messages of all connections.
    half_read_bytes: usize,
    /// Bytes that wait for sockets that take none.
    held_back_bytes: usize,
    /// Bytes of messages that wait for their room to load.
    loading_bytes: usize,
    /// Bytes of updates that wait for their room's document.
    apart_bytes: usize,
    /// Bytes of frames that recent turns had, at most.
    frames_peak: usize,
    sweep: sweep::Sweep,
    timer: Option<Instant>,
    drain: Drain,
    write_began: Instant,
    stats: Stats,
    counts: tally::Counts,
    scratch: Vec<u8>,
    notices: Vec<Notice>,
    requests: Vec<collabblocks_storage_engine::Request>,
}

const CANNOT_WRITE: &str = "the server cannot write any more";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Drain {
    No,
    /// Waiting for the log.
    Flushing,
    /// All is durable and said: the next turn closes.
    Flushed,
    /// Close frames are out.
    Done,
}

impl Shard {
    /// A shard over its opened storage.
    pub fn new(config: ShardConfig, engine: Engine) -> Self {
        Self {
            post: Post::new(config.id, config.shards),
            guests: Guests::default(),
            away: Away::new(config.hash_seed),
            paced: Paced::default(),
            config,
            engine,
            connections: Vec::new(),
            live: 0,
            rooms: Vec::new(),
            acks: Acks::default(),
            touched: Vec::new(),
            dirty: Vec::new(),
            streaming: Vec::new(),
            streams: 0,
            answers: stream::Answers::default(),
            answer_bytes_left: 0,
            own_copies_left: 0,
            spread_sends_left: 0,
            wanting: Vec::new(),
            waiting: Vec::new(),
            authenticating: 0,
            origin_logged: None,
            half_read_bytes: 0,
            held_back_bytes: 0,
            loading_bytes: 0,
            apart_bytes: 0,
            frames_peak: 0,
            sweep: sweep::Sweep::default(),
            timer: None,
            drain: Drain::No,
            write_began: Instant(0),
            stats: Stats::default(),
            counts: tally::Counts::default(),
            scratch: Vec::new(),
            notices: Vec::new(),
            requests: Vec::new(),
        }
    }

    /// The only way state changes.
    pub fn on_event(&mut self, now: Instant, event: Event<'_>, effects: &mut Effects) {
        match event {
            Event::Received { conn, bytes } => self.on_received(now, conn, bytes, effects),
            Event::TurnEnd => self.on_turn_end(now, effects),
            Event::LogWritten { job, result } => self.on_log_written(now, job, result, effects),
            Event::Accepted { conn, peer } => self.on_accepted(now, conn, peer),
            Event::Proxied { conn, peer } => {
                if let Some(connection) = self.connection(conn) {
                    connection.peer = peer;
                }
            }
            Event::Authenticated { conn, verdict } => {
                self.on_authenticated(now, conn, verdict, effects);
            }
            Event::HandedOff { conn, handoff } => self.on_handed_off(now, conn, *handoff, effects),
            Event::HandoffRefused { conn } => self.on_handoff_refused(now, conn),
            Event::Blocked { conn, unsent_bytes } => self.on_blocked(now, conn, unsent_bytes),
            Event::Drained { conn } => self.on_drained(conn),
            Event::Closed { conn } => {
                if self.connection(conn).is_some() {
                    self.forget(now, conn);
                }
            }
            Event::JobDone(done) => {
                let mut notices = std::mem::take(&mut self.notices);
                self.engine.on_job_done(now.0, done, &mut notices);
                for notice in notices.drain(..) {
                    self.on_notice(now, notice, effects);
                }
                self.notices = notices;
            }
            Event::Mail {
                mail: Mail::Handoff(_),
                ..
            } => {
                unreachable!("a handoff travels with its socket and arrives as Event::HandedOff")
            }
            Event::Mail {
                from,
                mail: Mail::Letter(letter),
            } => self.on_letter(now, from, &letter, effects),
            Event::MailRefused {
                to,
                mail: Mail::Letter(letter),
            } => self.post.on_refused(now, to, letter),
            Event::MailRefused { .. } => {
                unreachable!("a handoff that is refused comes back as Event::HandoffRefused")
            }
            Event::Control(request) => self.on_control(request, effects),
            Event::Timer => self.timer = None,
        }
    }

    fn on_log_written(
        &mut self,
        now: Instant,
        job: collabblocks_wal::WriteJob,
        result: std::io::Result<usize>,
        effects: &mut Effects,
    ) {
        match self.engine.on_written(now.0, job, result) {
            Ok(durable) => {
                let took = now.0.saturating_sub(self.write_began.0);
                self.stats.commit_ns.saturating_record(took.max(1));
                self.release(durable);
            }
            Err(poisoned) => {
                for slot in 0..self.connections.len() {
                    if let Some(id) = self.id_at(slot) {
                        self.close(now, id, 1011, CANNOT_WRITE, true);
                    }
                }
                self.close_guests(now, 1011, CANNOT_WRITE);
                effects.list.push(Effect::Fatal(poisoned.to_string()));
            }
        }
    }

    fn on_control(&mut self, request: ControlRequest, effects: &mut Effects) {
        match request {
            ControlRequest::Stats { id } => {
                let mut stats = Box::new(self.stats.clone());
                stats.engine = self.engine.stats();
                stats.connections = self.live as u64;
                stats.authenticating = self.authenticating as u64;
                stats.rooms = self.counts.rooms;
                stats.sessions = self.counts.sessions;
                stats.away_sessions = self.away.sessions() as u64;
                stats.presence_clients = self.counts.present;
                stats.sessions_behind = self.counts.behind + self.away.behind() as u64;
                stats.ack_queue_bytes = self.acks.held_bytes() as u64;
                stats.answer_bytes = self.answers.alive_bytes() as u64;
                stats.held_back_bytes = self.held_back_bytes as u64;
                stats.answers_waiting = self.waiting.len() as u64;
                effects
                    .list
                    .push(Effect::Reply(ControlReply::Stats { id, stats }));
            }
            ControlRequest::Drain => {
                if self.drain == Drain::No {
                    self.drain = Drain::Flushing;
                    effects.list.push(Effect::StopAccepting);
                }
            }
        }
    }

    /// A connection by id, unless the id is an old one.
    fn connection(&mut self, id: ConnId) -> Option<&mut Connection> {
        if is_guest(id) {
            return self.guests.get_mut(id).map(|guest| &mut guest.connection);
        }
        self.connections
            .get_mut(id.slot as usize)?
            .as_mut()
            .filter(|c| c.generation == id.generation)
    }

    fn session(&mut self, id: ConnId) -> Option<&mut Session> {
        self.connection(id)?.session()
    }

    fn id_at(&self, slot: usize) -> Option<ConnId> {
        let generation = self.connections[slot].as_ref()?.generation;
        Some(ConnId {
            slot: slot as u32,
            generation,
        })
    }

    fn room(&mut self, id: RoomId) -> &mut Room {
        if is_away(id) {
            return self.away.room(id).expect("a session's room is kept");
        }
        let room = self.rooms[id.slot as usize]
            .as_mut()
            .expect("a session's room is kept while it is attached");
        assert_eq!(room.id, id, "a session's room is kept while it is attached");
        room
    }

    /// Puts a connection on the list of those to flush at the end of the turn; returns it.
    fn touch(&mut self, id: ConnId) -> Option<&mut Connection> {
        if is_guest(id) {
            return self.guests.touch(id);
        }
        let connection = self
            .connections
            .get_mut(id.slot as usize)?
            .as_mut()
            .filter(|c| c.generation == id.generation)?;
        if !connection.touched {
            connection.touched = true;
            self.touched.push(id);
        }
        Some(connection)
    }

    fn touch_room(&mut self, id: RoomId) -> &mut Room {
        let room = if is_away(id) {
            self.away.room(id).expect("a session's room is kept")
        } else {
            self.rooms[id.slot as usize]
                .as_deref_mut()
                .expect("a session's room is kept while it is attached")
        };
        if !room.dirty {
            room.dirty = true;
            self.dirty.push(id);
        }
        room
    }

    fn count_refused(&mut self, reason: &'static str) {
        *self.stats.refused.entry(reason).or_default() += 1;
    }

    /// Closes a connection at the end of the turn, with a close frame if it is a WebSocket already.
    /// A session leaves its room at once.
    fn close(&mut self, now: Instant, id: ConnId, code: u16, reason: &str, flush: bool) {
        if is_guest(id) {
            return self.close_guest(now, id, Some((code, reason.into())));
        }
        let Some(connection) = self.touch(id) else {
            return;
        };
        match &connection.stage {
            Stage::Closing { .. } => return,
            Stage::Session(_) => connection.last_words(|out| websocket::close(code, reason, out)),
            Stage::Head(_) | Stage::Authenticating(_) => {}
        }
        self.leave(now, id);
        if let Some(connection) = self.connection(id) {
            connection.stage = Stage::Closing { flush };
        }
    }

    /// The connection is gone: no trace of it stays.
    fn forget(&mut self, now: Instant, id: ConnId) {
        self.leave(now, id);
        self.remove(id);
    }

    fn remove(&mut self, id: ConnId) {
        if is_guest(id) {
            return self.guests.remove(id);
        }
        if let Some(connection) = self.connections[id.slot as usize].take() {
            self.live -= 1;
            self.half_read_bytes -= connection.decoder.held_bytes();
            self.held_back_bytes -= connection.held_back;
        }
    }

    fn take_off_list(&mut self, id: ConnId, room_id: RoomId, index: usize, live: bool) {
        let group = self.session(id).map_or(0, |session| session.group);
        let list = self.room(room_id).list_of(id, live, group);
        assert_eq!(list.swap_remove(index), id, "a session knows its place");
        let moved = list.get(index).copied();
        if let Some(moved) = moved {
            self.session(moved)
                .expect("a room's sessions are attached")
                .index = index;
        }
    }

    /// Takes a session out of its room.
    fn leave(&mut self, now: Instant, id: ConnId) {
        let Some(session) = self.session(id) else {
            return;
        };
        let room_id = session.room;
        let index = session.index;
        let loading = session.loading.take();
        let behind = session.behind.is_some();
        let streams = session.stream.is_some();
        let clients = std::mem::take(&mut session.clients);
        let guest = session.guest.take();
        self.streams -= usize::from(streams);
        let loading_bytes = loading.as_ref().map_or(0, |queue| queue.bytes);
        self.loading_bytes -= loading_bytes;
        self.room(room_id).loading_bytes -= loading_bytes;
        self.take_off_list(id, room_id, index, loading.is_none());
        if behind {
            self.room(room_id).caught_up();
        }
        if is_away(room_id) {
            return self.left_away(room_id, guest);
        }
        if let Some(core) = self.guests.get(id).map(|guest| guest.core) {
            self.guest_left(room_id, core);
        }
        self.look_at_heat(room_id, None);
        let room = self.room(room_id);
        room.asks.retain(|ask| ask.0 != id);
        room.presence.leave(id, &clients);
        if room.is_empty() {
            self.drop_room(room_id);
        } else if room.presence.has_changes() {
            self.touch_room(room_id);
        }
        self.tally(room_id);
        self.engine.detach(now.0, room_id);
    }
}
