//! The log's writes: one batch at a time, synced by a linked operation or by the write itself.
#![allow(unsafe_code)] // The kernel reads the batch's buffer while it is written.

use super::uring::{Done, Op, Uring};
use crate::runtime::LogSync;
use collabblocks_wal::{SegmentId, WriteJob};
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{opcode, squeue};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Segments kept open: the one being written and the one before, as writes only go forward.
const OPEN_MAX: usize = 2;

/// One shard's log writes.
pub(super) struct LogWriter {
    sync: LogSync,
    open: Vec<(SegmentId, File)>,
    job: Option<WriteJob>,
    written: Option<io::Result<usize>>,
    synced: Option<io::Result<()>>,
}

/// A batch that ended: what the shard is told.
pub(super) type Written = (WriteJob, io::Result<usize>);

impl LogWriter {
    pub fn new(sync: LogSync) -> Self {
        Self {
            sync,
            open: Vec::new(),
            job: None,
            written: None,
            synced: None,
        }
    }

    /// Queues a batch. `Some` if it ended at once, with an error.
    pub fn start(&mut self, uring: &mut Uring, job: WriteJob) -> io::Result<Option<Written>> {
        assert!(
            self.job.is_none(),
            "one batch of the log is under way at a time"
        );
        let fd = match self.file(&job) {
            Ok(file) => Fd(file.as_raw_fd()),
            Err(error) => return Ok(Some((job, Err(error)))),
        };
        let Ok(len) = u32::try_from(job.buffer.as_slice().len()) else {
            return Ok(Some((
                job,
                Err(io::Error::other("a batch is larger than one write can be")),
            )));
        };
        let job = self.job.insert(job);
        let (bytes, offset) = (job.buffer.as_slice(), job.offset);
        let write = opcode::Write::new(fd, bytes.as_ptr(), len).offset(offset);
        // SAFETY: the buffer is on the heap and owned by `self.job`, the file is in `self.open`, from
        // which only a later batch removes it: both live until the last completion, which `end`
        // awaits. The ring is quieted before `self` is dropped.
        unsafe {
            match self.sync {
                LogSync::Dsync => {
                    let write = write
                        .rw_flags(libc::RWF_DSYNC)
                        .build()
                        .user_data(Op::LogWrite.at(0));
                    uring.push(&[write])?;
                }
                LogSync::Fdatasync => {
                    let write = write
                        .build()
                        .user_data(Op::LogWrite.at(0))
                        .flags(squeue::Flags::IO_LINK);
                    let sync = opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build();
                    uring.push(&[write, sync.user_data(Op::LogSync.at(0))])?;
                }
            }
        }
        Ok(None)
    }

    /// A completion of the batch under way; `Some` when it was the last one.
    pub fn end(&mut self, done: Done) -> Option<Written> {
        let result =
            usize::try_from(done.result).map_err(|_| io::Error::from_raw_os_error(-done.result));
        match done.op {
            Op::LogWrite => self.written = Some(result),
            _ => self.synced = Some(result.map(drop)),
        }
        if self.synced.is_none() && self.sync == LogSync::Dsync {
            self.synced = Some(Ok(()));
        }
        let (Some(_), Some(_)) = (&self.written, &self.synced) else {
            return None;
        };
        let (written, synced) = (self.written.take()?, self.synced.take()?);
        let job = self.job.take().expect("a completion has its batch");
        let result = match written {
            Ok(bytes) if bytes == job.buffer.as_slice().len() => synced.map(|()| bytes),
            // The sync of a write that failed or was short is cancelled: the write's result tells
            // why, and the log takes anything short of all bytes for a failure.
            written => written,
        };
        Some((job, result))
    }

    fn file(&mut self, job: &WriteJob) -> io::Result<&File> {
        match self
            .open
            .iter()
            .position(|(segment, _)| *segment == job.segment)
        {
            Some(index) => Ok(&self.open[index].1),
            None => {
                let file = open_direct(&job.path)?;
                if self.open.len() == OPEN_MAX {
                    self.open.remove(0);
                }
                self.open.push((job.segment, file));
                Ok(&self.open[self.open.len() - 1].1)
            }
        }
    }
}

/// Opens a segment for direct writes, or plain ones where the file system has no direct ones.
fn open_direct(path: &Path) -> io::Result<File> {
    let open = |flags| {
        OpenOptions::new()
            .write(true)
            .custom_flags(flags)
            .open(path)
    };
    match open(libc::O_DIRECT) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => open(0),
        result => result,
    }
}
