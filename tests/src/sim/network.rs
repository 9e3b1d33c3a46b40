//! Simulated TCP connections: bytes that arrive late, in pieces cut anywhere, through buffers of
//! bounded size; ends, resets, and silence.

use super::rng::Rng;
use std::collections::VecDeque;
use std::ops::Range;

/// One direction of a connection.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    flying: VecDeque<(u64, Piece)>,
    flying_bytes: usize,
    unread: VecDeque<u8>,
    capacity: usize,
    last_at: u64,
    /// The sender has ended it, and the receiver has been told.
    pub ended: bool,
}

#[derive(Debug)]
enum Piece {
    Bytes(Vec<u8>),
    End,
}

impl Pipe {
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            ..Self::default()
        }
    }

    /// Bytes that fit in.
    pub fn space(&self) -> usize {
        self.capacity
            .saturating_sub(self.flying_bytes + self.unread.len())
    }

    /// Sends as many bytes as fit; pushes the times at which pieces of them arrive.
    pub fn write(
        &mut self,
        now: u64,
        bytes: &[u8],
        latency: &Range<u64>,
        rng: &mut Rng,
        arrivals: &mut Vec<u64>,
    ) -> usize {
        let taken = bytes.len().min(self.space());
        let mut rest = &bytes[..taken];
        while !rest.is_empty() {
            let len = match rng.range(0..4) {
                0 => 1 + rng.index(rest.len().min(16)),
                1 => 1 + rng.index(rest.len()),
                _ => rest.len(),
            };
            let (piece, others) = rest.split_at(len);
            rest = others;
            self.flying_bytes += piece.len();
            self.fly(now, Piece::Bytes(piece.to_vec()), latency, rng, arrivals);
        }
        taken
    }

    /// Ends the direction after all that was sent.
    pub fn end(&mut self, now: u64, latency: &Range<u64>, rng: &mut Rng, arrivals: &mut Vec<u64>) {
        self.fly(now, Piece::End, latency, rng, arrivals);
    }

    fn fly(
        &mut self,
        now: u64,
        piece: Piece,
        latency: &Range<u64>,
        rng: &mut Rng,
        arrivals: &mut Vec<u64>,
    ) {
        let at = (now + rng.range(latency.clone())).max(self.last_at);
        self.last_at = at;
        self.flying.push_back((at, piece));
        arrivals.push(at);
    }

    /// Moves what has arrived by now to what can be read.
    pub fn arrive(&mut self, now: u64) {
        while let Some((at, _)) = self.flying.front()
            && *at <= now
        {
            match self.flying.pop_front() {
                Some((_, Piece::Bytes(bytes))) => {
                    self.flying_bytes -= bytes.len();
                    self.unread.extend(bytes);
                }
                _ => self.ended = true,
            }
        }
    }

    /// Takes up to `max` bytes that have arrived.
    pub fn read(&mut self, max: usize) -> Vec<u8> {
        let n = self.unread.len().min(max);
        self.unread.drain(..n).collect()
    }
}

/// Who holds the server's end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ServerEnd {
    /// Not accepted yet, or on its way between shards.
    Nobody,
    /// A shard, by its own number for it.
    Shard(usize, collabblocks_server::shard::ConnId),
    /// It is closed.
    Gone,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Link {
    /// From the client.
    pub up: Pipe,
    /// To the client.
    pub down: Pipe,
    pub server: ServerEnd,
    /// The client whose it is, while it has not let go of it.
    pub client: Option<usize>,
    /// Nothing arrives any more, in neither direction, and nobody is told.
    pub silent: bool,
    /// It was reset.
    pub reset: bool,
    pub latency: Range<u64>,
    /// Since when a shard waits to be told whose it is.
    pub asked_at: Option<u64>,
    /// When the access that it was let in with ends, by the server's clock.
    pub access_ends: Option<u64>,
    /// When a shard had it in a turn after that for the first time.
    pub expired_at: Option<u64>,
}
