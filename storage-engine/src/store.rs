//! The data directory: which shards stand in it, and that it is made, opened and moved to another
//! number of shards without a moment at which a crash would lose a room.
//!
//! ```text
//! <data>/lock                     held by the server that runs
//! <data>/store                    what follows, and which generation is the current one
//! <data>/gen-0001/shard-000/      manifest-a, manifest-b, wal/, snapshots/
//! ```

use crate::config::EngineConfig;
use crate::engine::Engine;
use crate::frame::{self, FrameError};
use crate::manifest;
use crate::open::{at, list};
use crate::rehome;
use collabblocks_wal::{Disk, Identity, OpenError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use twox_hash::XxHash3_64;

const MAGIC: [u8; 8] = *b"CBSTORE\0";
const VERSION: u32 = 1;
const BYTES_MAX: u64 = 64 << 10;
const FILE: &str = "store";
const NEW_FILE: &str = "store.new";

/// The shard that owns a room: XXH3 (64 bits, no seed) of its name's bytes, modulo the number of
/// shards. Part of the format: it never changes.
pub fn home_shard(name: &str, shards: u16) -> u16 {
    assert!(shards > 0, "a store has at least one shard");
    (XxHash3_64::oneshot(name.as_bytes()) % u64::from(shards)) as u16
}

/// What the store file says.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StoreFile {
    /// Drawn at random when the store was made.
    pub(crate) id: [u8; 16],
    /// 0 while the first generation is being made.
    pub(crate) generation: u32,
    pub(crate) shards: u16,
    pub(crate) segment_bytes: u64,
}

impl StoreFile {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let payload =
            rkyv::to_bytes::<rkyv::rancor::Error>(self).expect("plain data can be archived");
        frame::seal(MAGIC, VERSION, &payload)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let payload = frame::unseal(MAGIC, VERSION, bytes)?;
        let mut aligned = rkyv::util::AlignedVec::<16>::with_capacity(payload.len());
        aligned.extend_from_slice(payload);
        let file = rkyv::from_bytes::<Self, rkyv::rancor::Error>(&aligned)
            .map_err(|_| FrameError::Damaged("its content does not validate"))?;
        match file.shards {
            0 => Err(FrameError::Damaged("it names no shards")),
            _ => Ok(file),
        }
    }

    /// Reads it (blocking); `None` where there is none.
    pub(crate) fn load(disk: &dyn Disk, root: &Path) -> Result<Option<Self>, OpenError> {
        let path = root.join(FILE);
        let Some(bytes) = manifest::read_small(disk, &path, BYTES_MAX).map_err(at(&path))? else {
            return Ok(None);
        };
        match Self::decode(&bytes) {
            Ok(file) => Ok(Some(file)),
            Err(FrameError::Newer(version)) => Err(OpenError::Newer {
                path,
                what: format!("store file version {version}"),
            }),
            Err(FrameError::Damaged(why)) => Err(OpenError::Mismatch {
                path,
                what: format!(
                    "the file that describes the store cannot be read ({why}); restore it from a backup"
                ),
            }),
        }
    }

    /// Replaces the file in one step, durably (blocking).
    pub(crate) fn store(&self, disk: &dyn Disk, root: &Path) -> io::Result<()> {
        let new = root.join(NEW_FILE);
        match disk.remove(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        disk.write_at(&new, 0, &self.encode())?;
        disk.sync(&new)?;
        disk.rename(&new, &root.join(FILE))?;
        disk.sync_dir(root)
    }

    /// Writes once more what was read, in its place (blocking).
    fn store_again(&self, disk: &dyn Disk, root: &Path) -> io::Result<()> {
        let path = root.join(FILE);
        disk.write_at(&path, 0, &self.encode())?;
        disk.sync(&path)?;
        disk.sync_dir(root)
    }
}

/// An opened data directory. Its shards are opened one by one, on whichever thread.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    file: StoreFile,
    salt_seed: u64,
    rehomed_from: Option<u16>,
}

impl Store {
    /// Opens (or makes) a data directory for this number of shards (blocking). With another number
    /// than it was made for, every room moves to its new home shard first, which reads and writes
    /// all of them; until that is whole the old shards stay as they are.
    pub fn open(
        disk: &Arc<dyn Disk>,
        root: &Path,
        shards: u16,
        config: &EngineConfig,
        entropy: [u8; 32],
    ) -> Result<Store, OpenError> {
        assert!(shards > 0, "a store has at least one shard");
        disk.create_dir(root).map_err(at(root))?;
        let salt_seed = u64::from_le_bytes(entropy[16..24].try_into().expect("eight bytes"));
        let file = match StoreFile::load(&**disk, root)? {
            Some(file) => file,
            None => begin(&**disk, root, shards, config, entropy)?,
        };
        let mut store = Store {
            root: root.into(),
            file,
            salt_seed,
            rehomed_from: None,
        };
        remove_generations(&**disk, root, &file)?;
        if file.generation == 0 {
            let first = StoreFile {
                generation: 1,
                shards,
                segment_bytes: config.log.segment_bytes,
                ..file
            };
            store.file = first;
            for shard in 0..shards {
                store.open_shard(disk, shard, config)?;
            }
            disk.sync_dir(root).map_err(at(root))?;
            first.store(&**disk, root).map_err(at(root))?;
            return Ok(store);
        }
        for shard in 0..file.shards {
            let dir = store.shard_dir(shard);
            if manifest::load(&**disk, &dir)?.is_none() {
                let what =
                    "the shard's manifest is missing; restore the directory from a backup".into();
                return Err(OpenError::Mismatch { path: dir, what });
            }
        }
        if file.shards != shards {
            let old = store.clone();
            store.file = StoreFile {
                generation: file.generation + 1,
                shards,
                segment_bytes: config.log.segment_bytes,
                ..file
            };
            store.rehomed_from = Some(file.shards);
            rehome::rehome(disk, &old, &store, config)?;
            disk.sync_dir(root).map_err(at(root))?;
            store.file.store(&**disk, root).map_err(at(root))?;
            remove_generations(&**disk, root, &store.file)?;
        }
        Ok(store)
    }

    /// Whether a data directory holds a store.
    pub fn stands_in(root: &Path) -> io::Result<bool> {
        root.join(FILE).try_exists()
    }

    /// The store's random id.
    pub fn id(&self) -> [u8; 16] {
        self.file.id
    }

    /// How many shards it has.
    pub fn shards(&self) -> u16 {
        self.file.shards
    }

    /// The number of shards it had before it was opened, if that was another.
    pub fn rehomed_from(&self) -> Option<u16> {
        self.rehomed_from
    }

    /// The directory of a shard, for [`Engine::open`].
    pub fn shard_dir(&self, shard: u16) -> PathBuf {
        generation_dir(&self.root, self.file.generation).join(format!("shard-{shard:03}"))
    }

    /// The identity of a shard, for [`Engine::open`].
    pub fn identity(&self, shard: u16) -> Identity {
        Identity {
            store: self.file.id,
            shard,
        }
    }

    /// The configuration of a shard: what is fixed on disk comes from the store.
    pub fn shard_config(&self, shard: u16, config: &EngineConfig) -> EngineConfig {
        let mut config = config.clone();
        config.log.segment_bytes = self.file.segment_bytes;
        config.log.salt_seed =
            self.salt_seed ^ (u64::from(shard) << 48 | u64::from(self.file.generation));
        config
    }

    /// Opens a shard (blocking).
    pub fn open_shard(
        &self,
        disk: &Arc<dyn Disk>,
        shard: u16,
        config: &EngineConfig,
    ) -> Result<(Engine, crate::OpenReport), OpenError> {
        Engine::open(
            disk,
            &self.shard_dir(shard),
            self.identity(shard),
            self.shard_config(shard, config),
        )
    }

    /// A new one whose shards the caller makes, and then installs.
    pub(crate) fn fresh(
        root: &Path,
        shards: u16,
        config: &EngineConfig,
        entropy: [u8; 32],
    ) -> Store {
        Store {
            root: root.into(),
            file: StoreFile {
                id: *entropy.first_chunk().expect("32 bytes begin with 16"),
                generation: 1,
                shards,
                segment_bytes: config.log.segment_bytes,
            },
            salt_seed: u64::from_le_bytes(entropy[16..24].try_into().expect("eight bytes")),
            rehomed_from: None,
        }
    }

    /// Says that the shards are there (blocking).
    pub(crate) fn install(&self, disk: &dyn Disk) -> Result<(), OpenError> {
        disk.sync_dir(&generation_dir(&self.root, self.file.generation))
            .and_then(|()| disk.sync_dir(&self.root))
            .and_then(|()| self.file.store(disk, &self.root))
            .map_err(at(&self.root))
    }

    /// The data directory as it is, changing nothing; `None` where there is none.
    pub(crate) fn existing(disk: &dyn Disk, root: &Path) -> Result<Option<Store>, OpenError> {
        let file = StoreFile::load(disk, root)?;
        Ok(file.map(|file| Store {
            root: root.into(),
            file,
            salt_seed: 0,
            rehomed_from: None,
        }))
    }

    /// Bytes of a log segment, fixed when the store was made.
    pub fn segment_bytes(&self) -> u64 {
        self.file.segment_bytes
    }

    /// The generation in use; 0 if a crash came before the first was made.
    pub(crate) fn generation(&self) -> u32 {
        self.file.generation
    }
}

/// Writes the store file of a new store, which says that no generation has been made yet.
fn begin(
    disk: &dyn Disk,
    root: &Path,
    shards: u16,
    config: &EngineConfig,
    entropy: [u8; 32],
) -> Result<StoreFile, OpenError> {
    if list(disk, root)?
        .iter()
        .any(|name| generation_of(name).is_some())
    {
        return Err(OpenError::Mismatch {
            path: root.join(FILE),
            what: "shards stand here, but the file that describes the store is missing; restore it from a backup".into(),
        });
    }
    let id = *entropy.first_chunk().expect("32 bytes begin with 16");
    let file = StoreFile {
        id,
        generation: 0,
        shards,
        segment_bytes: config.log.segment_bytes,
    };
    file.store(disk, root).map_err(at(root))?;
    Ok(file)
}

fn generation_dir(root: &Path, generation: u32) -> PathBuf {
    root.join(format!("gen-{generation:04}"))
}

fn generation_of(name: &str) -> Option<u32> {
    name.strip_prefix("gen-")?.parse().ok()
}

/// Removes what crashes left: all generations but the current one.
fn remove_generations(disk: &dyn Disk, root: &Path, file: &StoreFile) -> Result<(), OpenError> {
    let mut others = list(disk, root)?;
    others.retain(|name| generation_of(name).is_some_and(|other| other != file.generation));
    if others.is_empty() {
        return Ok(());
    }
    // The file was read, but may not be durable: the one before it names what is removed now.
    file.store_again(disk, root).map_err(at(root))?;
    for name in others {
        disk.remove_dir_all(&root.join(&name)).map_err(at(root))?;
    }
    disk.sync_dir(root).map_err(at(root))
}
