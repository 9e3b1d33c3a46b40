//! What can happen to a shard.

use super::identity::{Claims, Verdict};
use super::mail::Letter;
use super::types::{ConnId, ShardId};
use collabblocks_storage_engine::JobDone;
use collabblocks_wal::WriteJob;
use core::net::SocketAddr;
use std::io;

/// One thing that happened. Byte slices borrow the runtime's receive buffers.
#[derive(Debug)]
pub enum Event<'a> {
    /// A socket was accepted on this core. The runtime receives on it in single shots until told
    /// [`super::Effect::Established`], so that nothing is under way when it is handed off.
    Accepted {
        /// The connection's new id.
        conn: ConnId,
        /// Who is at the other end.
        peer: SocketAddr,
    },
    /// The socket's peer is a balancer that speaks for this one. Comes before the first bytes, if at
    /// all.
    Proxied {
        /// The connection.
        conn: ConnId,
        /// Whom it speaks for.
        peer: SocketAddr,
    },
    /// A socket came with a [`Mail::Handoff`] from another core.
    HandedOff {
        /// Its new id here.
        conn: ConnId,
        /// What is known of it.
        handoff: Box<Handoff>,
    },
    /// The receiver of a handoff could not take it (mailbox full); the connection is still here.
    HandoffRefused {
        /// The connection.
        conn: ConnId,
    },
    /// The answer to an [`super::Effect::Authenticate`]: one for each, also if the connection is gone
    /// by then.
    Authenticated {
        /// Who was asked about.
        conn: ConnId,
        /// Who it is, or why it is not let in.
        verdict: Verdict,
    },
    /// Bytes arrived; they may be changed in place (unmasking).
    Received {
        /// From whom.
        conn: ConnId,
        /// What.
        bytes: &'a mut [u8],
    },
    /// The socket did not take all of a [`super::Effect::Send`]. The runtime keeps the rest and goes
    /// on sending it; until [`Event::Drained`] the shard sends nothing more to this connection, but
    /// what it says when it closes it. Comes again with fewer bytes as the socket takes them, now and
    /// then: each time another sixteenth has gone, at least 128 KiB.
    Blocked {
        /// Whose.
        conn: ConnId,
        /// Bytes that the runtime still holds.
        unsent_bytes: usize,
    },
    /// What was held back has been taken by the socket.
    Drained {
        /// Whose.
        conn: ConnId,
    },
    /// The peer closed, or the socket failed. The runtime has let go of it: the id is gone.
    Closed {
        /// Whose.
        conn: ConnId,
    },
    /// An [`super::Effect::WriteLog`] ended.
    LogWritten {
        /// The job, with its buffer.
        job: WriteJob,
        /// Bytes written and synced, or the error.
        result: io::Result<usize>,
    },
    /// An [`super::Effect::RunJob`] ended.
    JobDone(JobDone),
    /// The mailbox of a shard was full: a message that was to go there with
    /// [`super::Effect::Mail`] is given back, in the next turn.
    MailRefused {
        /// Whose mailbox.
        to: ShardId,
        /// What.
        mail: Mail,
    },
    /// A message of another shard without a socket.
    Mail {
        /// Whose.
        from: ShardId,
        /// What.
        mail: Mail,
    },
    /// The control plane asks something; answered with [`super::Effect::Reply`].
    Control(ControlRequest),
    /// The time asked for by [`super::Effect::SetTimer`] has come.
    Timer,
    /// All that was ready has been fed: flush. Every turn ends with it.
    TurnEnd,
}

/// What a shard says to another one. The bounded mailbox carries it with the socket, if any.
#[derive(Debug)]
pub enum Mail {
    /// A room's connection for its home shard; the runtime sends the socket along and delivers it
    /// there as [`Event::HandedOff`].
    Handoff(Box<Handoff>),
    /// What the rooms of one core have to say to sessions whose sockets are on another one, and these
    /// to them.
    Letter(Box<Letter>),
}

/// A connection on its way to its room's home shard.
#[derive(Debug)]
pub struct Handoff {
    /// The HTTP request head and all bytes read after it, as they came.
    pub bytes: Vec<u8>,
    /// Who is at the other end.
    pub peer: SocketAddr,
    /// Who it is: it was let in where it was accepted.
    pub claims: Claims,
}

/// What the control plane may ask.
#[derive(Debug)]
pub enum ControlRequest {
    /// Figures since start.
    Stats {
        /// Given back in the reply.
        id: u64,
    },
    /// Stop taking connections, flush, close sessions with 1012, then [`ControlReply::Drained`].
    Drain,
}

/// What a shard answers.
#[derive(Debug)]
pub enum ControlReply {
    /// To [`ControlRequest::Stats`].
    Stats {
        /// As asked.
        id: u64,
        /// The figures; the runtime adds its own before it passes them on.
        stats: Box<crate::shard::Stats>,
    },
    /// To [`ControlRequest::Drain`]: all is durable, all connections are closed.
    Drained,
}
