//! A disk in memory that keeps to what a disk promises and to nothing more.
//!
//! What was not synced may be lost at a crash, sector by sector and name by name; what was synced
//! stays, unless a fault is injected. Every change is one [`SimOp`], counted and recorded, so that a
//! test can stop at each of them and crash there in every way ([`SimDisk::replayed`],
//! [`SimDisk::unsynced`], [`SimDisk::crash_keeping`]). Nothing here is random but by seed.

mod state;

pub use state::{SimOp, Unsynced};

use crate::Disk;
use state::State;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What goes wrong at an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SimFault {
    /// It fails with EIO. Of a write an unspecified part (the first half) arrived; what a failed sync
    /// should have made durable never becomes so by a later one.
    Eio,
    /// It fails with ENOSPC, and does nothing.
    Enospc,
    /// Half of a write arrives, and it fails.
    ShortWrite,
    /// A sync says that it is done and did nothing, for good.
    LostSync,
    /// A write goes this many bytes further on than it should.
    Misdirected(u64),
    /// This operation and all after it fail and do nothing, until the crash.
    PowerOff,
}

/// For how long a place cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadFault {
    /// The next read of it fails with EIO, those after it do not.
    Once,
    /// Every read of it fails with EIO, until it is written over or the disk is healed.
    Lasting,
}

/// A simulated disk; clones share it. Paths are plain keys, nothing of the host is touched.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Clone, Debug, Default)]
struct Inner {
    state: State,
    ops: Vec<SimOp>,
    recording: bool,
    ops_count: u64,
    faults: BTreeMap<u64, SimFault>,
    reads_count: u64,
    reads_failed: u64,
    read_faults: BTreeSet<u64>,
    capacity_bytes: Option<u64>,
    off: bool,
}

impl SimDisk {
    /// Empty and unbounded.
    pub fn new() -> Self {
        Self::default()
    }

    /// A disk that has seen exactly these operations.
    pub fn replayed(ops: &[SimOp]) -> Self {
        let disk = Self::new();
        for op in ops {
            disk.replay(op);
        }
        disk
    }

    /// Does a recorded operation again.
    pub fn replay(&self, op: &SimOp) {
        self.lock()
            .step(op.clone())
            .expect("a recorded operation succeeded and does so again");
    }

    /// A copy that shares nothing.
    pub fn fork(&self) -> Self {
        Self {
            inner: Arc::new(Mutex::new(self.lock().clone())),
        }
    }

    /// From now on operations are kept for [`SimDisk::ops`].
    pub fn record(&self) {
        self.lock().recording = true;
    }

    /// The operations recorded.
    pub fn ops(&self) -> Vec<SimOp> {
        self.lock().ops.clone()
    }

    /// How many changing operations were asked for; the next has this number.
    pub fn ops_count(&self) -> u64 {
        self.lock().ops_count
    }

    /// Lets the operation of this number (see [`SimDisk::ops_count`]) go wrong.
    pub fn fail(&self, op: u64, fault: SimFault) {
        self.lock().faults.insert(op, fault);
    }

    /// Takes back the faults of operations that have not happened.
    pub fn clear_faults(&self) {
        self.lock().faults.clear();
    }

    /// How many reads (of a directory, a length, a file's bytes) were asked for; the next has this
    /// number. They are counted apart from what changes something.
    pub fn reads_count(&self) -> u64 {
        self.lock().reads_count
    }

    /// Lets the read of this number (see [`SimDisk::reads_count`]) fail with EIO.
    pub fn fail_read(&self, read: u64) {
        self.lock().read_faults.insert(read);
    }

    /// Lets reads that touch these bytes of a file fail with EIO. The bytes stay what they are: they
    /// are there again once the fault is over.
    pub fn spoil(&self, path: &Path, bytes: Range<u64>, fault: ReadFault) {
        self.lock().state.spoil(path, bytes, fault);
    }

    /// All can be read again, as it was written.
    pub fn heal(&self) {
        let mut inner = self.lock();
        inner.read_faults.clear();
        inner.state.heal();
    }

    /// How many reads have failed on a disk that had power.
    pub fn reads_failed(&self) -> u64 {
        self.lock().reads_failed
    }

    /// Bounds the bytes of all files together.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity_bytes = bytes;
    }

    /// Flips the bits of `mask` in a byte, on the platter.
    pub fn corrupt(&self, path: &Path, offset: u64, mask: u8) {
        self.lock().state.corrupt(path, offset, mask);
    }

    /// A file's bytes as they are read now.
    pub fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        self.lock().state.bytes(path).ok().map(<[u8]>::to_vec)
    }

    /// Every file and its bytes as they are read now.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        self.lock().state.files()
    }

    /// What a crash now may lose, in the order in which it was done.
    pub fn unsynced(&self) -> Vec<Unsynced> {
        self.lock().state.unsynced()
    }

    /// The power goes and comes back: of what is unsynced, exactly the units chosen (by their index
    /// in [`SimDisk::unsynced`]) are there. Faults of operations and reads to come are dropped; what
    /// is spoiled stays so.
    pub fn crash_keeping(&self, keep: &mut dyn FnMut(usize) -> bool) {
        let mut inner = self.lock();
        inner.state.crash(keep);
        inner.faults.clear();
        inner.read_faults.clear();
        inner.off = false;
    }

    /// As [`SimDisk::crash_keeping`], drawn from a seed: often all or nothing of what is unsynced,
    /// otherwise any mixture.
    pub fn crash(&self, seed: u64) {
        let mut rng = SimRng(seed);
        let share = [0, 256, 128, 32, 224][rng.below(5) as usize];
        self.crash_keeping(&mut |_| rng.below(256) < share);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step(&self, op: SimOp) -> io::Result<()> {
        self.lock().step(op)
    }
}

impl Inner {
    fn step(&mut self, op: SimOp) -> io::Result<()> {
        let number = self.ops_count;
        self.ops_count += 1;
        let fault = self.faults.remove(&number);
        if fault == Some(SimFault::PowerOff) {
            self.off = true;
        }
        if self.off {
            return Err(eio());
        }
        let op = match (fault, op) {
            (None, op) => op,
            (
                Some(SimFault::Misdirected(by)),
                SimOp::Write {
                    path,
                    offset,
                    bytes,
                },
            ) => SimOp::Write {
                path,
                offset: offset + by,
                bytes,
            },
            (
                Some(SimFault::Eio | SimFault::ShortWrite),
                SimOp::Write {
                    path,
                    offset,
                    mut bytes,
                },
            ) => {
                bytes.truncate(bytes.len() / 2);
                self.apply(SimOp::Write {
                    path,
                    offset,
                    bytes,
                })?;
                return Err(eio());
            }
            (Some(SimFault::LostSync), SimOp::Sync { path }) => {
                return self.apply(SimOp::LoseSync { path });
            }
            (Some(SimFault::Eio), SimOp::Sync { path }) => {
                self.apply(SimOp::LoseSync { path })?;
                return Err(eio());
            }
            (Some(SimFault::Enospc), _) => return Err(io::ErrorKind::StorageFull.into()),
            (Some(SimFault::LostSync | SimFault::Misdirected(_)), op) => op,
            (Some(_), _) => return Err(eio()),
        };
        self.apply(op)
    }

    /// Counts a read, and says whether it goes well: `touched` are the bytes of a file that it is of.
    fn read(&mut self, touched: Option<(&Path, Range<u64>)>) -> io::Result<()> {
        let number = self.reads_count;
        self.reads_count += 1;
        let spoiled =
            touched.is_some_and(|(path, bytes)| self.state.meets_spoiled_bytes(path, bytes));
        if self.read_faults.remove(&number) || spoiled {
            self.reads_failed += 1;
            return Err(eio());
        }
        Ok(())
    }

    fn apply(&mut self, op: SimOp) -> io::Result<()> {
        let grows = self.state.growth(&op);
        let full = self
            .capacity_bytes
            .is_some_and(|capacity| self.state.used_bytes() + grows > capacity);
        if grows > 0 && full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if self.recording {
            self.ops.push(op.clone());
        }
        self.state.apply(op)
    }
}

fn eio() -> io::Error {
    io::Error::other("simulated input/output error")
}

/// SplitMix64: small, and the same everywhere.
#[derive(Clone, Debug)]
pub struct SimRng(pub u64);

impl SimRng {
    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }
}

impl Disk for SimDisk {
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut inner = self.lock();
        inner.read(None)?;
        inner.state.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.step(SimOp::CreateDir {
            path: dir.to_owned(),
        })
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        let mut inner = self.lock();
        inner.read(None)?;
        Ok(inner.state.bytes(path)?.len() as u64)
    }

    fn read_at(&self, path: &Path, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut inner = self.lock();
        if inner.off {
            return Err(eio());
        }
        inner.read(Some((path, offset..offset + buf.len() as u64)))?;
        let bytes = inner.state.bytes(path)?;
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let read = rest.len().min(buf.len());
        buf[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let absent = self.lock().state.bytes(path).is_err();
        if absent {
            self.step(SimOp::Create {
                path: path.to_owned(),
            })?;
        }
        self.step(SimOp::Write {
            path: path.to_owned(),
            offset,
            bytes: bytes.to_vec(),
        })
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.step(SimOp::Sync {
            path: path.to_owned(),
        })
    }

    fn create_zeroed(&self, path: &Path, len: u64) -> io::Result<()> {
        let path = path.to_owned();
        self.step(SimOp::Create { path: path.clone() })?;
        self.step(SimOp::SetLen {
            path: path.clone(),
            len,
        })?;
        self.step(SimOp::Sync { path })
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        self.step(SimOp::SetLen {
            path: path.to_owned(),
            len,
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(SimOp::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step(SimOp::Remove {
            path: path.to_owned(),
        })
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.step(SimOp::RemoveDirAll {
            path: path.to_owned(),
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.step(SimOp::SyncDir {
            path: dir.to_owned(),
        })
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        let inner = self.lock();
        let used = inner.state.used_bytes();
        Ok(inner
            .capacity_bytes
            .unwrap_or(u64::MAX)
            .saturating_sub(used))
    }
}
