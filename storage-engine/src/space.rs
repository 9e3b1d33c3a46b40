//! Free space on disk: updates are refused before the log, snapshots and manifests run out of it.

use crate::commit::Deadline;
use crate::config::Nanos;
use crate::engine::{Engine, nanos};
use crate::job::Work;
use std::io;
use std::time::Duration;

/// Logged bytes after which the free space is looked at again.
const CHECK_BYTES: u64 = 64 << 20;
/// Time after which it is looked at again, if anything was logged.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// Time after which it is looked at again while it is short, or the log gets no segments.
const CHECK_SHORT_EVERY: Duration = Duration::from_secs(1);

/// What is known of the free space.
#[derive(Default)]
pub(crate) struct Space {
    /// Less is free than is held in reserve: no update is taken.
    pub(crate) short: bool,
    checking: bool,
    checked_at: Nanos,
    /// Bytes logged when it was last looked at.
    checked_bytes: u64,
}

impl Space {
    pub(crate) fn new(short: bool) -> Self {
        Self {
            short,
            ..Self::default()
        }
    }
}

impl Engine {
    pub(crate) fn poll_space(&mut self, now: Nanos, next: &mut Deadline) {
        if self.space.checking {
            return;
        }
        let logged = self.log_bytes - self.space.checked_bytes;
        let short = self.space.short || self.log.preparation_failing();
        let every = if short {
            CHECK_SHORT_EVERY
        } else {
            CHECK_EVERY
        };
        let check_at = self.space.checked_at.saturating_add(nanos(every));
        let due = now >= check_at && (logged > 0 || short);
        if !due && logged < CHECK_BYTES {
            if short {
                next.at(check_at);
            }
            return;
        }
        self.space.checking = true;
        self.space.checked_bytes = self.log_bytes;
        self.begin(Work::FreeBytes);
    }

    pub(crate) fn on_free_bytes(&mut self, now: Nanos, free: io::Result<u64>) {
        self.space.checking = false;
        self.space.checked_at = now;
        if let Ok(free) = free {
            self.space.short = free < self.config.disk_reserve_bytes;
        }
        // Without this a log that nobody could write to would never find out that it can be.
        self.log.retry_preparation();
    }
}
