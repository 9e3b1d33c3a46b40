//! How often a room is heard, and how often its clients are: deliveries of a large room wait for
//! company, and who announces itself too often is heard at a lower rate, always with the latest.

use super::away::is_away;
use super::connection::Session;
use super::room::Room;
use super::types::{ConnId, Instant};
use super::{SessionLimits, Shard};
use collabblocks_storage_engine::RoomId;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// From what size on deliveries of a room wait, and for how long at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Sessions up to which presence goes out with the turn.
    pub presence_sessions: usize,
    /// Sessions up to which document updates do.
    pub document_sessions: usize,
    /// Sessions from which on the interval is the longest; between, it grows evenly.
    pub full_sessions: usize,
    /// The longest interval between two deliveries of a room.
    pub interval_max: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            presence_sessions: 200,
            document_sessions: 1_000,
            full_sessions: 2_000,
            interval_max: Duration::from_millis(30),
        }
    }
}

impl Pace {
    /// Time between two deliveries to a room of so many sessions.
    pub fn interval(&self, sessions: usize, documents: bool) -> Duration {
        let from = if documents {
            self.document_sessions
        } else {
            self.presence_sessions
        };
        let over = sessions.saturating_sub(from);
        if over == 0 {
            return Duration::ZERO;
        }
        let span = self.full_sessions.saturating_sub(from).max(1);
        if over >= span {
            return self.interval_max;
        }
        let nanos = self.interval_max.as_nanos() * over as u128 / span as u128;
        Duration::from_nanos(nanos as u64)
    }
}

/// What a session announced faster than it may: the latest of each client.
#[derive(Debug)]
pub struct Late {
    /// The client.
    pub client: u64,
    /// Its clock.
    pub clock: u32,
    /// Its state; `None` when it is gone.
    pub state: Option<Box<[u8]>>,
}

/// Sessions and rooms whose time comes later. Lives with its shard.
#[derive(Debug, Default)]
pub struct Paced {
    sessions: BinaryHeap<Reverse<(Instant, ConnId)>>,
    rooms: Vec<(Instant, RoomId)>,
}

impl Paced {
    /// When the next is due.
    pub fn next(&self) -> Option<Instant> {
        let session = self.sessions.peek().map(|Reverse((at, _))| *at);
        let room = self.rooms.iter().map(|(at, _)| *at).min();
        session.into_iter().chain(room).min()
    }

    /// What a room has to tell waits until then, if it has anything to.
    pub fn room_waits(&mut self, room: &mut Room, at: Option<Instant>) {
        if let Some(at) = at
            && room.paced.is_none_or(|paced| at < paced)
        {
            room.paced = Some(at);
            self.rooms.push((at, room.id));
        }
    }
}

impl Session {
    /// Whether it may announce something now; if so, that counts. Else when it may.
    fn may_announce(&mut self, now: Instant, limits: &SessionLimits) -> Result<(), Instant> {
        if limits.presence_rate_max == 0 {
            return Ok(());
        }
        let each = 1_000_000_000 / u64::from(limits.presence_rate_max);
        let ahead = each * u64::from(limits.presence_burst.max(1) - 1);
        let paid = self.presence_paid.0.max(now.0);
        if paid > now.0 + ahead {
            return Err(Instant(paid - ahead));
        }
        self.presence_paid = Instant(paid + each);
        Ok(())
    }

    /// Keeps the latest of a client until it may be announced; `false` if there are too many.
    fn keep(&mut self, late: Late, clients_max: usize) -> bool {
        let kept = self.late.len();
        match self.late.iter_mut().find(|l| l.client == late.client) {
            Some(known) => {
                let removes = known.state.is_some() && late.state.is_none();
                if late.clock > known.clock || (late.clock == known.clock && removes) {
                    *known = late;
                }
                true
            }
            None if kept >= clients_max => false,
            None => {
                self.late.push(late);
                true
            }
        }
    }
}

impl Shard {
    /// Whether a session may announce what it has news of. If not, all of it is kept for later.
    pub(super) fn paces(
        &mut self,
        now: Instant,
        id: ConnId,
        news: impl FnOnce() -> Vec<Late>,
    ) -> bool {
        let limits = self.config.limits;
        let Some(session) = self.session(id) else {
            return true;
        };
        // What is kept goes first, at its time, and this with it.
        let mut at = None;
        if session.late.is_empty() {
            match session.may_announce(now, &limits) {
                Ok(()) => return false,
                Err(then) => at = Some(then),
            }
        }
        let mut all = true;
        for late in news() {
            all &= session.keep(late, limits.awareness_clients_max);
        }
        if let Some(at) = at {
            self.paced.sessions.push(Reverse((at, id)));
        }
        if !all {
            self.count_refused("presence_clients");
        }
        true
    }

    /// What was announced too fast is heard now, as far as its time has come.
    pub(super) fn hear_late(&mut self, now: Instant) {
        while let Some(Reverse((at, id))) = self.paced.sessions.peek()
            && *at <= now
        {
            let id = *id;
            self.paced.sessions.pop();
            let limits = self.config.limits;
            let Some(session) = self.session(id) else {
                continue;
            };
            let room_id = session.room;
            // A token spent while it waited may have to be waited for.
            if let Err(at) = session.may_announce(now, &limits) {
                self.paced.sessions.push(Reverse((at, id)));
                continue;
            }
            for late in std::mem::take(&mut session.late) {
                self.hear(id, room_id, late.client, late.clock, late.state.as_deref());
            }
        }
    }

    /// Rooms whose frames have waited long enough are to be flushed.
    pub(super) fn wake_rooms(&mut self, now: Instant) {
        let mut rooms = std::mem::take(&mut self.paced.rooms);
        rooms.retain(|&(at, id)| {
            if at > now {
                return true;
            }
            let room = if is_away(id) {
                self.away.room(id)
            } else {
                self.rooms[id.slot as usize].as_deref_mut()
            };
            if let Some(room) = room.filter(|room| room.id == id) {
                room.paced = None;
                self.touch_room(id);
            }
            false
        });
        rooms.append(&mut self.paced.rooms);
        self.paced.rooms = rooms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_grows_with_the_room_and_not_for_documents_of_small_ones() {
        let pace = Pace::default();
        let ms = |sessions, documents| pace.interval(sessions, documents).as_secs_f64() * 1e3;
        assert_eq!((ms(200, false), ms(1_000, true)), (0.0, 0.0));
        assert!(ms(201, false) > 0.0 && ms(1_001, true) > 0.0);
        assert!((ms(1_100, false) - 15.0).abs() < 0.01);
        assert_eq!((ms(2_000, false), ms(2_000, true)), (30.0, 30.0));
        assert_eq!(ms(1_000_000, true), 30.0);
        let off = Pace {
            interval_max: Duration::ZERO,
            ..pace
        };
        assert_eq!(off.interval(10_000, true), Duration::ZERO);
    }
}
