//! The ring's writes to the log: one at a time, synced by a linked operation or by the write itself.
#![allow(unsafe_code)] // The kernel reads the batch's buffer while it is written.

use super::uring::{Done, Op, Uring};
use crate::runtime::LogSync;
use crate::runtime::log::Segments;
use collabblocks_wal::{AlignedBuf, WriteJob};
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{opcode, squeue};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// One shard's log writes through the ring.
pub(super) struct LogWriter {
    sync: LogSync,
    segments: Segments,
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
            segments: Segments::default(),
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
        let fd = match self.segments.file(&job) {
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
        // SAFETY: the buffer is on the heap and owned by `self.job`, the file is in `self.segments`,
        // from which only a later batch removes it: both live until the last completion, which `end`
        // awaits, whatever the log's thread has told of a copy meanwhile. The ring is quieted before
        // `self` is dropped.
        unsafe {
            match self.sync {
                LogSync::Dsync | LogSync::Thread => {
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

    /// A copy of the batch under way, and the file that it goes to. The file itself rather than its
    /// path: by the time it is written to the log may have moved on and the segment have another name.
    pub fn copy(&mut self) -> io::Result<(WriteJob, File)> {
        let job = self.job.as_ref().expect("a batch is under way");
        let file = self.segments.file(job)?.try_clone()?;
        let mut buffer = AlignedBuf::with_capacity(job.buffer.len());
        buffer.extend_from_slice(job.buffer.as_slice());
        let copy = WriteJob {
            segment: job.segment,
            path: job.path.clone(),
            offset: job.offset,
            buffer,
        };
        Ok((copy, file))
    }

    /// A completion of the batch under way; `Some` when it was the last one.
    pub fn end(&mut self, done: Done) -> Option<Written> {
        let result =
            usize::try_from(done.result).map_err(|_| io::Error::from_raw_os_error(-done.result));
        match done.op {
            Op::LogWrite => self.written = Some(result),
            _ => self.synced = Some(result.map(drop)),
        }
        if self.synced.is_none() && self.sync != LogSync::Fdatasync {
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
}
