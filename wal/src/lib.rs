//! The append-only write-ahead log of one shard: bytes and durability, nothing else.
//!
//! This crate knows segments, batches, records and LSNs. It knows no rooms, no Yjs and no sockets.
//! The log is a state machine: it hands out [`WriteJob`]s and [`LogJob`]s, a runtime carries them
//! out, and tells it how they ended. Recovery and inspection go through the blocking [`Disk`].
//!
//! The bytes on disk are described in `docs/formats/wal.md`.

mod batch;
pub mod disk;
mod format;
pub mod inspect;
mod log;
mod recovery;
mod segment;
#[cfg(any(test, feature = "sim"))]
pub mod sim_disk;
mod types;

pub use batch::Staged;
pub use disk::{AlignedBuf, Disk, FsDisk};
pub use log::{Log, LogJob, LogJobDone, read};
pub use types::*;

#[cfg(test)]
mod tests;
