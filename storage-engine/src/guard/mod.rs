//! What stands between a client's bytes and yrs: size caps, a strict walker, a causal gate.

mod content;
pub(crate) mod gate;
pub(crate) mod ledger;
pub(crate) mod plan;
pub(crate) mod read;
pub(crate) mod subdoc;
pub mod walk;
mod wire;

pub use wire::{AwarenessEntry, awareness, state_vector};

/// Caps on client input, one number each; documented in `docs/limits.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one update.
    pub update_bytes_max: usize,
    /// Structs in one update.
    pub update_structs_max: usize,
    /// Delete ranges in one update.
    pub update_deletes_max: usize,
    /// Client sections in one update or state vector.
    pub clients_max: usize,
    /// Nesting of `Any` values.
    pub any_depth_max: usize,
    /// Nesting of shared types.
    pub type_depth_max: usize,
    /// Bytes of a room's encoded state.
    pub document_bytes_max: usize,
    /// Sub-documents in one room.
    pub subdocs_max: usize,
    /// Entries in one awareness update.
    pub awareness_entries_max: usize,
    /// Bytes of one awareness state.
    pub awareness_state_bytes_max: usize,
}

impl Limits {
    /// For what this server wrote itself: nothing is capped but what would exhaust the stack.
    pub(crate) fn own_state() -> Self {
        Self {
            update_bytes_max: usize::MAX,
            update_structs_max: usize::MAX,
            update_deletes_max: usize::MAX,
            clients_max: usize::MAX,
            document_bytes_max: usize::MAX,
            subdocs_max: usize::MAX,
            ..Self::default()
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            update_bytes_max: 32 << 20,
            update_structs_max: 1_000_000,
            update_deletes_max: 500_000,
            clients_max: 100_000,
            any_depth_max: 64,
            type_depth_max: 128,
            document_bytes_max: 64 << 20,
            subdocs_max: 1_000,
            awareness_entries_max: 1_000,
            awareness_state_bytes_max: 64 << 10,
        }
    }
}

/// Why an update was not taken. Nothing was applied, logged or relayed, unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a well-formed update v1; `reason` is a stable snake_case word for metrics.
    #[error("malformed update: {detail} at byte {at}")]
    Malformed {
        /// Metrics label.
        reason: &'static str,
        /// In words.
        detail: &'static str,
        /// Offset in the update.
        at: usize,
    },
    /// A documented cap was met.
    #[error("{what} of {size} exceeds the limit of {limit}")]
    TooLarge {
        /// Which cap.
        what: &'static str,
        /// What came.
        size: usize,
        /// What is allowed.
        limit: usize,
    },
    /// It was given up, as the document library took too long over it; the room was rebuilt without
    /// it.
    #[error(
        "the update takes too long: too much was inserted where others inserted; reload the page"
    )]
    TooSlow,
    /// It builds on content that the room has not seen: ask the client with a SyncStep1.
    #[error("the update builds on content this server has not seen")]
    Gap,
    /// The document library failed on it; the room was rebuilt without it.
    #[error("the update was refused by the document: {0}")]
    Rejected(&'static str),
    /// The room cannot be written now (log full, quarantined); try later.
    #[error("the room cannot take updates now: {0}")]
    Unavailable(&'static str),
}
