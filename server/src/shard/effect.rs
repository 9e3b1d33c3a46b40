//! What a shard wants done.

use super::event::{ControlReply, Handoff, Mail};
use super::identity::Request;
use super::types::{ConnId, Instant, ShardId};
use collabblocks_storage_engine::Job;
use collabblocks_wal::WriteJob;
use std::ops::Range;

/// The reusable list of effects of a turn, in order, with the bytes that its sends point into.
#[derive(Debug, Default)]
pub struct Effects {
    /// What is to be done, in order.
    pub list: Vec<Effect>,
    /// The turn's frames: recipients of the same frames share one range. Stays as it is until the
    /// runtime has submitted the turn's sends, then it is cleared.
    pub frames: Vec<u8>,
}

/// One thing to be done.
#[derive(Debug)]
pub enum Effect {
    /// Send `frames[range]`. At most one for each connection and turn. What the socket does not take
    /// at once is kept by the runtime and reported with [`super::Event::Blocked`]. To a blocked
    /// connection only right before [`Effect::Close`]: it goes after what is unsent.
    Send {
        /// To whom.
        conn: ConnId,
        /// Which bytes of [`Effects::frames`].
        range: Range<usize>,
    },
    /// The connection stays here: receive in the cheapest way (multishot).
    Established {
        /// Whose.
        conn: ConnId,
    },
    /// Close: after all its bytes are sent if `flush` (at most one second), else at once. The id is
    /// gone for the shard: no [`super::Event::Closed`] follows.
    Close {
        /// Whose.
        conn: ConnId,
        /// Whether what is unsent goes out first.
        flush: bool,
    },
    /// Stop or go on reading from a connection (backpressure).
    Read {
        /// Whose.
        conn: ConnId,
        /// Whether to read.
        on: bool,
    },
    /// Give the socket and what is known of it to another shard. The id is gone unless
    /// [`super::Event::HandoffRefused`] follows.
    Handoff {
        /// Whose.
        conn: ConnId,
        /// To whom.
        to: ShardId,
        /// What is known.
        handoff: Box<Handoff>,
    },
    /// Find out who a client is and what it may do, then [`super::Event::Authenticated`]. Only from a
    /// shard that is told to ask; its bound on questions under way is its own.
    Authenticate {
        /// Whose.
        conn: ConnId,
        /// What is known of it; the runtime adds the certificate, if there is one.
        request: Box<Request>,
    },
    /// The request is no room socket: give the socket and all bytes read to the control plane. The
    /// id is gone.
    PassToControl {
        /// Whose.
        conn: ConnId,
        /// All bytes read.
        bytes: Vec<u8>,
    },
    /// Give a message to another shard, without a socket; at most one for each shard and turn. If its
    /// mailbox is full, [`super::Event::MailRefused`] gives the message back.
    Mail {
        /// To whom.
        to: ShardId,
        /// What.
        mail: Mail,
    },
    /// Write and sync a batch of the log, then [`super::Event::LogWritten`]. At most one at a time.
    WriteLog {
        /// The batch.
        job: WriteJob,
        /// Its end may be noticed later, with what else wakes the core.
        lazy: bool,
    },
    /// Blocking work for a file-worker thread, then [`super::Event::JobDone`].
    RunJob(Job),
    /// Call [`super::Event::Timer`] at this time; replaces the time set before.
    SetTimer(Instant),
    /// Answer the control plane.
    Reply(ControlReply),
    /// Stop accepting (drain).
    StopAccepting,
    /// The log is poisoned or an invariant is broken: log this and end the process with an error.
    Fatal(String),
}
