//! The manifest of a shard: from which log segment on the log is needed, and how far the snapshot
//! segments were known to be durable. Two slots are written in turn, so that a torn write leaves
//! the other one.

use crate::frame::{self, FrameError};
use collabblocks_wal::{AlignedBuf, BLOCK_BYTES, Disk, OpenError, SegmentId};
use std::io;
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"CBMANIFS";
const VERSION: u32 = 1;
/// Room for a list of tens of thousands of snapshot segments.
const BYTES_MAX: u64 = 1 << 20;

/// What a manifest says.
#[derive(
    rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, PartialEq, Eq, Debug, Default,
)]
pub(crate) struct Manifest {
    /// Grows by one with each write; 0 while the shard's log has not been made yet.
    pub(crate) sequence: u64,
    /// The store and shard it belongs to.
    pub(crate) store: [u8; 16],
    pub(crate) shard: u16,
    /// The oldest log segment that is needed.
    pub(crate) low: u64,
    /// Snapshot segments and how many of their bytes were durable: damage below is damage, what
    /// stands above may be torn. One that is not listed, and below the last listed, is dead.
    pub(crate) snapshots: Vec<SnapshotSegment>,
}

/// A snapshot segment as the manifest lists it.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SnapshotSegment {
    pub(crate) id: u32,
    pub(crate) durable_bytes: u64,
}

impl Manifest {
    pub(crate) fn low(&self) -> SegmentId {
        SegmentId(self.low)
    }

    /// The bytes of a slot.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let payload =
            rkyv::to_bytes::<rkyv::rancor::Error>(self).expect("plain data can be archived");
        frame::seal(MAGIC, VERSION, &payload)
    }

    /// Reads a slot's bytes.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let payload = frame::unseal(MAGIC, VERSION, bytes)?;
        let mut aligned = rkyv::util::AlignedVec::<16>::with_capacity(payload.len());
        aligned.extend_from_slice(payload);
        rkyv::from_bytes::<Self, rkyv::rancor::Error>(&aligned)
            .map_err(|_| FrameError::Damaged("its content does not validate"))
    }

    /// Writes this manifest durably into the slot of its sequence number (blocking).
    pub(crate) fn store(&self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        let path = slot_path(dir, self.sequence);
        disk.write_at(&path, 0, &self.encode())?;
        disk.sync(&path)?;
        disk.sync_dir(dir)
    }
}

/// Which file a sequence number is written to.
fn slot_path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(if sequence.is_multiple_of(2) {
        "manifest-a"
    } else {
        "manifest-b"
    })
}

/// Reads both slots (blocking); `None` where neither was ever written.
pub(crate) fn load(disk: &dyn Disk, dir: &Path) -> Result<Option<Manifest>, OpenError> {
    let mut best: Option<Manifest> = None;
    let mut bad = None;
    for slot in 0..2 {
        let path = slot_path(dir, slot);
        match read_slot(disk, &path) {
            Ok(None) => {}
            Ok(Some(Ok(manifest))) => {
                if manifest.sequence % 2 != slot {
                    bad = Some((path, FrameError::Damaged("it is the other slot's")));
                } else if best.as_ref().is_none_or(|b| b.sequence < manifest.sequence) {
                    best = Some(manifest);
                }
            }
            Ok(Some(Err(FrameError::Newer(version)))) => {
                return Err(OpenError::Newer {
                    path,
                    what: format!("manifest version {version}"),
                });
            }
            Ok(Some(Err(error))) => bad = Some((path, error)),
            Err(error) => return Err(OpenError::Io { path, error }),
        }
    }
    match (best, bad) {
        (Some(manifest), _) => Ok(Some(manifest)),
        (None, None) => Ok(None),
        (None, Some((path, error))) => {
            let why = match error {
                FrameError::Damaged(why) => why,
                FrameError::Newer(_) => unreachable!("answered above"),
            };
            Err(OpenError::Mismatch {
                path,
                what: format!(
                    "neither slot of the manifest can be read ({why}); restore it from a backup"
                ),
            })
        }
    }
}

/// `None`: absent, or never filled (a crash between making the file and writing it).
fn read_slot(disk: &dyn Disk, path: &Path) -> io::Result<Option<Result<Manifest, FrameError>>> {
    let Some(bytes) = read_small(disk, path, BYTES_MAX)? else {
        return Ok(None);
    };
    if bytes.iter().all(|&b| b == 0) {
        return Ok(None);
    }
    Ok(Some(Manifest::decode(&bytes)))
}

/// Reads a small file whole (blocking); `None` if it is absent.
pub(crate) fn read_small(
    disk: &dyn Disk,
    path: &Path,
    bytes_max: u64,
) -> io::Result<Option<Vec<u8>>> {
    let len = match disk.len(path) {
        Ok(len) => len,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if len > bytes_max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{len} bytes, more than it may have"),
        ));
    }
    let mut buffer = AlignedBuf::zeroed((len as usize).next_multiple_of(BLOCK_BYTES));
    let got = disk.read_at(path, 0, buffer.as_mut_slice())?;
    Ok(Some(buffer.as_slice()[..got.min(len as usize)].to_vec()))
}
