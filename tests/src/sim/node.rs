//! One shard and what its runtime knows: the connections, and what waits to be fed to it.

use super::plan::MILLISECOND;
use collabblocks_server::shard::{
    ConnId, ControlRequest, Effects, Handoff, Mail, Shard, ShardId, Stats, Verdict,
};
use collabblocks_storage_engine::JobDone;
use collabblocks_wal::WriteJob;
use std::collections::VecDeque;
use std::io;

/// How long a closing connection may take to get its last bytes out.
pub(crate) const CLOSE_NS: u64 = 1000 * MILLISECOND;

/// Something that happened and has not been fed yet.
#[derive(Debug)]
pub(crate) enum Input {
    Accept(u64),
    Readable(ConnId),
    /// The peer reset it.
    Reset(ConnId),
    Drained(ConnId),
    /// It has taken some of it; so much is left.
    Progress(ConnId, usize),
    Refused(ConnId),
    Authenticated(ConnId, Verdict),
    LogWritten(WriteJob, io::Result<usize>),
    JobDone(JobDone),
    Control(ControlRequest),
}

/// What is on its way to another shard.
#[derive(Debug)]
pub(crate) enum Parcel {
    /// A connection with the bytes of its handoff.
    Handoff(u64, Box<Handoff>),
    Mail(Mail),
}

/// A connection as its runtime knows it.
#[derive(Debug)]
pub(crate) struct Conn {
    pub link: u64,
    /// The shard has not let go of it.
    pub live: bool,
    pub established: bool,
    pub read_on: bool,
    /// What the socket did not take.
    pub rest: VecDeque<u8>,
    pub blocked_since: Option<u64>,
    /// Bytes that were held back at first, and when the shard was told last.
    pub held_back: usize,
    pub told: usize,
    /// It was told something while blocked: it must be closed in the same turn.
    pub farewell: bool,
    pub sent_in_turn: u64,
    /// When it is closed even if bytes are left.
    pub deadline: Option<u64>,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    conn: Option<Conn>,
}

/// One shard under the simulated runtime.
pub(crate) struct Node {
    pub shard: Shard,
    pub effects: Effects,
    pub inbox: VecDeque<Input>,
    /// Parcels from each other shard.
    pub mail: Vec<VecDeque<Parcel>>,
    /// Sends of the last turn that the sockets did not wholly take.
    pub blocked: Vec<(ConnId, usize)>,
    /// Mail that found the mailbox full in the last turn.
    pub refused: Vec<(ShardId, Mail)>,
    /// Shards that got mail in this turn.
    pub mailed: Vec<ShardId>,
    /// Connections that the peer closed or reset in this turn.
    pub lost: Vec<ConnId>,
    pub timer: Option<u64>,
    /// When its next turn is to be.
    pub turn_at: Option<u64>,
    pub turn: u64,
    pub writing: bool,
    pub accepting: bool,
    pub drained: bool,
    pub fatal: Option<String>,
    pub stats: Option<Box<Stats>>,
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Node {
    pub fn new(shard: Shard, shards: usize) -> Self {
        Self {
            shard,
            effects: Effects::default(),
            inbox: VecDeque::new(),
            mail: (0..shards).map(|_| VecDeque::new()).collect(),
            blocked: Vec::new(),
            refused: Vec::new(),
            mailed: Vec::new(),
            lost: Vec::new(),
            timer: None,
            turn_at: None,
            turn: 0,
            writing: false,
            accepting: true,
            drained: false,
            fatal: None,
            stats: None,
            slots: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Takes a connection in.
    pub fn insert(&mut self, link: u64) -> ConnId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() as u32 - 1
        });
        let place = &mut self.slots[slot as usize];
        place.generation += 1;
        place.conn = Some(Conn {
            link,
            live: true,
            established: false,
            read_on: true,
            rest: VecDeque::new(),
            blocked_since: None,
            held_back: 0,
            told: 0,
            farewell: false,
            sent_in_turn: 0,
            deadline: None,
        });
        ConnId {
            slot,
            generation: place.generation,
        }
    }

    pub fn get(&mut self, id: ConnId) -> Option<&mut Conn> {
        let place = self.slots.get_mut(id.slot as usize)?;
        place
            .conn
            .as_mut()
            .filter(|_| place.generation == id.generation)
    }

    /// A connection that the shard knows.
    pub fn live(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.get(id).filter(|conn| conn.live)
    }

    pub fn remove(&mut self, id: ConnId) -> Option<Conn> {
        self.get(id)?;
        let conn = self.slots[id.slot as usize].conn.take();
        self.free.push(id.slot);
        conn
    }

    /// All connections.
    pub fn conns(&self) -> impl Iterator<Item = (ConnId, &Conn)> {
        self.slots.iter().enumerate().filter_map(|(slot, place)| {
            let id = ConnId {
                slot: slot as u32,
                generation: place.generation,
            };
            Some((id, place.conn.as_ref()?))
        })
    }
}
