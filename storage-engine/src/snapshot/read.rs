//! Reading one snapshot.

use super::format::{self, Body, EntryError, EntryHeader, Found};
use crate::index::SnapshotRef;
use crate::paths::ShardDir;
use crate::room_doc::RoomDoc;
use collabblocks_wal::{AlignedBuf, BLOCK_BYTES, Disk};
use std::io;
use std::path::PathBuf;

/// An entry as it stands on disk, its payload checked against its checksum.
pub(crate) struct Entry {
    window: AlignedBuf,
    start: usize,
    pub(crate) header: EntryHeader,
}

/// Why an entry was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unread {
    /// The operating system said no: nothing is known about the entry.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// What stands there cannot be trusted.
    #[error("{0}")]
    Untrusted(String),
}

impl From<Unread> for String {
    fn from(why: Unread) -> Self {
        why.to_string()
    }
}

impl Entry {
    /// Reads the entry that the index names (blocking). `Err` says why it was not.
    pub(crate) fn read(
        disk: &dyn Disk,
        dir: &ShardDir,
        name: &str,
        at: SnapshotRef,
    ) -> Result<Self, Unread> {
        let begin = at.offset / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        let start = (at.offset - begin) as usize;
        let end = start + at.len as usize;
        let mut window = AlignedBuf::zeroed(end.next_multiple_of(BLOCK_BYTES));
        let path = dir.snapshot(at.segment);
        let got = disk
            .read_at(&path, begin, window.as_mut_slice())
            .map_err(|error| Unread::Io {
                path: path.clone(),
                error,
            })?;
        if got < end {
            return Err(Unread::Untrusted(format!(
                "{} is cut short",
                path.display()
            )));
        }
        let bytes = &window.as_slice()[start..end];
        let header = match format::decode_entry(dir, at.segment, at.offset, bytes) {
            Ok(Found::Entry(header, found)) if found == name => header,
            Ok(_) => {
                return Err(Unread::Untrusted(format!(
                    "{} holds something else at {}",
                    path.display(),
                    at.offset
                )));
            }
            Err(EntryError::Damaged(why)) => {
                return Err(Unread::Untrusted(format!(
                    "{} at {}: {why}",
                    path.display(),
                    at.offset
                )));
            }
            Err(EntryError::Newer(v)) => {
                return Err(Unread::Untrusted(format!(
                    "{}: entry version {v} is newer",
                    path.display()
                )));
            }
        };
        let payload = bytes.get(payload_start(&header)..).unwrap_or_default();
        if header.entry_bytes() != u64::from(at.len)
            || crc32fast::hash(payload) != header.payload_crc
        {
            return Err(Unread::Untrusted(format!(
                "{} at {}: its checksum does not match",
                path.display(),
                at.offset
            )));
        }
        if header.key != at.key || header.seq != at.seq {
            return Err(Unread::Untrusted(format!(
                "{} at {}: it is of another room or time",
                path.display(),
                at.offset
            )));
        }
        Ok(Self {
            window,
            start,
            header,
        })
    }

    /// Compressed.
    pub(crate) fn payload(&self) -> &[u8] {
        let begin = self.start + payload_start(&self.header);
        &self.window.as_slice()[begin..begin + self.header.payload_bytes as usize]
    }

    /// The document.
    pub(crate) fn document(&self) -> Result<RoomDoc, String> {
        let body = Body::decode(self.header.raw_bytes, self.payload())?;
        document(&body)
    }
}

fn payload_start(header: &EntryHeader) -> usize {
    format::ENTRY_HEADER_BYTES + usize::from(header.name_bytes)
}

/// The document that a body holds, checked to be at the state vector it claims.
pub(crate) fn document(body: &Body) -> Result<RoomDoc, String> {
    let doc =
        RoomDoc::from_state(&body.state).map_err(|e| format!("its state cannot be read: {e}"))?;
    let mut vector = Vec::new();
    doc.state_vector(&mut vector);
    if !same_vector(&vector, &body.state_vector) {
        return Err("its state is not at the state vector it names".into());
    }
    Ok(doc)
}

/// Whether two encoded state vectors say the same; the order of clients carries no meaning.
fn same_vector(a: &[u8], b: &[u8]) -> bool {
    use yrs::StateVector;
    use yrs::updates::decoder::Decode;
    if a == b {
        return true;
    }
    match (StateVector::decode_v1(a), StateVector::decode_v1(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}
