//! Blocking work, carried out off the shard's core.

use crate::apart::{Apart, ApartDone};
use crate::config::RoomId;
use crate::index::SnapshotRef;
use crate::manifest::Manifest;
use crate::paths::ShardDir;
use crate::rebuild::{self, Rebuild};
use crate::room_doc::RoomDoc;
use crate::snapshot::copy::{self, Copied};
use crate::snapshot::read::Entry;
use crate::snapshot::write::{self, Encoded, Stored, Tail};
use crate::watch::{WatchJob, within};
use collabblocks_wal::{Disk, LogJob, LogJobDone};
use std::io;
use std::sync::Arc;

/// Blocking work: preparing segments, loading, decoding, storing and compacting snapshots, manifests.
/// Jobs of one engine may run at the same time and in any order. `Send`.
pub struct Job {
    pub(crate) dir: Arc<ShardDir>,
    pub(crate) work: Work,
}

/// What is to be done.
pub(crate) enum Work {
    /// The log's own.
    Log(LogJob),
    /// Read a room's snapshot and make its document.
    Load {
        room: RoomId,
        name: Box<str>,
        at: SnapshotRef,
    },
    /// Make a room's document again, from its snapshot and the log.
    Rebuild(Rebuild),
    /// Store a batch of snapshots.
    Store { tail: Tail, batch: Vec<Encoded> },
    /// Write the manifest.
    Manifest(Manifest),
    /// List the entries of a snapshot segment.
    List { segment: u32, durable_bytes: u64 },
    /// Copy snapshots out of a segment.
    Copy {
        tail: Tail,
        entries: Vec<(Box<str>, SnapshotRef)>,
    },
    /// Remove a dead snapshot segment.
    Remove { segment: u32 },
    /// Ask how much space is left.
    FreeBytes,
    /// Large work on a room's document.
    Apart(Apart),
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.work {
            Work::Log(job) => write!(f, "Job({job:?})"),
            Work::Load { name, .. } => write!(f, "Job(load {name:?})"),
            Work::Rebuild(rebuild) => write!(f, "Job(rebuild {:?})", rebuild.name),
            Work::Store { batch, .. } => write!(f, "Job(store {} snapshots)", batch.len()),
            Work::Manifest(manifest) => write!(f, "Job(manifest {})", manifest.sequence),
            Work::List { segment, .. } => write!(f, "Job(list snapshot segment {segment})"),
            Work::Copy { entries, .. } => write!(f, "Job(copy {} snapshots)", entries.len()),
            Work::Remove { segment } => write!(f, "Job(remove snapshot segment {segment})"),
            Work::FreeBytes => f.write_str("Job(free bytes)"),
            Work::Apart(apart) => write!(f, "Job(apart {:?})", apart.room),
        }
    }
}

impl Job {
    /// As [`Job::run_watched`], with nobody to watch (the simulator: at a time of its choosing).
    pub fn run(self, disk: &dyn Disk) -> JobDone {
        self.run_watched(disk, &())
    }

    /// Carries it out, on a file-worker thread. `watch` is told which room's document it is in.
    pub fn run_watched(self, disk: &dyn Disk, watch: &dyn WatchJob) -> JobDone {
        let dir = &*self.dir;
        let done = match self.work {
            Work::Log(job) => Done::Log(job.run(disk)),
            Work::Load { room, name, at } => {
                let doc = Entry::read(disk, dir, &name, at)
                    .map_err(String::from)
                    .and_then(|entry| within(watch, &name, || entry.document()));
                Done::Load {
                    room,
                    segment: at.segment,
                    doc: doc.map(Box::new),
                }
            }
            Work::Rebuild(rebuild) => Done::Rebuild {
                room: rebuild.room,
                segment: rebuild.snapshot.map(|at| at.segment),
                doc: rebuild::run(disk, dir, &rebuild, watch).map(Box::new),
            },
            Work::Store { tail, batch } => Done::Store(write::store(disk, dir, tail, batch, watch)),
            Work::Manifest(manifest) => {
                let result = manifest.store(disk, &dir.root);
                Done::Manifest(manifest, result)
            }
            Work::List {
                segment,
                durable_bytes,
            } => Done::List(
                segment,
                copy::entries(disk, dir, segment, durable_bytes).map_err(|e| e.to_string()),
            ),
            Work::Copy { tail, entries } => Done::Copy(copy::copy(disk, dir, tail, entries)),
            Work::Remove { segment } => {
                let removed = disk.remove(&dir.snapshot(segment));
                Done::Remove(removed.and_then(|()| disk.sync_dir(&dir.snapshots())))
            }
            Work::FreeBytes => Done::FreeBytes(disk.free_bytes(&dir.root)),
            Work::Apart(apart) => Done::Apart(apart.run(watch)),
        };
        JobDone { done }
    }
}

/// How a [`Job`] ended. `Send`.
pub struct JobDone {
    pub(crate) done: Done,
}

/// What came of it.
pub(crate) enum Done {
    Log(LogJobDone),
    Load {
        room: RoomId,
        segment: u32,
        doc: Result<Box<RoomDoc>, String>,
    },
    Rebuild {
        room: RoomId,
        segment: Option<u32>,
        doc: Result<Box<RoomDoc>, String>,
    },
    Store(Stored),
    Manifest(Manifest, io::Result<()>),
    List(u32, Result<Vec<(Box<str>, SnapshotRef)>, String>),
    Copy(io::Result<Copied>),
    Remove(io::Result<()>),
    FreeBytes(io::Result<u64>),
    Apart(ApartDone),
}

impl std::fmt::Debug for JobDone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &self.done {
            Done::Log(_) => "JobDone(log)",
            Done::Load { .. } => "JobDone(load)",
            Done::Rebuild { .. } => "JobDone(rebuild)",
            Done::Store(_) => "JobDone(store)",
            Done::Manifest(..) => "JobDone(manifest)",
            Done::List(..) => "JobDone(list)",
            Done::Copy(_) => "JobDone(copy)",
            Done::Remove(_) => "JobDone(remove)",
            Done::FreeBytes(_) => "JobDone(free bytes)",
            Done::Apart(_) => "JobDone(apart)",
        })
    }
}
