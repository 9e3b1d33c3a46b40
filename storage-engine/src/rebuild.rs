//! A room whose document can no longer be trusted is made again from what is on disk.

use crate::config::RoomId;
use crate::engine::Engine;
use crate::guard::Limits;
use crate::index::SnapshotRef;
use crate::job::Work;
use crate::paths::ShardDir;
use crate::room_doc::RoomDoc;
use crate::rooms::DocState;
use crate::snapshot::read::Entry;
use collabblocks_wal::{Disk, RecordKind, RoomKey, SegmentId};

/// What it takes to make a room again.
pub(crate) struct Rebuild {
    pub(crate) room: RoomId,
    pub(crate) name: Box<str>,
    pub(crate) key: RoomKey,
    pub(crate) snapshot: Option<SnapshotRef>,
    /// The log is read from here on.
    pub(crate) low: SegmentId,
    /// The last update to be applied.
    pub(crate) seq: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) limits: Limits,
}

/// Makes the document (blocking).
pub(crate) fn run(disk: &dyn Disk, dir: &ShardDir, rebuild: &Rebuild) -> Result<RoomDoc, String> {
    let (mut doc, mut seq) = match rebuild.snapshot {
        Some(at) => (
            Entry::read(disk, dir, &rebuild.name, at)?.document()?,
            at.seq,
        ),
        None => (RoomDoc::new(), 0),
    };
    if seq == rebuild.seq {
        return Ok(doc);
    }
    let replay = &mut |record: collabblocks_wal::Record<'_>| {
        let wanted = record.kind == RecordKind::Update && record.room == rebuild.key;
        if !wanted || record.room_seq <= seq || record.room_seq > rebuild.seq {
            return Ok(());
        }
        if record.room_seq != seq + 1 {
            return Err(format!("update {} follows update {seq}", record.room_seq));
        }
        doc.apply(record.payload, false, &rebuild.limits)
            .map_err(|e| format!("update {}: {e}", record.room_seq))?;
        seq = record.room_seq;
        Ok(())
    };
    collabblocks_wal::read(
        disk,
        &dir.wal(),
        dir.identity,
        rebuild.segment_bytes,
        rebuild.low,
        replay,
    )
    .map_err(|e| e.to_string())?;
    match seq == rebuild.seq {
        true => Ok(doc),
        false => Err(format!("the log ends at update {seq} of {}", rebuild.seq)),
    }
}

/// Limits for what was taken once: none but what keeps the stack.
pub(crate) fn replay_limits(limits: &Limits) -> Limits {
    let own = Limits::own_state();
    Limits {
        any_depth_max: own.any_depth_max.max(limits.any_depth_max),
        type_depth_max: own.type_depth_max.max(limits.type_depth_max),
        ..own
    }
}

impl Engine {
    /// Takes a room's document out of use until it has been made again.
    pub(crate) fn quarantine(&mut self, id: RoomId, document_bytes: usize) {
        let room = self.rooms.get_mut(id).expect("the room is in use");
        room.doc = DocState::Quarantined { rebuilding: false };
        self.document_bytes = self.document_bytes.saturating_sub(document_bytes);
        self.want_rebuild(id);
    }

    /// Has a room in quarantine made again, unless that is under way.
    pub(crate) fn want_rebuild(&mut self, id: RoomId) {
        let room = self.rooms.get_mut(id).expect("the room is in use");
        if let DocState::Quarantined { rebuilding } = &mut room.doc
            && !std::mem::replace(rebuilding, true)
        {
            self.to_rebuild.push(id);
        }
    }

    /// Begins to make rooms again, once all that was logged of them can be read.
    pub(crate) fn poll_rebuild(&mut self) {
        let waiting = std::mem::take(&mut self.to_rebuild);
        for id in waiting {
            let room = self
                .rooms
                .get_mut(id)
                .expect("a room in quarantine stays in memory");
            if room.durable_at > self.log.durable_lsn() {
                self.to_rebuild.push(id);
                continue;
            }
            let snapshot = self
                .rooms
                .snapshot(&self.rooms.get(id).expect("as above").name);
            let room = self.rooms.get(id).expect("as above");
            let rebuild = Rebuild {
                room: id,
                name: room.name.clone(),
                key: room.key.unwrap_or_default(),
                snapshot,
                low: room
                    .pin
                    .map_or(self.log.live_segments().1, |pin| self.log.segment_of(pin)),
                seq: room.seq,
                segment_bytes: self.config.log.segment_bytes,
                limits: replay_limits(&self.config.limits),
            };
            if let Some(at) = snapshot {
                self.segments.read_begins(at.segment);
            }
            self.begin(Work::Rebuild(rebuild));
        }
    }
}
