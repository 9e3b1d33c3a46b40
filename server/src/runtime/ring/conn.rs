//! The connections of a core, by slot.

use super::uring::SLOTS_MAX;
use crate::shard::{ConnId, Handoff, Instant, ShardId};
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
    /// To be freed once nothing is under way on it.
    Dead,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub socket: OwnedFd,
    pub phase: Phase,
    pub recv: Recv,
    pub established: bool,
    pub read_on: bool,
    /// The peer has closed its side.
    pub ended: bool,
    /// A send failed; reported at the end of the reap.
    pub failed: bool,
    /// Queued to have its receive started.
    pub arm_queued: bool,
    /// Received while reading was off.
    pub held: Vec<u8>,
    /// The turn of the last send that did not wait, and the part of the turn's frames it sends.
    pub sent_in_turn: u64,
    pub sent_start: usize,
    pub sent_len: usize,
    /// What the socket did not take, how much of it went since, and whether a send is under way.
    pub rest: Vec<u8>,
    pub rest_sent: usize,
    pub rest_sending: bool,
}

impl Conn {
    pub fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            phase: Phase::Live,
            recv: Recv::Idle,
            established: false,
            read_on: true,
            ended: false,
            failed: false,
            arm_queued: false,
            held: Vec::new(),
            sent_in_turn: 0,
            sent_start: 0,
            sent_len: 0,
            rest: Vec::new(),
            rest_sent: 0,
            rest_sending: false,
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

#[derive(Debug)]
struct Slot {
    generation: u32,
    conn: Option<Conn>,
}

/// All connections of a core.
#[derive(Debug, Default)]
pub(super) struct Conns {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Conns {
    /// Takes a socket in, unless there is no number left for it.
    pub fn insert(&mut self, socket: OwnedFd) -> Option<ConnId> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                let slot = u32::try_from(self.slots.len())
                    .ok()
                    .filter(|slot| *slot < SLOTS_MAX)?;
                self.slots.push(Slot {
                    generation: 0,
                    conn: None,
                });
                slot
            }
        };
        let place = &mut self.slots[slot as usize];
        assert!(place.conn.is_none(), "a free slot holds a connection");
        place.generation = place.generation.wrapping_add(1);
        place.conn = Some(Conn::new(socket));
        Some(ConnId {
            slot,
            generation: place.generation,
        })
    }

    /// Takes a connection in again that was removed just before, under the same number.
    pub fn put_back(&mut self, id: ConnId, socket: OwnedFd) {
        assert_eq!(self.free.pop(), Some(id.slot), "nothing came between");
        let place = &mut self.slots[id.slot as usize];
        assert_eq!(place.generation, id.generation, "nothing came between");
        place.conn = Some(Conn::new(socket));
    }

    /// A connection, unless it is gone.
    pub fn get(&mut self, id: ConnId) -> Option<&mut Conn> {
        let place = self.slots.get_mut(id.slot as usize)?;
        if place.generation == id.generation {
            place.conn.as_mut()
        } else {
            None
        }
    }

    /// A connection that the shard knows.
    pub fn live(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.get(id).filter(|conn| conn.is_live())
    }

    /// Takes a connection out; its slot may be used again.
    pub fn remove(&mut self, id: ConnId) -> Conn {
        let place = &mut self.slots[id.slot as usize];
        assert_eq!(
            place.generation, id.generation,
            "a connection is removed once"
        );
        let conn = place.conn.take().expect("a connection is removed once");
        self.free.push(id.slot);
        conn
    }
}

/// Connections that are to be gone by a time, in order of it.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    list: std::collections::VecDeque<(Instant, ConnId)>,
}

impl Deadlines {
    /// All are given the same span, so they stay in order.
    pub fn add(&mut self, at: Instant, conn: ConnId) {
        self.list.push_back((at, conn));
    }

    pub fn next(&self) -> Option<Instant> {
        self.list.front().map(|(at, _)| *at)
    }

    pub fn pop_due(&mut self, now: Instant) -> Option<ConnId> {
        self.list
            .pop_front_if(|(at, _)| *at <= now)
            .map(|(_, conn)| conn)
    }
}
