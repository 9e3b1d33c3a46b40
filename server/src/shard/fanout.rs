//! The end of a turn: the log's batch, then one send for each connection that has anything to hear.

use super::away::is_away;
use super::connection::{Behind, Connection, Session, Stage};
use super::effect::{Effect, Effects};
use super::event::ControlReply;
use super::guests::is_guest;
use super::hot::tell_cores;
use super::marks::Marks;
use super::room::Turn;
use super::tell::{Apart, Delivery, Teller, Whole, goes_in_parts};
use super::types::{ConnId, Instant};
use super::{Drain, Shard};
use crate::dialect::y_websocket;
use collabblocks_storage_engine::{Request, RoomId};
use std::ops::Range;

/// Bytes copied in a turn for sessions that wrote in it, each of which hears all but its own. Those
/// past it are told in the next turns what they miss.
const OWN_COPIES_BYTES_PER_TURN: usize = 8 << 20;
/// Capacity that the turn's frames keep.
const FRAMES_BYTES_KEPT: usize = 8 << 20;
/// Why all sessions are closed in the end.
pub(super) const RESTARTS: &str = "the server restarts; connect again";

impl Shard {
    pub(super) fn on_turn_end(&mut self, now: Instant, effects: &mut Effects) {
        self.keep_frames_small(effects);
        self.sweep(now);
        // In a turn of its own, as a connection is sent to but once a turn.
        let closes = self.drain == Drain::Flushed;
        if closes {
            self.close_all(now);
        }
        let closed = self.drain == Drain::Flushing && self.engine.close(now.0);
        self.post.settle();
        self.hear_late(now);
        // The disk first: it works while the sends are made.
        let storage = self.flush_storage(now, effects);
        self.catch_cores_up(now);
        self.tell_wanting(now);
        self.continue_streams();
        // What was asked for may have begun some.
        let jobs = self.engine.take_jobs();
        effects.list.extend(jobs.map(Effect::RunJob));
        if closed && self.acks.is_empty() {
            self.close_guests(now, 1012, RESTARTS);
        }
        self.flush_guests(now);
        self.flush_rooms(now, effects);
        self.flush_touched(now, effects);
        self.flush_away(effects);
        let (letters, bytes) = self.post.send(now, effects);
        self.stats.letters += letters;
        self.stats.letter_bytes += bytes;
        if closes {
            effects.list.push(Effect::Reply(ControlReply::Drained));
        } else if closed && self.acks.is_empty() && self.away.is_empty() {
            // Sessions that are away are closed by their homes, when all they said is acknowledged.
            self.drain = Drain::Flushed;
        }
        self.set_timer(now, storage, effects);
    }

    /// Gives the memory of a turn back that was much larger than those after it.
    fn keep_frames_small(&mut self, effects: &mut Effects) {
        let capacity = effects.frames.capacity();
        self.frames_peak -= self.frames_peak / 256;
        if capacity > FRAMES_BYTES_KEPT && capacity / 4 > self.frames_peak {
            effects.frames.shrink_to(FRAMES_BYTES_KEPT);
        }
    }

    fn flush_storage(&mut self, now: Instant, effects: &mut Effects) -> Option<u64> {
        let mut requests = std::mem::take(&mut self.requests);
        let next = self.engine.poll(now.0, &mut requests);
        for request in requests.drain(..) {
            effects.list.push(match request {
                Request::Write { job, lazy } => {
                    self.write_began = now;
                    self.stats
                        .batch_bytes
                        .saturating_record(job.buffer.as_slice().len() as u64);
                    Effect::WriteLog { job, lazy }
                }
                Request::Job(job) => Effect::RunJob(job),
            });
        }
        self.requests = requests;
        next
    }

    fn flush_rooms(&mut self, now: Instant, effects: &mut Effects) {
        self.own_copies_left = OWN_COPIES_BYTES_PER_TURN;
        self.begin_spread_turn();
        self.wake_rooms(now);
        let mut dirty = std::mem::take(&mut self.dirty);
        for room_id in dirty.drain(..) {
            self.flush_room(now, room_id, effects);
        }
        self.dirty = dirty;
    }

    fn flush_room(&mut self, now: Instant, room_id: RoomId, effects: &mut Effects) {
        let room = if is_away(room_id) {
            self.away.room(room_id)
        } else {
            self.rooms[room_id.slot as usize].as_deref_mut()
        };
        let Some(room) = room.filter(|r| r.id == room_id) else {
            return;
        };
        if room.spreads(&self.config.limits.pace) {
            return self.flush_spread(now, room_id, effects);
        }
        let told = room.presence.told();
        self.scratch.clear();
        if room.presence.has_changes() {
            room.presence.take_changes(&mut self.scratch);
        }
        let (sessions, slice_bytes) = (room.sessions.len(), self.config.limits.slice_bytes);
        let bytes = room.turn.bytes.len() + self.scratch.len();
        let delivery = if room.turn.large.is_empty() && !goes_in_parts(bytes, sessions, slice_bytes)
        {
            let start = effects.frames.len();
            effects.frames.extend_from_slice(&room.turn.bytes);
            let documents = effects.frames.len();
            if !self.scratch.is_empty() {
                y_websocket::presence(&self.scratch, &mut effects.frames);
            }
            let all = start..effects.frames.len();
            Delivery::Whole(Whole { all, documents })
        } else {
            Delivery::InParts
        };
        tell_cores(room, &self.scratch, &self.guests, &mut self.post);
        if bytes > 0 {
            let mut teller = Teller {
                now,
                connections: &mut self.connections,
                wanting: &mut self.wanting,
                own_copies_left: &mut self.own_copies_left,
                stats: &mut self.stats,
            };
            let (turn, offset) = (&room.turn, room.stream_offset);
            let marks = &room.marks;
            let apart = Wrote {
                turn,
                marks,
                offset,
                told,
            };
            room.behind += teller.tell(&room.sessions, &delivery, &apart, effects);
        }
        room.end_turn(self.config.limits.queue_soft_bytes);
        if is_away(room_id) {
            self.away.turn_ended(room_id);
        } else if room.hot.is_some() {
            self.mark(room_id);
            self.tally(room_id);
        }
    }

    /// What is for one connection alone, and what is to be closed.
    fn flush_touched(&mut self, now: Instant, effects: &mut Effects) {
        let mut touched = std::mem::take(&mut self.touched);
        for id in touched.drain(..) {
            let hard = self.config.limits.queue_hard_bytes;
            let Some(connection) = self.connection(id) else {
                continue;
            };
            connection.touched = false;
            let blocked = connection.blocked_since.is_some();
            let streams = connection.session().is_some_and(|s| s.stream.is_some());
            let says_goodbye = matches!(connection.stage, Stage::Closing { flush: true });
            if blocked && !says_goodbye {
                if connection.waiting_bytes() > hard {
                    self.give_up(now, id);
                } else {
                    self.count_held_back(id);
                }
            } else if streams || !connection.out.is_empty() {
                let connection = self.connections[id.slot as usize]
                    .as_mut()
                    .expect("just found");
                let (range, control) = own_range(connection, effects);
                send(
                    connection,
                    id,
                    range,
                    control,
                    now,
                    effects,
                    &mut self.stats,
                );
                if streams {
                    self.end_stream(id);
                }
            }
            if let Some(Connection {
                stage: Stage::Closing { flush },
                ..
            }) = self.connection(id)
            {
                let flush = *flush;
                self.remove(id);
                effects.list.push(Effect::Close { conn: id, flush });
            }
        }
        touched.append(&mut self.touched);
        self.touched = touched;
        self.bound_held_back(now);
    }

    /// A reader too slow to be kept: it may come back and get a diff.
    pub(super) fn give_up(&mut self, now: Instant, id: ConnId) {
        self.count_refused("slow_reader");
        if is_guest(id) {
            return self.close_guest(now, id, None);
        }
        self.leave(now, id);
        if let Some(connection) = self.touch(id) {
            connection.stage = Stage::Closing { flush: false };
        }
    }

    fn close_all(&mut self, now: Instant) {
        self.drain = Drain::Done;
        for slot in 0..self.connections.len() {
            if let Some(id) = self.id_at(slot) {
                self.close(now, id, 1012, RESTARTS, true);
            }
        }
    }

    fn set_timer(&mut self, now: Instant, storage: Option<u64>, effects: &mut Effects) {
        self.frames_peak = self.frames_peak.max(effects.frames.len());
        let post = self.post.next(now);
        let goes_on =
            !self.streaming.is_empty() || !self.wanting.is_empty() || self.may_answer_waiting();
        let streams = goes_on.then_some(now);
        let late_touch = (!self.touched.is_empty() || !self.dirty.is_empty()).then_some(now);
        let closing = (self.drain == Drain::Flushed).then_some(now);
        let next = [
            storage.map(Instant),
            self.sweep.next,
            streams,
            late_touch,
            closing,
            post,
            self.paced.next(),
        ]
        .into_iter()
        .flatten()
        .min();
        // Also to a later time: a timer that nobody needs any more would wake the core for nothing.
        if let Some(at) = next
            && self.timer != Some(at)
        {
            self.timer = Some(at);
            effects.list.push(Effect::SetTimer(at));
        }
    }
}

/// Sessions that wrote in a turn hear all of it but their own.
struct Wrote<'a> {
    turn: &'a Turn,
    marks: &'a Marks,
    /// The room's stream offset, and the version of the presence told, before it.
    offset: u64,
    told: u64,
}

impl Apart for Wrote<'_> {
    fn is_apart(&self, session: &mut Session) -> bool {
        std::mem::take(&mut session.wrote)
    }

    fn frames(&self, id: ConnId, _session: &Session, out: &mut Vec<u8>) {
        for range in self.turn.ranges_without(id) {
            out.extend_from_slice(&self.turn.bytes[range]);
        }
    }

    fn behind(&self, session: &Session) -> Behind {
        // Should the frames not be kept.
        let from = self.offset.max(session.heard);
        Behind::new(from, self.marks.before(from).into(), self.told)
    }
}

/// Moves a connection's own frames into the turn's, and what its large answer was granted. Also: how
/// many bytes of it are control frames.
pub(super) fn own_range(
    connection: &mut Connection,
    effects: &mut Effects,
) -> (Range<usize>, usize) {
    let start = effects.frames.len();
    let mut control = 0;
    let mut stream = match &mut connection.stage {
        Stage::Session(session) => session.stream.as_mut(),
        _ => None,
    };
    if let Some(stream) = stream.as_mut().filter(|s| s.is_in_message()) {
        // What else there is comes after the message.
        control += stream.control.len();
        effects.frames.append(&mut stream.control);
        stream.write(&mut effects.frames);
        if stream.is_in_message() {
            return (start..effects.frames.len(), control);
        }
    }
    effects.frames.extend_from_slice(&connection.out);
    control += connection.out_control;
    // Idle connections hold no buffer.
    connection.out = Vec::new();
    connection.out_control = 0;
    if let Some(stream) = stream {
        stream.write(&mut effects.frames);
    }
    (start..effects.frames.len(), control)
}

/// `control` bytes of the range are control frames.
#[inline]
pub(super) fn send(
    connection: &mut Connection,
    id: ConnId,
    range: Range<usize>,
    control: usize,
    now: Instant,
    effects: &mut Effects,
    stats: &mut super::Stats,
) {
    if range.is_empty() {
        return;
    }
    if range.len() > control {
        connection.last_sent = now;
    }
    stats.sends += 1;
    stats.send_bytes += range.len() as u64;
    effects.list.push(Effect::Send { conn: id, range });
}
