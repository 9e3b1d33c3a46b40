//! When the log is written: the commit window, the seal after rest, and the orderly end.

use crate::config::{Nanos, Request};
use crate::engine::{Engine, nanos};
use collabblocks_wal::{Lsn, Poisoned, RecordKind, RoomKey, WriteJob};
use std::io;
use std::time::Duration;

/// How often `poll` wants to be called while the log waits for a segment.
const SEGMENT_WAIT: Duration = Duration::from_millis(10);

/// Commit delays without a commit after which the log counts as at rest.
const REST_DELAYS: u64 = 8;

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

/// The state of the commit window.
#[derive(Default)]
pub(crate) struct Commit {
    /// When the oldest record that waits was appended.
    pub(crate) pending_since: Option<Nanos>,
    /// When the last write was handed out; `None` before the first.
    pub(crate) began_at: Option<Nanos>,
    /// When the last write ended.
    pub(crate) written_at: Nanos,
    pub(crate) closing: Closing,
    /// Batches committed since start.
    pub(crate) commits: u64,
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
            // At rest an update is committed at once. Under load it waits for company: after half the
            // delay it goes along with whatever wakes the core, at the latest by a timer.
            let delay = nanos(self.config.commit_delay);
            let since = *self.commit.pending_since.get_or_insert(now);
            let rested = |at: Nanos| now >= at.saturating_add(delay * REST_DELAYS);
            let at_rest = self.commit.began_at.is_none_or(rested);
            if !at_rest && now < since.saturating_add(delay / 2) {
                next.at(since.saturating_add(delay));
                return;
            }
        }
        match self.log.next_write() {
            Some(job) => {
                // What did not fit into this batch has waited long enough, and goes with the next.
                let all = self.log.pending_bytes() == 0;
                self.commit.began_at = all.then_some(now);
                self.commit.pending_since = None;
                requests.push(Request::Write(job));
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
