//! One room's Yjs document behind the guard.

use crate::guard::{Limits, Refusal};

/// What applying an update did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// All of it was causal and something was new: log and relay the original bytes.
    New,
    /// It held nothing new (structs below the state vector, deletes known): neither log nor relay.
    Known,
    /// Only a causal part was taken (a step 2 with a gap); log and relay these bytes instead. The
    /// rest was dropped: ask for it with a SyncStep1.
    Cut(Vec<u8>),
    /// The part that could be taken held nothing new, the rest was dropped: ask with a SyncStep1.
    CutKnown,
}

/// A room's document: `yrs::Doc` with UTF-16 offsets, GC on, update v1 only. `Send`.
pub struct RoomDoc {}

impl RoomDoc {
    /// An empty document.
    pub fn new() -> Self {
        unimplemented!()
    }

    /// From a full state (update v1) that this server encoded earlier. Slow for large documents:
    /// call it off the data core.
    pub fn from_state(_state: &[u8]) -> Result<Self, Refusal> {
        unimplemented!()
    }

    /// Guard, then apply. `cut_gaps`: true for a SyncStep2, whose causal part is taken; false for
    /// an Update, which is taken whole or answered [`Refusal::Gap`]. Never panics on any input; on
    /// `Err` the document is as it was.
    pub fn apply(&mut self, _update: &[u8], _cut_gaps: bool, _limits: &Limits) -> Result<Applied, Refusal> {
        unimplemented!()
    }

    /// Appends the encoded state vector.
    pub fn state_vector(&self, _out: &mut Vec<u8>) {
        unimplemented!()
    }

    /// Appends what a client with state vector `sv` (as it came from the wire; checked here) lacks,
    /// as update v1: `00 00` when nothing.
    pub fn diff(&self, _sv: &[u8], _limits: &Limits, _out: &mut Vec<u8>) -> Result<(), Refusal> {
        unimplemented!()
    }

    /// The full state as update v1, checked to decode again (walker).
    pub fn encode_state(&self) -> Result<Vec<u8>, Refusal> {
        unimplemented!()
    }

    /// A cheap estimate of the heap the document holds, in bytes; grows with what was applied.
    pub fn memory_estimate(&self) -> usize {
        unimplemented!()
    }
}

impl Default for RoomDoc {
    fn default() -> Self {
        Self::new()
    }
}

/// Splits a valid update into causally ordered updates of about `bytes_max` each (one struct larger
/// than that gets its own); the delete set comes last. Applying all equals applying the whole.
pub fn split_update(_update: &[u8], _bytes_max: usize) -> Vec<Vec<u8>> {
    unimplemented!()
}
