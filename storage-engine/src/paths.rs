//! Where the files of a shard stand.

use collabblocks_wal::Identity;
use std::path::{Path, PathBuf};

/// A shard's directory and whose it is.
#[derive(Clone, Debug)]
pub(crate) struct ShardDir {
    pub(crate) root: PathBuf,
    pub(crate) identity: Identity,
}

impl ShardDir {
    pub(crate) fn new(root: &Path, identity: Identity) -> Self {
        Self {
            root: root.into(),
            identity,
        }
    }

    /// The log's segments.
    pub(crate) fn wal(&self) -> PathBuf {
        self.root.join("wal")
    }

    /// The snapshot segments.
    pub(crate) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// One snapshot segment.
    pub(crate) fn snapshot(&self, id: u32) -> PathBuf {
        self.snapshots().join(format!("{id:08x}.snap"))
    }
}

/// The number of the snapshot segment of this file name.
pub(crate) fn snapshot_id(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".snap")?;
    (digits.len() == 8).then(|| u32::from_str_radix(digits, 16).ok())?
}
