//! A whole run: trouble, calm, and the account.

use super::client::Phase;
use super::node::Input;
use super::plan::{MILLISECOND, Mix, Plan, Role, SECOND};
use super::rng::Rng;
use super::world::World;
use collabblocks_server::shard::ControlRequest;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Seeds that once failed; every test run tries them again.
pub const SEEDS: &[u64] = &[];

/// The same, of the time when nobody was asked who he is.
pub const SEEDS_WITHOUT_IDENTITY: &[u64] = &[58, 331, 825, 3637, 31799, 200771];

/// The same, of the time when clients heard of content from the server alone.
pub const SEEDS_WITHOUT_HEARSAY: &[u64] = &[702520];

/// The same, of the time when there were fewer kinds of faults: they keep the plans that failed.
pub const SEEDS_OF_FIRST_FAULTS: &[u64] = &[
    12, 17, 176, 187, 252, 1038, 1392, 1404, 1482, 1979, 5365, 9307, 13938, 15320, 25090, 40991,
];

/// What a run amounted to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Hash of all that happened.
    pub hash: u64,
    /// Things that happened.
    pub events: u64,
    /// Acknowledgements that clients got.
    pub acknowledged: u64,
    /// Times the server was started.
    pub starts: u64,
    /// How often what is worth being seen happened.
    pub seen: BTreeMap<&'static str, u64>,
}

/// What a seed's plan is drawn from.
pub fn mix(seed: u64) -> Mix {
    if SEEDS_OF_FIRST_FAULTS.contains(&seed) {
        Mix::First
    } else if SEEDS_WITHOUT_IDENTITY.contains(&seed) {
        Mix::WithoutIdentity
    } else if SEEDS_WITHOUT_HEARSAY.contains(&seed) {
        Mix::WithoutHearsay
    } else {
        Mix::All
    }
}

/// Runs a seed; what it violates is the error. With `print`, all that happens is told on the way.
pub fn run(seed: u64, print: bool) -> Result<Outcome, String> {
    let mut rng = Rng::new(seed);
    let plan = Plan::of(seed, &mut rng.fork(), mix(seed));
    run_plan(plan, rng, print)
}

/// Runs a plan with the chances of `rng`.
pub(crate) fn run_plan(plan: Plan, rng: Rng, print: bool) -> Result<Outcome, String> {
    catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(plan, rng, print);
        world.trouble();
        if !world.given_up {
            world.settle();
        }
        if !world.given_up {
            world.part();
        }
        if !world.given_up {
            world.end();
        }
        Outcome {
            hash: world.log.hash(),
            events: world.log.events,
            acknowledged: world.oracle.acknowledged,
            starts: world.process,
            seen: world.seen,
        }
    }))
    .map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without a message".to_owned())
    })
}

impl World {
    /// Clients edit, and what the plan has in store befalls them.
    fn trouble(&mut self) {
        self.run_until(self.plan.span);
    }

    /// Nothing goes wrong any more: all replicas become the same.
    fn settle(&mut self) {
        self.look_for_damage();
        if self.given_up {
            return;
        }
        self.calm = true;
        self.sync_error = false;
        self.job_error = None;
        self.job_read_error = None;
        self.misdirected = None;
        self.lost_sync = false;
        self.disk.clear_faults();
        self.disk.heal();
        self.power_at = None;
        self.power_in_write = false;
        self.log_error = false;
        self.slow_disk = false;
        self.mailboxes_full = false;
        self.may_not_open = false;
        self.set_disk_full(false);
        let mut rng = self.rng.fork();
        for index in 0..self.clients.len() {
            if self.clients[index].role.leaves_early() {
                self.abandon(index, &mut rng);
                self.clients[index].phase = Phase::Left;
            } else {
                self.resume(index);
            }
        }
        // A newcomer in every room.
        for room in 0..self.plan.rooms.len() {
            let client = super::client::Client::new(
                1000 + room as u64,
                Role::Honest,
                room,
                self.now,
                self.plan.whole_answers(),
            );
            self.clients.push(client);
            self.at(self.now, super::world::Action::Tick(self.clients.len() - 1));
        }
        // Slow readers may have to take their answers one after the other, each at its own pace.
        self.wait_for("replicas that are the same", 90, World::differences);
        for index in 0..self.clients.len() {
            let client = &mut self.clients[index];
            if client.role.writes()
                && let Err(violation) = self.oracle.check(client.room, &mut client.document)
            {
                panic!("in the end, client {}: {violation}", client.id);
            }
        }
    }

    /// Some leave, then all: no trace of them stays.
    fn part(&mut self) {
        let mut rng = self.rng.fork();
        for index in 0..self.clients.len() {
            if rng.one_in(2) {
                self.abandon(index, &mut rng);
                self.clients[index].phase = Phase::Left;
            }
        }
        self.wait_for("presence of those who stayed alone", 15, World::strangers);
        for index in 0..self.clients.len() {
            self.abandon(index, &mut rng);
            self.clients[index].phase = Phase::Left;
        }
        self.wait_for("shards without connections", 15, World::remains);
    }

    /// The process is stopped in order; what it leaves on disk is all there was.
    fn end(&mut self) {
        self.over = true;
        self.draining = true;
        for shard in 0..self.nodes.len() {
            self.input(shard, Input::Control(ControlRequest::Drain));
        }
        self.wait_for("the process to drain", 10, |world| {
            match world.nodes.is_empty() {
                true => None,
                false => Some("a shard has not drained".into()),
            }
        });
        let disk = self.disk.fork();
        disk.crash(self.rng.next());
        let Some(kept) = self.check_disk(disk, "after an orderly end") else {
            return;
        };
        for client in self.clients.iter().filter(|client| client.role.writes()) {
            assert!(
                kept[client.room].snapshot() == client.document.snapshot(),
                "after an orderly end the disk does not hold what client {} holds",
                client.id
            );
        }
    }

    /// Lets time pass until nothing is amiss.
    fn wait_for(&mut self, what: &str, seconds: u64, amiss: fn(&mut World) -> Option<String>) {
        let deadline = self.now + seconds * SECOND;
        while let Some(why) = amiss(self).filter(|_| !self.given_up) {
            assert!(self.now < deadline, "waited {seconds} s for {what}: {why}");
            self.run_until(self.now + 100 * MILLISECOND);
        }
    }

    /// What is not yet the same.
    fn differences(&mut self) -> Option<String> {
        let honest = || self.clients.iter().filter(|client| client.role.writes());
        for client in honest() {
            if client.phase != Phase::Open || !client.synced {
                return Some(format!(
                    "client {} is not synced: {:?}",
                    client.id, client.phase
                ));
            }
            if self.stays_briefly(client.link) {
                return Some(format!("the access of client {} has yet to end", client.id));
            }
            if client.document.waits() {
                return Some(format!(
                    "client {} lacks what an update builds on",
                    client.id
                ));
            }
            if !client.settled() {
                return Some(format!(
                    "client {} waits for an echo: {:?}",
                    client.id,
                    client.unsettled()
                ));
            }
        }
        if self.untold > 0 {
            return Some("some content waits for its beginning".into());
        }
        for room in 0..self.plan.rooms.len() {
            let mut inside = honest().filter(|client| client.room == room);
            let Some(first) = inside.next() else {
                continue;
            };
            for other in inside {
                if first.document.snapshot() != other.document.snapshot()
                    || first.document.json() != other.document.json()
                {
                    return Some(format!(
                        "clients {} and {} differ: {:?} {:?} and {:?} {:?}",
                        first.id,
                        other.id,
                        first.document.snapshot(),
                        first.document.json(),
                        other.document.snapshot(),
                        other.document.json()
                    ));
                }
            }
            let state = [first.document.state()];
            let readers = self.clients.iter();
            for reader in readers.filter(|c| c.role == Role::ReadOnly && c.room == room) {
                let synced = reader.phase == Phase::Open && reader.synced;
                if !synced || !reader.document.contains_all(&state) {
                    return Some(format!("client {} has not heard all", reader.id));
                }
            }
        }
        None
    }

    /// Who sees others than those who are there.
    fn strangers(&mut self) -> Option<String> {
        for client in self
            .clients
            .iter()
            .filter(|client| client.phase != Phase::Left)
        {
            let others = self.clients.iter().filter(|other| {
                other.room == client.room && other.id != client.id && other.phase != Phase::Left
            });
            let mut others: Vec<u64> = others.map(|other| other.id).collect();
            others.sort_unstable();
            if client.sees() != others {
                return Some(format!(
                    "client {} sees {:?}, there are {others:?}",
                    client.id,
                    client.sees()
                ));
            }
        }
        None
    }

    /// What shards still hold when everybody has left.
    fn remains(&mut self) -> Option<String> {
        let mut remains = (self.nodes.is_empty()).then(|| "the process is not there".to_owned());
        for shard in 0..self.nodes.len() {
            if let Some(stats) = self.nodes[shard].stats.take() {
                let held = [
                    stats.connections,
                    stats.sessions,
                    stats.rooms,
                    stats.ack_queue_bytes,
                    stats.sessions_behind,
                    stats.authenticating,
                ];
                if held != [0; 6] {
                    remains = Some(format!(
                        "shard {shard} holds connections, sessions, rooms, bytes, laggards, questions: {held:?}"
                    ));
                }
            } else {
                remains.get_or_insert("no figures yet".into());
            }
            self.input(shard, Input::Control(ControlRequest::Stats { id: 0 }));
        }
        remains
    }
}
