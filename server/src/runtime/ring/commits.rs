//! The way of a batch: to the ring, to the thread, to both ([`super::hedge`]), and back to the core.

use super::hedge::{Ended, HEDGE_AFTER_NS, Writer};
use super::log::Written;
use super::{Pending, Ring};
use crate::runtime::log::LogThread;
use crate::runtime::{Core, Ports};
use crate::shard::Event;
use collabblocks_wal::WriteJob;
use std::io;
use std::time::Duration;

/// A batch of so many bytes is given to the thread to begin with.
const LARGE_BATCH_BYTES: usize = 1 << 20;

/// Starts the thread that writes batches of the log.
pub(super) fn start_log_thread(ports: &Ports) -> io::Result<LogThread> {
    LogThread::start(
        format!("log-{}", ports.shard.0),
        ports.log_ends.clone(),
        ports.wake.clone(),
    )
}

impl<C: Core> Ring<C> {
    /// Hands a batch to whoever is to write it.
    pub(super) fn write_log(&mut self, job: WriteJob, lazy: bool) -> io::Result<()> {
        let large = job.buffer.len() >= LARGE_BATCH_BYTES && self.has_log_thread();
        match self.hedge.start(job.segment, large, self.seat.now) {
            None => self.log_waits = Some((job, lazy)),
            Some(Writer::Thread) => self
                .log_thread
                .as_ref()
                .expect("who is given a batch was started")
                .send(job),
            Some(Writer::Ring) => {
                let ended = if lazy && !self.ports.log_lag.is_zero() {
                    self.log_due = Some(self.seat.now.after(self.ports.log_lag));
                    let ended = self.log.start(&mut self.log_uring, job)?;
                    self.log_uring.enter(None)?;
                    ended
                } else {
                    self.log.start(&mut self.uring, job)?
                };
                if ended.is_some() {
                    self.log_due = None;
                }
                self.pending.extend(ended.map(Pending::Written));
            }
        }
        Ok(())
    }

    /// Looks after a batch that nobody waits for.
    pub(super) fn take_log(&mut self) -> io::Result<()> {
        if self.log_due.is_none() {
            return Ok(());
        }
        if self.log_uring.has_ended() {
            self.log_uring.enter(None)?;
        }
        let mut done = std::mem::take(&mut self.done);
        self.log_uring.take_reaped(&mut done);
        for entry in done.drain(..) {
            if let Some(written) = self.log.end(entry) {
                self.log_due = None;
                self.log_ended(Writer::Ring, written)?;
            }
        }
        self.done = done;
        // Slower than expected: the core wakes up for it again, as often as it would for a timer.
        let again = if self.hedge.is_late() {
            Duration::from_nanos(HEDGE_AFTER_NS)
        } else {
            self.ports.log_lag
        };
        if let Some(due) = &mut self.log_due
            && *due <= self.seat.now
        {
            *due = self.seat.now.after(again);
        }
        Ok(())
    }

    /// A writer is done with a batch.
    pub(super) fn log_ended(&mut self, writer: Writer, (job, result): Written) -> io::Result<()> {
        match self.hedge.ended(writer) {
            Ended::First => {
                let result = match &self.log_failed {
                    Some(why) => Err(io::Error::other(why.clone())),
                    None => result,
                };
                self.seat.feed(Event::LogWritten { job, result });
            }
            Ended::Late => {
                let bytes = job.buffer.len();
                let why = match result {
                    Ok(written) if written == bytes => None,
                    Ok(written) => Some(format!("{written} of {bytes} bytes were written")),
                    Err(error) => Some(error.to_string()),
                };
                // The other writer's success stands, but a device that fails a write is not trusted
                // with another: as after any failed write of the log the process ends.
                if let Some(why) = why {
                    let why = format!("a second write of a batch of the log failed: {why}");
                    self.fatal.get_or_insert_with(|| why.clone());
                    self.log_failed = Some(why);
                }
            }
        }
        if self.hedge.is_late() {
            return Ok(());
        }
        if let Some(reply) = self.drained.take() {
            self.reply(reply);
        }
        match self.log_waits.take() {
            Some((job, lazy)) if self.log_failed.is_none() => self.write_log(job, lazy),
            _ => Ok(()),
        }
    }

    /// Gives the batch under way to the thread as well, if it has taken too long.
    pub(super) fn hedge_log(&mut self) {
        if self.hedge.due().is_none_or(|due| due > self.seat.now) {
            return;
        }
        match self.give_copy() {
            Ok(()) => {
                self.hedge.hedged();
                self.stats.hedged_writes += 1;
            }
            Err(error) => {
                // The ring's own write goes on.
                tracing::warn!(%error, "a slow batch of the log cannot be given to a thread");
                self.hedge.postpone(self.seat.now);
            }
        }
    }

    /// Starts the log's thread, if it is not there.
    fn has_log_thread(&mut self) -> bool {
        match self.start_thread() {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "a large batch of the log cannot be given to a thread");
                false
            }
        }
    }

    fn start_thread(&mut self) -> io::Result<()> {
        if self.log_thread.is_none() {
            self.log_thread = Some(start_log_thread(&self.ports)?);
        }
        Ok(())
    }

    fn give_copy(&mut self) -> io::Result<()> {
        self.start_thread()?;
        let (copy, file) = self.log.copy()?;
        let thread = self.log_thread.as_ref().expect("it was just started");
        thread.send_copy(copy, file);
        Ok(())
    }
}

#[cfg(test)]
#[path = "commits_tests.rs"]
mod tests;
