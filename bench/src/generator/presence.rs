//! Cursors that move: what is sent when, and what of it was shown.

use super::Generator;
use crate::connection::{Flushed, Stage};
use crate::dialect;
use crate::schedule::{Edit, Schedule};
use crate::tracker::{Timebase, Totals, Tracker};
use crate::websocket::{self, BINARY};
use hdrhistogram::Histogram;

/// The state of a room's presence.
pub(super) struct Presence {
    tracker: Tracker,
    next: u64,
    end: u64,
    /// Showings of those to others whose frames are read.
    owed: u64,
    at_window: [Totals; 2],
}

/// What became of the states that were sent.
#[derive(Debug)]
pub struct Shown {
    /// Showings that were owed to clients whose frames are read, in the run.
    pub owed: u64,
    /// States shown to others in the window: they or a later one of their client arrived.
    pub shown_in_window: u64,
    /// The part of those that did not arrive themselves.
    pub superseded_in_window: u64,
    /// States that neither arrived nor were followed by one that did.
    pub never: u64,
    /// States of clients that are not of this run, or that came again.
    pub odd: u64,
    /// From the time a state was due until it was shown.
    pub shown_ns: Histogram<u64>,
}

impl Presence {
    pub(super) fn new(
        generator: &Generator<'_>,
        start: u64,
        window: std::ops::Range<u64>,
    ) -> Option<Self> {
        let (scenario, target) = (generator.scenario, generator.target);
        let movers = scenario.movers?;
        let rate = movers.rate_each * movers.members as f64;
        let schedule = Schedule::new(start, 1, movers.members as u32, rate, true);
        let end = schedule.slots_before(window.end);
        let timebase = Timebase::Scheduled(schedule);
        let clients = scenario.clients_per_room;
        Some(Self {
            tracker: Tracker::new(
                1,
                clients,
                movers.members,
                target.client_base,
                timebase,
                window,
            ),
            next: 0,
            end,
            owed: 0,
            at_window: [Totals::default(); 2],
        })
    }

    fn due(&self) -> Option<(u64, Edit)> {
        let schedule = self.tracker.schedule().filter(|_| self.next < self.end)?;
        Some((schedule.due_ns(self.next), schedule.edit(self.next)))
    }

    /// When the next state is due.
    pub(super) fn due_ns(&self) -> Option<u64> {
        self.due().map(|(due, _)| due)
    }

    /// Showings that have not come yet.
    pub(super) fn outstanding(&self) -> u64 {
        self.owed.saturating_sub(self.tracker.settled_in(0))
    }

    /// The window begins (0) or ends (1).
    pub(super) fn mark(&mut self, end: usize) {
        self.at_window[end] = self.tracker.totals;
    }

    pub(super) fn into_shown(self) -> Shown {
        let [first, last] = self.at_window;
        Shown {
            owed: self.owed,
            shown_in_window: last.delivered - first.delivered,
            superseded_in_window: last.skipped - first.skipped,
            never: self.outstanding(),
            odd: self.tracker.totals.foreign + self.tracker.totals.repeated,
            shown_ns: self.tracker.delivery_ns,
        }
    }
}

impl Generator<'_> {
    /// Sends the states that are due.
    pub(super) fn send_states(&mut self, now: u64) {
        while let Some(presence) = &mut self.presence
            && let Some((due, state)) = presence.due()
            && due <= now
        {
            presence.next += 1;
            let client = presence.tracker.client_id(0, state.writer as usize);
            self.send_lag_ns.saturating_record(now - due);
            let index = state.writer as usize;
            presence.owed += self.readers - u64::from(!self.is_thrown[index]);
            if self.connections[index].stage == Stage::Closed {
                continue;
            }
            self.message.clear();
            // Clients count from 1: a first state numbered 0 is not taken for one.
            let clock = u64::from(state.clock) + 1;
            dialect::write_awareness(&mut self.message, &self.prefixes[0], client, clock);
            self.frame.clear();
            websocket::write_client_frame(&mut self.frame, BINARY, &self.message);
            if self.connections[index].write_through(&self.frame) != Flushed::All {
                self.mark_dirty(index);
            }
        }
    }

    #[inline]
    pub(super) fn on_states(&mut self, index: usize, states: &[u8], now: u64) {
        let Some(presence) = &mut self.presence else {
            return;
        };
        let tracker = &mut presence.tracker;
        let read = dialect::for_each_state(states, |client, clock| {
            if let Some(number) = clock.checked_sub(1) {
                tracker.on_state(index, client, number, now);
            }
        });
        if read.is_none() {
            self.oddities.unreadable += 1;
        }
    }
}
