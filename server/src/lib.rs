//! The CollabBlocks server as a library.

pub mod runtime;
pub mod shard;
