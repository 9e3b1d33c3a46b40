//! Snapshots of rooms in append-only segments: many rooms a file, one sync for a batch of them.
//! The bytes are described in `docs/formats/snapshots.md`.

pub(crate) mod copy;
pub(crate) mod format;
pub(crate) mod read;
pub(crate) mod scan;
pub(crate) mod write;
