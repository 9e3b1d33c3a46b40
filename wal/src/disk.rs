//! The blocking disk that recovery, preparation of segments, snapshots and inspection use, and the
//! aligned memory that O_DIRECT wants. The simulated disk of the tests implements it too.

mod fs;

pub use fs::{DirectIoError, FsDisk};

use crate::BLOCK_BYTES;
use rkyv::util::AlignedVec;
use std::io;
use std::path::Path;

/// Blocking file operations, all by path. Implementations may cache open files.
///
/// Lives on the file-worker threads, never on a data core while it serves.
pub trait Disk: Send + Sync {
    /// Names (not paths) of the entries of a directory, sorted; an absent directory is an error.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes a directory and its parents durable; no error where it stands.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes of a file.
    fn len(&self, path: &Path) -> io::Result<u64>;
    /// Reads at `offset`, returns how many bytes were there. For O_DIRECT implementations `offset`
    /// and `buf` are multiples of [`crate::BLOCK_BYTES`]; callers keep to that.
    fn read_at(&self, path: &Path, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`, creating the file where absent. Not durable before `sync`.
    fn write_at(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes a file's bytes and length durable.
    fn sync(&self, path: &Path) -> io::Result<()>;
    /// Makes a new file of `len` zero bytes, durably (its bytes; not its name: see `sync_dir`).
    fn create_zeroed(&self, path: &Path, len: u64) -> io::Result<()>;
    /// Cuts a file.
    fn truncate(&self, path: &Path, len: u64) -> io::Result<()>;
    /// Renames, replacing what stands there. Durable after `sync_dir`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. Durable after `sync_dir`.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and all in it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes names made, renamed and removed in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes that may still be written where `path` lies.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// Heap memory aligned to [`crate::BLOCK_BYTES`], for O_DIRECT.
#[derive(Debug, Default)]
pub struct AlignedBuf {
    bytes: AlignedVec<BLOCK_BYTES>,
}

impl AlignedBuf {
    /// Empty, with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            bytes: AlignedVec::with_capacity(capacity),
        }
    }

    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        let mut buf = Self::with_capacity(len);
        buf.resize(len);
        buf
    }

    /// The bytes that are filled.
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// The bytes that are filled, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.bytes.as_mut_slice()
    }

    /// How many bytes are filled.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether no byte is filled.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many bytes it holds without being moved.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Appends bytes; grows (and moves) when they exceed the capacity.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Cuts, or fills up with zero bytes.
    pub fn resize(&mut self, len: usize) {
        self.bytes.resize(len, 0);
    }

    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }
}
