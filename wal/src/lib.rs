//! The append-only write-ahead log of one shard: bytes and durability, nothing else.
//!
//! This crate knows segments, batches, records and LSNs. It knows no rooms, no Yjs and no sockets.
//! The log is a state machine: it hands out [`WriteJob`]s and [`LogJob`]s, a runtime carries them
//! out, and tells it how they ended. Recovery and inspection go through the blocking [`Disk`].

pub mod disk;
mod log;
mod types;

pub use disk::{AlignedBuf, Disk};
pub use log::{Log, LogJob, LogJobDone};
pub use types::*;
