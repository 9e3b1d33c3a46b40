//! The CollabBlocks server as a library.

pub mod config;
pub mod runtime;
pub mod shard;
