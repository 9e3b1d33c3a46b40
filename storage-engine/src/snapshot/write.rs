//! Appending a batch of entries to a snapshot segment: one write, one sync.

use super::format::{self, Body, ENTRY_ALIGN, EntryHeader};
use super::read;
use crate::index::SnapshotRef;
use crate::paths::ShardDir;
use crate::watch::{WatchJob, within};
use collabblocks_wal::{AlignedBuf, BLOCK_BYTES, Disk, Lsn, RoomKey};
use std::io;
use std::ops::Range;

/// Bytes written again at a time.
const AGAIN_BYTES: usize = 1 << 20;

/// Where the next batch goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tail {
    pub(crate) segment: u32,
    /// A multiple of a block; 0 while the file has not been made.
    pub(crate) offset: u64,
}

/// A room as it was encoded on its shard's core.
pub(crate) struct Encoded {
    pub(crate) name: Box<str>,
    pub(crate) key: RoomKey,
    pub(crate) seq: u64,
    pub(crate) covers: Lsn,
    pub(crate) body: Body,
}

/// A batch being built.
pub(crate) struct Writer<'a> {
    dir: &'a ShardDir,
    tail: Tail,
    buffer: AlignedBuf,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(dir: &'a ShardDir, tail: Tail) -> Self {
        let mut buffer = AlignedBuf::default();
        if tail.offset == 0 {
            buffer.extend_from_slice(&format::segment_header(dir, tail.segment));
        }
        Self { dir, tail, buffer }
    }

    /// Adds an entry; `header`'s place is set to where it goes.
    pub(crate) fn push(
        &mut self,
        name: &str,
        mut header: EntryHeader,
        payload: &[u8],
    ) -> SnapshotRef {
        self.buffer
            .resize(self.buffer.len().next_multiple_of(ENTRY_ALIGN));
        header.offset = self.tail.offset + self.buffer.len() as u64;
        self.buffer
            .extend_from_slice(&header.encode(self.dir, self.tail.segment, name));
        self.buffer.extend_from_slice(name.as_bytes());
        self.buffer.extend_from_slice(payload);
        SnapshotRef {
            key: header.key,
            seq: header.seq,
            covers: header.covers,
            segment: self.tail.segment,
            len: u32::try_from(header.entry_bytes())
                .expect("a name and a payload below 2^31 bytes"),
            offset: header.offset,
        }
    }

    /// Bytes so far.
    pub(crate) fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Makes the batch durable (blocking); gives back where the next one goes.
    pub(crate) fn store(mut self, disk: &dyn Disk) -> io::Result<Tail> {
        self.buffer
            .resize(self.buffer.len().next_multiple_of(BLOCK_BYTES));
        let path = self.dir.snapshot(self.tail.segment);
        if self.tail.offset == 0 {
            disk.create_dir(&self.dir.snapshots())?;
        }
        disk.write_at(&path, self.tail.offset, self.buffer.as_slice())?;
        disk.sync(&path)?;
        if self.tail.offset == 0 {
            disk.sync_dir(&self.dir.snapshots())?;
        }
        Ok(Tail {
            offset: self.tail.offset + self.buffer.len() as u64,
            ..self.tail
        })
    }
}

/// Writes a part of a segment once more where it stands, and makes it durable (blocking).
///
/// It can be read, but the sync after it may have failed: then no later sync makes it durable.
pub(crate) fn again(disk: &dyn Disk, dir: &ShardDir, id: u32, part: Range<u64>) -> io::Result<()> {
    let path = dir.snapshot(id);
    let mut buffer = AlignedBuf::zeroed(AGAIN_BYTES);
    let mut offset = part.start / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
    while offset < part.end {
        let left = (part.end - offset).next_multiple_of(BLOCK_BYTES as u64);
        let wanted = left.min(AGAIN_BYTES as u64) as usize;
        let got = disk.read_at(&path, offset, &mut buffer.as_mut_slice()[..wanted])?;
        if offset + (got as u64) < part.end && got < wanted {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        disk.write_at(&path, offset, &buffer.as_slice()[..got])?;
        offset += got as u64;
    }
    disk.sync(&path)
}

/// What came of storing a batch.
pub(crate) struct Stored {
    /// For each room of the batch, in order, where it stands or why it was not stored.
    pub(crate) rooms: Vec<(Box<str>, Result<SnapshotRef, String>)>,
    /// Where the next batch goes; `Err` if nothing was made durable.
    pub(crate) tail: io::Result<Tail>,
    /// Bytes written.
    pub(crate) bytes: u64,
}

/// Compresses, checks and stores a batch of rooms (blocking).
pub(crate) fn store(
    disk: &dyn Disk,
    dir: &ShardDir,
    tail: Tail,
    batch: Vec<Encoded>,
    watch: &dyn WatchJob,
) -> Stored {
    let mut writer = Writer::new(dir, tail);
    let rooms = batch
        .into_iter()
        .map(|room| {
            let stored = within(watch, &room.name, || prepare(&room))
                .map(|(header, payload)| writer.push(&room.name, header, &payload));
            (room.name, stored)
        })
        .collect();
    let bytes = writer.bytes() as u64;
    Stored {
        rooms,
        tail: writer.store(disk),
        bytes,
    }
}

/// Header and payload of a room. What cannot be read again is never stored: it would replace a
/// snapshot that can.
pub(crate) fn prepare(room: &Encoded) -> Result<(EntryHeader, Vec<u8>), String> {
    let (raw_bytes, payload) = room.body.encode()?;
    let again = Body::decode(raw_bytes, &payload)?;
    if again != room.body {
        return Err("it reads differently than it was written".into());
    }
    read::document(&again)?;
    let header = EntryHeader {
        key: room.key,
        seq: room.seq,
        covers: room.covers,
        payload_bytes: u32::try_from(payload.len())
            .map_err(|_| "it is larger than a snapshot may be")?,
        raw_bytes,
        payload_crc: crc32fast::hash(&payload),
        name_bytes: u16::try_from(room.name.len())
            .map_err(|_| "its name is longer than a snapshot can carry")?,
        offset: 0,
    };
    Ok((header, payload))
}
