//! The CollabBlocks server as a library.

pub mod config;
pub mod preflight;
pub mod runtime;
pub mod shard;
