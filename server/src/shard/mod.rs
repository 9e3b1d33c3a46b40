//! The shard: a pure state machine. No I/O, no clock, no randomness, no await inside.

mod effect;
mod event;
mod types;

pub use effect::{Effect, Effects};
pub use event::{ControlReply, ControlRequest, Event, Handoff, Mail};
pub use types::{ConnId, Instant, ShardId};
mod stats;
pub use stats::{RuntimeStats, Stats};
