//! A log on a simulated disk beside a list of what was appended to it.

use crate::sim_disk::{SimDisk, SimRng};
use crate::*;
use std::path::{Path, PathBuf};

pub(super) const IDENTITY: Identity = Identity {
    store: [7; 16],
    shard: 3,
};

pub(super) fn dir() -> PathBuf {
    PathBuf::from("/data/shard-003")
}

pub(super) fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 8 * BLOCK_BYTES as u64,
        batch_bytes: 2 * BLOCK_BYTES,
        queue_bytes_max: 64 * BLOCK_BYTES,
        segments_ready: 2,
        salt_seed: 42,
    }
}

/// A seed for a randomised test: fixed, or from the environment.
pub(super) fn seed(fixed: u64) -> u64 {
    let seed = std::env::var("COLLABBLOCKS_SEED").map_or(fixed, |s| s.parse().expect("a number"));
    println!("COLLABBLOCKS_SEED={seed}");
    seed
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Item {
    pub(super) lsn: Lsn,
    pub(super) kind: RecordKind,
    pub(super) room: RoomKey,
    pub(super) room_seq: u64,
    pub(super) payload: Vec<u8>,
}

/// Opens, and returns what was replayed.
pub(super) fn open(
    disk: &dyn Disk,
    low: SegmentId,
) -> Result<(Log, Recovered, Vec<Item>), OpenError> {
    let mut items = Vec::new();
    let (log, recovered) = Log::open(disk, &dir(), IDENTITY, config(), low, &mut |r| {
        assert!(r.durable_at > r.lsn);
        items.push(Item {
            lsn: r.lsn,
            kind: r.kind,
            room: r.room,
            room_seq: r.room_seq,
            payload: r.payload.to_vec(),
        });
        Ok(())
    })?;
    assert_eq!(recovered.records, items.len() as u64);
    Ok((log, recovered, items))
}

pub(super) struct Rig {
    pub(super) disk: SimDisk,
    pub(super) log: Log,
    pub(super) rng: SimRng,
    pub(super) appended: Vec<Item>,
    /// What a manifest would hold.
    pub(super) low: SegmentId,
    seq: u64,
}

impl Rig {
    pub(super) fn create(seed: u64) -> Self {
        Self::create_on(SimDisk::new(), seed)
    }

    pub(super) fn create_on(disk: SimDisk, seed: u64) -> Self {
        let log = Log::create(&disk, &dir(), IDENTITY, config()).unwrap();
        let low = log.live_segments().0;
        Self {
            disk,
            log,
            rng: SimRng(seed),
            appended: Vec::new(),
            low,
            seq: 0,
        }
    }

    /// Opens again after a crash; everything replayed is promised from then on.
    pub(super) fn reopen(&mut self) -> Result<Recovered, OpenError> {
        let durable = self.log.durable_lsn();
        let (log, recovered, items) = open(&self.disk, self.low)?;
        check(&self.appended, &items, durable, self.low);
        self.appended.truncate(
            self.appended
                .partition_point(|item| item.lsn < recovered.end),
        );
        self.log = log;
        Ok(recovered)
    }

    pub(super) fn append(
        &mut self,
        kind: RecordKind,
        payload: Vec<u8>,
    ) -> Result<Appended, AppendError> {
        self.seq += 1;
        let room = RoomKey(1 + self.seq % 5);
        let (head, tail) = payload.split_at(payload.len() / 2);
        let appended = self.log.append(kind, room, self.seq, &[head, tail])?;
        let room = if kind == RecordKind::RoomCreated {
            RoomKey(appended.lsn.0)
        } else {
            room
        };
        self.appended.push(Item {
            lsn: appended.lsn,
            kind,
            room,
            room_seq: self.seq,
            payload,
        });
        Ok(appended)
    }

    /// An update in a buffer that was made elsewhere.
    pub(super) fn append_staged(&mut self, payload: Vec<u8>) -> Result<Appended, AppendError> {
        self.seq += 1;
        let room = RoomKey(1 + self.seq % 5);
        let staged = Staged::new(&payload);
        let appended = self.log.append_staged(room, self.seq, staged)?;
        self.appended.push(Item {
            lsn: appended.lsn,
            kind: RecordKind::Update,
            room,
            room_seq: self.seq,
            payload,
        });
        Ok(appended)
    }

    pub(super) fn append_random(&mut self) {
        let bytes = match self.rng.below(10) {
            0 => self.rng.below(7 * BLOCK_BYTES as u64 - 200),
            1..4 => self.rng.below(2 * BLOCK_BYTES as u64),
            _ => self.rng.below(200),
        };
        let fill = 1 + self.rng.below(255) as u8;
        let kind = if self.rng.below(8) == 0 {
            RecordKind::RoomCreated
        } else {
            RecordKind::Update
        };
        // A full log takes nothing, which is no fault here.
        if kind == RecordKind::Update && self.rng.below(4) == 0 {
            let _ = self.append_staged(vec![fill; bytes as usize]);
            return;
        }
        let _ = self.append(kind, vec![fill; bytes as usize]);
    }

    pub(super) fn job(&mut self) {
        if let Some(job) = self.log.next_job() {
            self.log.on_job_done(job.run(&self.disk));
        }
    }

    /// One write, if one is to be done; `Err` when it failed.
    pub(super) fn write(&mut self) -> Result<bool, Poisoned> {
        let Some(job) = self.log.next_write() else {
            return Ok(false);
        };
        let result = job.run(&self.disk);
        self.log.on_written(job, result).map(|_| true)
    }

    /// Writes all that is pending.
    pub(super) fn commit(&mut self) {
        loop {
            self.job();
            if !self.write().unwrap() {
                break;
            }
        }
        assert_eq!(self.log.pending_bytes(), 0);
    }

    pub(super) fn seal(&mut self) {
        if self.log.needs_seal() {
            let lsn = self.log.appended_lsn();
            self.log.seal();
            assert!(!self.log.needs_seal());
            self.appended.push(Item {
                lsn,
                kind: RecordKind::Seal,
                room: RoomKey(0),
                room_seq: 0,
                payload: Vec::new(),
            });
        }
    }

    /// The caller has put `low` into its manifest.
    pub(super) fn recycle(&mut self, low: SegmentId) {
        self.low = low;
        self.log.recycle_below(low);
    }

    /// Something of everything.
    pub(super) fn step(&mut self) -> Result<(), Poisoned> {
        match self.rng.below(12) {
            0..5 => self.append_random(),
            5..8 => drop(self.write()?),
            8..10 => self.job(),
            10 => self.seal(),
            _ => {
                let (low, writing) = self.log.live_segments();
                if writing.0 > low.0 + 2 {
                    let up = 1 + self.rng.below(writing.0 - low.0);
                    self.recycle(SegmentId(low.0 + up));
                }
            }
        }
        Ok(())
    }
}

/// What is replayed is what was appended, up to some point that is not before `durable`.
pub(super) fn check(appended: &[Item], replayed: &[Item], durable: Lsn, low: SegmentId) {
    let start = Lsn(low.0 * config().segment_bytes);
    let wanted = &appended[appended.partition_point(|item| item.lsn < start)..];
    assert!(
        replayed.len() <= wanted.len(),
        "more was replayed than appended"
    );
    let differs = replayed
        .iter()
        .zip(wanted)
        .find(|(found, wanted)| found != wanted);
    let lsns = differs.map(|(found, wanted)| (found.lsn, wanted.lsn));
    assert_eq!(lsns, None, "another record was replayed than appended");
    if let Some(lost) = wanted.get(replayed.len()) {
        assert!(
            lost.lsn >= durable,
            "acknowledged and lost: {:?}, durable {durable:?}",
            lost.lsn
        );
    }
}

pub(super) fn segment_file(segment: u64) -> PathBuf {
    crate::segment::segment_path(Path::new(&dir()), SegmentId(segment))
}
