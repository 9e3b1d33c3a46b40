//! A data directory read without opening it: what an operator's tools need to find the logs.

use crate::manifest;
use crate::paths::ShardDir;
use crate::store::Store;
use collabblocks_wal::{Disk, OpenError, SegmentId};
use std::path::{Path, PathBuf};

/// A data directory as its own files describe it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Survey {
    /// The store's random id.
    pub store: [u8; 16],
    /// Which generation of shards is the current one; 0 if a crash came before the first was made.
    pub generation: u32,
    /// Bytes of a log segment.
    pub segment_bytes: u64,
    /// Its shards.
    pub shards: Vec<ShardSurvey>,
}

/// One shard of a [`Survey`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardSurvey {
    /// Its number.
    pub shard: u16,
    /// Where its log lies.
    pub wal: PathBuf,
    /// The oldest log segment that is needed; `None` if its log has not been made yet.
    pub low: Option<SegmentId>,
}

/// Reads what the directory's files say (blocking), changing nothing; `None` where there is no
/// store.
pub fn survey(disk: &dyn Disk, root: &Path) -> Result<Option<Survey>, OpenError> {
    let Some(store) = Store::existing(disk, root)? else {
        return Ok(None);
    };
    let shards = if store.generation() == 0 {
        0
    } else {
        store.shards()
    };
    let shard = |shard: u16| {
        let dir = ShardDir::new(&store.shard_dir(shard), store.identity(shard));
        let Some(manifest) = manifest::load(disk, &dir.root)? else {
            let what =
                "the shard's manifest is missing; restore the directory from a backup".into();
            return Err(OpenError::Mismatch {
                path: dir.root,
                what,
            });
        };
        let low = (manifest.sequence > 0).then(|| manifest.low());
        Ok(ShardSurvey {
            shard,
            wal: dir.wal(),
            low,
        })
    };
    Ok(Some(Survey {
        store: store.id(),
        generation: store.generation(),
        segment_bytes: store.segment_bytes(),
        shards: (0..shards).map(shard).collect::<Result<_, _>>()?,
    }))
}
