//! Which edits arrived where, how late, and which never did.

use crate::schedule::{Edit, Schedule};
use hdrhistogram::Histogram;

/// Latencies are kept from 1 µs to 100 s with three significant digits, in nanoseconds.
const LATENCY_NS_MIN: u64 = 1_000;
const LATENCY_NS_MAX: u64 = 100_000_000_000;

/// Where an edit's latency is counted from.
#[derive(Debug)]
pub enum Timebase {
    /// From the time it was due, whether or not it was sent then.
    Scheduled(Schedule),
    /// From the time it was sent, by writer of the whole run and clock (closed loop).
    Sent(Vec<Vec<u64>>),
}

/// Running totals over all receivers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Edits that arrived at a client other than their writer, for the first time.
    pub delivered: u64,
    /// Edits that came back to their writer, for the first time.
    pub echoed: u64,
    /// Edits that arrived again.
    pub repeated: u64,
    /// Edits that were passed over by a later one of the same writer.
    pub skipped: u64,
    /// Edits by clients that are not of this run.
    pub foreign: u64,
}

/// The book of a run. It lives on the generator's thread.
#[derive(Debug)]
pub struct Tracker {
    clients_per_room: usize,
    writers_per_room: usize,
    /// Clocks that an edit takes.
    clocks_per_edit: u64,
    client_base: u64,
    timebase: Timebase,
    window_ns: std::ops::Range<u64>,
    /// The clock expected next, by connection and writer of its room.
    next_clock: Vec<u32>,
    /// Deliveries to others by room that are no longer awaited, for the closed loop.
    settled_by_room: Vec<u64>,
    /// Totals since the start.
    pub totals: Totals,
    /// Latency of deliveries to others, for edits of the measured window.
    pub delivery_ns: Histogram<u64>,
    /// Latency of echoes to the writer, for edits of the measured window.
    pub ack_ns: Histogram<u64>,
}

/// A histogram with the bounds that all latencies here have.
pub fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(LATENCY_NS_MIN, LATENCY_NS_MAX, 3).expect("the bounds are valid")
}

impl Tracker {
    /// A book for `rooms` rooms of `clients_per_room` clients, the first `writers_per_room` of which
    /// write. Client ids count up from `client_base`, rooms first. Latencies are kept of edits whose
    /// time lies in `window_ns`.
    pub fn new(
        rooms: usize,
        clients_per_room: usize,
        writers_per_room: usize,
        client_base: u64,
        timebase: Timebase,
        window_ns: std::ops::Range<u64>,
    ) -> Self {
        assert!(writers_per_room <= clients_per_room);
        Self {
            clients_per_room,
            writers_per_room,
            clocks_per_edit: 1,
            client_base,
            timebase,
            window_ns,
            next_clock: vec![0; rooms * clients_per_room * writers_per_room],
            settled_by_room: vec![0; rooms],
            totals: Totals::default(),
            delivery_ns: new_histogram(),
            ack_ns: new_histogram(),
        }
    }

    /// The same, of edits that take several clocks.
    pub fn with_clocks_per_edit(self, clocks_per_edit: u32) -> Self {
        Self {
            clocks_per_edit: u64::from(clocks_per_edit),
            ..self
        }
    }

    /// The client id of a room's writer.
    #[inline]
    pub fn client_id(&self, room: usize, writer: usize) -> u64 {
        self.client_base + (room * self.writers_per_room + writer) as u64
    }

    /// The schedule, in an open loop.
    #[inline]
    pub fn schedule(&self) -> Option<&Schedule> {
        match &self.timebase {
            Timebase::Scheduled(schedule) => Some(schedule),
            Timebase::Sent(_) => None,
        }
    }

    /// Notes that a writer sent its next edit (closed loop), and returns that edit's clock.
    pub fn on_sent(&mut self, room: usize, writer: usize, now_ns: u64) -> u32 {
        let Timebase::Sent(sent) = &mut self.timebase else {
            panic!("only a closed loop keeps send times");
        };
        let times = &mut sent[room * self.writers_per_room + writer];
        times.push(now_ns);
        (times.len() - 1) as u32
    }

    /// Deliveries to others in `room` that came, or that later ones passed over.
    #[inline]
    pub fn settled_in(&self, room: usize) -> u64 {
        self.settled_by_room[room]
    }

    /// Gives up on what is missing in `room`, so that a closed loop can go on.
    pub fn forgive(&mut self, room: usize, missing: u64) {
        self.settled_by_room[room] += missing;
    }

    /// Takes note of the range `clock .. clock + length` of `client`, received by `connection`.
    #[inline]
    pub fn on_range(
        &mut self,
        connection: usize,
        client: u64,
        clock: u64,
        length: u64,
        now_ns: u64,
    ) {
        let room = connection / self.clients_per_room;
        let member = connection % self.clients_per_room;
        let room_base = self.client_base + (room * self.writers_per_room) as u64;
        let writer = client.wrapping_sub(room_base) as usize;
        let (clock, length) = match self.clocks_per_edit {
            1 => (clock, length),
            several => (clock / several, length / several),
        };
        let end = clock + length;
        if writer >= self.writers_per_room || end > u64::from(u32::MAX) {
            self.totals.foreign += length;
            return;
        }
        let slot = &mut self.next_clock[connection * self.writers_per_room + writer];
        let expected = u64::from(*slot);
        let from = clock.max(expected);
        if end <= expected {
            self.totals.repeated += length;
            return;
        }
        *slot = end as u32;
        self.totals.repeated += from - clock;
        self.totals.skipped += from - expected;
        let fresh = end - from;
        if member == writer {
            self.totals.echoed += fresh;
        } else {
            self.totals.delivered += fresh;
            // What was passed over will not come: a closed loop must not wait for it.
            self.settled_by_room[room] += end - expected;
        }
        self.record(room, writer, from..end, member == writer, now_ns);
    }

    /// Takes note of a state of `client` that `connection` received, the client's `number`th from 0.
    /// A state counts as shown when it or a later one of its client arrived.
    #[inline]
    pub fn on_state(&mut self, connection: usize, client: u64, number: u64, now_ns: u64) {
        let member = connection % self.clients_per_room;
        let writer = client.wrapping_sub(self.client_base) as usize;
        if writer >= self.writers_per_room || number >= u64::from(u32::MAX) {
            self.totals.foreign += 1;
            return;
        }
        let slot = &mut self.next_clock[connection * self.writers_per_room + writer];
        let expected = u64::from(*slot);
        if number < expected {
            self.totals.repeated += 1;
            return;
        }
        *slot = number as u32 + 1;
        let shown = number + 1 - expected;
        if member == writer {
            self.totals.echoed += shown;
        } else {
            self.totals.delivered += shown;
            self.totals.skipped += shown - 1;
            self.settled_by_room[0] += shown;
        }
        self.record(0, writer, expected..number + 1, member == writer, now_ns);
    }

    #[inline]
    fn record(
        &mut self,
        room: usize,
        writer: usize,
        clocks: std::ops::Range<u64>,
        is_echo: bool,
        now_ns: u64,
    ) {
        let histogram = if is_echo {
            &mut self.ack_ns
        } else {
            &mut self.delivery_ns
        };
        for clock in clocks {
            let began_ns = match &self.timebase {
                Timebase::Scheduled(schedule) => schedule.due_ns(schedule.number(Edit {
                    room: room as u32,
                    writer: writer as u32,
                    clock: clock as u32,
                })),
                Timebase::Sent(sent) => {
                    let times = &sent[room * self.writers_per_room + writer];
                    // A server cannot deliver what was not sent; garbage must not end the run.
                    times.get(clock as usize).copied().unwrap_or(0)
                }
            };
            if self.window_ns.contains(&began_ns) {
                histogram.saturating_record(now_ns.saturating_sub(began_ns));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0x8000_0000;

    /// Two rooms of three clients, two of whom write; one edit a millisecond in each room.
    fn tracker() -> Tracker {
        let schedule = Schedule::new(0, 2, 2, 1_000.0, false);
        Tracker::new(
            2,
            3,
            2,
            BASE,
            Timebase::Scheduled(schedule),
            0..1_000_000_000,
        )
    }

    #[test]
    fn merged_edits_count_singly_and_echoes_apart() {
        let mut tracker = tracker();
        // Client 0 of room 1 is connection 3; its writer's id is the third of the run.
        assert_eq!(tracker.client_id(1, 0), BASE + 2);
        tracker.on_range(4, BASE + 2, 0, 5, 20_000_000);
        tracker.on_range(3, BASE + 2, 0, 2, 20_000_000);
        assert_eq!(tracker.totals.delivered, 5);
        assert_eq!(tracker.totals.echoed, 2);
        assert_eq!((tracker.delivery_ns.len(), tracker.ack_ns.len()), (5, 2));
        assert_eq!(tracker.settled_in(1), 5);
        assert_eq!(tracker.settled_in(0), 0);
    }

    #[test]
    fn latency_counts_from_the_schedule() {
        let mut tracker = tracker();
        // Clock 3 of writer 1 is edit 7 of room 0: due at 7 ms.
        tracker.on_range(0, BASE + 1, 3, 1, 9_000_000);
        let latency = tracker.delivery_ns.max();
        assert!((1_990_000..2_010_000).contains(&latency), "{latency}");
        assert_eq!(tracker.totals.skipped, 3);
    }

    #[test]
    fn repeats_overlaps_and_strangers_are_not_deliveries() {
        let mut tracker = tracker();
        tracker.on_range(2, BASE, 0, 4, 0);
        tracker.on_range(2, BASE, 0, 4, 0);
        tracker.on_range(2, BASE, 2, 4, 0);
        tracker.on_range(2, BASE + 2, 0, 1, 0);
        tracker.on_range(2, 77, 0, 1, 0);
        assert_eq!(tracker.totals.delivered, 6);
        assert_eq!(tracker.totals.repeated, 6);
        assert_eq!(tracker.totals.foreign, 2);
    }

    #[test]
    fn edits_of_several_characters_count_once() {
        let mut tracker = tracker().with_clocks_per_edit(100);
        tracker.on_range(1, BASE, 0, 300, 0);
        tracker.on_range(1, BASE, 300, 100, 0);
        assert_eq!((tracker.totals.delivered, tracker.totals.skipped), (4, 0));
    }

    #[test]
    fn a_state_shows_those_before_it_and_is_late_by_the_oldest() {
        let schedule = Schedule::new(0, 1, 1, 1_000.0, false);
        let timebase = Timebase::Scheduled(schedule);
        let mut tracker = Tracker::new(1, 2, 1, BASE, timebase, 0..1_000_000_000);
        tracker.on_state(1, BASE, 0, 1_000_000);
        // The states due at 1, 2 and 3 ms are shown by the last of them, at 5 ms.
        tracker.on_state(1, BASE, 3, 5_000_000);
        tracker.on_state(1, BASE, 2, 6_000_000);
        assert_eq!((tracker.totals.delivered, tracker.totals.skipped), (4, 2));
        assert_eq!(tracker.totals.repeated, 1);
        assert_eq!(tracker.delivery_ns.len(), 4);
        assert!(tracker.delivery_ns.max() >= 4_000_000);
        assert_eq!(tracker.settled_in(0), 4);
    }

    #[test]
    fn only_edits_of_the_window_are_in_the_histograms() {
        let schedule = Schedule::new(0, 1, 1, 1_000.0, false);
        let window = 10_000_000..20_000_000;
        let mut tracker = Tracker::new(1, 2, 1, BASE, Timebase::Scheduled(schedule), window);
        tracker.on_range(1, BASE, 0, 100, 200_000_000);
        assert_eq!(tracker.totals.delivered, 100);
        assert_eq!(tracker.delivery_ns.len(), 10);
    }
}
