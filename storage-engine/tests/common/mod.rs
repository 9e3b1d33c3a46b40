//! A host for an engine: carries out its requests on a disk, in an order of the test's choosing, in
//! virtual time; and clients that keep a ledger of what was acknowledged to them.

#![allow(dead_code, reason = "each test uses a part of it")]

use collabblocks_storage_engine::{
    Applied, Engine, EngineConfig, Job, Nanos, Notice, OpenReport, Outcome, Refusal, Request,
    RoomId, RoomStatus,
};
use collabblocks_wal::{Disk, Identity, LogConfig, Lsn, OpenError, WriteJob};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use yrs::updates::decoder::Decode;
use yrs::{Doc, GetString, OffsetKind, Options, ReadTxn, StateVector, Text, Transact, Update};

pub const IDENTITY: Identity = Identity {
    store: [7; 16],
    shard: 0,
};
pub const MS: Nanos = 1_000_000;

/// A seed of the environment, or this one; printed, so that a failure can be replayed.
pub fn seed(default: u64) -> u64 {
    let seed = std::env::var("COLLABBLOCKS_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(default);
    println!("COLLABBLOCKS_SEED={seed}");
    seed
}

pub fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// Small, so that segments roll, checkpoints come and rooms are evicted within a short test.
pub fn small_config() -> EngineConfig {
    EngineConfig {
        log: LogConfig {
            segment_bytes: 64 << 10,
            batch_bytes: 8 << 10,
            queue_bytes_max: 256 << 10,
            ..LogConfig::default()
        },
        segments_max: 3,
        evict_after: Duration::from_millis(200),
        disk_reserve_bytes: 0,
        snapshot_segment_bytes: 48 << 10,
        ..EngineConfig::default()
    }
}

pub struct Host {
    pub engine: Engine,
    pub disk: Arc<dyn Disk>,
    pub now: Nanos,
    pub write: Option<WriteJob>,
    pub jobs: Vec<Job>,
    pub notices: Vec<Notice>,
    pub next: Option<Nanos>,
}

impl Host {
    pub fn open(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        config: EngineConfig,
    ) -> Result<(Self, OpenReport), OpenError> {
        let (engine, report) = Engine::open(disk, dir, IDENTITY, config)?;
        Ok((Self::around(engine, disk), report))
    }

    pub fn around(engine: Engine, disk: &Arc<dyn Disk>) -> Self {
        Self {
            engine,
            disk: disk.clone(),
            now: 0,
            write: None,
            jobs: Vec::new(),
            notices: Vec::new(),
            next: None,
        }
    }

    /// The end of a turn.
    pub fn poll(&mut self) {
        let mut requests = Vec::new();
        self.next = self.engine.poll(self.now, &mut requests);
        for request in requests {
            match request {
                Request::Write { job, .. } => {
                    assert!(self.write.replace(job).is_none(), "one write at a time")
                }
                Request::Job(job) => self.jobs.push(job),
            }
        }
    }

    /// Carries out the write under way; `false` if there is none or the log is poisoned by it.
    pub fn finish_write(&mut self) -> bool {
        let Some(job) = self.write.take() else {
            return false;
        };
        let result = job.run(&*self.disk);
        let ok = self.engine.on_written(self.now, job, result).is_ok();
        self.poll();
        ok
    }

    /// Carries out one of the jobs under way.
    pub fn finish_job(&mut self, at: usize) {
        let done = self.jobs.remove(at).run(&*self.disk);
        self.engine.on_job_done(self.now, done, &mut self.notices);
        self.poll();
    }

    /// Carries out all that is under way or becomes due within `span`.
    pub fn run_for(&mut self, span: Nanos) {
        let end = self.now + span;
        self.poll();
        for _ in 0..100_000 {
            if self.write.is_some() {
                if !self.finish_write() {
                    return;
                }
            } else if !self.jobs.is_empty() {
                self.finish_job(0);
            } else if let Some(next) = self.next.filter(|&next| next <= end) {
                assert!(next >= self.now || self.next.is_some());
                self.now = self.now.max(next);
                self.poll();
            } else {
                self.now = end;
                return;
            }
        }
        panic!("the engine does not come to rest");
    }

    /// Until it is `Ready`.
    pub fn attach(&mut self, name: &str) -> RoomId {
        let (id, status) = self.engine.attach(self.now, name);
        if status == RoomStatus::Loading {
            for _ in 0..1000 {
                self.run_for(MS);
                if let Some(at) = self
                    .notices
                    .iter()
                    .position(|n| matches!(n, Notice::RoomReady(i) if *i == id))
                {
                    self.notices.remove(at);
                    return id;
                }
                if let Some(Notice::RoomFailed(_, why)) = self
                    .notices
                    .iter()
                    .find(|n| matches!(n, Notice::RoomFailed(i, _) if *i == id))
                {
                    panic!("room {name:?} failed: {why}");
                }
            }
            panic!("room {name:?} is never ready");
        }
        id
    }

    /// Closes in order.
    pub fn close(mut self) {
        while !self.engine.close(self.now) {
            self.run_for(MS);
        }
    }

    /// The text of a room, as a client that knows nothing is told it.
    pub fn text(&mut self, name: &str) -> String {
        let id = self.attach(name);
        let state = self.engine.diff(id, &[0]).expect("the room is ready");
        self.engine.detach(self.now, id);
        let doc = Doc::new();
        let text = doc.get_or_insert_text("t");
        let mut txn = doc.transact_mut();
        txn.apply_update(Update::decode_v1(&state).expect("the server sends what can be read"))
            .expect("and applied");
        text.get_string(&txn)
    }
}

/// A client's document and what it was told is durable.
pub struct Client {
    pub doc: Doc,
    pub sent: Vec<(Vec<u8>, Lsn)>,
    pub acked: Vec<Vec<u8>>,
}

impl Client {
    pub fn new(id: u64) -> Self {
        let mut options = Options::with_client_id(yrs::block::ClientID::new(id));
        options.offset_kind = OffsetKind::Utf16;
        Self {
            doc: Doc::with_options(options),
            sent: Vec::new(),
            acked: Vec::new(),
        }
    }

    /// An edit: an insertion of up to `len_max` characters, or now and then a deletion.
    pub fn edit(&mut self, rng: &mut ChaCha8Rng, len_max: usize) -> Vec<u8> {
        let text = self.doc.get_or_insert_text("t");
        let mut txn = self.doc.transact_mut();
        let len = text.len(&txn);
        if len > 20 && rng.random_range(0..4) == 0 {
            let at = rng.random_range(0..len - 5);
            text.remove_range(&mut txn, at, rng.random_range(1..5));
        } else {
            let word: String = (0..rng.random_range(1..=len_max))
                .map(|_| char::from(rng.random_range(b'a'..=b'z')))
                .collect();
            text.insert(&mut txn, rng.random_range(0..=len), &word);
        }
        txn.encode_update_v1()
    }

    /// All it has, as a SyncStep2.
    pub fn state(&self) -> Vec<u8> {
        self.doc.transact().encode_diff_v1(&StateVector::default())
    }

    pub fn text(&self) -> String {
        let text = self.doc.get_or_insert_text("t");
        text.get_string(&self.doc.transact())
    }

    /// Notes how the server took an update.
    pub fn note(&mut self, update: Vec<u8>, outcome: &Result<Outcome, Refusal>) {
        if let Ok(outcome) = outcome
            && outcome.applied == Applied::New
        {
            self.sent.push((update, outcome.durable_at));
        }
    }

    /// What is durable counts as acknowledged.
    pub fn hear(&mut self, durable: Lsn) {
        let acked = &mut self.acked;
        self.sent.retain_mut(|(update, at)| {
            let durable = *at <= durable;
            if durable {
                acked.push(std::mem::take(update));
            }
            !durable
        });
    }
}

/// Clients by the room each of them is in.
pub type Clients = BTreeMap<String, Client>;

/// After a crash: every acknowledged update is known to the server.
pub fn check_acknowledged(host: &mut Host, clients: &mut Clients) {
    for (name, client) in clients {
        let id = host.attach(name);
        for (number, update) in client.acked.iter().enumerate() {
            let outcome = host.engine.apply(host.now, id, update, false);
            assert!(
                matches!(&outcome, Ok(o) if o.applied == Applied::Known),
                "room {name}: acknowledged update {number} of {} is lost: {outcome:?}",
                client.acked.len()
            );
        }
        client.sent.clear();
        host.engine.detach(host.now, id);
    }
}
