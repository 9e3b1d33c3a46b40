//! The CollabBlocks server as a library.

pub mod mailbox;
pub mod runtime;
pub mod server;
pub mod shard;
