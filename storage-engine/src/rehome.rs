//! Moving every room to its home among another number of shards: the old generation's rooms are
//! written as snapshots into a new generation, which nothing names before it is whole.

use crate::config::EngineConfig;
use crate::engine::Engine;
use crate::index::{Segments, SnapshotRef};
use crate::manifest::Manifest;
use crate::open::{at, make_log};
use crate::paths::ShardDir;
use crate::rooms::{DocState, Known};
use crate::snapshot::format::{Body, EntryHeader};
use crate::snapshot::read::{Entry, Unread};
use crate::snapshot::write::{self, Encoded, Tail, Writer};
use crate::store::{Store, home_shard};
use collabblocks_wal::{Disk, Lsn, OpenError, RoomKey};
use std::sync::Arc;

/// Keys of rooms that came from another generation: LSNs, which are the keys of all others, never
/// come so far.
const MOVED_KEYS: u64 = 1 << 63;
/// Bytes gathered before they are written.
const BATCH_BYTES: usize = 4 << 20;

/// A shard of a new generation.
pub(crate) struct Target {
    dir: ShardDir,
    tail: Tail,
    segments: Segments,
    gathered: Vec<(Box<str>, EntryHeader, Vec<u8>)>,
    gathered_bytes: usize,
    rooms: u64,
}

/// Makes the generation of `new` from that of `old` (blocking). One old shard at a time is in memory.
pub(crate) fn rehome(
    disk: &Arc<dyn Disk>,
    old: &Store,
    new: &Store,
    config: &EngineConfig,
) -> Result<(), OpenError> {
    let mut targets: Vec<Target> = (0..new.shards())
        .map(|shard| Target::new(new, shard))
        .collect();
    for shard in 0..old.shards() {
        let (mut engine, _) = old.open_shard(disk, shard, config)?;
        let all = engine.rooms.all();
        let mut rooms: Vec<(Box<str>, Known)> =
            all.map(|(name, &known)| (name.into(), known)).collect();
        rooms.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        for (name, known) in &rooms {
            let read = match known.slot {
                Some(slot) => from_memory(&mut engine, slot).map_err(Unread::Untrusted),
                None => from_disk(&**disk, &engine, name, known.snapshot),
            };
            let (header, payload) = read.map_err(|why| match why {
                // Nothing is wrong with the room: the next start may read it.
                Unread::Io { path, error } => OpenError::Io { path, error },
                Unread::Untrusted(why) => OpenError::Mismatch {
                    path: old.shard_dir(shard),
                    what: format!(
                        "the room {name:?} cannot be read, so it cannot move to another shard \
                         ({why}); start with the former number of shards, {}",
                        old.shards()
                    ),
                },
            })?;
            let target = &mut targets[usize::from(home_shard(name, new.shards()))];
            target.take(&**disk, config, name, header, payload)?;
        }
    }
    for (shard, target) in (0..).zip(targets) {
        target.finish(&**disk, &new.shard_config(shard, config))?;
    }
    Ok(())
}

/// A room with updates that no snapshot covers.
fn from_memory(engine: &mut Engine, slot: u32) -> Result<(EntryHeader, Vec<u8>), String> {
    let id = engine.rooms.id_of(slot);
    let room = engine.rooms.get_mut(id).expect("the slot is in use");
    let DocState::Ready(doc) = &mut room.doc else {
        return Err("its log does not read as it was written".into());
    };
    let mut state_vector = Vec::new();
    doc.state_vector(&mut state_vector);
    let state = doc.encode_state().map_err(|e| e.to_string())?;
    let body = Body {
        state_vector,
        state,
    };
    let name = room.name.clone();
    write::prepare(&Encoded {
        name,
        key: RoomKey(0),
        seq: room.seq,
        covers: Lsn(0),
        body,
    })
}

/// A room that its snapshot covers.
fn from_disk(
    disk: &dyn Disk,
    engine: &Engine,
    name: &str,
    at: Option<SnapshotRef>,
) -> Result<(EntryHeader, Vec<u8>), Unread> {
    let at = at.expect("a room that is not in memory has a snapshot");
    let entry = Entry::read(disk, &engine.dir, name, at)?;
    Ok((entry.header, entry.payload().to_vec()))
}

impl Target {
    pub(crate) fn new(store: &Store, shard: u16) -> Self {
        Self {
            dir: ShardDir::new(&store.shard_dir(shard), store.identity(shard)),
            tail: Tail::default(),
            segments: Segments::default(),
            gathered: Vec::new(),
            gathered_bytes: 0,
            rooms: 0,
        }
    }

    /// Adds a room; its key is made new.
    pub(crate) fn take(
        &mut self,
        disk: &dyn Disk,
        config: &EngineConfig,
        name: &str,
        header: EntryHeader,
        payload: Vec<u8>,
    ) -> Result<(), OpenError> {
        self.rooms += 1;
        self.gathered_bytes += payload.len();
        let key = RoomKey(MOVED_KEYS + self.rooms);
        self.gathered.push((
            name.into(),
            EntryHeader {
                key,
                covers: Lsn(0),
                ..header
            },
            payload,
        ));
        if self.gathered_bytes >= BATCH_BYTES {
            self.flush(disk, config)?;
        }
        Ok(())
    }

    fn flush(&mut self, disk: &dyn Disk, config: &EngineConfig) -> Result<(), OpenError> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let mut writer = Writer::new(&self.dir, self.tail);
        for (name, header, payload) in self.gathered.drain(..) {
            writer.push(&name, header, &payload);
        }
        self.gathered_bytes = 0;
        self.tail = writer.store(disk).map_err(at(&self.dir.root))?;
        self.segments.grown(self.tail.segment, self.tail.offset);
        if self.tail.offset >= config.snapshot_segment_bytes {
            self.tail = Tail {
                segment: self.tail.segment + 1,
                offset: 0,
            };
        }
        Ok(())
    }

    /// Makes the rest of the shard: a log, and the manifest that names it and the snapshots.
    pub(crate) fn finish(
        mut self,
        disk: &dyn Disk,
        config: &EngineConfig,
    ) -> Result<(), OpenError> {
        self.flush(disk, config)?;
        let mut manifest = Manifest {
            store: self.dir.identity.store,
            shard: self.dir.identity.shard,
            snapshots: self.segments.list(None),
            ..Manifest::default()
        };
        make_log(disk, &self.dir, config, &mut manifest).map(drop)
    }
}
