//! A file system in memory, mounted by FUSE, whose disk fails on command; and the real server on it,
//! with clients that note what was acknowledged to them.
//!
//! This is the only way to let the real io_uring path meet a failing disk: shims of the C library do
//! not see what a ring does. Mounting wants root and `/dev/fuse`; see [`FaultFs::mount`].

mod client;
mod disk;
mod fs;
mod server;
mod tree;

pub use client::{Client, Heard, ledger};
pub use disk::{Mounted, ext4_image};
pub use fs::FaultFs;
pub use server::{Server, binary};
pub use tree::{Cut, DiskFault, Faults, Operation};
