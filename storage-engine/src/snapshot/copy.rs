//! Moving what lives out of a snapshot segment that is mostly dead.

use super::read::Entry;
use super::scan;
use super::write::{Tail, Writer};
use crate::index::SnapshotRef;
use crate::paths::ShardDir;
use collabblocks_wal::{Disk, OpenError};
use std::io;

/// All entries of a segment, dead ones included (blocking).
pub(crate) fn entries(
    disk: &dyn Disk,
    dir: &ShardDir,
    id: u32,
    durable_bytes: u64,
) -> Result<Vec<(Box<str>, SnapshotRef)>, OpenError> {
    let mut found = Vec::new();
    scan::scan(disk, dir, id, durable_bytes, &mut |name, at| {
        found.push((name.into(), at));
        Ok(())
    })?;
    Ok(found)
}

/// An entry that was moved: whose, from where, to where.
pub(crate) type Moved = (Box<str>, SnapshotRef, SnapshotRef);

/// What came of copying.
pub(crate) struct Copied {
    pub(crate) moved: Vec<Moved>,
    /// Where the next batch goes.
    pub(crate) tail: Tail,
}

/// Copies entries, byte for byte but for their place, and makes the copies durable (blocking).
pub(crate) fn copy(
    disk: &dyn Disk,
    dir: &ShardDir,
    tail: Tail,
    entries: Vec<(Box<str>, SnapshotRef)>,
) -> io::Result<Copied> {
    let mut writer = Writer::new(dir, tail);
    let mut moved = Vec::with_capacity(entries.len());
    for (name, from) in entries {
        let entry = Entry::read(disk, dir, &name, from).map_err(io::Error::other)?;
        let to = writer.push(&name, entry.header, entry.payload());
        moved.push((name, from, to));
    }
    let tail = writer.store(disk)?;
    Ok(Copied { moved, tail })
}
