//! What the log's records make of the rooms at start.

use crate::config::RoomId;
use crate::guard::Limits;
use crate::index::SnapshotRef;
use crate::paths::ShardDir;
use crate::rebuild::replay_limits;
use crate::room_doc::RoomDoc;
use crate::rooms::{DocState, Room, Rooms};
use crate::snapshot::read::{Entry, Unread};
use collabblocks_wal::{Disk, Lsn, OpenError, Record, RecordKind, RoomKey};
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;

/// Rooms that a refusal names.
const ROOMS_NAMED_MAX: usize = 16;

/// A room while the log is read.
struct Seen {
    name: Box<str>,
    snapshot: Option<SnapshotRef>,
    /// The last update known of, in the snapshot or the log.
    seq: u64,
    /// The last update of it in the log; 0 before the first.
    logged_seq: u64,
    room: Option<RoomId>,
}

/// Rooms as snapshots and the log's records make them.
#[derive(Default)]
pub(crate) struct Replay<'a> {
    pub(crate) rooms: Rooms,
    /// The rooms made in memory.
    pub(crate) loaded: Vec<RoomId>,
    pub(crate) document_bytes: usize,
    source: Option<(&'a dyn Disk, &'a ShardDir)>,
    limits: Limits,
    seen: HashMap<RoomKey, Seen>,
    /// What the operating system said of a snapshot that a room needs, and that it did not read.
    unread: Option<(PathBuf, io::Error)>,
}

impl<'a> Replay<'a> {
    /// Says what the disk said where it is the disk that refused, and by name which rooms are at
    /// stake where the log is damaged.
    pub(crate) fn explain(&mut self, error: OpenError) -> OpenError {
        if let Some((path, error)) = self.unread.take() {
            return OpenError::Io { path, error };
        }
        let OpenError::Damaged {
            path,
            lsn,
            what,
            rooms,
        } = error
        else {
            return error;
        };
        let mut names: Vec<String> = rooms
            .iter()
            .take(ROOMS_NAMED_MAX)
            .map(|key| match self.seen.get(key) {
                Some(seen) => format!("{:?}", seen.name),
                // It was made at the damage or after it.
                None => format!("the one with key {}", key.0),
            })
            .collect();
        if rooms.len() > names.len() {
            names.push(format!("{} more", rooms.len() - names.len()));
        }
        let what = if names.is_empty() {
            what
        } else {
            format!(
                "{what}; rooms with records there or later: {}",
                names.join(", ")
            )
        };
        OpenError::Damaged {
            path,
            lsn,
            what,
            rooms,
        }
    }

    /// Begins with the rooms' snapshots.
    pub(crate) fn new(
        disk: &'a dyn Disk,
        dir: &'a ShardDir,
        limits: &Limits,
        rooms: Rooms,
    ) -> Self {
        let seen = rooms.all().filter_map(|(name, known)| {
            let at = known.snapshot?;
            let seen = Seen {
                name: name.into(),
                snapshot: Some(at),
                seq: at.seq,
                logged_seq: 0,
                room: None,
            };
            Some((at.key, seen))
        });
        Self {
            seen: seen.collect(),
            rooms,
            limits: replay_limits(limits),
            source: Some((disk, dir)),
            ..Self::default()
        }
    }

    /// Takes the next record of the log.
    pub(crate) fn record(&mut self, record: Record<'_>) -> Result<(), String> {
        match record.kind {
            RecordKind::RoomCreated => self.created(record),
            RecordKind::Update => self.update(record),
            RecordKind::SnapshotInstalled => self.installed(record),
            RecordKind::Seal | RecordKind::CleanShutdown => Ok(()),
            RecordKind::RoomDeleted | RecordKind::LiveOps | RecordKind::ActorCounter => {
                Err(format!(
                    "{:?} records are of a newer version of this program",
                    record.kind
                ))
            }
        }
    }

    fn created(&mut self, record: Record<'_>) -> Result<(), String> {
        let name = str::from_utf8(record.payload).map_err(|_| "a room's name is not UTF-8")?;
        let key = RoomKey(record.lsn.0);
        if let Some(seen) = self.seen.get_mut(&key) {
            if &*seen.name != name || seen.logged_seq > 0 {
                return Err(format!(
                    "the rooms {name:?} and {:?} have the same key",
                    seen.name
                ));
            }
            // The whole history is in the log: a snapshot that cannot be read is not needed.
            let (disk, dir) = self.source.expect("a log that is read has a directory");
            if let Some(at) = seen.snapshot
                && Entry::read(disk, dir, name, at).is_err()
            {
                (seen.snapshot, seen.seq) = (None, 0);
                self.rooms.forget_snapshot(name);
            } else {
                return Ok(());
            }
        } else {
            if self.rooms.find(name).is_some() || self.rooms.snapshot(name).is_some() {
                return Err(format!("the room {name:?} was made twice"));
            }
            self.seen.insert(
                key,
                Seen {
                    name: name.into(),
                    snapshot: None,
                    seq: 0,
                    logged_seq: 0,
                    room: None,
                },
            );
        }
        self.bring_in(key, record, RoomDoc::new());
        Ok(())
    }

    fn update(&mut self, record: Record<'_>) -> Result<(), String> {
        let seen = self.seen.get_mut(&record.room).ok_or_else(|| {
            format!(
                "an update of room {}, which has neither a beginning in the log nor a snapshot",
                record.room.0
            )
        })?;
        let first = if seen.logged_seq == 0 {
            seen.seq + 1
        } else {
            seen.logged_seq + 1
        };
        let gap = match seen.logged_seq {
            0 => record.room_seq > first,
            _ => record.room_seq != first,
        };
        if gap || record.room_seq == 0 {
            let (name, found) = (&seen.name, record.room_seq);
            return Err(format!(
                "room {name:?}: update {found} stands where update {first} should"
            ));
        }
        seen.logged_seq = record.room_seq;
        if record.room_seq <= seen.seq {
            return Ok(());
        }
        seen.seq = record.room_seq;
        let id = match (seen.room, seen.snapshot) {
            (Some(id), _) => id,
            (None, Some(at)) => {
                let doc = match read(self.source, &seen.name, at) {
                    Ok(doc) => doc,
                    Err(Unread::Untrusted(why)) => {
                        return Err(format!(
                            "room {:?}: its snapshot is damaged, and the log does not go back to its beginning: {why}",
                            seen.name
                        ));
                    }
                    // Nothing is wrong with the room: the next start may read it.
                    Err(Unread::Io { path, error }) => {
                        self.unread = Some((path, error));
                        return Err(format!("room {:?}: its snapshot cannot be read", seen.name));
                    }
                };
                self.bring_in(record.room, record, doc)
            }
            (None, None) => unreachable!("a room without a snapshot is in memory"),
        };
        let room = self
            .rooms
            .get_mut(id)
            .expect("rooms stay in memory while the log is read");
        room.seq = record.room_seq;
        room.durable_at = record.durable_at;
        if let DocState::Ready(doc) = &mut room.doc {
            let before = doc.memory_estimate();
            match doc.apply(record.payload, false, &self.limits) {
                Ok(_) => self.document_bytes += doc.memory_estimate().saturating_sub(before),
                // One room's poison does not keep the others from being served: it stays in the log.
                Err(_) => {
                    self.document_bytes = self.document_bytes.saturating_sub(before);
                    room.doc = DocState::Quarantined { rebuilding: false };
                }
            }
        }
        Ok(())
    }

    /// The snapshot that the log announces was durable before: it, or all that it covered, is there.
    fn installed(&mut self, record: Record<'_>) -> Result<(), String> {
        let seen = self.seen.get(&record.room).ok_or_else(|| {
            format!(
                "a snapshot of room {} was installed, and neither it nor the room is there",
                record.room.0
            )
        })?;
        if seen.seq < record.room_seq {
            let (name, wanted, seq) = (&seen.name, record.room_seq, seen.seq);
            return Err(format!(
                "room {name:?}: its snapshot of update {wanted} is missing, what is there ends at {seq}"
            ));
        }
        Ok(())
    }

    fn bring_in(&mut self, key: RoomKey, record: Record<'_>, doc: RoomDoc) -> RoomId {
        self.document_bytes += doc.memory_estimate();
        let seen = self.seen.get_mut(&key).expect("the room was seen");
        let mut room = Room::new(seen.name.clone(), DocState::Ready(doc));
        room.key = Some(key);
        room.pin = Some(record.lsn);
        room.durable_at = Lsn(record.durable_at.0);
        let id = self.rooms.insert(room);
        seen.room = Some(id);
        self.loaded.push(id);
        id
    }
}

fn read(
    source: Option<(&dyn Disk, &ShardDir)>,
    name: &str,
    at: SnapshotRef,
) -> Result<RoomDoc, Unread> {
    let (disk, dir) = source.expect("a log that is read has a directory");
    Entry::read(disk, dir, name, at)?
        .document()
        .map_err(Unread::Untrusted)
}
