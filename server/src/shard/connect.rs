//! From an accepted socket to a session: the request head, the room's home, the upgrade.

use super::connection::{Connection, LoadQueue, Session, Stage};
use super::effect::{Effect, Effects};
use super::event::Handoff;
use super::guests::is_guest;
use super::identity::Claims;
use super::room::Room;
use super::types::{ConnId, Instant, ShardId};
use super::{Drain, Shard};
use crate::dialect::y_websocket;
use crate::edge::http::{self, Head, Refusal, Upgrade};
use collabblocks_storage_engine::{Notice, RoomId, RoomStatus, home_shard};
use core::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The peer of a connection that is only refused.
const UNKNOWN_PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

impl Shard {
    pub(super) fn on_accepted(&mut self, now: Instant, id: ConnId, peer: SocketAddr) {
        self.stats.connections_total += 1;
        self.insert(id, Connection::new(id, peer, now));
        self.refuse_if_full(id);
    }

    /// Whether there is no place for a new connection; it has been told so then.
    fn refuse_if_full(&mut self, id: ConnId) -> bool {
        let why = if self.live > self.config.limits.connections_max {
            "the server has as many connections as it may have; try later"
        } else if self.drain != Drain::No {
            "the server is shutting down; try again in a moment"
        } else {
            return false;
        };
        self.refuse(id, 503, why);
        true
    }

    pub(super) fn on_handed_off(
        &mut self,
        now: Instant,
        id: ConnId,
        handoff: Handoff,
        effects: &mut Effects,
    ) {
        let Handoff {
            bytes,
            peer,
            claims,
        } = handoff;
        self.insert(id, Connection::new(id, peer, now));
        if !self.refuse_if_full(id) {
            self.on_head(now, id, bytes, Some(claims), effects);
        }
    }

    pub(super) fn on_handoff_refused(&mut self, now: Instant, id: ConnId) {
        self.insert(id, Connection::new(id, UNKNOWN_PEER, now));
        self.refuse(
            id,
            503,
            "the room's core is too busy to take the connection; try later",
        );
    }

    fn insert(&mut self, id: ConnId, connection: Connection) {
        let slot = id.slot as usize;
        if self.connections.len() <= slot {
            self.connections.resize_with(slot + 1, || None);
        }
        assert!(
            self.connections[slot].is_none(),
            "a runtime numbers connections uniquely"
        );
        self.connections[slot] = Some(connection);
        self.live += 1;
    }

    /// All bytes of a connection whose head was not complete so far, or that was let in elsewhere:
    /// then with its claims.
    pub(super) fn on_head(
        &mut self,
        now: Instant,
        id: ConnId,
        bytes: Vec<u8>,
        claims: Option<Claims>,
        effects: &mut Effects,
    ) {
        match http::parse(&bytes, self.config.limits.http_head_bytes_max) {
            Head::Incomplete => {
                if let Some(connection) = self.connection(id) {
                    connection.stage = Stage::Head(bytes);
                }
            }
            Head::Refused(Refusal { status, why }) => self.refuse(id, status, why),
            Head::Plain => {
                self.remove(id);
                effects.list.push(Effect::PassToControl { conn: id, bytes });
            }
            Head::Upgrade(upgrade) => match claims {
                Some(claims) => self.let_in(now, id, bytes, &upgrade, claims, effects),
                None => self.on_upgrade(now, id, bytes, upgrade, effects),
            },
        }
    }

    /// A client that is known by now goes where its room is.
    pub(super) fn let_in(
        &mut self,
        now: Instant,
        id: ConnId,
        mut bytes: Vec<u8>,
        upgrade: &Upgrade,
        claims: Claims,
        effects: &mut Effects,
    ) {
        let home = ShardId(home_shard(&upgrade.room, self.config.shards));
        if home != self.config.id && self.away.is_hot(&upgrade.room) {
            return self.stay_away(now, id, bytes, upgrade, claims, effects);
        }
        if home != self.config.id {
            let peer = self.connection(id).map_or(UNKNOWN_PEER, |c| c.peer);
            self.remove(id);
            self.stats.handoffs_total += 1;
            let handoff = Box::new(Handoff {
                bytes,
                peer,
                claims,
            });
            return effects.list.push(Effect::Handoff {
                conn: id,
                to: home,
                handoff,
            });
        }
        let connection = self
            .touch(id)
            .expect("the connection whose head was read is there");
        upgrade.accept(&mut connection.out);
        effects.list.push(Effect::Established { conn: id });
        let room = upgrade.room.as_str();
        let limits = &self.config.limits;
        let too_long;
        let refused = if room.is_empty() {
            Some((
                "room_name",
                4400,
                "the room name is empty: put it in the path, as in ws://host/my-room",
            ))
        } else if room.len() > limits.room_name_bytes_max {
            too_long = format!(
                "the room name is longer than limits.room_name_bytes_max = {}",
                limits.room_name_bytes_max
            );
            Some(("room_name", 4400, too_long.as_str()))
        } else if self.config.quarantine.contains(room) {
            let reason =
                "the room stopped the server before and is closed until an operator releases it";
            Some(("quarantine", 1011, reason))
        } else {
            None
        };
        // The engine gives a session something to be; a refused one never gets that far.
        if let Some((label, code, reason)) = refused {
            self.count_refused(label);
            let connection = self.touch(id).expect("still there");
            crate::edge::websocket::close(code, reason, &mut connection.out);
            connection.stage = Stage::Closing { flush: true };
            return;
        }
        self.attach(now, id, room, claims);
        let rest = bytes.split_off(upgrade.head_bytes);
        if !rest.is_empty() {
            let mut rest = rest;
            self.on_frames(now, id, &mut rest, effects);
        }
    }

    fn attach(&mut self, now: Instant, id: ConnId, name: &str, claims: Claims) {
        let (room_id, status) = self.enter(now, id, name, claims);
        self.settle_in(now, id, room_id, status, name);
    }

    /// A session enters a room, which may have to be loaded.
    pub(super) fn enter(
        &mut self,
        now: Instant,
        id: ConnId,
        name: &str,
        claims: Claims,
    ) -> (RoomId, RoomStatus) {
        let (room_id, status) = self.engine.attach(now.0, name);
        let slot = room_id.slot as usize;
        if self.rooms.len() <= slot {
            self.rooms.resize_with(slot + 1, || None);
        }
        let seed = self.config.hash_seed;
        let room = self.rooms[slot].get_or_insert_with(|| {
            let held = self.acks.held_for(room_id);
            Box::new(Room::new(room_id, held, seed))
        });
        assert_eq!(room.id, room_id, "a room without sessions is not kept");
        let index = room.loading.len();
        room.loading.push(id);
        let connection = self
            .connection(id)
            .expect("the connection being attached is there");
        let session = Session::new(room_id, index, claims, now);
        connection.stage = Stage::Session(Box::new(session));
        self.tally(room_id);
        (room_id, status)
    }

    /// It goes on, if there is place for it.
    pub(super) fn settle_in(
        &mut self,
        now: Instant,
        id: ConnId,
        room_id: RoomId,
        status: RoomStatus,
        name: &str,
    ) {
        self.look_at_heat(room_id, Some(name));
        if self.room(room_id).len() > self.config.limits.sessions_per_room_max {
            self.count_refused("room_full");
            self.close(
                now,
                id,
                1013,
                "the room has as many sessions as it may have; try later",
                true,
            );
        } else if status == RoomStatus::Ready {
            assert_eq!(self.room(room_id).loading.pop(), Some(id), "pushed above");
            self.go_live(id);
        }
    }

    /// The room can be used, and no longer lists the session among those that wait: greet the client.
    /// Returns what it sent meanwhile.
    fn go_live(&mut self, id: ConnId) -> Option<LoadQueue> {
        let mut vector = std::mem::take(&mut self.scratch);
        vector.clear();
        let room_id = self.session(id)?.room;
        self.engine.state_vector(room_id, &mut vector);
        let (group, index, heard) = self.room(room_id).admit(id);
        if is_guest(id) {
            self.guest_live(id, room_id, heard);
        }
        // A guest's core has a copy of who is present.
        let anyone = !is_guest(id) && self.room(room_id).presence.present() > 0;
        let connection = self.touch(id)?;
        // What a read-only client has is not wanted.
        let asked = !connection.session()?.is_read_only();
        if asked {
            y_websocket::sync_request(&vector, &mut connection.out);
        }
        let session = connection.session()?;
        // At the end of the turn, when many who came in it are told the same.
        session.wants.presence = anyone;
        session.index = index;
        session.group = group;
        session.heard = heard;
        session.asked = asked;
        let queue = session.loading.take();
        self.scratch = vector;
        let waited = queue.as_ref().map_or(0, |queue| queue.bytes);
        self.loading_bytes -= waited;
        self.room(room_id).loading_bytes -= waited;
        if anyone {
            self.list(id);
        }
        self.tally(room_id);
        if let Some(connection) = self.connection(id)
            && connection.blocked_since.is_some()
        {
            self.fall_behind(id);
        }
        queue
    }

    pub(super) fn on_notice(&mut self, now: Instant, notice: Notice, effects: &mut Effects) {
        match notice {
            Notice::RoomReady(room_id) => {
                // All first: the room is kept by those who are in it, and what the first of them sent
                // may close it.
                let live: Vec<_> = self
                    .take_waiting(room_id)
                    .into_iter()
                    .filter_map(|id| Some((id, self.go_live(id)?)))
                    .collect();
                self.on_back(now, room_id);
                for (id, queue) in live {
                    if queue.paused {
                        effects.list.push(Effect::Read { conn: id, on: true });
                    }
                    for message in queue.messages {
                        self.on_large_binary(now, id, message.into_vec());
                    }
                }
            }
            Notice::Applied {
                room,
                update,
                outcome,
            } => self.on_applied(now, room, update, outcome),
            Notice::Diff { room, diff } => self.on_diff(now, room, diff),
            Notice::RoomFailed(room_id, reason) => {
                tracing::error!(
                    shard = self.config.id.0,
                    slot = room_id.slot,
                    reason,
                    "a room could not be loaded"
                );
                let all: Vec<ConnId> = self
                    .room_if_kept(room_id)
                    .into_iter()
                    .flat_map(|r| {
                        (r.sessions.iter())
                            .chain(r.spread.iter().flat_map(|spread| spread.sessions()))
                            .chain(&r.loading)
                            .chain(r.guests())
                            .copied()
                    })
                    .collect();
                for id in all {
                    self.count_refused("room_failed");
                    self.close(
                        now,
                        id,
                        1011,
                        "the room could not be loaded; the server's log says why",
                        true,
                    );
                }
            }
        }
    }

    fn take_waiting(&mut self, room_id: RoomId) -> Vec<ConnId> {
        self.room_if_kept(room_id)
            .map(|room| std::mem::take(&mut room.loading))
            .unwrap_or_default()
    }

    /// A room of the engine's, if anybody is in it.
    pub(super) fn room_if_kept(&mut self, room_id: RoomId) -> Option<&mut Room> {
        let room = self.rooms.get_mut(room_id.slot as usize)?.as_deref_mut()?;
        (room.id == room_id).then_some(room)
    }

    /// Answers a request head with an error and closes.
    pub(super) fn refuse(&mut self, id: ConnId, status: u16, why: &str) {
        self.count_refused("http");
        self.answer_and_close(id, status, why);
    }

    pub(super) fn answer_and_close(&mut self, id: ConnId, status: u16, why: &str) {
        let Some(connection) = self.touch(id) else {
            return;
        };
        http::refuse(status, why, &mut connection.out);
        connection.stage = Stage::Closing { flush: true };
    }
}
