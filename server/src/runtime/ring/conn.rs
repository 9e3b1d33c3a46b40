//! One connection's state.

use crate::runtime::front::Front;
use crate::runtime::slots::Slots;
use crate::shard::{ConnId, Handoff, ShardId};
use std::os::fd::OwnedFd;

/// Which receive is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Recv {
    /// None.
    Idle,
    /// One, single or multishot.
    Armed,
    /// One that has been told to end.
    Ending,
}

/// Where a connection goes.
#[derive(Debug)]
pub(super) enum Leaving {
    /// To another shard.
    Shard(ShardId, Box<Handoff>),
    /// To the control plane.
    Control(Vec<u8>),
}

/// How far a connection is.
#[derive(Debug)]
pub(super) enum Phase {
    /// The shard knows it.
    Live,
    /// On its way out; goes once nothing is under way on it.
    Leaving(Leaving),
    /// The shard has let go of it: what is unsent goes out, then our side is shut.
    Flushing,
    /// Our side is shut; what the peer sends is thrown away until it closes too. Closing before
    /// would reset the connection and could destroy what the peer has not read yet.
    Lingering,
    /// The control plane answers it under TLS: what comes from it goes to this connection, which is
    /// spliced to it in turn. One of the two is the client's, the other an end of a pair.
    Spliced(ConnId),
    /// To be freed once nothing is under way on it.
    Dead,
}

/// One connection. What each receive and each send looks at comes first: a core has many of these,
/// and each line of them that it reads is a cache miss.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Conn {
    pub socket: OwnedFd,
    pub recv: Recv,
    pub established: bool,
    pub read_on: bool,
    /// The peer has closed its side.
    pub ended: bool,
    /// A send failed; reported at the end of the reap.
    pub failed: bool,
    /// Queued to have its receive started.
    pub arm_queued: bool,
    pub rest_sending: bool,
    pub phase: Phase,
    /// What its bytes go through.
    pub front: Front,
    /// The turn of the last send that did not wait, and the part of the turn's frames it sends, or
    /// of a chunk of the turn's ciphertext.
    pub sent_in_turn: u64,
    pub sent_chunk: Option<u32>,
    pub sent_start: usize,
    pub sent_len: usize,
    /// Received while reading was off, or while its handshake has to wait; as it came.
    pub held: Vec<u8>,
    /// What the socket did not take, how much of it went since, and (above) whether a send is under
    /// way.
    pub rest: Vec<u8>,
    pub rest_sent: usize,
    pub rest_part: usize,
    /// What goes after it, before the connection is closed.
    pub farewell: Vec<u8>,
}

impl Conn {
    pub fn new(socket: OwnedFd) -> Self {
        Self::through(Front::Clear, socket)
    }

    pub fn through(front: Front, socket: OwnedFd) -> Self {
        Self {
            socket,
            phase: Phase::Live,
            front,
            recv: Recv::Idle,
            established: false,
            read_on: true,
            ended: false,
            failed: false,
            arm_queued: false,
            held: Vec::new(),
            sent_in_turn: 0,
            sent_chunk: None,
            sent_start: 0,
            sent_len: 0,
            rest: Vec::new(),
            rest_sent: 0,
            rest_part: 0,
            rest_sending: false,
            farewell: Vec::new(),
        }
    }

    /// Nothing of the kernel's points at it, provided that `turn`, the last one whose sends may not
    /// have ended, did not send on it.
    pub fn is_quiet(&self, turn: u64) -> bool {
        self.recv == Recv::Idle && !self.rest_sending && self.sent_in_turn != turn
    }

    pub fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Live)
    }

    pub fn is_blocked(&self) -> bool {
        !self.rest.is_empty()
    }
}

/// All connections of a core.
pub(super) type Conns = Slots<Conn>;

impl Conns {
    /// A connection that the shard knows.
    pub fn live(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.get(id).filter(|conn| conn.is_live())
    }
}
