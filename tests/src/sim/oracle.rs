//! What the server has promised: every update that was acknowledged, by room; and how a data
//! directory is asked whether it keeps the promise.

use super::document::Document;
use super::plan::Plan;
use collabblocks_storage_engine::{
    Engine, EngineConfig, Notice, Request, RoomStatus, Store, home_shard,
};
use collabblocks_wal::Disk;
use collabblocks_wal::sim_disk::SimDisk;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Where the data directory stands on the simulated disk.
pub(crate) const ROOT: &str = "/data";

/// How a data directory breaks the promise.
pub(crate) enum Violation {
    /// It, or a room, is not opened.
    Refused(String),
    /// It opens, and lacks what was acknowledged.
    Lost(String),
}

/// The acknowledged content of every room.
pub(crate) struct Oracle {
    rooms: Vec<(String, Vec<Vec<u8>>)>,
    /// How far a client's own content has come back to it, by room and client.
    returned: BTreeMap<(usize, u64), u32>,
    /// Clients nothing of which may ever be in their room.
    silent: Vec<(usize, u64)>,
    pub acknowledged: u64,
}

impl Oracle {
    pub fn new(plan: &Plan) -> Self {
        let clients = plan.clients.iter().zip(1..);
        let silent = clients.filter(|((role, _), _)| role.may_not_write());
        Self {
            silent: silent.map(|((_, room), id)| (*room, id)).collect(),
            rooms: plan
                .rooms
                .iter()
                .map(|name| (name.clone(), Vec::new()))
                .collect(),
            returned: BTreeMap::new(),
            acknowledged: 0,
        }
    }

    /// A client was sent its own content up to here: newer clients take that for an acknowledgement,
    /// in whatever message it comes.
    pub fn came_back(&mut self, room: usize, client: u64, clock: u32) {
        let known = self.returned.entry((room, client)).or_default();
        *known = clock.max(*known);
    }

    /// A client was told that this is safe.
    pub fn acknowledge(&mut self, room: usize, update: &[u8]) {
        self.acknowledged += 1;
        self.rooms[room].1.push(update.to_vec());
    }

    /// A document has all that was acknowledged.
    pub fn check(&self, room: usize, document: &mut Document) -> Result<(), String> {
        let (name, updates) = &self.rooms[room];
        for (_, client) in self.silent.iter().filter(|(of, _)| *of == room) {
            if document.clock(*client) > 0 {
                return Err(format!(
                    "{name}: there is content of client {client}, which may not write"
                ));
            }
        }
        for ((_, client), clock) in self.returned.iter().filter(|((of, _), _)| *of == room) {
            let have = document.clock(*client);
            if have < *clock {
                return Err(format!(
                    "{name}: client {client} was sent its own content up to {clock}, and there is {have}"
                ));
            }
        }
        if document.contains_all(updates) {
            return Ok(());
        }
        for (number, update) in updates.iter().enumerate() {
            if !document.contains(update) {
                return Err(format!(
                    "{name}: acknowledged update {number} of {} is lost ({} bytes: {update:?})",
                    updates.len(),
                    update.len()
                ));
            }
        }
        Ok(())
    }

    /// A data directory, which is changed by that, holds all that was acknowledged. Returns the state
    /// of every room.
    pub fn check_disk(
        &self,
        disk: SimDisk,
        shards: u16,
        config: &EngineConfig,
    ) -> Result<Vec<Document>, Violation> {
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let store = Store::open(&disk, Path::new(ROOT), shards, config, [0; 32])
            .map_err(|e| Violation::Refused(format!("the data directory does not open: {e}")))?;
        let mut engines = Vec::new();
        for shard in 0..store.shards() {
            let (engine, _) = store
                .open_shard(&disk, shard, config)
                .map_err(|e| Violation::Refused(format!("shard {shard} does not open: {e}")))?;
            engines.push(engine);
        }
        let mut documents = Vec::new();
        for (room, (name, _)) in self.rooms.iter().enumerate() {
            let engine = &mut engines[usize::from(home_shard(name, store.shards()))];
            let mut document = read(engine, &*disk, name).map_err(Violation::Refused)?;
            self.check(room, &mut document).map_err(Violation::Lost)?;
            documents.push(document);
        }
        Ok(documents)
    }
}

/// A room's state, read through an engine that nobody else uses.
fn read(engine: &mut Engine, disk: &dyn Disk, name: &str) -> Result<Document, String> {
    let (room, mut status) = engine.attach(0, name);
    let mut requests = Vec::new();
    for _ in 0..100 {
        if status == RoomStatus::Ready {
            break;
        }
        engine.poll(0, &mut requests);
        let mut notices = Vec::new();
        for request in requests.drain(..) {
            match request {
                Request::Job(job) => engine.on_job_done(0, job.run(disk), &mut notices),
                Request::Write { job, .. } => {
                    let len = job.buffer.len();
                    let written = disk
                        .write_at(&job.path, job.offset, job.buffer.as_slice())
                        .and_then(|()| disk.sync(&job.path));
                    engine
                        .on_written(0, job, written.map(|()| len))
                        .map_err(|e| e.to_string())?;
                }
            }
        }
        for notice in notices {
            match notice {
                Notice::RoomReady(id) if id == room => status = RoomStatus::Ready,
                Notice::RoomFailed(_, why) => {
                    return Err(format!("{name} cannot be loaded: {why}"));
                }
                Notice::RoomReady(_) | Notice::Applied { .. } | Notice::Diff { .. } => {}
            }
        }
    }
    if status != RoomStatus::Ready {
        return Err(format!("{name} is never ready"));
    }
    let state = engine
        .diff(room, &[0])
        .map_err(|e| format!("{name}: {e}"))?;
    let mut document = Document::new(1);
    document.apply(&state)?;
    engine.detach(0, room);
    Ok(document)
}
