//! Opening a shard's directory: the manifest, then the log, whose records make the rooms again.

use crate::commit::Commit;
use crate::config::{EngineConfig, OpenReport};
use crate::engine::Engine;
use crate::guard::Limits;
use crate::manifest::{self, Manifest};
use crate::room_doc::RoomDoc;
use crate::rooms::{DocState, Room, Rooms};
use collabblocks_wal::{Disk, Identity, Log, OpenError, Record, RecordKind, RoomKey};
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

impl Engine {
    /// Opens (or makes) the shard's directory `dir` (blocking): manifest, snapshot index, log replay.
    pub fn open(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        identity: Identity,
        config: EngineConfig,
    ) -> Result<(Engine, OpenReport), OpenError> {
        let disk = &**disk;
        let manifest = match manifest::load(disk, dir)? {
            Some(manifest) => manifest,
            None => begin(disk, dir, identity)?,
        };
        if manifest.store != identity.store || manifest.shard != identity.shard {
            return Err(OpenError::Mismatch {
                path: dir.into(),
                what: "its manifest belongs to another store or shard".into(),
            });
        }
        let mut replay = Replay::new(&config);
        let wal = dir.join("wal");
        let (log, report) = if manifest.sequence == 0 {
            // A crash may have left half a log, which nothing was ever written to.
            remove_dir_if_there(disk, &wal)?;
            disk.create_dir(&wal).map_err(at(&wal))?;
            let log = Log::create(disk, &wal, identity, config.log.clone())?;
            let made = Manifest {
                sequence: 1,
                low: log.live_segments().0.0,
                ..manifest
            };
            made.store(disk, dir).map_err(at(dir))?;
            (
                log,
                OpenReport {
                    clean: true,
                    ..OpenReport::default()
                },
            )
        } else {
            let (log, found) = Log::open(
                disk,
                &wal,
                identity,
                config.log.clone(),
                manifest.low(),
                &mut |r| replay.record(r),
            )?;
            let report = OpenReport {
                torn_at: found.torn_at,
                clean: found.clean,
                records: found.records,
                rooms: 0,
            };
            (log, report)
        };
        let rooms = replay.rooms;
        let document_bytes = 0;
        let report = OpenReport {
            rooms: rooms.known(),
            ..report
        };
        let engine = Engine {
            config,
            log,
            rooms,
            commit: Commit::default(),
            document_bytes,
            log_bytes: 0,
            jobs: 0,
        };
        Ok((engine, report))
    }
}

/// Makes the first manifest of a new shard, which says that there is no log yet.
fn begin(disk: &dyn Disk, dir: &Path, identity: Identity) -> Result<Manifest, OpenError> {
    let wal = dir.join("wal");
    match disk.list(&wal) {
        Ok(names) if !names.is_empty() => {
            return Err(OpenError::Mismatch {
                path: dir.into(),
                what: "a write-ahead log stands here, but no manifest that says where it begins; restore the \
                       manifest from a backup"
                    .into(),
            });
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(OpenError::Io { path: wal, error }),
    }
    disk.create_dir(dir).map_err(at(dir))?;
    let manifest = Manifest {
        store: identity.store,
        shard: identity.shard,
        ..Manifest::default()
    };
    manifest.store(disk, dir).map_err(at(dir))?;
    Ok(manifest)
}

fn remove_dir_if_there(disk: &dyn Disk, dir: &Path) -> Result<(), OpenError> {
    match disk.remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(OpenError::Io {
            path: dir.into(),
            error,
        }),
        _ => Ok(()),
    }
}

/// Names the path of an error of the operating system.
pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    move |error| OpenError::Io {
        path: path.into(),
        error,
    }
}

/// Rooms as the log's records make them.
struct Replay {
    rooms: Rooms,
    by_key: HashMap<RoomKey, Box<str>>,
    limits: Limits,
}

impl Replay {
    fn new(config: &EngineConfig) -> Self {
        Self {
            rooms: Rooms::default(),
            by_key: HashMap::new(),
            limits: config.limits.clone(),
        }
    }

    fn record(&mut self, record: Record<'_>) -> Result<(), String> {
        match record.kind {
            RecordKind::RoomCreated => {
                let name = std::str::from_utf8(record.payload)
                    .map_err(|_| "a room's name is not UTF-8")?;
                let key = RoomKey(record.lsn.0);
                if self.by_key.insert(key, name.into()).is_some() || self.rooms.find(name).is_some()
                {
                    return Err(format!("the room {name:?} was made twice"));
                }
                let mut room = Room::new(name.into(), DocState::Ready(RoomDoc::new()));
                room.key = Some(key);
                room.durable_at = record.durable_at;
                self.rooms.insert(room);
                Ok(())
            }
            RecordKind::Update => self.update(record),
            _ => Ok(()),
        }
    }

    fn update(&mut self, record: Record<'_>) -> Result<(), String> {
        let name = self
            .by_key
            .get(&record.room)
            .ok_or("an update of a room that was never made")?;
        let id = self
            .rooms
            .find(name)
            .expect("a room with a key is in memory");
        let room = self.rooms.get_mut(id).expect("it was just found");
        if record.room_seq != room.seq + 1 {
            return Err(format!(
                "room {name:?}: update {} follows {}",
                record.room_seq, room.seq
            ));
        }
        let DocState::Ready(doc) = &mut room.doc else {
            unreachable!("replayed rooms are ready")
        };
        doc.apply(record.payload, false, &self.limits)
            .map_err(|e| format!("room {name:?}: {e}"))?;
        room.seq = record.room_seq;
        room.durable_at = record.durable_at;
        Ok(())
    }
}
