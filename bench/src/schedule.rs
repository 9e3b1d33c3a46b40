//! When each edit is due, as pure arithmetic: nothing is stored per edit.
//!
//! Edits are numbered over the whole run. Number `k` belongs to room `k % rooms`; within its room
//! it is number `k / rooms`, written by writer `index % writers` at that writer's clock
//! `index / writers`. Each edit owns a slot of one period and is due somewhere in it: at its start,
//! or at a place drawn from a hash of `k` (*jittered*), which keeps the load from beating in step
//! with a server's timers. Either way due times rise with `k`, and `(room, writer, clock)` gives
//! the due time back, which is how a receiver knows an edit's latency.

/// Which room, which of its writers, and that writer's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The room, from 0.
    pub room: u32,
    /// The writer within the room, from 0.
    pub writer: u32,
    /// The writer's clock, from 0.
    pub clock: u32,
}

/// A fixed offered load.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    start_ns: u64,
    period_ns: f64,
    rooms: u32,
    writers: u32,
    jittered: bool,
}

impl Schedule {
    /// `rooms` rooms, each of `writers` writers who together write `rate_per_room` edits a second,
    /// from `start_ns` on.
    pub fn new(
        start_ns: u64,
        rooms: u32,
        writers: u32,
        rate_per_room: f64,
        jittered: bool,
    ) -> Self {
        assert!(rooms > 0 && writers > 0 && rate_per_room > 0.0);
        let period_ns = 1e9 / (rate_per_room * f64::from(rooms));
        Self {
            start_ns,
            period_ns,
            rooms,
            writers,
            jittered,
        }
    }

    /// What edit number `k` is.
    #[inline]
    pub fn edit(&self, k: u64) -> Edit {
        let index = k / u64::from(self.rooms);
        Edit {
            room: (k % u64::from(self.rooms)) as u32,
            writer: (index % u64::from(self.writers)) as u32,
            clock: (index / u64::from(self.writers)) as u32,
        }
    }

    /// The number of `edit`.
    #[inline]
    pub fn number(&self, edit: Edit) -> u64 {
        let index = u64::from(edit.clock) * u64::from(self.writers) + u64::from(edit.writer);
        index * u64::from(self.rooms) + u64::from(edit.room)
    }

    /// When edit number `k` is due, in nanoseconds of the run's clock.
    #[inline]
    pub fn due_ns(&self, k: u64) -> u64 {
        let within = if self.jittered { unit_hash(k) } else { 0.0 };
        self.start_ns + ((k as f64 + within) * self.period_ns) as u64
    }

    /// How many edits have slots that begin before `time_ns`.
    pub fn slots_before(&self, time_ns: u64) -> u64 {
        let span = time_ns.saturating_sub(self.start_ns) as f64;
        (span / self.period_ns).ceil() as u64
    }
}

/// A well-mixed number in `[0, 1)` for `k`.
#[inline]
fn unit_hash(k: u64) -> f64 {
    let mut x = k.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_and_edit_are_inverse() {
        let schedule = Schedule::new(0, 7, 3, 10.0, true);
        let mut next_clock = [[0; 3]; 7];
        for k in 0..10_000 {
            let edit = schedule.edit(k);
            assert_eq!(schedule.number(edit), k);
            let expected = &mut next_clock[edit.room as usize][edit.writer as usize];
            assert_eq!(edit.clock, *expected, "a writer's clocks come in order");
            *expected += 1;
        }
    }

    #[test]
    fn the_rate_is_per_room_and_due_times_rise() {
        for jittered in [false, true] {
            let schedule = Schedule::new(5_000, 200, 2, 5.0, jittered);
            let second = 5_000 + 1_000_000_000;
            assert_eq!(schedule.slots_before(second), 1_000);
            let due: Vec<_> = (0..1_000).map(|k| schedule.due_ns(k)).collect();
            assert!(due.is_sorted());
            assert!(due[0] >= 5_000 && due[999] < second);
            assert!(schedule.due_ns(1_000) >= second);
        }
    }

    #[test]
    fn an_even_schedule_has_no_jitter_and_a_jittered_one_does() {
        let even = Schedule::new(0, 1, 1, 1_000.0, false);
        assert_eq!(even.due_ns(5), 5_000_000);
        let jittered = Schedule::new(0, 1, 1, 1_000.0, true);
        let offsets: Vec<_> = (0..1_000)
            .map(|k| jittered.due_ns(k) - k * 1_000_000)
            .collect();
        let mean = offsets.iter().sum::<u64>() / 1_000;
        assert!((450_000..550_000).contains(&mean), "mean offset {mean}");
        assert!(offsets.iter().all(|offset| *offset <= 1_000_000));
    }
}
