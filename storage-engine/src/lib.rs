//! Rooms of one shard: the CRDT document, its snapshots, checkpoints, eviction and memory budget.
//!
//! This crate knows no sockets and no wire protocols. [`Engine`] is a state machine beside the
//! shard: it asks for log writes and blocking jobs, and is told how they ended.

mod engine;
pub mod guard;
mod room_doc;

pub use engine::*;
pub use guard::{Limits, Refusal};
pub use room_doc::{Applied, RoomDoc, split_update};
