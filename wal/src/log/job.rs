//! Preparing segments behind the log's back.

use super::Prepared;
use crate::format::SegmentHeader;
use crate::segment::{prepare_new, prepare_recycled, salt, segment_path};
use crate::{Disk, Identity, LogConfig, SegmentId};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

/// Calls of [`super::Log::next_job`] that pass after a failed preparation before it is tried again;
/// a recycled segment ends the wait.
const RETRY_CALLS: u32 = 256;

/// Blocking work that the log wants done off the data core: preparing or recycling a segment.
#[derive(Debug)]
pub struct LogJob {
    dir: PathBuf,
    work: Work,
}

#[derive(Debug)]
enum Work {
    New(SegmentHeader),
    Recycle {
        old: SegmentId,
        header: SegmentHeader,
    },
    Remove(SegmentId),
}

impl LogJob {
    /// Carries it out. May take long (it zero-fills files).
    pub fn run(self, disk: &dyn Disk) -> LogJobDone {
        let (result, header) = match &self.work {
            Work::New(header) => (prepare_new(disk, &self.dir, header), Some(*header)),
            Work::Recycle { old, header } => (
                prepare_recycled(disk, &self.dir, *old, header),
                Some(*header),
            ),
            Work::Remove(old) => (disk.remove(&segment_path(&self.dir, *old)), None),
        };
        let prepared = header.map(|header| Prepared {
            segment: header.segment,
            salt: header.salt,
        });
        LogJobDone { prepared, result }
    }
}

/// How a [`LogJob`] ended.
#[derive(Debug)]
pub struct LogJobDone {
    prepared: Option<Prepared>,
    result: io::Result<()>,
}

impl LogJobDone {
    /// Why it failed, if it did: for the operator's eye, the log knows.
    pub fn error(&self) -> Option<&io::Error> {
        self.result.as_ref().err()
    }
}

/// What is known about preparing: at most one job is under way.
#[derive(Debug, Default)]
pub(super) struct Preparation {
    /// Files that hold nothing needed, oldest first, so that those left stay without a gap.
    spare: VecDeque<SegmentId>,
    under_way: bool,
    failing: bool,
    /// Calls until a failed preparation is tried again.
    wait_calls: u32,
}

impl Preparation {
    pub(super) fn new(spare: VecDeque<SegmentId>) -> Self {
        Self {
            spare,
            ..Self::default()
        }
    }

    /// Whether the last preparation failed.
    pub(super) fn failing(&self) -> bool {
        self.failing
    }

    /// Ends the wait after a failure.
    pub(super) fn retry(&mut self) {
        self.wait_calls = 0;
    }

    pub(super) fn add_spare(&mut self, segment: SegmentId) {
        self.spare.push_back(segment);
        self.wait_calls = 0;
    }

    /// `next` is the segment to be prepared, if one is wanted.
    pub(super) fn next_job(
        &mut self,
        dir: &Path,
        next: Option<SegmentId>,
        epoch: u64,
        identity: Identity,
        config: &LogConfig,
    ) -> Option<LogJob> {
        if self.under_way {
            return None;
        }
        if self.wait_calls > 0 {
            self.wait_calls -= 1;
            return None;
        }
        let work = match next {
            Some(segment) => {
                let header = SegmentHeader {
                    identity,
                    segment,
                    segment_bytes: config.segment_bytes,
                    salt: salt(config.salt_seed, epoch, segment),
                };
                match self.spare.pop_front() {
                    Some(old) => Work::Recycle { old, header },
                    None => Work::New(header),
                }
            }
            None if self.spare.len() > config.segments_ready => {
                Work::Remove(self.spare.pop_front()?)
            }
            None => return None,
        };
        self.under_way = true;
        Some(LogJob {
            dir: dir.to_owned(),
            work,
        })
    }

    /// The segment that is now prepared, if one is.
    pub(super) fn on_done(&mut self, done: LogJobDone) -> Option<Prepared> {
        assert!(self.under_way, "a job that ends was under way");
        self.under_way = false;
        match (done.result, done.prepared) {
            (Ok(()), Some(prepared)) => {
                self.failing = false;
                Some(prepared)
            }
            (Err(_), Some(_)) => {
                // A spare file whose header could not be written is not tried again; opening the
                // log finds it below the low-water mark.
                self.failing = true;
                self.wait_calls = RETRY_CALLS;
                None
            }
            // A file that could not be removed is found again when the log is opened.
            (_, None) => None,
        }
    }
}
