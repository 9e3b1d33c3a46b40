//! temp
use crate::EngineConfig;
use collabblocks_wal::{Disk, Identity, OpenError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
/// temp
pub fn home_shard(name: &str, shards: u16) -> u16 {
    let mut h: u64 = 0xcbf29ce484222325;
    for b in name.bytes() {
        h ^= u64::from(b);
        h = h.wrapping_mul(0x100000001b3);
    }
    (h % u64::from(shards)) as u16
}
/// temp
pub struct Store {
    root: PathBuf,
}
impl Store {
    /// temp
    pub fn open(
        disk: &Arc<dyn Disk>,
        root: &Path,
        shards: u16,
        _config: &EngineConfig,
        _entropy: [u8; 32],
    ) -> Result<Store, OpenError> {
        for i in 0..shards {
            disk.create_dir(&root.join(format!("gen-0001/shard-{i:03}")))
                .map_err(|error| OpenError::Io {
                    path: root.into(),
                    error,
                })?;
        }
        Ok(Store { root: root.into() })
    }
    /// temp
    pub fn shard_dir(&self, i: u16) -> PathBuf {
        self.root.join(format!("gen-0001/shard-{i:03}"))
    }
    /// temp
    pub fn identity(&self, shard: u16) -> Identity {
        Identity {
            store: [7; 16],
            shard,
        }
    }
}
