//! Opening a shard's directory: the manifest, the snapshots' headers, then the log, whose records
//! bring the rooms up to date.

use crate::checkpoint::Upkeep;
use crate::commit::Commit;
use crate::config::{EngineConfig, OpenReport};
use crate::engine::Engine;
use crate::evict::Idle;
use crate::index::{Segments, SnapshotRef};
use crate::manifest::{self, Manifest};
use crate::paths::{ShardDir, snapshot_id};
use crate::replay::Replay;
use crate::rooms::Rooms;
use crate::snapshot::scan::{self, Scanned};
use crate::snapshot::write::{self, Tail};
use crate::space::Space;
use collabblocks_wal::{BLOCK_BYTES, Disk, Identity, Log, OpenError, inspect};
use std::io;
use std::path::Path;
use std::sync::Arc;

impl Engine {
    /// Opens (or makes) the shard's directory `dir` (blocking): manifest, snapshot index, log replay.
    /// Rooms with logged updates that their snapshots do not cover are made in memory.
    pub fn open(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        identity: Identity,
        config: EngineConfig,
    ) -> Result<(Engine, OpenReport), OpenError> {
        let disk = &**disk;
        let dir = ShardDir::new(dir, identity);
        let mut manifest = match manifest::load(disk, &dir.root)? {
            Some(manifest) => manifest,
            None => begin(disk, &dir)?,
        };
        // It was read, but its sync may have failed: then it is not durable before it is written
        // again, and nothing may be given up because of it.
        manifest.store(disk, &dir.root).map_err(at(&dir.root))?;
        if manifest.store != identity.store || manifest.shard != identity.shard {
            return Err(OpenError::Mismatch {
                path: dir.root.clone(),
                what: "its manifest belongs to another store or shard".into(),
            });
        }
        let (log, index, replayed, found) = if manifest.sequence == 0 {
            let log = make_log(disk, &dir, &config, &mut manifest)?;
            (log, Index::default(), Replay::default(), None)
        } else {
            let mut index = read_index(disk, &dir, &manifest)?;
            let mut replay =
                Replay::new(disk, &dir, &config.limits, std::mem::take(&mut index.rooms));
            let record = &mut |record: collabblocks_wal::Record<'_>| replay.record(record);
            let opened = Log::open(
                disk,
                &dir.wal(),
                identity,
                config.log.clone(),
                manifest.low(),
                record,
            );
            let (log, found) = opened.map_err(|error| replay.explain(error))?;
            if index.found_more {
                let next = Manifest {
                    sequence: manifest.sequence + 1,
                    snapshots: index.segments.list(None),
                    ..manifest.clone()
                };
                // Only spares the next start the work: the manifest there is holds.
                if next.store(disk, &dir.root).is_ok() {
                    manifest = next;
                }
            }
            (log, index, replay, Some(found))
        };
        let Index {
            mut segments, tail, ..
        } = index;
        let rooms = replayed.rooms;
        for at in rooms.all().filter_map(|(_, known)| known.snapshot) {
            segments.born(at);
        }
        let found = found.unwrap_or_else(|| collabblocks_wal::Recovered {
            clean: true,
            ..Default::default()
        });
        let report = OpenReport {
            rooms: rooms.known(),
            records: found.records,
            torn_at: found.torn_at,
            clean: found.clean,
        };
        let free = disk.free_bytes(&dir.root).map_err(at(&dir.root))?;
        let space = Space::new(free < config.disk_reserve_bytes);
        let engine = Engine {
            config,
            log,
            rooms,
            segments,
            commit: Commit::default(),
            upkeep: Upkeep::new(tail, manifest),
            compaction: None,
            idle: Idle::default(),
            space,
            watched: Default::default(),
            to_rebuild: Vec::new(),
            recovered: replayed.loaded,
            document_bytes: replayed.document_bytes,
            log_bytes: 0,
            outbox: Vec::new(),
            jobs: 0,
            dir: Arc::new(dir),
        };
        Ok((engine, report))
    }
}

/// Makes the first manifest of a new shard, which says that there is no log yet.
fn begin(disk: &dyn Disk, dir: &ShardDir) -> Result<Manifest, OpenError> {
    for (path, what) in [
        (dir.wal(), "a write-ahead log"),
        (dir.snapshots(), "snapshots"),
    ] {
        if list(disk, &path)?.is_empty() {
            continue;
        }
        return Err(OpenError::Mismatch {
            path: dir.root.clone(),
            what: format!(
                "{what} stands here, but no manifest that tells what of it is needed; restore the manifest from a backup"
            ),
        });
    }
    disk.create_dir(&dir.root).map_err(at(&dir.root))?;
    let manifest = Manifest {
        store: dir.identity.store,
        shard: dir.identity.shard,
        ..Manifest::default()
    };
    manifest.store(disk, &dir.root).map_err(at(&dir.root))?;
    Ok(manifest)
}

/// Makes the log of a new shard, and the manifest that says so.
pub(crate) fn make_log(
    disk: &dyn Disk,
    dir: &ShardDir,
    config: &EngineConfig,
    manifest: &mut Manifest,
) -> Result<Log, OpenError> {
    // Only what nothing was ever written to may go: half a log that a crash left. Records mean that
    // the manifest which names the log was lost, and that an older slot was read for it.
    let written = match inspect::inspect(disk, &dir.wal()) {
        Ok(segments) => {
            // What cannot be read may be a record.
            for segment in &segments {
                if let Some(unreadable) = segment.unreadable.first() {
                    let error = io::Error::other(unreadable.error.clone());
                    return Err(at(&segment.path)(error));
                }
            }
            segments.iter().any(|segment| !segment.batches.is_empty())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(at(&dir.wal())(error)),
    };
    if written {
        return Err(OpenError::Mismatch {
            path: dir.root.clone(),
            what: "a log with records stands here, but the manifest that tells what of it is needed is missing or \
                   cannot be read; restore the manifest from a backup"
                .into(),
        });
    }
    if let Err(error) = disk.remove_dir_all(&dir.wal())
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(OpenError::Io {
            path: dir.wal(),
            error,
        });
    }
    disk.create_dir(&dir.wal()).map_err(at(&dir.wal()))?;
    let log = Log::create(disk, &dir.wal(), dir.identity, config.log.clone())?;
    manifest.sequence = 1;
    manifest.low = log.live_segments().0.0;
    manifest.store(disk, &dir.root).map_err(at(&dir.root))?;
    Ok(log)
}

/// The snapshots that were found.
#[derive(Default)]
struct Index {
    /// Each room with its newest.
    rooms: Rooms,
    segments: Segments,
    tail: Tail,
    /// There was more than the manifest lists.
    found_more: bool,
}

/// Reads the headers of all snapshots. What the manifest does not vouch for, and can be read, is
/// written again: what is built on a snapshot stands only as long as the snapshot does.
fn read_index(disk: &dyn Disk, dir: &ShardDir, manifest: &Manifest) -> Result<Index, OpenError> {
    let path = dir.snapshots();
    let io_error = |error| OpenError::Io {
        path: dir.snapshots(),
        error,
    };
    let listed_end = manifest.snapshots.last().map_or(0, |s| s.id + 1);
    let mut ids: Vec<(u32, u64)> = manifest
        .snapshots
        .iter()
        .map(|s| (s.id, s.durable_bytes))
        .collect();
    let mut removed = false;
    for name in list(disk, &path)? {
        let Some(id) = snapshot_id(&name) else {
            continue;
        };
        if id >= listed_end {
            ids.push((id, 0));
        } else if !ids.iter().any(|&(listed, _)| listed == id) {
            // Compaction emptied it, and a crash came before its file was removed.
            disk.remove(&path.join(&name)).map_err(io_error)?;
            removed = true;
        }
    }
    ids.sort_unstable();
    let mut index = Index::default();
    let mut last: Option<(u32, Scanned)> = None;
    for (id, durable_bytes) in ids {
        let rooms = &mut index.rooms;
        let scanned = scan::scan(disk, dir, id, durable_bytes, &mut |name, at| {
            newest(rooms, dir, name, at)
        })?;
        if scanned.end == 0 {
            disk.remove(&dir.snapshot(id)).map_err(io_error)?;
            removed = true;
            continue;
        }
        if scanned.end > durable_bytes {
            write::again(disk, dir, id, durable_bytes..scanned.end).map_err(io_error)?;
            index.found_more = true;
        }
        index.segments.grown(id, scanned.end);
        index.segments.seal(id);
        last = Some((id, scanned));
    }
    if removed || index.found_more {
        disk.sync_dir(&path).map_err(io_error)?;
    }
    index.tail = match last {
        Some((id, found)) if found.clean && found.file_bytes.is_multiple_of(BLOCK_BYTES as u64) => {
            index.segments.reopen(id);
            Tail {
                segment: id,
                offset: found.file_bytes,
            }
        }
        Some((id, _)) => Tail {
            segment: id + 1,
            offset: 0,
        },
        None => Tail {
            segment: listed_end,
            offset: 0,
        },
    };
    Ok(index)
}

/// Notes a snapshot unless the room has a newer one; a later copy of the same counts as newer.
fn newest(rooms: &mut Rooms, dir: &ShardDir, name: &str, at: SnapshotRef) -> Result<(), OpenError> {
    match rooms.snapshot(name) {
        Some(known) if known.key != at.key => Err(OpenError::Mismatch {
            path: dir.snapshot(at.segment),
            what: format!(
                "two rooms are named {name:?} (keys {} and {})",
                known.key.0, at.key.0
            ),
        }),
        Some(known) if known.seq > at.seq => Ok(()),
        _ => {
            rooms.set_snapshot(name, at);
            Ok(())
        }
    }
}

/// The names in a directory, none where it is absent.
pub(crate) fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>, OpenError> {
    match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map_err(at(dir)),
    }
}

/// Names the path of an error of the operating system.
pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    move |error| OpenError::Io {
        path: path.into(),
        error,
    }
}
