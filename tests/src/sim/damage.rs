//! A disk that breaks its own promises: it rots, writes to the wrong place, or says that it has synced
//! and has not. Then the server may refuse to open, and must not open with anything lost that a later
//! batch of the log vouches for.

use super::document::Document;
use super::oracle::Violation;
use super::world::World;
use collabblocks_wal::sim_disk::{ReadFault, SimDisk, SimFault};
use collabblocks_wal::{Disk, OpenError, WriteJob, inspect};
use std::io;
use std::path::{Path, PathBuf};

const BLOCK: u64 = collabblocks_wal::BLOCK_BYTES as u64;
const SECTOR: u64 = 512;

/// What was damaged.
#[derive(Clone, Debug)]
pub(crate) enum Damage {
    /// What is durable and vouched for.
    Vouched,
    /// A log, from this LSN on; whether it is vouched for is seen by what follows it.
    Log(PathBuf, u64),
}

impl World {
    /// A data directory keeps what was promised. `None`: it is damaged, and it was refused, or what it
    /// lost is what nobody could know of.
    pub fn check_disk(&mut self, disk: SimDisk, when: &str) -> Option<Vec<Document>> {
        disk.clear_faults();
        disk.heal();
        disk.set_capacity(None);
        let as_found = disk.fork();
        match self.oracle.check_disk(disk, self.shards, &self.plan.engine) {
            Ok(documents) => Some(documents),
            Err(Violation::Refused(why)) if !self.damage.is_empty() => {
                self.log
                    .note(self.now, format_args!("{when}, refused: {why}"));
                self.saw("refused");
                None
            }
            Err(Violation::Lost(why)) if self.is_excused(&as_found) => {
                self.log
                    .note(self.now, format_args!("{when}, not promised: {why}"));
                self.saw("lost what nothing vouches for");
                None
            }
            Err(Violation::Refused(why) | Violation::Lost(why)) => panic!("{when}: {why}"),
        }
    }

    /// Whether there is damage that nothing on the disk vouches for.
    fn is_excused(&self, disk: &SimDisk) -> bool {
        self.damage.iter().any(|damage| match damage {
            Damage::Vouched => false,
            Damage::Log(dir, lsn) => vouched(disk, dir).is_some_and(|end| end <= *lsn),
        })
    }

    /// Whether damage explains that the data directory does not open.
    pub fn explains(&self, error: &OpenError) -> bool {
        !self.damage.is_empty() && !matches!(error, OpenError::Io { .. })
    }

    /// The server stays down: a person has to see to it.
    pub fn give_up(&mut self) {
        self.given_up = true;
        self.over = true;
    }

    /// Before the calm: all damage comes to light, or there is none left that matters.
    pub fn look_for_damage(&mut self) {
        if self.damage.is_empty() {
            return;
        }
        self.crash(true);
        if !self.given_up {
            // A batch that went astray may still lie ahead, where the log comes to it later.
            self.damage
                .retain(|damage| matches!(damage, Damage::Log(..)));
            self.saw("damage without effect");
        }
    }

    /// Flips a bit in what a later batch vouches for, or in what is no log.
    pub fn rot(&mut self) {
        let files: Vec<(PathBuf, usize)> = (self.disk.files().into_iter())
            .filter(|(_, bytes)| !bytes.is_empty())
            .map(|(path, bytes)| (path, bytes.len()))
            .collect();
        if files.is_empty() {
            return;
        }
        let (path, len) = self.rng.pick(&files).clone();
        let offset = match path.parent().filter(|dir| dir.ends_with("wal")) {
            None => self.rng.range(0..len as u64),
            Some(dir) => {
                let Some(range) = self.vouched_batch(dir, &path) else {
                    return;
                };
                self.rng.range(range)
            }
        };
        let mask = 1 << self.rng.range(0..8);
        self.disk.corrupt(&path, offset, mask);
        self.log.note(
            self.now,
            format_args!("{}: a bit rots at {offset}", path.display()),
        );
        self.damage.push(Damage::Vouched);
        self.saw("rotten");
    }

    /// From now on a sector of some file that holds something cannot be read; what it holds stays.
    pub fn spoil(&mut self) {
        let mut written = Vec::new();
        for (path, bytes) in self.disk.files() {
            let sectors = bytes.chunks(SECTOR as usize).zip(0..);
            let held = sectors.filter(|(sector, _)| sector.iter().any(|byte| *byte != 0));
            written.extend(held.map(|(_, number)| (path.clone(), number * SECTOR)));
        }
        if written.is_empty() {
            return;
        }
        let (path, sector) = self.rng.pick(&written).clone();
        self.disk
            .spoil(&path, sector..sector + SECTOR, ReadFault::Lasting);
        self.log.note(
            self.now,
            format_args!("{}: {sector} cannot be read", path.display()),
        );
        self.saw("unreadable");
    }

    /// Where in a segment's file one of the batches stands that a later one vouches for.
    fn vouched_batch(&mut self, dir: &Path, path: &Path) -> Option<std::ops::Range<u64>> {
        let disk = self.disk.fork();
        disk.heal();
        let end = vouched(&disk, dir)?;
        let segments = inspect::inspect(&disk, dir).ok()?;
        let segment = segments.into_iter().find(|segment| segment.path == path)?;
        let start = segment.segment.0 * segment.header.ok()?.segment_bytes;
        let batches: Vec<_> = (segment.batches.iter())
            .filter(|batch| batch.fault.is_none() && batch.lsn.0 + batch.bytes <= end)
            .collect();
        let batch = (!batches.is_empty()).then(|| *self.rng.pick(&batches))?;
        let offset = batch.lsn.0 - start;
        Some(offset..offset + batch.bytes)
    }

    /// Where a log write goes: mostly where it should.
    pub fn offset_of_write(&mut self, job: &WriteJob) -> u64 {
        let Some(blocks) = self.misdirected.take() else {
            return job.offset;
        };
        let astray = job.offset.saturating_add_signed(blocks * BLOCK as i64);
        let last = self.plan.engine.log.segment_bytes - job.buffer.len() as u64;
        let astray = astray.clamp(BLOCK, last.max(BLOCK));
        if astray == job.offset {
            return job.offset;
        }
        self.log.note(
            self.now,
            format_args!("a write for {} goes to {astray}", job.offset),
        );
        self.damage_log(job, astray.min(job.offset));
        self.saw("misdirected");
        astray
    }

    /// The sync of a batch.
    pub fn log_sync(&mut self, job: &WriteJob) -> io::Result<()> {
        if std::mem::take(&mut self.sync_error) {
            self.saw("sync failed");
            return self.fail_sync(&job.path);
        }
        if std::mem::take(&mut self.lost_sync) && self.power_at.is_none() {
            self.disk.fail(self.disk.ops_count(), SimFault::LostSync);
            self.log.note(self.now, format_args!("a sync is a lie"));
            self.damage_log(job, job.offset);
            self.saw("sync lost");
        }
        self.disk.sync(&job.path)
    }

    /// A sync that fails: what it was to make durable is read until the power goes, and then it is gone.
    pub fn fail_sync(&self, path: &Path) -> io::Result<()> {
        if self.power_at.is_none() {
            self.disk.fail(self.disk.ops_count(), SimFault::Eio);
            return self.disk.sync(path);
        }
        Err(io::Error::other("simulated error of a sync"))
    }

    fn damage_log(&mut self, job: &WriteJob, offset: u64) {
        let dir = job.path.parent().expect("a segment lies in a directory");
        let lsn = job.segment.0 * self.plan.engine.log.segment_bytes + offset;
        self.damage.push(Damage::Log(dir.into(), lsn));
    }
}

/// How far a log's own batches say that it was durable; `None` where there is no log.
fn vouched(disk: &dyn Disk, dir: &Path) -> Option<u64> {
    let segments = inspect::inspect(disk, dir).ok()?;
    let batches = segments.iter().flat_map(|segment| &segment.batches);
    Some(
        batches
            .filter(|batch| batch.fault.is_none())
            .map(|batch| batch.durable_lsn.0)
            .max()
            .unwrap_or(0),
    )
}
