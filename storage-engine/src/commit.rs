//! When the log is written: the commit window, the seal after rest, and the orderly end.

use crate::config::{Nanos, Request};
use crate::engine::{Engine, nanos};
use collabblocks_wal::{Lsn, Poisoned, RecordKind, RoomKey, WriteJob};
use std::io;
use std::time::Duration;

/// How often `poll` wants to be called while the log waits for a segment.
const SEGMENT_WAIT: Duration = Duration::from_millis(10);

/// Commit delays that a pause between records counts for at most. After such a pause the log is at
/// rest, and some ten records later it may be under load again.
const PAUSE_DELAYS_MAX: u64 = 16;

/// How far the engine's shutdown has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Closing {
    /// It serves.
    #[default]
    No,
    /// It flushes.
    Flushing,
    /// CleanShutdown is in the log, durable at this address.
    Ended(Lsn),
}

/// A commit waits for company where records come less than this many commit delays apart: two of
/// five that come two delays apart find some, which saves more than the timers of the others cost.
const COMPANY_DELAYS: u64 = 2;

/// The state of the commit window.
#[derive(Default)]
pub(crate) struct Commit {
    /// When the oldest record that waits was appended.
    pub(crate) pending_since: Option<Nanos>,
    /// When the last record was appended.
    appended_at: Option<Nanos>,
    /// How far apart records come, a moving average.
    apart: Nanos,
    /// When the last write ended.
    pub(crate) written_at: Nanos,
    pub(crate) closing: Closing,
    /// Batches committed since start.
    pub(crate) commits: u64,
}

impl Commit {
    /// A record was appended.
    pub(crate) fn on_appended(&mut self, now: Nanos, delay: Nanos) {
        self.pending_since.get_or_insert(now);
        let apart_max = delay.saturating_mul(PAUSE_DELAYS_MAX);
        self.apart = match self.appended_at {
            Some(at) => (7 * self.apart + now.saturating_sub(at).min(apart_max)) / 8,
            None => apart_max,
        };
        self.appended_at = Some(now);
    }
}

/// The earliest of the times at which something is to be done.
#[derive(Clone, Copy, Default)]
pub(crate) struct Deadline(pub(crate) Option<Nanos>);

impl Deadline {
    pub(crate) fn at(&mut self, time: Nanos) {
        self.0 = Some(self.0.map_or(time, |before| before.min(time)));
    }
}

impl Engine {
    /// Hands out a log write if it is time for one.
    pub(crate) fn poll_commit(
        &mut self,
        now: Nanos,
        requests: &mut Vec<Request>,
        next: &mut Deadline,
    ) {
        if self.log.in_flight() || self.log.poisoned() {
            return;
        }
        let delay = nanos(self.config.commit_delay);
        // Company is to be expected.
        let lazy = self.commit.closing == Closing::No
            && self.commit.apart < delay.saturating_mul(COMPANY_DELAYS);
        if self.commit.closing == Closing::Flushing
            && self.log.pending_bytes() == 0
            && self.at_rest()
        {
            self.end_log();
        }
        if self.log.pending_bytes() == 0 {
            if self.commit.closing != Closing::No || !self.log.needs_seal() {
                return;
            }
            let seal_at = self
                .commit
                .written_at
                .saturating_add(nanos(self.config.seal_after));
            if now < seal_at {
                next.at(seal_at);
                return;
            }
            self.log.seal();
        } else if self.commit.closing == Closing::No
            && self.log.pending_bytes() < self.config.commit_bytes
        {
            // Where company is to be expected a commit waits for it: after half the delay it goes
            // along with whatever wakes the core, at the latest by a timer.
            let since = *self.commit.pending_since.get_or_insert(now);
            if lazy && now < since.saturating_add(delay / 2) {
                next.at(since.saturating_add(delay));
                return;
            }
        }
        match self.log.next_write() {
            Some(job) => {
                // What did not fit into this batch goes with the next, and need not wait again.
                let all = self.log.pending_bytes() == 0;
                self.commit.pending_since = (!all).then_some(0);
                requests.push(Request::Write { job, lazy });
            }
            // The next segment is not prepared; one that failed is tried for again by later calls.
            None => next.at(now.saturating_add(nanos(SEGMENT_WAIT))),
        }
    }

    /// The last record. A log that cannot take it ends without it: nothing is lost by that.
    fn end_log(&mut self) {
        let end = match self
            .log
            .append(RecordKind::CleanShutdown, RoomKey(0), 0, &[])
        {
            Ok(appended) => appended.durable_at,
            Err(_) => self.log.durable_lsn(),
        };
        self.commit.closing = Closing::Ended(end);
    }

    /// A log write ended.
    pub fn on_written(
        &mut self,
        now: Nanos,
        job: WriteJob,
        result: io::Result<usize>,
    ) -> Result<Lsn, Poisoned> {
        let durable = self.log.on_written(job, result)?;
        self.commit.written_at = now;
        self.commit.commits += 1;
        Ok(durable)
    }

    /// Shutdown: from now on no update is taken, and `poll` flushes without delay and ends the log
    /// with CleanShutdown; `true` once all is durable and nothing is under way.
    pub fn close(&mut self, _now: Nanos) -> bool {
        if self.commit.closing == Closing::No {
            self.commit.closing = Closing::Flushing;
        }
        match self.commit.closing {
            Closing::Ended(end) => {
                self.log.durable_lsn() >= end && self.at_rest() && !self.log.in_flight()
            }
            Closing::No | Closing::Flushing => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EngineConfig;
    use crate::RoomId;
    use collabblocks_wal::{Disk, Identity, sim_disk::SimDisk};
    use std::path::Path;
    use std::sync::Arc;

    const US: Nanos = 1_000;

    struct Rig {
        sim: SimDisk,
        engine: Engine,
        room: RoomId,
        clock: u8,
    }

    impl Rig {
        fn new() -> Self {
            let sim = SimDisk::new();
            let disk: Arc<dyn Disk> = Arc::new(sim.clone());
            let config = EngineConfig {
                disk_reserve_bytes: 0,
                ..EngineConfig::default()
            };
            let identity = Identity {
                store: [1; 16],
                shard: 0,
            };
            let mut engine = Engine::open(&disk, Path::new("/shard"), identity, config)
                .unwrap()
                .0;
            let (room, _) = engine.attach(0, "room");
            Self {
                sim,
                engine,
                room,
                clock: 0,
            }
        }

        fn edit(&mut self, now: Nanos) {
            let update: &[u8] = match self.clock {
                0 => &[1, 1, 1, 0, 4, 1, 1, b't', 1, b'a', 0],
                clock => &[1, 1, 1, clock, 0x84, 1, clock - 1, 1, b'b', 0],
            };
            self.engine.apply(now, self.room, update, false).unwrap();
            self.clock += 1;
        }

        /// Whether a commit began, and if so whether it was lazy; and when to ask again.
        fn poll(&mut self, now: Nanos) -> (Option<bool>, Option<Nanos>) {
            let mut requests = Vec::new();
            let next = self.engine.poll(now, &mut requests);
            let mut began = None;
            for request in requests {
                match request {
                    Request::Write { job, lazy } => {
                        began = Some(lazy);
                        let result = job.run(&self.sim);
                        self.engine.on_written(now, job, result).unwrap();
                    }
                    Request::Job(job) => {
                        let done = job.run(&self.sim);
                        self.engine.on_job_done(now, done, &mut Vec::new());
                    }
                }
            }
            (began, next)
        }
    }

    #[test]
    fn at_rest_an_edit_is_committed_at_once_and_under_load_it_waits_for_company() {
        let mut rig = Rig::new();
        let mut now = 0;
        // As far apart as no company would come within the delay.
        for _ in 0..20 {
            now += 5_000 * US;
            rig.edit(now);
            assert_eq!(rig.poll(now).0, Some(false), "at {now}");
        }
        // Close together: soon the log counts as under load.
        let mut waited = 0;
        for _ in 0..60 {
            now += 100 * US;
            rig.edit(now);
            waited += u32::from(rig.poll(now).0.is_none());
        }
        assert!(waited > 20, "{waited} of 60 waited");
        while rig.poll(now).0.is_none() {
            now += 100 * US;
        }
        rig.edit(now);
        let (began, next) = rig.poll(now + 999 * US);
        assert_eq!(began, None, "before half the delay it waits");
        assert!(next.is_some_and(|at| at <= now + 2_000 * US), "{next:?}");
        assert_eq!(rig.poll(now + 1_000 * US).0, Some(true));
        // After a pause the first edit does not wait.
        now += 60_000 * US;
        rig.edit(now);
        assert_eq!(rig.poll(now).0, Some(false));
    }
}
