//! The server process: how it starts, ends, and goes on after what befell it.

use super::network::ServerEnd;
use super::node::{Input, Node};
use super::oracle::ROOT;
use super::plan::MILLISECOND;
use super::world::{Action, World};
use collabblocks_server::shard::Shard;
use collabblocks_storage_engine::{Engine, Store};
use collabblocks_wal::OpenError;
use std::path::Path;

impl World {
    /// The process ends at once; with `power`, what the disk had not synced goes too.
    pub fn crash(&mut self, power: bool) {
        self.log
            .note(self.now, format_args!("crash, power {power}"));
        self.nodes.clear();
        self.process += 1;
        self.draining = false;
        self.log_error = false;
        self.sync_error = false;
        let powered_off = self.power_at.is_some_and(|at| self.disk.ops_count() > at);
        if power || powered_off {
            self.disk.crash(self.rng.next());
            self.power_at = None;
        }
        let ids: Vec<u64> = self.links.keys().copied().collect();
        for id in ids {
            let link = self.links.get_mut(&id).expect("just listed");
            if link.server != ServerEnd::Gone {
                link.server = ServerEnd::Gone;
                self.reset_by_server(id);
            }
        }
        let kept = self.check_disk(self.disk.fork(), "after a crash");
        if kept.is_none() {
            return self.give_up();
        }
        let at = self.now + self.rng.range(0..300 * MILLISECOND);
        self.at(at, Action::Restart);
    }

    /// The process starts; now and then on another number of cores.
    pub fn restart(&mut self) {
        if !self.nodes.is_empty() || self.over {
            return;
        }
        if self.process > 0 && self.rng.one_in(4) {
            self.shards = self.rng.range(1..5) as u16;
        }
        self.log
            .note(self.now, format_args!("start with {} shards", self.shards));
        let failed = self.disk.reads_failed();
        let opened = self.open();
        let unread = self.disk.reads_failed() > failed;
        match opened {
            Ok(engines) => {
                let shards = self.shards;
                for (id, engine) in engines.into_iter().enumerate() {
                    let shard = Shard::new(self.plan.shard(id as u16, shards), engine);
                    self.nodes.push(Node::new(shard, usize::from(shards)));
                    self.schedule_turn(id);
                }
            }
            Err(error) if self.explains(&error) => self.give_up(),
            Err(error) => {
                let excused = unread
                    || self.disk_full
                    || self.may_not_open
                    || self.power_at.is_some_and(|at| self.disk.ops_count() > at);
                assert!(
                    excused && matches!(error, OpenError::Io { .. }),
                    "the data directory does not open: {error}"
                );
                self.log
                    .note(self.now, format_args!("does not open: {error}"));
                if unread {
                    // What such a start did to the disk costs nothing, even if the power goes now.
                    self.saw("start could not read");
                    let disk = self.disk.fork();
                    disk.crash(self.rng.next());
                    self.check_disk(disk, "after a start that could not read");
                }
                let at = self.now + 100 * MILLISECOND;
                self.at(at, Action::Restart);
            }
        }
    }

    fn open(&mut self) -> Result<Vec<Engine>, OpenError> {
        let mut entropy = [0; 32];
        for eight in entropy.chunks_mut(8) {
            eight.copy_from_slice(&self.rng.next().to_le_bytes());
        }
        let config = &self.plan.engine;
        let store = Store::open(
            &self.shared_disk,
            Path::new(ROOT),
            self.shards,
            config,
            entropy,
        )?;
        let mut engines = Vec::new();
        let mut torn = false;
        for shard in 0..self.shards {
            let (engine, report) = store.open_shard(&self.shared_disk, shard, config)?;
            engines.push(engine);
            torn |= report.torn_at.is_some();
        }
        if torn {
            self.saw("torn");
        }
        if store.rehomed_from().is_some() {
            self.saw("rehomed");
        }
        Ok(engines)
    }

    /// Something is to be fed to a shard in its next turn.
    pub fn input(&mut self, shard: usize, input: Input) {
        self.nodes[shard].inbox.push_back(input);
        self.schedule_turn(shard);
    }

    /// A shard has a turn soon, if none is due already.
    pub fn schedule_turn(&mut self, shard: usize) {
        let at = self.now + self.rng.range(self.plan.turn_delay.clone());
        self.turn_by(shard, at);
    }

    /// A shard has a turn at the latest at this time.
    pub fn turn_by(&mut self, shard: usize, at: u64) {
        let node = &mut self.nodes[shard];
        if node.turn_at.is_none_or(|set| at < set) {
            node.turn_at = Some(at);
            self.at(at, Action::Turn(self.process, shard));
        }
    }

    /// After every turn: whether the process ends by its own doing.
    pub fn look_at_process(&mut self) {
        if let Some(why) = self.nodes.iter().find_map(|node| node.fatal.clone()) {
            self.log.note(self.now, format_args!("ends: {why}"));
            return self.crash(false);
        }
        // Every shard has drained: the process ends once its connections are closed.
        let over = |node: &Node| node.drained && node.conns().next().is_none();
        if self.draining && self.nodes.iter().all(over) {
            self.crash(false);
        }
    }
}
