//! The CollabBlocks server as a library.

pub mod config;
pub mod preflight;
pub mod runtime;
pub mod shard;

/// Serves until it is told to stop, then returns in order.
pub fn serve(_config: config::Config, _prepared: preflight::Prepared) -> std::io::Result<()> {
    Err(std::io::Error::other("this build has no runtime"))
}
