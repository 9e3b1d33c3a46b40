//! Documents that are put in, and clients who come for them.

use super::{CONNECT_STALL_NS, Generator, Target};
use crate::connection::{Flushed, Stage};
use crate::dialect;
use crate::join::Joining;
use crate::scenario::Scenario;
use crate::tracker::new_histogram;
use crate::websocket::{self, BINARY};
use crate::{Error, Result, update};
use hdrhistogram::Histogram;

/// Edits of one room that are not yet known to be in.
const IN_FLIGHT_EDITS: u32 = 1_000;

/// How long those who join may hear nothing. A server that keeps nothing says nothing more.
const JOIN_STALL_NS: u64 = 10_000_000_000;

/// A message longer than this is a document: it is counted, not kept.
const DOCUMENT_BYTES_MIN: usize = 64 << 10;

/// What is kept of each connection.
pub(super) struct Joins {
    document_chars: u64,
    /// Documents are being put in: what comes back is looked at, however large.
    uploading: bool,
    each: Vec<Join>,
    /// Who has got its whole document.
    complete: usize,
}

#[derive(Clone, Copy, Default)]
struct Join {
    /// Bytes that it received.
    bytes: u64,
    /// Characters that it received, from the document's first on without a gap.
    chars: u64,
    /// When it had its whole document; 0 before.
    complete_ns: u64,
}

/// How long clients took to join.
#[derive(Debug)]
pub struct Joined {
    /// From the time each was due until it was in sync.
    pub synced_ns: Histogram<u64>,
    /// From the first until the last was in sync.
    pub taken_ns: u64,
}

impl Joined {
    /// Takes others in.
    pub fn add(&mut self, other: &Self) {
        // Both have the same bounds.
        let _ = self.synced_ns.add(&other.synced_ns);
        self.taken_ns = self.taken_ns.max(other.taken_ns);
    }
}

impl Joins {
    pub(super) fn on_connect(&mut self) {
        self.each.push(Join::default());
    }

    pub(super) fn on_update(&mut self, index: usize, update: &[u8]) {
        let join = &mut self.each[index];
        // What cannot be read is missed, and ends the run. What comes again counts once: a room's
        // document has one writer.
        let _ = update::for_each_range(update, |_, clock, length| {
            if clock <= join.chars {
                join.chars = join.chars.max(clock + length);
            }
        });
    }
}

/// Clients of one server: first those who put the documents in, then those who join.
pub struct Crowd<'a> {
    generator: Generator<'a>,
    joining: &'a Joining,
}

impl<'a> Crowd<'a> {
    /// Nobody yet.
    pub fn new(joining: &'a Joining, scenario: &'a Scenario, target: &'a Target) -> Result<Self> {
        let mut generator = Generator::new(scenario, target)?;
        generator.joins = Some(Joins {
            document_chars: u64::from(joining.document_chars),
            uploading: true,
            each: Vec::new(),
            complete: 0,
        });
        Ok(Self { generator, joining })
    }

    /// Puts the documents in, each by one client who then stays, and returns how many seconds that
    /// took, until the server had sent the last edit back.
    pub fn upload(&mut self) -> Result<f64> {
        let generator = &mut self.generator;
        generator.connect_all()?;
        let rooms = self.joining.rooms;
        let chars = self.joining.document_chars / self.joining.document_edits;
        let mut sent = vec![0; rooms];
        let began = generator.now_ns();
        let mut progress = (0, began);
        loop {
            let mut echoed = 0;
            for (room, sent) in sent.iter_mut().enumerate() {
                let back = generator.echoed(room);
                echoed += back;
                let known = (back / u64::from(chars)) as u32;
                while *sent < self.joining.document_edits && *sent - known < IN_FLIGHT_EDITS {
                    generator.upload_edit(room, *sent * chars, chars);
                    *sent += 1;
                }
            }
            generator.flush_dirty()?;
            let now = generator.now_ns();
            if echoed == u64::from(self.joining.document_chars) * rooms as u64 {
                return Ok((now - began) as f64 / 1e9);
            }
            if echoed > progress.0 {
                progress = (echoed, now);
            } else if now - progress.1 > CONNECT_STALL_NS {
                return Err(Error::new(format!(
                    "only {echoed} characters of the documents came back to their writers"
                )));
            }
            generator.turn(10_000_000, &mut |_, _, _| {})?;
            generator.fail()?;
        }
    }

    /// Lets `joins` clients join, offered evenly within `over_s` seconds.
    pub fn join(&mut self, joins: usize, over_s: f64) -> Result<Joined> {
        let generator = &mut self.generator;
        let first = generator.connections.len();
        let start = generator.now_ns();
        let due = |k: usize| start + (k as f64 * over_s * 1e9 / joins as f64) as u64;
        let mut next = 0;
        generator.begin_joins();
        let mut progress = (0, start);
        loop {
            let now = generator.now_ns();
            while next < joins && due(next) <= generator.now_ns() {
                generator.connect()?;
                next += 1;
                // Answers are not left lying while many connect at once.
                generator.turn(0, &mut |_, _, _| {})?;
            }
            generator.fail()?;
            let complete = generator.complete();
            if complete == joins {
                break;
            }
            let heard = generator.received_bytes;
            if heard > progress.0 || next < joins {
                progress = (heard, now);
            } else if now - progress.1 > JOIN_STALL_NS {
                return Err(Error::new(format!(
                    "only {complete} of {joins} clients got the whole document"
                )));
            }
            let until = if next < joins {
                due(next)
            } else {
                now + 10_000_000
            };
            let wait = until.saturating_sub(generator.now_ns());
            generator.turn(wait, &mut |_, _, _| {})?;
        }
        let mut synced_ns = new_histogram();
        let mut last = start;
        for k in 0..joins {
            let complete = generator.complete_ns(first + k);
            synced_ns.saturating_record(complete.saturating_sub(due(k)));
            last = last.max(complete);
        }
        Ok(Joined {
            synced_ns,
            taken_ns: last - start,
        })
    }
}

impl Generator<'_> {
    fn joins(&self) -> &Joins {
        self.joins.as_ref().expect("only called for joins")
    }

    fn echoed(&self, index: usize) -> u64 {
        self.joins().each[index].chars
    }

    fn complete(&self) -> usize {
        self.joins().complete
    }

    fn complete_ns(&self, index: usize) -> u64 {
        self.joins().each[index].complete_ns
    }

    /// From here on, who completes its document counts.
    fn begin_joins(&mut self) {
        let joins = self.joins.as_mut().expect("only called for joins");
        for join in &mut joins.each {
            join.complete_ns = 1;
        }
        joins.complete = 0;
        joins.uploading = false;
    }

    fn fail(&mut self) -> Result<()> {
        match self.failure.take() {
            Some(failure) => Err(Error::new(failure)),
            None => Ok(()),
        }
    }

    fn upload_edit(&mut self, room: usize, clock: u32, chars: u32) {
        self.update.clear();
        let client = self.target.client_base + room as u64;
        update::write_insert(&mut self.update, client, clock, chars);
        self.message.clear();
        dialect::write_update(&mut self.message, &self.prefixes[room], &self.update);
        self.frame.clear();
        websocket::write_client_frame(&mut self.frame, BINARY, &self.message);
        if self.connections[room].write_through(&self.frame) != Flushed::All {
            self.mark_dirty(room);
        }
    }

    /// Takes note of what a client that joins has received.
    pub(super) fn look_at_join(&mut self, index: usize, bytes: usize, now: u64) {
        let Some(joins) = &mut self.joins else {
            return;
        };
        let join = &mut joins.each[index];
        join.bytes += bytes as u64;
        let connection = &self.connections[index];
        let whole = connection.stage == Stage::Synced
            && connection.skip == 0
            && connection.tail.is_empty()
            && connection.parts.is_none()
            // A character is at least a byte; of what was skipped no more is known.
            && (join.chars >= joins.document_chars || join.bytes >= joins.document_chars);
        if whole && join.complete_ns == 0 {
            join.complete_ns = now;
            joins.complete += 1;
        }
    }

    /// Whether a message that begins like this is a document on its way to a client that joins. If so,
    /// the client is synced as soon as it has come.
    pub(super) fn is_document(
        &mut self,
        index: usize,
        begins: &[u8],
        prefix_length: usize,
    ) -> bool {
        if self.joins.as_ref().is_none_or(|joins| joins.uploading) {
            return false;
        }
        let Some(is_step2) = dialect::begins_with_step2(begins, prefix_length) else {
            return false;
        };
        if is_step2 && self.connections[index].stage == Stage::Syncing {
            self.connections[index].stage = Stage::Synced;
            self.synced += 1;
        }
        true
    }

    /// Throws the rest of the frame that begins in `bytes` away as it comes, if it is a large one, in
    /// all at least `need` bytes, of a document; else `None`.
    pub(super) fn skip_document(&mut self, index: usize, bytes: &[u8], need: usize) -> Option<()> {
        if need < DOCUMENT_BYTES_MIN {
            return None;
        }
        let &[first, second, ..] = bytes else {
            return None;
        };
        let (fin, opcode) = (first & 0x80 != 0, first & 0x0f);
        let start = match second & 0x7f {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        let discards = if opcode == websocket::CONTINUATION {
            self.connections[index].discards
        } else {
            let prefix = self.prefixes[self.room_of(index)].len();
            self.is_document(index, bytes.get(start..)?, prefix)
        };
        if !discards {
            return None;
        }
        let connection = &mut self.connections[index];
        connection.skip = need - bytes.len();
        connection.discards = !fin;
        connection.parts = (!fin).then(Vec::new);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_again_or_after_a_gap_is_not_more_of_the_document() {
        let mut joins = Joins {
            document_chars: 100,
            uploading: true,
            each: Vec::new(),
            complete: 0,
        };
        joins.on_connect();
        let mut hear = |clock, chars| {
            let mut update = Vec::new();
            update::write_insert(&mut update, 7, clock, chars);
            joins.on_update(0, &update);
            joins.each[0].chars
        };
        assert_eq!(hear(0, 10), 10);
        assert_eq!(hear(0, 10), 10);
        assert_eq!(hear(5, 10), 15);
        assert_eq!(hear(50, 10), 15);
    }
}
