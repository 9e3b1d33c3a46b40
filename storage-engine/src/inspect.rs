//! The rooms of a data directory, listed without opening it: nothing is changed, and what cannot be
//! read is said beside what can.

use crate::index::SnapshotRef;
use crate::manifest::{self, Manifest};
use crate::open::list;
use crate::paths::{ShardDir, snapshot_id};
use crate::snapshot::read::Entry;
use crate::snapshot::scan;
use crate::store::Store;
use collabblocks_wal::{Disk, OpenError, RecordKind, RoomKey};
use std::collections::BTreeMap;
use std::path::Path;

/// A shard's rooms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardListing {
    /// Its number.
    pub shard: u16,
    /// Its rooms, by name.
    pub rooms: Vec<RoomListing>,
    /// What the log or a snapshot segment would be refused for.
    pub faults: Vec<String>,
}

/// A room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoomListing {
    /// Its name.
    pub name: String,
    /// Its number in the log.
    pub key: RoomKey,
    /// Its last update, in the snapshot or the log.
    pub room_seq: u64,
    /// The last update that its newest snapshot covers.
    pub snapshot_seq: Option<u64>,
    /// Bytes of that snapshot on disk.
    pub snapshot_bytes: u64,
    /// Why that snapshot cannot be read.
    pub fault: Option<String>,
}

/// Lists the rooms of a data directory (blocking), reading every snapshot and the whole log; `None`
/// where there is no store.
pub fn list_rooms(disk: &dyn Disk, root: &Path) -> Result<Option<Vec<ShardListing>>, OpenError> {
    let Some(store) = Store::existing(disk, root)? else {
        return Ok(None);
    };
    let shards = if store.generation() == 0 {
        0
    } else {
        store.shards()
    };
    let listed = (0..shards).map(|shard| {
        let dir = ShardDir::new(&store.shard_dir(shard), store.identity(shard));
        let mut listing = Listing::default();
        match manifest::load(disk, &dir.root) {
            Ok(Some(manifest)) => {
                listing.snapshots(disk, &dir, &manifest)?;
                listing.log(disk, &dir, &manifest, store.segment_bytes());
            }
            Ok(None) => listing.faults.push(format!(
                "{}: the shard's manifest is missing",
                dir.root.display()
            )),
            Err(error) => listing.faults.push(error.to_string()),
        }
        Ok(ShardListing {
            shard,
            rooms: listing.rooms.into_values().collect(),
            faults: listing.faults,
        })
    });
    listed.collect::<Result<_, _>>().map(Some)
}

#[derive(Default)]
struct Listing {
    rooms: BTreeMap<String, RoomListing>,
    names: BTreeMap<RoomKey, String>,
    faults: Vec<String>,
}

impl Listing {
    fn snapshots(
        &mut self,
        disk: &dyn Disk,
        dir: &ShardDir,
        manifest: &Manifest,
    ) -> Result<(), OpenError> {
        let mut segments: BTreeMap<u32, u64> = manifest
            .snapshots
            .iter()
            .map(|s| (s.id, s.durable_bytes))
            .collect();
        for id in list(disk, &dir.snapshots())?
            .iter()
            .filter_map(|name| snapshot_id(name))
        {
            segments.entry(id).or_insert(0);
        }
        let mut newest: BTreeMap<String, SnapshotRef> = BTreeMap::new();
        for (id, durable_bytes) in segments {
            let scanned = scan::scan(disk, dir, id, durable_bytes, &mut |name, at| {
                if newest.get(name).is_none_or(|known| known.seq <= at.seq) {
                    newest.insert(name.into(), at);
                }
                Ok(())
            });
            if let Err(error) = scanned {
                self.faults.push(error.to_string());
            }
        }
        for (name, at) in newest {
            let fault = Entry::read(disk, dir, &name, at)
                .map_err(String::from)
                .and_then(|entry| entry.document())
                .err();
            self.names.insert(at.key, name.clone());
            let room = RoomListing {
                name: name.clone(),
                key: at.key,
                room_seq: at.seq,
                snapshot_seq: Some(at.seq),
                snapshot_bytes: u64::from(at.len),
                fault,
            };
            self.rooms.insert(name, room);
        }
        Ok(())
    }

    fn log(&mut self, disk: &dyn Disk, dir: &ShardDir, manifest: &Manifest, segment_bytes: u64) {
        if manifest.sequence == 0 {
            return;
        }
        let (rooms, names) = (&mut self.rooms, &mut self.names);
        let read = collabblocks_wal::read(
            disk,
            &dir.wal(),
            dir.identity,
            segment_bytes,
            manifest.low(),
            &mut |record| {
                if record.kind == RecordKind::RoomCreated {
                    let name = String::from_utf8_lossy(record.payload).into_owned();
                    names.insert(record.room, name.clone());
                    rooms.entry(name.clone()).or_insert(RoomListing {
                        name,
                        key: record.room,
                        room_seq: 0,
                        snapshot_seq: None,
                        snapshot_bytes: 0,
                        fault: None,
                    });
                } else if record.kind == RecordKind::Update
                    && let Some(room) = names.get(&record.room).and_then(|name| rooms.get_mut(name))
                {
                    room.room_seq = room.room_seq.max(record.room_seq);
                }
                Ok(())
            },
        );
        if let Err(error) = read {
            self.faults.push(error.to_string());
        }
    }
}
