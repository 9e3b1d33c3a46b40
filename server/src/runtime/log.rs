//! The log's files, and a thread that writes to them where the ring does not, or is slow to.

use super::placement;
use crate::mailbox::{LogEnd, Wake};
use collabblocks_wal::{SegmentId, WriteJob};
use rustix::io::{Errno, ReadWriteFlags, pwritev2};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Segments kept open: the one being written and the one before, as writes only go forward.
const OPEN_MAX: usize = 2;

/// The open segments of one shard's log, by number.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    open: Vec<(SegmentId, File)>,
}

impl Segments {
    /// The file a batch is for.
    pub fn file(&mut self, job: &WriteJob) -> io::Result<&File> {
        let index = match self
            .open
            .iter()
            .position(|(segment, _)| *segment == job.segment)
        {
            Some(index) => index,
            None => {
                let file = open_direct(&job.path)?;
                if self.open.len() == OPEN_MAX {
                    self.open.remove(0);
                }
                self.open.push((job.segment, file));
                self.open.len() - 1
            }
        };
        Ok(&self.open[index].1)
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

/// A thread that writes and syncs one shard's batches. Dropping it waits for the batch under way.
#[derive(Debug)]
pub(crate) struct LogThread {
    jobs: Option<SyncSender<(WriteJob, Option<File>)>>,
    thread: Option<JoinHandle<()>>,
}

impl LogThread {
    /// Starts it; batches that ended are sent to `ended`, with a wake.
    pub fn start(name: String, ended: Sender<LogEnd>, wake: Arc<Wake>) -> io::Result<Self> {
        // One batch is under way at a time.
        let (jobs, receiver) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || write_all(&receiver, &ended, &wake))?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Hands over a batch. Never blocks.
    pub fn send(&self, job: WriteJob) {
        self.hand_over(job, None);
    }

    /// Hands over the copy of a batch that another writes as well, with its file. Never blocks.
    pub fn send_copy(&self, job: WriteJob, file: File) {
        self.hand_over(job, Some(file));
    }

    fn hand_over(&self, job: WriteJob, file: Option<File>) {
        let jobs = self.jobs.as_ref().expect("present until drop");
        let sent = jobs.try_send((job, file));
        assert!(sent.is_ok(), "one batch of the log is under way at a time");
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // Its own panic would have been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

fn write_all(jobs: &Receiver<(WriteJob, Option<File>)>, ended: &Sender<LogEnd>, wake: &Wake) {
    // The core of its shard may have more to do than it can where another has not.
    placement::unpin();
    let mut segments = Segments::default();
    for (job, file) in jobs {
        let result = match &file {
            Some(file) => write(file, &job),
            None => segments.file(&job).and_then(|file| write(file, &job)),
        };
        if ended.send(LogEnd { job, result }).is_err() {
            return;
        }
        wake.notify();
    }
}

fn write(file: &File, job: &WriteJob) -> io::Result<usize> {
    let bytes = [IoSlice::new(job.buffer.as_slice())];
    loop {
        match pwritev2(file, &bytes, job.offset, ReadWriteFlags::DSYNC) {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}
