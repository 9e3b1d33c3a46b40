//! Slow time: deadlines of connections, looked at a part of the table at a time, so that many
//! connections never cost a turn.

use super::connection::{Connection, Stage};
use super::types::{ConnId, Instant};
use super::{Drain, Shard};
use crate::dialect::y_websocket;
use crate::edge::websocket;
use std::ops::Range;
use std::time::Duration;

/// Every connection is looked at once in this many steps.
const STEPS: usize = 20;
/// Time between two steps.
const STEP: Duration = Duration::from_millis(50);

/// This part of a large answer must have gone within each `slow_reader_timeout`.
const ANSWER_PART: usize = 16;
/// The same while others wait for their answers to be made.
const ANSWER_PART_WHEN_CONTENDED: usize = 4;
/// This part of the most that is kept of what a session missed must have gone within each
/// `slow_reader_timeout`, once it gets it, or all that there is.
const MISSED_PART: usize = 16;
/// And no less than this.
const MISSED_PART_BYTES_MIN: usize = 128 << 10;

/// Where the sweep stands.
#[derive(Debug, Default)]
pub struct Sweep {
    /// When the next step is due; `None` while there is no connection.
    pub next: Option<Instant>,
    step: usize,
    /// The first slot of the next step's.
    at: usize,
}

impl Sweep {
    /// The slots to look at in this step. The table may grow in the middle of a round: none is passed
    /// over.
    fn part(&mut self, slots: usize) -> Range<usize> {
        self.step += 1;
        let end = (slots * self.step / STEPS).max(self.at);
        let part = self.at..end;
        self.at = end;
        if self.step == STEPS {
            self.step = 0;
            self.at = 0;
        }
        part
    }
}

enum Due {
    Nothing,
    HeadTimeout,
    AuthenticateTimeout,
    Expired,
    LoadTimeout,
    SlowReader,
    Dead,
    Ping,
    Keepalive,
}

impl Shard {
    pub(super) fn sweep(&mut self, now: Instant) {
        match self.sweep.next {
            None if self.connections.is_empty() || self.drain == Drain::Done => return,
            None => {
                self.sweep.next = Some(now.after(STEP));
                return;
            }
            Some(next) if now < next => return,
            Some(_) => {}
        }
        for slot in self.sweep.part(self.connections.len()) {
            if let Some(id) = self.id_at(slot) {
                self.look_at(now, id);
            }
        }
        if self.sweep.step == 0 {
            self.answers.grow_old();
        }
        if self.live == 0 {
            self.answers.forget();
            self.connections = Vec::new();
            self.sweep = Sweep::default();
        } else {
            self.sweep.next = Some(now.after(STEP));
        }
    }

    fn look_at(&mut self, now: Instant, id: ConnId) {
        let limits = self.config.limits;
        let contended = !self.waiting.is_empty();
        let Some(connection) = self.connection(id) else {
            return;
        };
        match due(connection, now, &limits, contended) {
            Due::Nothing => {}
            Due::HeadTimeout => self.refuse(id, 408, "no whole request head arrived in time"),
            Due::AuthenticateTimeout => self.refuse(
                id,
                503,
                "it could not be found out in time who you are; try later",
            ),
            Due::Expired => {
                self.count_refused("expired");
                let reason = "the access has expired; get a new token and connect again";
                self.close(now, id, 4401, reason, true);
            }
            Due::LoadTimeout => {
                self.count_refused("load_timeout");
                self.close(
                    now,
                    id,
                    1013,
                    "the room takes too long to load; try later",
                    true,
                );
            }
            Due::SlowReader => self.give_up(now, id),
            Due::Dead => {
                self.count_refused("dead_peer");
                self.close(now, id, 1001, "nothing was heard of the client", false);
            }
            Due::Ping => {
                if let Some(connection) = self.touch(id) {
                    connection.pinged = true;
                    connection.control(websocket::ping);
                }
            }
            Due::Keepalive => {
                if let Some(connection) = self.touch(id) {
                    connection.out.extend_from_slice(y_websocket::KEEPALIVE);
                }
            }
        }
    }
}

fn due(
    connection: &mut Connection,
    now: Instant,
    limits: &super::SessionLimits,
    contended: bool,
) -> Due {
    let over =
        |since: Instant, limit: Duration| now.0.saturating_sub(since.0) > limit.as_nanos() as u64;
    match &mut connection.stage {
        Stage::Closing { .. } => Due::Nothing,
        // Bytes that trickle in do not extend the time: `last_sent` is when it was accepted.
        Stage::Head(_) if over(connection.last_sent, limits.http_head_timeout) => Due::HeadTimeout,
        Stage::Head(_) => Due::Nothing,
        Stage::Authenticating(asked) if over(asked.since, limits.authenticate_timeout) => {
            Due::AuthenticateTimeout
        }
        Stage::Authenticating(_) => Due::Nothing,
        Stage::Session(session) if session.claims.have_expired(now) => Due::Expired,
        Stage::Session(session)
            if session.loading.is_some() && over(session.since, limits.load_timeout) =>
        {
            Due::LoadTimeout
        }
        Stage::Session(session) => match connection.blocked_since {
            Some(since) if over(since, limits.slow_reader_timeout) => Due::SlowReader,
            Some(_) => {
                let part = if contended {
                    ANSWER_PART_WHEN_CONTENDED
                } else {
                    ANSWER_PART
                };
                let limit = limits.slow_reader_timeout;
                let stream = session.stream.as_mut();
                let behind = session.behind.as_mut().filter(|_| stream.is_none());
                let bytes = (limits.queue_soft_bytes / MISSED_PART).max(MISSED_PART_BYTES_MIN);
                if stream.is_some_and(|stream| stream.drags(now, limit, part))
                    || behind.is_some_and(|behind| behind.drags(now, limit, bytes))
                {
                    Due::SlowReader
                } else {
                    Due::Nothing
                }
            }
            None if over(connection.last_received, limits.ping * 2) => Due::Dead,
            None if !connection.pinged && over(connection.last_received, limits.ping) => Due::Ping,
            None if over(connection.last_sent, limits.keepalive) => Due::Keepalive,
            None => Due::Nothing,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_passes_over_no_slot_while_the_table_grows() {
        for slots in 1..50 {
            for grows_at in 0..STEPS {
                for by in [1, 2, 100] {
                    let mut sweep = Sweep::default();
                    let mut seen = Vec::new();
                    for step in 0..STEPS {
                        let now = if step < grows_at { slots } else { slots + by };
                        seen.extend(sweep.part(now));
                    }
                    assert_eq!(seen, (0..slots + by).collect::<Vec<_>>());
                }
            }
        }
    }
}
