//! Compaction of snapshot segments: what lives in a mostly dead one is copied to the end of the
//! newest, then the manifest forgets it, then its file is removed.

use crate::config::Nanos;
use crate::engine::Engine;
use crate::index::SnapshotRef;
use crate::job::Work;
use crate::snapshot::copy::Copied;
use std::io;

/// Bytes and entries copied by one job.
const COPY_BYTES: u64 = 16 << 20;
const COPY_ENTRIES: usize = 1024;

/// A segment on its way out.
pub(crate) enum Compaction {
    /// Its entries are being listed.
    Listing(u32),
    /// These are still to be copied, the last first.
    Copying(u32, Vec<(Box<str>, SnapshotRef)>),
    /// Nothing in it lives: the manifest is being written without it.
    Forgetting(u32),
    /// No manifest names it: its file can be removed, once nothing reads from it.
    Removing(u32),
}

impl Engine {
    /// The next step, or the first of a new compaction.
    pub(crate) fn next_compaction(&mut self) -> Option<Work> {
        if self.compaction.is_none() {
            let (id, found) = self.segments.worst(self.config.snapshot_live_ratio_min)?;
            let listing = Compaction::Listing(id);
            let dead = Compaction::Copying(id, Vec::new());
            self.compaction = Some(if found.live_bytes == 0 { dead } else { listing });
        }
        match self.compaction.as_mut()? {
            Compaction::Listing(id) => {
                let durable_bytes = self
                    .segments
                    .get(*id)
                    .expect("a victim is known")
                    .durable_bytes;
                Some(Work::List {
                    segment: *id,
                    durable_bytes,
                })
            }
            Compaction::Copying(id, left) => {
                let mut entries = Vec::new();
                let mut bytes = 0;
                while entries.len() < COPY_ENTRIES && bytes < COPY_BYTES {
                    let Some((name, at)) = left.pop() else { break };
                    if self.rooms.snapshot(&name) == Some(at) {
                        bytes += u64::from(at.len);
                        entries.push((name, at));
                    }
                }
                if !entries.is_empty() {
                    return Some(Work::Copy {
                        tail: self.upkeep.tail,
                        entries,
                    });
                }
                let id = *id;
                if self.segments.get(id).expect("a victim is known").readers > 0 {
                    return None;
                }
                self.compaction = Some(Compaction::Forgetting(id));
                let low = self.upkeep.manifest.low;
                Some(Work::Manifest(self.next_manifest(low, Some(id))))
            }
            Compaction::Forgetting(id) => {
                // The manifest could not be written: once more.
                let id = *id;
                let low = self.upkeep.manifest.low;
                Some(Work::Manifest(self.next_manifest(low, Some(id))))
            }
            Compaction::Removing(id) => Some(Work::Remove { segment: *id }),
        }
    }

    pub(crate) fn on_listed(
        &mut self,
        id: u32,
        found: Result<Vec<(Box<str>, SnapshotRef)>, String>,
    ) {
        self.upkeep.busy = false;
        self.compaction = match found {
            Ok(mut entries) => {
                entries.retain(|(name, at)| self.rooms.snapshot(name) == Some(*at));
                Some(Compaction::Copying(id, entries))
            }
            Err(_) => {
                self.segments.give_up(id);
                None
            }
        };
    }

    pub(crate) fn on_copied(&mut self, now: Nanos, copied: io::Result<Copied>) {
        self.upkeep.busy = false;
        match copied {
            Ok(copied) => {
                self.grow_tail(copied.tail);
                for (name, from, to) in copied.moved {
                    // A newer snapshot may have been installed meanwhile.
                    if self.rooms.snapshot(&name) == Some(from) {
                        self.segments.born(to);
                        self.segments.died(from);
                        self.rooms.set_snapshot(&name, to);
                    }
                }
            }
            Err(_) => {
                if let Some(Compaction::Copying(id, _)) = self.compaction.take() {
                    self.segments.give_up(id);
                }
                self.segments.seal(self.upkeep.tail.segment);
                self.upkeep.abandon_tail(now);
            }
        }
    }

    /// The manifest does not name the victim any more.
    pub(crate) fn compaction_on_manifest(&mut self) {
        if let Some(Compaction::Forgetting(id)) = self.compaction
            && !self.upkeep.manifest.snapshots.iter().any(|s| s.id == id)
        {
            self.segments.dropped(id);
            self.compaction = Some(Compaction::Removing(id));
        }
    }

    /// A file that could not be removed is removed at the next start: the manifest does not name it.
    pub(crate) fn on_removed(&mut self, _result: io::Result<()>) {
        self.upkeep.busy = false;
        self.compaction = None;
    }
}
