//! Segment files: their names, and how they are made and used again.

use crate::format::SegmentHeader;
use crate::{AlignedBuf, BLOCK_BYTES, Disk, SegmentId};
use std::io;
use std::path::{Path, PathBuf};

const SUFFIX: &str = ".wal";
/// A segment on its way; it is renamed once it is whole and durable.
pub(crate) const TEMPORARY_NAME: &str = "segment.tmp";

/// The file of a segment.
pub(crate) fn segment_path(dir: &Path, segment: SegmentId) -> PathBuf {
    dir.join(format!("{:016x}{SUFFIX}", segment.0))
}

/// The segment that a file name stands for.
pub(crate) fn parse_name(name: &str) -> Option<SegmentId> {
    let digits = name.strip_suffix(SUFFIX)?;
    let lower_hex = digits
        .bytes()
        .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if digits.len() != 16 || !lower_hex {
        return None;
    }
    u64::from_str_radix(digits, 16).ok().map(SegmentId)
}

/// The numbers of the segments in a directory, ascending.
pub(crate) fn list_segments(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<SegmentId>> {
    let mut segments: Vec<SegmentId> = disk
        .list(dir)?
        .iter()
        .filter_map(|name| parse_name(name))
        .collect();
    segments.sort();
    Ok(segments)
}

/// Makes a segment out of nothing: zero-filled and durable before it gets its name.
pub(crate) fn prepare_new(disk: &dyn Disk, dir: &Path, header: &SegmentHeader) -> io::Result<()> {
    let temporary = dir.join(TEMPORARY_NAME);
    let made = disk
        .create_zeroed(&temporary, header.segment_bytes)
        .and_then(|()| write_header(disk, &temporary, header));
    if let Err(error) = made {
        // Gives the space back at once; where even that fails, opening the log removes it.
        let _ = disk.remove(&temporary);
        return Err(error);
    }
    disk.rename(&temporary, &segment_path(dir, header.segment))?;
    disk.sync_dir(dir)
}

/// Makes a segment out of one that holds nothing needed. Its old batches stay in it: the new salt
/// tells them apart.
pub(crate) fn prepare_recycled(
    disk: &dyn Disk,
    dir: &Path,
    old: SegmentId,
    header: &SegmentHeader,
) -> io::Result<()> {
    let path = segment_path(dir, old);
    write_header(disk, &path, header)?;
    disk.rename(&path, &segment_path(dir, header.segment))?;
    disk.sync_dir(dir)
}

/// Overwrites a segment's header, durably.
pub(crate) fn write_header(disk: &dyn Disk, path: &Path, header: &SegmentHeader) -> io::Result<()> {
    let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
    header.encode(block.as_mut_slice());
    disk.write_at(path, 0, block.as_slice())?;
    disk.sync(path)
}

/// A segment's salt: differs for each use of a file.
pub(crate) fn salt(seed: u64, epoch: u64, segment: SegmentId) -> u64 {
    mix(mix(mix(seed) ^ epoch) ^ segment.0)
}

/// SplitMix64's finaliser.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
