//! Deliveries of a large room, spread over its interval: its sessions are told in groups, each at a
//! moment of its own, of all that came since its last one. So what waits waits for the interval alone,
//! and not for the room's other sends as well; and a turn makes but so many of those.

use super::away::is_away;
use super::connection::{Behind, Session};
use super::effect::Effects;
use super::hot::tell_cores;
use super::marks::Marks;
use super::room::{Backlog, Room};
use super::tell::{Apart, Delivery, Teller, Whole, goes_in_parts};
use super::types::{ConnId, Instant};
use super::{Pace, SessionLimits, Shard};
use crate::dialect::y_websocket;
use collabblocks_storage_engine::RoomId;
use std::time::Duration;

/// Groups of a room.
const GROUPS: usize = 16;
/// Sessions told in a turn of what waited: the others in the next one, of what came meanwhile, too.
const SENDS_PER_TURN: usize = 1_024;

/// Sessions that are told at the same moments.
#[derive(Debug)]
struct Group {
    sessions: Vec<ConnId>,
    /// The stream offset up to which they were told the room's frames.
    told: u64,
    /// The version of the presence that they were told.
    presence: u64,
    /// When that was.
    at: Instant,
}

/// What a large room has beside.
#[derive(Debug)]
pub struct Spread {
    groups: [Group; GROUPS],
    /// Frames that a group was not told yet.
    window: Backlog,
}

/// Sessions that wrote some of what waited, or have heard some of it, hear the rest.
struct WroteOrHeard<'a> {
    group: &'a Group,
    window: &'a Backlog,
    marks: &'a Marks,
}

impl WroteOrHeard<'_> {
    fn heard(&self, session: &Session) -> u64 {
        session.heard.max(self.group.told)
    }
}

impl Apart for WroteOrHeard<'_> {
    fn is_apart(&self, session: &mut Session) -> bool {
        std::mem::take(&mut session.wrote) || session.heard > self.group.told
    }

    fn frames(&self, id: ConnId, session: &Session, out: &mut Vec<u8>) {
        self.window.replay(self.heard(session), id, usize::MAX, out);
    }

    fn behind(&self, session: &Session) -> Behind {
        let heard = self.heard(session);
        let vector = self.marks.before(heard).into();
        Behind::new(heard, vector, self.group.presence)
    }
}

/// When a group's next moment after `last` is: each group has its own within the interval.
fn moment(group: usize, last: Instant, interval: Duration) -> Instant {
    let interval = interval.as_nanos() as u64;
    if interval == 0 {
        return last;
    }
    let phase = interval / GROUPS as u64 * group as u64;
    let into = (last.0 + interval - phase) % interval;
    Instant(last.0 + interval - into)
}

impl Spread {
    /// All frames that are kept.
    pub fn window(&self) -> &Backlog {
        &self.window
    }

    /// What the sessions of a group were told: the stream offset, and the version of the presence.
    pub fn told(&self, group: u8) -> (u64, u64) {
        let group = &self.groups[usize::from(group)];
        (group.told, group.presence)
    }

    /// Sessions of all groups.
    pub fn sessions(&self) -> impl Iterator<Item = &ConnId> {
        self.groups.iter().flat_map(|group| &group.sessions)
    }

    /// How many those are.
    pub fn len(&self) -> usize {
        self.groups.iter().map(|group| group.sessions.len()).sum()
    }

    /// The smallest group.
    pub fn smallest(&self) -> u8 {
        let sizes = self.groups.iter().enumerate();
        let smallest = sizes.min_by_key(|(_, group)| group.sessions.len());
        smallest.expect("there are groups").0 as u8
    }

    /// The sessions of a group.
    pub fn list(&mut self, group: u8) -> &mut Vec<ConnId> {
        &mut self.groups[usize::from(group)].sessions
    }

    /// A turn's frames have come to an end.
    pub fn turn_ended(&mut self, room_offset: u64, turn: &super::room::Turn) {
        self.window.append(room_offset, turn, usize::MAX);
    }

    /// All are told all, and the stream goes on from another offset.
    fn jump(&mut self, offset: u64) {
        self.window = Backlog::default();
        for group in &mut self.groups {
            group.told = offset;
        }
    }

    /// Groups without sessions have been told all; frames that all groups were told are forgotten.
    /// Returns the oldest presence that a group was told.
    fn trim(&mut self, offset: u64, presence: u64) -> u64 {
        for group in self.groups.iter_mut().filter(|g| g.sessions.is_empty()) {
            group.told = offset;
            group.presence = presence;
        }
        let told = self.groups.iter().map(|group| group.told).min();
        self.window.forget(told.unwrap_or(offset));
        let presence_told = self.groups.iter().map(|group| group.presence).min();
        presence_told.unwrap_or(presence)
    }
}

impl Room {
    /// Whether its sessions are told in groups: from some size on, and for as long as it is there.
    pub fn spreads(&self, pace: &Pace) -> bool {
        self.spread.is_some() || !pace.interval(self.size(), false).is_zero()
    }

    /// The sessions' groups are to be noted.
    fn begin_to_spread(&mut self) {
        let (told, presence, at) = (self.stream_offset, self.presence.told(), self.flushed_at);
        let mut lists = [const { Vec::new() }; GROUPS];
        for (index, id) in std::mem::take(&mut self.sessions).into_iter().enumerate() {
            lists[index % GROUPS].push(id);
        }
        self.spread = Some(Box::new(Spread {
            groups: lists.map(|sessions| Group {
                sessions,
                told,
                presence,
                at,
            }),
            window: Backlog::default(),
        }));
        self.presence.keep_changes();
    }

    /// When there is something to be told next: to a group, or to other cores. `None` if all are told
    /// all.
    fn due(&self, limits: &SessionLimits) -> Option<Instant> {
        let spread = self.spread.as_ref()?;
        let (documents, presence) = (!self.turn.bytes.is_empty(), self.presence.has_changes());
        let intervals = self.intervals(limits);
        let mut due = None;
        let mut at = |at: Instant| due = Some(due.map_or(at, |due: Instant| due.min(at)));
        if documents || presence {
            if is_away(self.id) || self.turn.bytes.len() > limits.queue_soft_bytes {
                at(Instant(0));
            } else {
                let interval = intervals[usize::from(documents)];
                at(self.flushed_at.after(interval / GROUPS as u32));
            }
        }
        for (index, group) in spread.groups.iter().enumerate() {
            if let Some(then) = self.due_of(index, group, intervals, limits) {
                at(then);
            }
        }
        due
    }

    /// Between two deliveries of presence alone, and of updates.
    fn intervals(&self, limits: &SessionLimits) -> [Duration; 2] {
        let size = self.size();
        [false, true].map(|documents| limits.pace.interval(size, documents))
    }

    fn due_of(
        &self,
        index: usize,
        group: &Group,
        intervals: [Duration; 2],
        limits: &SessionLimits,
    ) -> Option<Instant> {
        let spread = self.spread.as_ref()?;
        let documents = group.told < self.stream_offset;
        if group.sessions.is_empty() || !(documents || group.presence < self.presence.told()) {
            return None;
        }
        if spread.window.size() > limits.queue_soft_bytes {
            return Some(Instant(0));
        }
        Some(moment(index, group.at, intervals[usize::from(documents)]))
    }

    /// Sessions on all cores, as far as they are known here.
    pub fn size(&self) -> usize {
        self.len().max(self.size_told)
    }
}

impl Shard {
    fn begin_to_spread(&mut self, room_id: RoomId) {
        let room = self.room(room_id);
        room.begin_to_spread();
        let spread = room.spread.as_ref().expect("it has begun");
        let mut places = Vec::with_capacity(spread.len());
        for (group, list) in spread.groups.iter().enumerate() {
            let of_group = list.sessions.iter().enumerate();
            places.extend(of_group.map(|(index, id)| (*id, group as u8, index)));
        }
        for (id, group, index) in places {
            let session = self.session(id).expect("a room's sessions are attached");
            session.group = group;
            session.index = index;
        }
    }

    /// Tells the groups whose moment has come, and the other cores.
    pub(super) fn flush_spread(&mut self, now: Instant, room_id: RoomId, effects: &mut Effects) {
        if self.room(room_id).spread.is_none() {
            self.begin_to_spread(room_id);
        }
        let jumped = self.away.has_jumped(room_id);
        let limits = self.config.limits;
        let room = if is_away(room_id) {
            self.away.room(room_id)
        } else {
            self.rooms[room_id.slot as usize].as_deref_mut()
        };
        let room = room.expect("looked at before");
        room.dirty = false;
        let at = room.due(&limits);
        if !jumped && at.is_none_or(|at| at > now) {
            return self.paced.room_waits(room, at);
        }
        self.scratch.clear();
        if room.presence.has_changes() {
            room.presence.take_changes(&mut self.scratch);
        }
        tell_cores(room, &self.scratch, &self.guests, &mut self.post);
        room.end_turn(limits.queue_soft_bytes);
        room.flushed_at = now;

        let intervals = room.intervals(&limits);
        let spread = room.spread.as_ref().expect("looked at before");
        let mut due: Vec<(Instant, usize)> = spread
            .groups
            .iter()
            .enumerate()
            .filter_map(|(index, group)| {
                let at = room.due_of(index, group, intervals, &limits)?;
                (at <= now || jumped).then_some((at, index))
            })
            .collect();
        due.sort_unstable();
        let mut spread = room.spread.take().expect("looked at above");
        let mut shared: Option<((u64, u64), Delivery)> = None;
        for (at, index) in due {
            let must = jumped || at == Instant(0);
            let group = &mut spread.groups[index];
            // However large a group is, one is told in a turn.
            let none_yet = self.spread_sends_left == SENDS_PER_TURN;
            if self.spread_sends_left < group.sessions.len() && !must && !none_yet {
                self.spread_sends_left = 0;
                break;
            }
            self.spread_sends_left = (self.spread_sends_left).saturating_sub(group.sessions.len());
            let from = (group.told, group.presence);
            // Groups that lack the same share it.
            let delivery = match &shared {
                Some((of, delivery)) if *of == from => delivery.clone(),
                _ => {
                    let (kept, large) = spread.window.tail(group.told);
                    self.scratch.clear();
                    let presence = room
                        .presence
                        .changes_since(group.presence, &mut self.scratch);
                    let bytes = kept.len() + self.scratch.len();
                    let sessions = group.sessions.len();
                    let delivery = if large || goes_in_parts(bytes, sessions, limits.slice_bytes) {
                        Delivery::InParts
                    } else {
                        let start = effects.frames.len();
                        effects.frames.extend_from_slice(kept);
                        let documents = effects.frames.len();
                        if presence {
                            y_websocket::presence(&self.scratch, &mut effects.frames);
                        }
                        let all = start..effects.frames.len();
                        Delivery::Whole(Whole { all, documents })
                    };
                    shared = Some((from, delivery.clone()));
                    delivery
                }
            };
            let mut teller = Teller {
                now,
                connections: &mut self.connections,
                wanting: &mut self.wanting,
                own_copies_left: &mut self.own_copies_left,
                stats: &mut self.stats,
            };
            let group = &spread.groups[index];
            let apart = WroteOrHeard {
                group,
                window: &spread.window,
                marks: &room.marks,
            };
            let behind = teller.tell(&group.sessions, &delivery, &apart, effects);
            let group = &mut spread.groups[index];
            group.told = room.stream_offset;
            group.presence = room.presence.told();
            group.at = now;
            if behind > 0 {
                room.spread = Some(spread);
                room.fell_behind(behind);
                spread = room.spread.take().expect("put there above");
            }
        }
        if jumped {
            self.away.turn_ended(room_id);
            let room = self.away.room(room_id).expect("it has jumped");
            spread.jump(room.stream_offset);
        }
        self.end_spread_turn(room_id, spread);
    }

    fn end_spread_turn(&mut self, room_id: RoomId, mut spread: Box<Spread>) {
        let limits = self.config.limits;
        let room = if is_away(room_id) {
            self.away.room(room_id)
        } else {
            self.rooms[room_id.slot as usize].as_deref_mut()
        };
        let room = room.expect("looked at before");
        let told = spread.trim(room.stream_offset, room.presence.told());
        room.presence.forget_changes(told);
        room.spread = Some(spread);
        let at = room.due(&limits);
        self.paced.room_waits(room, at);
        if !is_away(room_id) {
            self.mark(room_id);
            self.tally(room_id);
        }
    }

    /// What a turn may send to sessions whose moment has come.
    pub(super) fn begin_spread_turn(&mut self) {
        self.spread_sends_left = SENDS_PER_TURN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_has_its_moment_once_in_an_interval() {
        let interval = Duration::from_nanos(16_000);
        for group in 0..GROUPS {
            let mut at = Instant(1_234_567);
            let first = moment(group, at, interval);
            assert!(first > at && first.0 <= at.0 + 16_000);
            for _ in 0..5 {
                let next = moment(group, first, interval);
                assert_eq!(next.0, first.0 + 16_000);
                // One that is late does not shift those after it.
                at = Instant(first.0 + 700);
                assert_eq!(moment(group, at, interval), next);
            }
        }
        let last = Instant(99);
        let mut moments: Vec<_> = (0..GROUPS).map(|g| moment(g, last, interval).0).collect();
        moments.sort_unstable();
        assert!(moments.windows(2).all(|pair| pair[1] - pair[0] == 1_000));
        assert_eq!(moment(3, last, Duration::ZERO), last);
    }
}
