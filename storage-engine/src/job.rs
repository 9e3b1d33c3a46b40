//! Blocking work, carried out off the shard's core.

use collabblocks_wal::{Disk, LogJob, LogJobDone};

/// Blocking work: preparing segments, loading, decoding, storing and compacting snapshots, manifests.
/// Jobs of one engine may run at the same time and in any order. `Send`.
pub struct Job {
    pub(crate) work: Work,
}

/// What is to be done.
pub(crate) enum Work {
    /// The log's own.
    Log(LogJob),
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.work {
            Work::Log(_) => "Job(log segment)",
        })
    }
}

impl Job {
    /// Carries it out, on a file-worker thread (the simulator: at a time of its choosing).
    pub fn run(self, disk: &dyn Disk) -> JobDone {
        JobDone {
            done: match self.work {
                Work::Log(job) => Done::Log(job.run(disk)),
            },
        }
    }
}

/// How a [`Job`] ended. `Send`.
pub struct JobDone {
    pub(crate) done: Done,
}

/// What came of it.
pub(crate) enum Done {
    Log(LogJobDone),
}

impl std::fmt::Debug for JobDone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JobDone")
    }
}
