//! The CollabBlocks server as a library.

pub mod certificate;
pub mod config;
pub mod control;
pub mod dialect;
pub mod edge;
pub mod identity;
pub mod mailbox;
pub mod preflight;
pub mod quarantine;
pub mod runtime;
mod serve;
pub mod server;
pub mod shard;
pub mod validity;

pub use serve::{Extensions, ServeError, serve, serve_until, serve_with};
