//! The operating system's files.

use super::{AlignedBuf, Disk};
use crate::BLOCK_BYTES;
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Open files kept; more than a shard's jobs touch at once.
const OPEN_FILES_MAX: usize = 16;
/// Bytes written at a time while a file is zero-filled.
const ZERO_CHUNK_BYTES: usize = 4 << 20;

/// The operating system's files: O_DIRECT for aligned reads and writes where the file system has it
/// (see [`FsDisk::probe_direct`]), through the page cache for others.
///
/// Written files stay open until they are renamed or removed or [`OPEN_FILES_MAX`] others were used
/// since, so that a sync goes to the descriptor that wrote and sees its errors. The lock guards only
/// that list, on file-worker threads.
#[derive(Debug, Default)]
pub struct FsDisk {
    files: Mutex<VecDeque<OpenFile>>,
}

#[derive(Debug, Clone)]
struct OpenFile {
    path: PathBuf,
    direct: bool,
    fd: Arc<OwnedFd>,
}

/// Why a directory cannot hold a log that is to be durable.
#[derive(Debug, thiserror::Error)]
pub enum DirectIoError {
    /// The file system refuses O_DIRECT.
    #[error("{path}: the file system has no O_DIRECT; put the data directory on ext4 or XFS")]
    Unsupported {
        /// The directory.
        path: PathBuf,
    },
    /// Something else failed.
    #[error("{path}: {error}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
}

impl FsDisk {
    /// Nothing open yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether files in `dir` can be written with O_DIRECT and synced, tried with a file that is
    /// removed again.
    pub fn probe_direct(dir: &Path) -> Result<(), DirectIoError> {
        let path = dir.join(".probe-direct.tmp");
        let io_error = |error: Errno| DirectIoError::Io {
            path: dir.to_owned(),
            error: error.into(),
        };
        let probe = || -> Result<(), DirectIoError> {
            let flags =
                OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::DIRECT;
            let unsupported = |error| match error {
                Errno::INVAL => DirectIoError::Unsupported {
                    path: dir.to_owned(),
                },
                error => io_error(error),
            };
            let fd = rustix::fs::open(&path, flags, file_mode()).map_err(unsupported)?;
            let block = AlignedBuf::zeroed(BLOCK_BYTES);
            let written = rustix::io::pwrite(&fd, block.as_slice(), 0).map_err(unsupported)?;
            if written != BLOCK_BYTES {
                return Err(io_error(Errno::NOSPC));
            }
            rustix::fs::fdatasync(&fd).map_err(io_error)
        };
        let result = probe();
        let removed = std::fs::remove_file(&path);
        result?;
        removed.map_err(|error| DirectIoError::Io {
            path: dir.to_owned(),
            error,
        })
    }

    fn open(&self, path: &Path, direct: bool, extra: OFlags) -> io::Result<Arc<OwnedFd>> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = files
            .iter()
            .position(|f| f.direct == direct && f.path == path)
        {
            let file = files.remove(at).expect("the position was just found");
            let fd = file.fd.clone();
            files.push_front(file);
            return Ok(fd);
        }
        let mut flags = OFlags::RDWR | OFlags::CLOEXEC | extra;
        if direct {
            flags |= OFlags::DIRECT;
        }
        let fd = match rustix::fs::open(path, flags, file_mode()) {
            Err(Errno::INVAL) if direct => {
                rustix::fs::open(path, flags - OFlags::DIRECT, file_mode())
            }
            // What may only be read can still be inspected.
            Err(Errno::ACCESS | Errno::ROFS) if extra.is_empty() => {
                rustix::fs::open(path, (flags - OFlags::RDWR) | OFlags::RDONLY, file_mode())
            }
            other => other,
        }?;
        let fd = Arc::new(fd);
        files.push_front(OpenFile {
            path: path.to_owned(),
            direct,
            fd: fd.clone(),
        });
        files.truncate(OPEN_FILES_MAX);
        Ok(fd)
    }

    fn forget(&self, path: &Path) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.retain(|f| !f.path.starts_with(path));
    }
}

fn file_mode() -> Mode {
    Mode::RUSR | Mode::WUSR | Mode::RGRP
}

fn is_aligned(offset: u64, bytes: &[u8]) -> bool {
    offset.is_multiple_of(BLOCK_BYTES as u64)
        && bytes.len().is_multiple_of(BLOCK_BYTES)
        && bytes.as_ptr().addr().is_multiple_of(BLOCK_BYTES)
}

fn write_all(fd: &OwnedFd, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(fd, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                bytes = &bytes[written..];
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

impl Disk for FsDisk {
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut made = Vec::new();
        let mut at = dir;
        while !at.as_os_str().is_empty() && !at.exists() {
            made.push(at);
            let Some(parent) = at.parent() else { break };
            at = parent;
        }
        std::fs::create_dir_all(dir)?;
        for new in made.iter().rev() {
            match new.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => self.sync_dir(parent)?,
                _ => self.sync_dir(Path::new("."))?,
            }
        }
        self.sync_dir(dir)
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        Ok(std::fs::metadata(path)?.len())
    }

    fn read_at(&self, path: &Path, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let fd = self.open(path, is_aligned(offset, buf), OFlags::empty())?;
        let mut done = 0;
        while done < buf.len() {
            match rustix::io::pread(&*fd, &mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => {
                    done += read;
                    // A direct read that ends off a block has met the end of the file.
                    if !done.is_multiple_of(BLOCK_BYTES) && is_aligned(offset, buf) {
                        break;
                    }
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }

    fn write_at(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let fd = self.open(path, is_aligned(offset, bytes), OFlags::CREATE)?;
        write_all(&fd, offset, bytes)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        let open: Vec<OpenFile> = {
            let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            files.iter().filter(|f| f.path == path).cloned().collect()
        };
        if open.is_empty() {
            let fd = self.open(path, false, OFlags::empty())?;
            return Ok(rustix::fs::fsync(&*fd)?);
        }
        // Each descriptor reports only the errors that it has not reported yet.
        for file in open {
            rustix::fs::fsync(&*file.fd)?;
        }
        Ok(())
    }

    fn create_zeroed(&self, path: &Path, len: u64) -> io::Result<()> {
        self.forget(path);
        let fd = self.open(
            path,
            len.is_multiple_of(BLOCK_BYTES as u64),
            OFlags::CREATE | OFlags::TRUNC,
        )?;
        // One allocation for the whole file: it stays in few extents, and a full disk shows at once.
        match rustix::fs::fallocate(&*fd, FallocateFlags::empty(), 0, len) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        let zeros =
            AlignedBuf::zeroed(ZERO_CHUNK_BYTES.min(usize::try_from(len).unwrap_or(usize::MAX)));
        let mut offset = 0;
        while offset < len {
            let chunk = (len - offset).min(zeros.len() as u64);
            write_all(&fd, offset, &zeros.as_slice()[..chunk as usize])?;
            offset += chunk;
        }
        Ok(rustix::fs::fsync(&*fd)?)
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let fd = self.open(path, false, OFlags::empty())?;
        Ok(rustix::fs::ftruncate(&*fd, len)?)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.forget(from);
        self.forget(to);
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.forget(path);
        std::fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.forget(path);
        std::fs::remove_dir_all(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(dir, flags, Mode::empty())?;
        Ok(rustix::fs::fsync(fd)?)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}
