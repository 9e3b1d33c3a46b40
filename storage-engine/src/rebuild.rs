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
use crate::watch::{WatchJob, within};
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
pub(crate) fn run(
    disk: &dyn Disk,
    dir: &ShardDir,
    rebuild: &Rebuild,
    watch: &dyn WatchJob,
) -> Result<RoomDoc, String> {
    let name = &*rebuild.name;
    let (mut doc, mut seq) = match rebuild.snapshot {
        Some(at) => {
            let entry = Entry::read(disk, dir, name, at)?;
            (within(watch, name, || entry.document())?, at.seq)
        }
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
        within(watch, name, || {
            doc.apply(record.payload, false, &rebuild.limits)
        })
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
    if seq != rebuild.seq {
        return Err(format!("the log ends at update {seq} of {}", rebuild.seq));
    }
    within(watch, name, || doc.settle()).map_err(|e| format!("an update up to {seq}: {e}"))?;
    Ok(doc)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EngineConfig, Notice, Refusal, Request, RoomStatus};
    use collabblocks_wal::{Identity, sim_disk::SimDisk};
    use std::cell::RefCell;
    use std::path::Path;
    use std::sync::Arc;

    /// Client 1 inserts "a" and "b" into the root text "t".
    const UPDATES: [&[u8]; 2] = [
        &[1, 1, 1, 0, 4, 1, 1, b't', 1, b'a', 0],
        &[1, 1, 1, 1, 0x84, 1, 0, 1, b'b', 0],
    ];

    fn open(sim: &SimDisk) -> Engine {
        let disk: Arc<dyn Disk> = Arc::new(sim.clone());
        let config = EngineConfig {
            disk_reserve_bytes: 0,
            ..EngineConfig::default()
        };
        let identity = Identity {
            store: [1; 16],
            shard: 0,
        };
        Engine::open(&disk, Path::new("/shard"), identity, config)
            .unwrap()
            .0
    }

    /// Notes which rooms jobs go into, and that they are not on the disk meanwhile.
    struct Noted<'a>(&'a SimDisk, RefCell<(u64, Vec<String>)>);

    impl WatchJob for Noted<'_> {
        fn enters_room(&self, name: &str) {
            let mut noted = self.1.borrow_mut();
            noted.0 = self.0.reads_count();
            noted.1.push(name.into());
        }

        fn leaves_room(&self) {
            assert_eq!(self.1.borrow().0, self.0.reads_count());
        }
    }

    fn settle(engine: &mut Engine, sim: &SimDisk, now: u64) -> Vec<Notice> {
        settle_watched(engine, sim, now, &())
    }

    fn settle_watched(
        engine: &mut Engine,
        sim: &SimDisk,
        now: u64,
        watch: &dyn WatchJob,
    ) -> Vec<Notice> {
        let (mut requests, mut notices) = (Vec::new(), Vec::new());
        engine.poll(now, &mut requests);
        while let Some(request) = requests.pop() {
            match request {
                Request::Write { job, .. } => {
                    let result = job.run(sim);
                    engine.on_written(now, job, result).unwrap();
                }
                Request::Job(job) => {
                    let done = job.run_watched(sim, watch);
                    engine.on_job_done(now, done, &mut notices);
                }
            }
            engine.poll(now, &mut requests);
        }
        notices
    }

    #[test]
    fn a_room_in_quarantine_is_made_again_from_the_log() {
        let sim = SimDisk::new();
        let mut engine = open(&sim);
        // The log is under load, so that the next commit waits.
        let (earlier, _) = engine.attach(0, "earlier");
        engine.apply(0, earlier, UPDATES[0], false).unwrap();
        for clock in 1..40 {
            let update = [1, 1, 1, clock, 0x84, 1, clock - 1, 1, b'b', 0];
            engine.apply(0, earlier, &update, false).unwrap();
        }
        settle(&mut engine, &sim, 1_000_000_000);
        let (id, _) = engine.attach(0, "room");
        for update in UPDATES {
            engine.apply(0, id, update, false).unwrap();
        }
        let before = engine.diff(id, &[0]).unwrap();
        engine.quarantine(id, 0);
        assert!(matches!(
            engine.apply(0, id, UPDATES[0], false),
            Err(Refusal::Unavailable(_))
        ));
        assert!(engine.diff(id, &[0]).is_err());
        assert_eq!(engine.attach(0, "room"), (id, RoomStatus::Loading));
        // Its records have to be durable before they can be read.
        assert!(settle(&mut engine, &sim, 0).is_empty());
        let noted = Noted(&sim, RefCell::default());
        assert_eq!(
            settle_watched(&mut engine, &sim, 2_000_000_000, &noted),
            [Notice::RoomReady(id)]
        );
        let entered = noted.1.into_inner().1;
        assert_eq!(entered, ["room"; 3], "for each update, and at the end");
        assert_eq!(engine.diff(id, &[0]).unwrap(), before);
        let next: &[u8] = &[1, 1, 1, 2, 0x84, 1, 1, 1, b'c', 0];
        assert_eq!(engine.apply(0, id, next, false).unwrap().room_seq, 3);
    }

    #[test]
    fn a_room_that_cannot_be_made_again_fails_alone_and_keeps_its_log() {
        let sim = SimDisk::new();
        let mut engine = open(&sim);
        let (id, _) = engine.attach(0, "room");
        let (other, _) = engine.attach(0, "other");
        engine.apply(0, id, UPDATES[0], false).unwrap();
        engine.apply(0, other, UPDATES[0], false).unwrap();
        settle(&mut engine, &sim, 1_000_000_000);
        // What memory says of it is not what the log says.
        engine.rooms.get_mut(id).unwrap().seq = 5;
        engine.quarantine(id, 0);
        let notices = settle(&mut engine, &sim, 2_000_000_000);
        assert!(
            matches!(&notices[..], [Notice::RoomFailed(failed, why)] if *failed == id && why.contains("of 5"))
        );
        engine.detach(0, id);
        assert!(
            engine.apply(0, id, UPDATES[1], false).is_err(),
            "its id is stale"
        );
        assert!(engine.apply(0, other, UPDATES[1], false).is_ok());
        let (again, status) = engine.attach(0, "room");
        assert!(
            again != id && status == RoomStatus::Loading,
            "the next session tries again"
        );
        assert_eq!(settle(&mut engine, &sim, 3_000_000_000).len(), 1);
        assert_eq!(
            engine.rooms.pins().count(),
            2,
            "what the log alone holds stays in it"
        );
    }
}
