//! Offering the load: what is sent when, and the run's phases.

use super::presence::Presence;
use super::{Generator, Moment, Outcome, STALL_NS, new_tracker};
use crate::connection::{Flushed, Stage};
use crate::dialect;
use crate::scenario::Pace;
use crate::schedule::Schedule;
use crate::tracker::{Timebase, Totals};
use crate::websocket::{self, BINARY};
use crate::{Error, Result, update};
use rustix::event::epoll::{self, EventData, EventFlags};

/// Where things stood at an end of the window.
#[derive(Clone, Copy)]
struct Mark {
    now: u64,
    sent: u64,
    received_bytes: u64,
    thrown_bytes: u64,
    totals: Totals,
}

impl Generator<'_> {
    /// Warm-up, window, drain.
    pub(super) fn drive(
        mut self,
        on_moment: &mut dyn FnMut(Moment) -> Result<()>,
    ) -> Result<Outcome> {
        let scenario = self.scenario;
        let seconds = |s: f64| (s * 1e9) as u64;
        let start = self.now_ns() + 20_000_000;
        let window = start + seconds(scenario.warmup_s)
            ..start + seconds(scenario.warmup_s) + seconds(scenario.window_s);
        let drained = window.end + seconds(scenario.drain_s);
        let mut edits_end = 0;
        let timebase = match scenario.pace {
            Pace::Open {
                rate_per_room,
                jittered,
            } => {
                let (rooms, writers) = (scenario.rooms as u32, scenario.writers_per_room as u32);
                let schedule = Schedule::new(start, rooms, writers, rate_per_room, jittered);
                edits_end = schedule.slots_before(if scenario.falls_silent {
                    window.start
                } else {
                    window.end
                });
                Timebase::Scheduled(schedule)
            }
            Pace::Closed { .. } | Pace::Idle => {
                Timebase::Sent(vec![Vec::new(); scenario.rooms * scenario.writers_per_room])
            }
        };
        self.tracker = new_tracker(scenario, self.target, timebase, window.clone());
        self.presence = Presence::new(&self, start, window.clone());
        self.loaded = true;
        self.stall()?;
        self.stop_reading()?;

        let mut marks: [Option<Mark>; 2] = [None, None];
        let mut progress = (0, start);
        loop {
            let now = self.now_ns();
            // Before the window may end: what was due in it is sent, however late this thread runs.
            self.send_due(now, edits_end);
            self.send_states(now);
            let mark = Mark {
                now,
                sent: self.sent,
                received_bytes: self.received_bytes,
                thrown_bytes: self.thrown_bytes,
                totals: self.tracker.totals,
            };
            if marks[0].is_none() && now >= window.start {
                on_moment(Moment::WindowStart)?;
                marks[0] = Some(mark);
                self.mark_presence(0);
            }
            if marks[1].is_none() && now >= window.end {
                on_moment(Moment::WindowEnd)?;
                marks[1] = Some(mark);
                self.mark_presence(1);
            }
            let sending = marks[1].is_none();
            let outstanding = self.presence.as_ref().map_or(0, Presence::outstanding);
            if !sending && (self.undelivered() + outstanding == 0 || now >= drained) {
                on_moment(Moment::End)?;
                break;
            }
            if let (true, Pace::Closed { in_flight_edits }) =
                (sending && now >= start, scenario.pace)
            {
                let delivered = self.tracker.totals.delivered;
                if delivered != progress.0 {
                    progress = (delivered, now);
                } else if now - progress.1 > STALL_NS {
                    self.give_up();
                    progress.1 = now;
                }
                for room in 0..scenario.rooms {
                    self.refill(room, in_flight_edits, now);
                }
            }
            self.flush_dirty()?;

            let next_phase = if marks[0].is_none() {
                window.start
            } else if sending {
                window.end
            } else {
                drained
            };
            let mut wake = next_phase.min(now + 10_000_000);
            if let Some(schedule) = self.tracker.schedule()
                && self.next_edit < edits_end
            {
                wake = wake.min(schedule.due_ns(self.next_edit));
            }
            if let Some(due) = self.presence.as_ref().and_then(Presence::due_ns) {
                wake = wake.min(due);
            }
            let timeout = if self.target.spin {
                0
            } else {
                wake.saturating_sub(self.now_ns())
            };
            self.turn(timeout, &mut |generator, index, now| {
                generator.send_states(now);
                match scenario.pace {
                    Pace::Open { .. } => generator.send_due(now, edits_end),
                    Pace::Closed { in_flight_edits } if sending && now < window.end => {
                        generator.refill(scenario.room_of(index), in_flight_edits, now);
                    }
                    Pace::Closed { .. } | Pace::Idle => {}
                }
            })?;
        }
        let (Some(first), Some(last)) = (marks[0], marks[1]) else {
            return Err(Error::new("the window is empty"));
        };
        let undelivered = self.undelivered();
        Ok(Outcome {
            window_ns: last.now - first.now,
            sent_in_window: last.sent - first.sent,
            sent: self.sent,
            owed: self.owed,
            at_window_start: first.totals,
            at_window_end: last.totals,
            at_end: self.tracker.totals,
            undelivered,
            delivery_ns: self.tracker.delivery_ns,
            ack_ns: self.tracker.ack_ns,
            send_lag_ns: self.send_lag_ns,
            presence: self.presence.map(Presence::into_shown),
            received_bytes_in_window: last.received_bytes - first.received_bytes,
            readers: self.readers as usize,
            thrown_bytes_in_window: last.thrown_bytes - first.thrown_bytes,
            oddities: self.oddities,
        })
    }

    fn mark_presence(&mut self, end: usize) {
        if let Some(presence) = &mut self.presence {
            presence.mark(end);
        }
    }

    /// From here on, those who stall read nothing.
    fn stall(&mut self) -> Result<()> {
        for index in 0..self.connections.len() {
            let connection = &self.connections[index];
            if self.scenario.is_stalled(index) && connection.stage != Stage::Closed {
                epoll::delete(&self.epoll, &connection.stream)?;
            }
        }
        Ok(())
    }

    /// From here on, what comes for those who are not sampled is counted and thrown away.
    fn stop_reading(&mut self) -> Result<()> {
        let scenario = self.scenario;
        // What is encrypted has to be read.
        if self.target.tls.is_some()
            || scenario.sampled == scenario.rooms * scenario.clients_per_room
        {
            return Ok(());
        }
        self.readers = scenario.readers() as u64;
        for index in 0..self.connections.len() {
            let connection = &self.connections[index];
            if scenario.is_sampled(index)
                || scenario.is_stalled(index)
                || connection.stage == Stage::Closed
            {
                continue;
            }
            self.is_thrown[index] = true;
            // One call empties a socket, as a rule: it need not be looked at again.
            epoll::modify(
                &self.epoll,
                &connection.stream,
                EventData::new_u64(index as u64),
                EventFlags::IN | EventFlags::ET,
            )?;
        }
        Ok(())
    }

    fn undelivered(&self) -> u64 {
        self.owed.saturating_sub(self.tracker.totals.delivered)
    }

    fn give_up(&mut self) {
        let others = (self.scenario.clients_per_room - 1) as u64;
        for room in 0..self.scenario.rooms {
            let missing =
                (self.sent_by_room[room] * others).saturating_sub(self.tracker.settled_in(room));
            self.tracker.forgive(room, missing);
            self.oddities.given_up += missing;
        }
    }

    fn write_edit(&mut self, room: usize, writer: usize, clock: u32) {
        let index = room * self.scenario.clients_per_room + writer;
        self.sent += 1;
        self.owed += self.readers - 1;
        self.sent_by_room[room] += 1;
        if self.connections[index].stage == Stage::Closed {
            return;
        }
        self.update.clear();
        update::write_insert(
            &mut self.update,
            self.tracker.client_id(room, writer),
            clock * self.scenario.chars_per_edit,
            self.scenario.chars_per_edit,
        );
        self.message.clear();
        dialect::write_update(&mut self.message, &self.prefixes[room], &self.update);
        self.frame.clear();
        websocket::write_client_frame(&mut self.frame, BINARY, &self.message);
        // Each edit leaves in a write of its own, as it does from a real client's editor: edits that
        // shared a segment would spare the server most of its receiving.
        if self.connections[index].write_through(&self.frame) != Flushed::All {
            self.mark_dirty(index);
        }
    }

    /// Sends the edits that are due, of those numbered below `end`.
    fn send_due(&mut self, now: u64, end: u64) {
        let Some(schedule) = self.tracker.schedule().copied() else {
            return;
        };
        while self.next_edit < end {
            let due = schedule.due_ns(self.next_edit);
            if due > now {
                break;
            }
            self.send_lag_ns.saturating_record(now - due);
            let edit = schedule.edit(self.next_edit);
            self.next_edit += 1;
            self.write_edit(edit.room as usize, edit.writer as usize, edit.clock);
        }
    }

    /// Tops up what is in flight in `room`.
    fn refill(&mut self, room: usize, in_flight: u64, now: u64) {
        let others = (self.scenario.clients_per_room - 1) as u64;
        let owed = self.sent_by_room[room] * others;
        let outstanding = owed
            .saturating_sub(self.tracker.settled_in(room))
            .div_ceil(others);
        for _ in outstanding..in_flight {
            let writer = (self.sent_by_room[room] % self.scenario.writers_per_room as u64) as usize;
            let clock = self.tracker.on_sent(room, writer, now);
            self.write_edit(room, writer, clock);
        }
    }
}
