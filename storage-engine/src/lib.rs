//! Rooms of one shard: the CRDT document, its snapshots, checkpoints, eviction and memory budget.
//!
//! This crate knows no sockets and no wire protocols. [`Engine`] is a state machine beside the
//! shard: it asks for log writes and blocking jobs, and is told how they ended.

mod apart;
mod checkpoint;
mod commit;
mod compact;
mod config;
mod deferred;
mod engine;
mod evict;
mod frame;
pub mod guard;
mod index;
mod inspect;
mod job;
mod large;
mod manifest;
mod open;
mod paths;
mod pieces;
mod rebuild;
mod rehome;
mod replay;
mod room_doc;
mod rooms;
mod salvage;
mod snapshot;
mod space;
mod store;
mod survey;
mod watch;
mod work;

pub use config::*;
pub use engine::Engine;
pub use guard::{Limits, Refusal};
pub use inspect::{RoomListing, ShardListing, list_rooms};
pub use job::{Job, JobDone};
pub use large::LargeUpdate;
pub use room_doc::{Applied, RoomDoc, in_parts, split_update};
pub use salvage::{Salvaged, SalvagedRoom, salvage};
pub use store::{Store, home_shard};
pub use survey::{ShardSurvey, Survey, survey};
pub use watch::{Watch, WatchJob};
pub use work::WorkLimits;
