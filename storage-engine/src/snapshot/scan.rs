//! Finding the entries of a snapshot segment at start, by their headers.

use super::format::{self, ENTRY_ALIGN, ENTRY_HEADER_BYTES, EntryError, Found};
use super::read::{Entry, Unread};
use crate::frame::FrameError;
use crate::index::SnapshotRef;
use crate::paths::ShardDir;
use collabblocks_wal::inspect::{Unreadable, read_around};
use collabblocks_wal::{AlignedBuf, BLOCK_BYTES, Disk, OpenError};
use std::io;
use std::ops::Range;
use std::path::PathBuf;

/// Bytes read at once: the longest name with its header fits, wherever it begins.
const WINDOW_BYTES: usize = 128 << 10;
/// An entry's header and the longest name.
const HEAD_BYTES_MAX: usize = ENTRY_HEADER_BYTES + u16::MAX as usize;

/// How far a segment could be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Scanned {
    /// The end of its last good entry, or of the padding after it.
    pub(crate) end: u64,
    /// Bytes of the file.
    pub(crate) file_bytes: u64,
    /// Nothing but padding stands after that: more can be appended.
    pub(crate) clean: bool,
}

/// Gives every entry of a segment to `visit`, in order (blocking). What stands below
/// `durable_bytes` was known to be durable, so what cannot be read there is damage; above, the
/// payloads are checked too, and the first entry that cannot be read ends the segment.
pub(crate) fn scan(
    disk: &dyn Disk,
    dir: &ShardDir,
    id: u32,
    durable_bytes: u64,
    visit: &mut dyn FnMut(&str, SnapshotRef) -> Result<(), OpenError>,
) -> Result<Scanned, OpenError> {
    let path = dir.snapshot(id);
    let io_error = |error| OpenError::Io {
        path: path.clone(),
        error,
    };
    let file_bytes = match disk.len(&path) {
        Ok(len) => len,
        Err(error) if error.kind() == io::ErrorKind::NotFound && durable_bytes == 0 => 0,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(damaged(&path, 0, "the file is missing"));
        }
        Err(error) => return Err(io_error(error)),
    };
    if file_bytes < durable_bytes {
        return Err(damaged(&path, file_bytes, "the file is cut short"));
    }
    let mut window = Window {
        disk,
        path: path.clone(),
        buffer: AlignedBuf::zeroed(WINDOW_BYTES),
        begin: 0,
        filled: 0,
        unreadable: Vec::new(),
    };
    let block = window.at(0, BLOCK_BYTES).map_err(io_error)?;
    let checked = format::check_segment_header(dir, id, block);
    if checked.is_err() {
        window.known(0..BLOCK_BYTES as u64).map_err(io_error)?;
    }
    match checked {
        Ok(()) => {}
        Err(FrameError::Newer(version)) => {
            return Err(OpenError::Newer {
                path,
                what: format!("snapshot segment version {version}"),
            });
        }
        Err(FrameError::Damaged(why)) if durable_bytes > 0 => return Err(damaged(&path, 0, why)),
        Err(FrameError::Damaged(_)) => {
            return Ok(Scanned {
                end: 0,
                file_bytes,
                clean: false,
            });
        }
    }
    let mut end = BLOCK_BYTES as u64;
    let mut offset = end;
    let clean = loop {
        if offset >= file_bytes {
            break true;
        }
        window.fill(offset, HEAD_BYTES_MAX).map_err(io_error)?;
        let found = format::decode_entry(dir, id, offset, window.bytes(offset, HEAD_BYTES_MAX));
        // An entry's head has a checksum. Anything else may be what zeros in the place of what could
        // not be read look like.
        let looked_at = match &found {
            Ok(Found::Entry(..)) => None,
            Ok(Found::Padding) => Some(BLOCK_BYTES as u64 - offset % BLOCK_BYTES as u64),
            Err(_) => Some(HEAD_BYTES_MAX as u64),
        };
        if let Some(bytes) = looked_at {
            window.known(offset..offset + bytes).map_err(io_error)?;
        }
        let vouched = offset < durable_bytes;
        let why = match found {
            // A batch is padded to whole blocks: zeros at the start of one are no padding of its.
            Ok(Found::Padding) if !offset.is_multiple_of(BLOCK_BYTES as u64) => {
                // The last batch's padding may be cut short.
                offset = offset.next_multiple_of(BLOCK_BYTES as u64).min(file_bytes);
                end = offset;
                continue;
            }
            Ok(Found::Padding) => "zeros stand where an entry should",
            Ok(Found::Entry(header, name)) => {
                let at = SnapshotRef {
                    key: header.key,
                    seq: header.seq,
                    covers: header.covers,
                    segment: id,
                    len: u32::try_from(header.entry_bytes()).map_err(|_| {
                        damaged(&path, offset, "an entry is larger than any may be")
                    })?,
                    offset,
                };
                let entry_end = offset + header.entry_bytes();
                let torn = match vouched {
                    true => entry_end > file_bytes,
                    false => match Entry::read(disk, dir, name, at) {
                        Ok(_) => false,
                        Err(Unread::Untrusted(_)) => true,
                        // Nothing is known of it: it is not torn because the disk does not read.
                        Err(Unread::Io { path, error }) => {
                            return Err(OpenError::Io { path, error });
                        }
                    },
                };
                if torn {
                    "an entry's payload cannot be read"
                } else {
                    visit(name, at)?;
                    offset = entry_end
                        .next_multiple_of(ENTRY_ALIGN as u64)
                        .min(file_bytes);
                    end = offset;
                    continue;
                }
            }
            Err(EntryError::Newer(version)) => {
                return Err(OpenError::Newer {
                    path,
                    what: format!("snapshot entry version {version}"),
                });
            }
            Err(EntryError::Damaged(why)) => why,
        };
        if vouched {
            return Err(damaged(&path, offset, why));
        }
        break false;
    };
    if end < durable_bytes {
        return Err(damaged(
            &path,
            end,
            "fewer entries are there than were made durable",
        ));
    }
    Ok(Scanned {
        end,
        file_bytes,
        clean,
    })
}

/// Gives every entry with a good header to `visit`, wherever it stands in a segment, damaged or not;
/// gives back where there is something else, or what could not be read.
pub(crate) fn search(
    disk: &dyn Disk,
    dir: &ShardDir,
    id: u32,
    visit: &mut dyn FnMut(&str, SnapshotRef),
) -> io::Result<Vec<Unreadable>> {
    let path = dir.snapshot(id);
    let file_bytes = disk.len(&path)?;
    let mut window = Window {
        disk,
        path,
        buffer: AlignedBuf::zeroed(WINDOW_BYTES),
        begin: 0,
        filled: 0,
        unreadable: Vec::new(),
    };
    let mut damaged: Vec<Unreadable> = Vec::new();
    let mut offset = BLOCK_BYTES as u64;
    while offset < file_bytes {
        let bytes = window.at(offset, HEAD_BYTES_MAX)?;
        let mut step = ENTRY_ALIGN as u64;
        let found = format::decode_entry(dir, id, offset, bytes);
        let nothing = matches!(found, Ok(Found::Padding));
        if let Ok(Found::Entry(header, name)) = found
            && let Ok(len) = u32::try_from(header.entry_bytes())
        {
            let at = SnapshotRef {
                key: header.key,
                seq: header.seq,
                covers: header.covers,
                segment: id,
                len,
                offset,
            };
            visit(name, at);
            step = header.entry_bytes().next_multiple_of(ENTRY_ALIGN as u64);
        } else if !nothing {
            // Whose it was stood in what is damaged, or before it.
            match damaged.last_mut() {
                Some(last) if last.bytes.end == offset => last.bytes.end += step,
                _ => damaged.push(Unreadable {
                    bytes: offset..offset + step,
                    error: "no snapshot with a good head begins there".into(),
                }),
            }
        }
        offset += step;
    }
    window.unreadable.extend(damaged);
    Ok(window.unreadable)
}

fn damaged(path: &std::path::Path, offset: u64, why: &str) -> OpenError {
    OpenError::Mismatch {
        path: path.into(),
        what: format!(
            "snapshots that were durable are damaged at byte {offset}: {why}. Nothing was changed. Run \
             `collabblocks wal verify` to see what is left, and restore the file from a backup"
        ),
    }
}

/// A part of a file in memory, moved along it.
struct Window<'a> {
    disk: &'a dyn Disk,
    path: PathBuf,
    buffer: AlignedBuf,
    begin: u64,
    filled: usize,
    /// What could not be read: zeros stand for it.
    unreadable: Vec<Unreadable>,
}

impl Window<'_> {
    /// Up to `len` bytes at `offset`: fewer only at the end of the file.
    fn at(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        self.fill(offset, len)?;
        Ok(self.bytes(offset, len))
    }

    /// Moves the window so that these bytes are in it.
    fn fill(&mut self, offset: u64, len: usize) -> io::Result<()> {
        if offset >= self.begin && offset + len as u64 <= self.begin + self.filled as u64 {
            return Ok(());
        }
        self.begin = offset / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        self.filled = 0;
        while self.filled < self.buffer.len() {
            let place = self.begin + self.filled as u64;
            let rest = &mut self.buffer.as_mut_slice()[self.filled..];
            let got = read_around(self.disk, &self.path, place, rest, &mut self.unreadable)?;
            self.filled += got;
            if got == 0 || !got.is_multiple_of(BLOCK_BYTES) {
                break;
            }
        }
        Ok(())
    }

    /// Bytes of the window.
    fn bytes(&self, offset: u64, len: usize) -> &[u8] {
        let start = ((offset - self.begin) as usize).min(self.filled);
        let end = (start + len).min(self.filled);
        &self.buffer.as_slice()[start..end]
    }

    /// An error if some of these bytes could not be read.
    fn known(&self, bytes: Range<u64>) -> io::Result<()> {
        let meets =
            |part: &&Unreadable| part.bytes.start < bytes.end && bytes.start < part.bytes.end;
        match self.unreadable.iter().find(meets) {
            Some(part) => Err(io::Error::other(part.error.clone())),
            None => Ok(()),
        }
    }
}
