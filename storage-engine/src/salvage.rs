//! What can still be read of a damaged data directory, written into a new one.
//!
//! Every snapshot and every record has a checksum of its own, so each is taken or left by itself.
//! Updates are applied in their order, and what builds on one that is lost is left out by the guard, as
//! it would be if a client had sent it.

use crate::config::EngineConfig;
use crate::open::{at, list};
use crate::paths::{ShardDir, snapshot_id};
use crate::pieces::Pieces;
use crate::rebuild::replay_limits;
use crate::rehome::Target;
use crate::room_doc::RoomDoc;
use crate::snapshot::format::Body;
use crate::snapshot::read::Entry;
use crate::snapshot::scan;
use crate::snapshot::write::{self, Encoded};
use crate::store::{Store, home_shard};
use collabblocks_wal::inspect::{SegmentInfo, Unreadable, inspect, inspect_segment};
use collabblocks_wal::{Disk, Lsn, OpenError, RecordKind, RoomKey};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// What was salvaged.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Salvaged {
    /// The rooms, by name.
    pub rooms: Vec<SalvagedRoom>,
    /// What could not be read, besides what rooms say.
    pub faults: Vec<String>,
}

/// A room in the new data directory, or one of which nothing is left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SalvagedRoom {
    /// Its name; made up if the record with its name is lost.
    pub name: String,
    /// The last update that is in it; 0 where nothing is left.
    pub room_seq: u64,
    /// What is lost of it, in words.
    pub lost: Vec<String>,
}

/// Reads the damaged data directory `from` and makes `to`, which holds nothing yet (blocking; all
/// updates in a shard's log are in memory at once). `entropy` is random.
pub fn salvage(
    disk: &Arc<dyn Disk>,
    from: &Path,
    to: &Path,
    config: &EngineConfig,
    entropy: [u8; 32],
) -> Result<Salvaged, OpenError> {
    disk.create_dir(to).map_err(at(to))?;
    if !list(&**disk, to)?.is_empty() {
        return Err(OpenError::Mismatch {
            path: to.into(),
            what: "something is there already: name a directory that is empty or not there".into(),
        });
    }
    let mut salvaged = Salvaged::default();
    let Found {
        dirs,
        segment_bytes,
    } = find(&**disk, from, &mut salvaged.faults)?;
    let mut config = config.clone();
    if let Some(bytes) = segment_bytes {
        config.log.segment_bytes = bytes;
    }
    let shards = u16::try_from(dirs.len()).unwrap_or(u16::MAX).max(1);
    let new = Store::fresh(to, shards, &config, entropy);
    let mut targets: Vec<Target> = (0..shards).map(|shard| Target::new(&new, shard)).collect();
    let mut rooms: BTreeMap<String, SalvagedRoom> = BTreeMap::new();
    for dir in dirs {
        let mut shard = Shard::default();
        shard.read_snapshots(&**disk, &dir, &mut salvaged.faults);
        shard.read_log(&**disk, &dir, &mut salvaged.faults);
        for (key, pieces) in std::mem::take(&mut shard.rooms) {
            let read = |name: &str, at| {
                Entry::read(&**disk, &dir, name, at)
                    .map_err(String::from)
                    .and_then(|entry| entry.document())
            };
            let limits = replay_limits(&config.limits);
            let (room, doc) = pieces.put_together(key, &limits, &read);
            if let Some(mut doc) = doc {
                let home = usize::from(home_shard(&room.name, shards));
                targets[home].take_document(
                    &**disk,
                    &config,
                    &room.name,
                    room.room_seq,
                    &mut doc,
                )?;
            }
            rooms.insert(room.name.clone(), room);
        }
    }
    for (shard, target) in (0..).zip(targets) {
        target.finish(&**disk, &new.shard_config(shard, &config))?;
    }
    new.install(&**disk)?;
    salvaged.rooms = rooms.into_values().collect();
    Ok(salvaged)
}

/// Where to read.
struct Found {
    dirs: Vec<ShardDir>,
    /// Bytes of a log segment, if anything says so.
    segment_bytes: Option<u64>,
}

/// The shards of the newest generation; whose they are, from the store file or else the logs.
fn find(disk: &dyn Disk, from: &Path, faults: &mut Vec<String>) -> Result<Found, OpenError> {
    let store = match Store::existing(disk, from) {
        Ok(Some(store)) if store.generation() > 0 => Some(store),
        Ok(_) => None,
        Err(error) => {
            faults.push(error.to_string());
            None
        }
    };
    let generation = match &store {
        Some(store) => format!("gen-{:04}", store.generation()),
        None => {
            let names = list(disk, from)?;
            let generations = names.into_iter().filter(|name| name.starts_with("gen-"));
            generations.max().ok_or_else(|| OpenError::Mismatch {
                path: from.into(),
                what: "no shards stand here: name the directory that the server has as --data"
                    .into(),
            })?
        }
    };
    let generation = from.join(generation);
    let mut dirs = Vec::new();
    let mut segment_bytes = store.as_ref().map(Store::segment_bytes);
    for name in list(disk, &generation)? {
        let Some(shard) = name.strip_prefix("shard-").and_then(|n| n.parse().ok()) else {
            continue;
        };
        let root = generation.join(&name);
        let identity = match &store {
            Some(store) => Some(store.identity(shard)),
            None => header(disk, &root).map(|header| {
                segment_bytes = Some(header.segment_bytes);
                header.identity
            }),
        };
        match identity {
            Some(identity) => dirs.push(ShardDir::new(&root, identity)),
            None => faults.push(format!(
                "{}: nothing says which store it is of; it is left out",
                root.display()
            )),
        }
    }
    Ok(Found {
        dirs,
        segment_bytes,
    })
}

/// What the first readable log segment in a shard's directory says of itself.
fn header(disk: &dyn Disk, root: &Path) -> Option<SegmentInfo> {
    let segments = inspect(disk, &root.join("wal")).ok()?;
    segments.into_iter().find_map(|segment| segment.header.ok())
}

fn say_unreadable(path: &Path, unreadable: &[Unreadable], faults: &mut Vec<String>) {
    let said = (unreadable.iter()).map(|part| format!("{}: {part}", path.display()));
    faults.extend(said);
}

#[derive(Default)]
struct Shard {
    rooms: BTreeMap<RoomKey, Pieces>,
}

impl Shard {
    fn read_snapshots(&mut self, disk: &dyn Disk, dir: &ShardDir, faults: &mut Vec<String>) {
        let names = list(disk, &dir.snapshots()).unwrap_or_else(|error| {
            faults.push(error.to_string());
            Vec::new()
        });
        for id in names.iter().filter_map(|name| snapshot_id(name)) {
            let searched = scan::search(disk, dir, id, &mut |name, at| {
                let room = self.rooms.entry(at.key).or_default();
                room.name.get_or_insert_with(|| name.to_owned());
                room.told_of = room.told_of.max(at.seq);
                room.snapshots.push(at);
            });
            let path = dir.snapshot(id);
            match searched {
                Ok(unreadable) => say_unreadable(&path, &unreadable, faults),
                Err(error) => faults.push(format!("{}: {error}", path.display())),
            }
        }
    }

    fn read_log(&mut self, disk: &dyn Disk, dir: &ShardDir, faults: &mut Vec<String>) {
        let segments = match inspect(disk, &dir.wal()) {
            Ok(segments) => segments,
            Err(error) => return faults.push(format!("{}: {error}", dir.wal().display())),
        };
        for segment in segments {
            say_unreadable(&segment.path, &segment.unreadable, faults);
            for batch in segment.batches.iter().filter(|b| b.fault.is_some()) {
                faults.push(format!(
                    "{}: batch at LSN {}: {}",
                    segment.path.display(),
                    batch.lsn.0,
                    batch.fault.as_deref().unwrap_or_default()
                ));
            }
            let read = inspect_segment(disk, &dir.wal(), segment.segment, &mut |record| {
                let key = match record.kind {
                    RecordKind::RoomCreated => RoomKey(record.lsn.0),
                    _ => record.room,
                };
                match record.kind {
                    RecordKind::RoomCreated => {
                        let name = String::from_utf8_lossy(record.payload).into_owned();
                        self.rooms.entry(key).or_default().name = Some(name);
                    }
                    RecordKind::Update | RecordKind::SnapshotInstalled => {
                        let room = self.rooms.entry(key).or_default();
                        room.told_of = room.told_of.max(record.room_seq);
                        if record.kind == RecordKind::Update {
                            room.updates
                                .insert(record.room_seq, record.payload.to_vec());
                        }
                    }
                    _ => {}
                }
            });
            if let Err(error) = read {
                faults.push(format!("{}: {error}", segment.path.display()));
            }
        }
    }
}

impl Target {
    /// Adds a room as a snapshot.
    fn take_document(
        &mut self,
        disk: &dyn Disk,
        config: &EngineConfig,
        name: &str,
        seq: u64,
        doc: &mut RoomDoc,
    ) -> Result<(), OpenError> {
        let refused = |what: String| OpenError::Mismatch {
            path: name.into(),
            what: format!("the room cannot be written: {what}"),
        };
        let mut state_vector = Vec::new();
        doc.state_vector(&mut state_vector);
        let state = doc.encode_state().map_err(|e| refused(e.to_string()))?;
        let (header, payload) = write::prepare(&Encoded {
            name: name.into(),
            key: RoomKey(0),
            seq,
            covers: Lsn(0),
            body: Body {
                state_vector,
                state,
            },
        })
        .map_err(refused)?;
        self.take(disk, config, name, header, payload)
    }
}
