//! The CollabBlocks server as a library.

pub mod config;
pub mod control;
pub mod dialect;
pub mod edge;
pub mod runtime;
pub mod shard;
