//! The world: virtual time, and all that happens in it, in order.

use super::client::{Client, Phase};
use super::damage::Damage;
use super::log::EventLog;
use super::network::Link;
use super::node::{Input, Node};
use super::oracle::Oracle;
use super::plan::{Fault, MILLISECOND, Plan};
use super::rng::Rng;
use collabblocks_server::shard::{ConnId, ControlRequest};
use collabblocks_storage_engine::{Job, JobDone};
use collabblocks_wal::sim_disk::{SimDisk, SimFault};
use collabblocks_wal::{Disk, WriteJob};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// What happens at a time. What belongs to a process that is gone carries its number and is void.
pub(crate) enum Action {
    Turn(u64, usize),
    Answer(u64, usize, ConnId, Option<u64>),
    LogWrite(u64, usize, WriteJob),
    LogSync(u64, usize, WriteJob, io::Result<usize>),
    Run(u64, usize, Job),
    CloseDeadline(u64, usize, ConnId),
    Connect(u64),
    ArriveUp(u64),
    ArriveDown(u64),
    ResetUp(u64),
    ResetDown(u64),
    Tick(usize),
    Fault(Fault),
    /// Content comes to clients past the server, with these chances.
    Hearsay(u64),
    /// A client hears the beginning of some.
    Tell(usize, Vec<u8>, u64),
    SlowDiskEnds,
    FullMailboxesEnd,
    DiskFullEnds,
    UnreadableEnds,
    Restart,
    End,
}

/// Everything.
pub(crate) struct World {
    pub now: u64,
    pub plan: Plan,
    pub rng: Rng,
    pub log: EventLog,
    pub disk: SimDisk,
    pub shared_disk: Arc<dyn Disk>,
    pub oracle: Oracle,
    pub clients: Vec<Client>,
    pub links: BTreeMap<u64, Link>,
    pub nodes: Vec<Node>,
    /// Shards of the process that runs or ran last.
    pub shards: u16,
    /// Number of the process that runs.
    pub process: u64,
    /// Clients no longer edit, and nothing goes wrong any more.
    pub calm: bool,
    pub slow_disk: bool,
    pub disk_full: bool,
    pub mailboxes_full: bool,
    /// The next log write fails.
    pub log_error: bool,
    /// The next log sync fails.
    pub sync_error: bool,
    /// The next job fails at this operation.
    pub job_error: Option<u64>,
    /// Of the next job that reads, this read fails.
    pub job_read_error: Option<u64>,
    /// The next log write goes so many blocks astray.
    pub misdirected: Option<i64>,
    /// The next log sync does nothing.
    pub lost_sync: bool,
    /// What the disk did to what it had taken, and nobody has seen yet.
    pub damage: Vec<Damage>,
    /// The data directory is not opened any more, for good reason.
    pub given_up: bool,
    /// How far the machine's clock is ahead of virtual time.
    pub clock_ahead: u64,
    /// The disk operation at which the power goes.
    pub power_at: Option<u64>,
    /// The power goes after the next write of a log, before its sync.
    pub power_in_write: bool,
    /// An injected fault may keep the data directory from being opened at the first try.
    pub may_not_open: bool,
    pub draining: bool,
    /// The process is not to be started again.
    pub over: bool,
    /// How often something happened that is worth being seen.
    pub seen: BTreeMap<&'static str, u64>,
    /// Writers that only clients heard of.
    pub writers: u64,
    /// What clients heard of and nobody has told the beginning of.
    pub untold: u64,
    queue: BTreeMap<(u64, u64), Action>,
    sequence: u64,
    pub next_link: u64,
}

/// Whether a job reads what is on the disk.
fn reads(job: &Job) -> bool {
    let name = format!("{job:?}");
    ["load", "rebuild", "list", "copy"]
        .iter()
        .any(|kind| name.starts_with(&format!("Job({kind} ")))
}

impl World {
    pub fn new(plan: Plan, mut rng: Rng, print: bool) -> Self {
        let disk = SimDisk::new();
        let clients = plan.clients.iter().enumerate().map(|(n, (role, room))| {
            let at = rng.range(0..200 * MILLISECOND);
            Client::new(n as u64 + 1, *role, *room, at, plan.whole_answers())
        });
        let mut world = Self {
            now: 0,
            clients: clients.collect(),
            log: EventLog::new(print),
            shared_disk: Arc::new(disk.clone()),
            disk,
            oracle: Oracle::new(&plan),
            links: BTreeMap::new(),
            nodes: Vec::new(),
            shards: plan.shards,
            process: 0,
            calm: false,
            slow_disk: false,
            disk_full: false,
            mailboxes_full: false,
            log_error: false,
            sync_error: false,
            job_error: None,
            job_read_error: None,
            misdirected: None,
            lost_sync: false,
            damage: Vec::new(),
            given_up: false,
            clock_ahead: 0,
            power_at: None,
            power_in_write: false,
            may_not_open: false,
            draining: false,
            over: false,
            seen: BTreeMap::new(),
            writers: 0,
            untold: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            next_link: 0,
            rng,
            plan,
        };
        if print {
            println!("{:#?}", world.plan);
        }
        world.at(0, Action::Restart);
        for client in 0..world.clients.len() {
            let at = world.rng.range(0..50 * MILLISECOND);
            world.at(at, Action::Tick(client));
        }
        for (at, fault) in world.plan.faults.clone() {
            world.at(at, Action::Fault(fault));
        }
        for (at, chances) in world.plan.hearsay.clone() {
            world.at(at, Action::Hearsay(chances));
        }
        world
    }

    /// Has something happen.
    pub fn at(&mut self, time: u64, action: Action) {
        self.sequence += 1;
        self.queue
            .insert((time.max(self.now), self.sequence), action);
    }

    /// Counts something.
    pub fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// Lets time pass up to `end`.
    pub fn run_until(&mut self, end: u64) {
        self.at(end, Action::End);
        while let Some(((time, _), action)) = self.queue.pop_first() {
            self.now = time;
            if matches!(action, Action::End) {
                return;
            }
            self.perform(action);
            if self.given_up {
                return;
            }
            if self.power_at.is_some_and(|at| self.disk.ops_count() > at) {
                self.crash(true);
            }
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Turn(process, shard) if process == self.process => self.turn(shard),
            Action::LogWrite(process, shard, job) if process == self.process => {
                self.log_write(shard, job)
            }
            Action::LogSync(process, shard, job, written) if process == self.process => {
                let result = written.and_then(|n| self.log_sync(&job).map(|()| n));
                self.input(shard, Input::LogWritten(job, result));
            }
            Action::Run(process, shard, job) if process == self.process => {
                self.log
                    .note(self.now, format_args!("shard {shard} runs {job:?}"));
                self.saw_job(&job);
                let failed = self.disk.reads_failed();
                if reads(&job)
                    && let Some(after) = self.job_read_error.take()
                {
                    self.disk.fail_read(self.disk.reads_count() + after);
                }
                let done = self.run_job(job);
                if self.disk.reads_failed() > failed {
                    self.saw("job could not read");
                }
                self.input(shard, Input::JobDone(done));
            }
            Action::CloseDeadline(process, shard, conn) if process == self.process => {
                self.close_deadline(shard, conn);
            }
            Action::Answer(process, shard, conn, client) if process == self.process => {
                let verdict = self.verdict(client);
                self.input(shard, Input::Authenticated(conn, verdict));
            }
            Action::Turn(..)
            | Action::Answer(..)
            | Action::LogWrite(..)
            | Action::LogSync(..)
            | Action::Run(..)
            | Action::CloseDeadline(..) => {}
            Action::Connect(link) => self.connected(link),
            Action::ArriveUp(link) => self.arrive_up(link),
            Action::ArriveDown(link) => self.arrive_down(link),
            Action::ResetUp(link) => self.reset_up(link),
            Action::ResetDown(link) => self.reset_down(link),
            Action::Tick(client) => self.tick(client),
            Action::Fault(fault) => self.fault(fault),
            Action::Hearsay(chances) => self.hearsay(chances),
            Action::Tell(client, update, chances) => self.tell(client, &update, chances),
            Action::SlowDiskEnds => self.slow_disk = false,
            Action::FullMailboxesEnd => self.mailboxes_full = false,
            Action::DiskFullEnds => self.set_disk_full(false),
            Action::UnreadableEnds => self.disk.heal(),
            Action::Restart => self.restart(),
            Action::End => {}
        }
    }

    fn saw_job(&mut self, job: &Job) {
        let name = format!("{job:?}");
        for kind in ["load", "rebuild", "store", "manifest", "copy", "remove"] {
            if name.starts_with(&format!("Job({kind} ")) {
                self.saw(kind);
            }
        }
    }

    /// What was just acknowledged is durable: a crash now would not lose it.
    pub fn check_crash_now(&mut self) {
        let disk = self.disk.fork();
        disk.crash(self.rng.next());
        self.check_disk(disk, "after a crash right after an acknowledgement");
    }

    fn run_job(&mut self, job: Job) -> JobDone {
        let Some(after) = self.job_error.take_if(|_| self.power_at.is_none()) else {
            return job.run(&*self.shared_disk);
        };
        let op = self.disk.ops_count() + after;
        // What a sync that fails was to make durable is read until the power goes, and then it is gone.
        self.disk.fail(op, SimFault::Eio);
        let done = job.run(&*self.shared_disk);
        self.disk.clear_faults();
        if self.disk.ops_count() > op {
            self.saw("job failed");
        }
        done
    }

    fn fault(&mut self, fault: Fault) {
        if self.calm {
            return;
        }
        self.log.note(self.now, format_args!("fault {fault:?}"));
        let ops = self.disk.ops_count();
        match fault {
            Fault::Power => self.crash(true),
            Fault::PowerAtOperation(_) if self.power_at.is_some() => {}
            Fault::PowerAtOperation(after) => {
                self.power_at = Some(ops + after);
                self.disk.fail(ops + after, SimFault::PowerOff);
            }
            Fault::PowerInWrite => self.power_in_write = true,
            Fault::Kill => self.crash(false),
            Fault::Drain => {
                for shard in 0..self.nodes.len() {
                    self.draining = true;
                    self.input(shard, Input::Control(ControlRequest::Drain));
                }
            }
            Fault::LogError => self.log_error = true,
            Fault::NoSpace => {
                self.may_not_open = true;
                let op = ops + self.rng.range(0..10);
                self.disk.fail(op, SimFault::Enospc);
            }
            Fault::DiskFull(span) => {
                self.set_disk_full(true);
                self.at(self.now + span, Action::DiskFullEnds);
            }
            Fault::SlowDisk(span) => {
                self.slow_disk = true;
                self.at(self.now + span, Action::SlowDiskEnds);
            }
            Fault::FullMailboxes(span) => {
                self.mailboxes_full = true;
                self.at(self.now + span, Action::FullMailboxesEnd);
            }
            Fault::Storm => self.reset_all(),
            Fault::Stampede => {
                self.reset_all();
                let now = self.now;
                for index in 0..self.clients.len() {
                    if let Phase::Offline { retry_at } = &mut self.clients[index].phase {
                        *retry_at = now;
                        self.at(now, Action::Tick(index));
                    }
                }
            }
            Fault::ClockJump(span) => self.clock_jump(span),
            Fault::SyncError => self.sync_error = true,
            Fault::JobError(after) => self.job_error = Some(after),
            Fault::Misdirected(blocks) => self.misdirected = Some(blocks),
            Fault::LostSync => self.lost_sync = true,
            Fault::Rot => self.rot(),
            Fault::ReadError(after) => self.disk.fail_read(self.disk.reads_count() + after),
            Fault::JobReadError(after) => self.job_read_error = Some(after),
            Fault::Unreadable(span) => {
                self.spoil();
                self.at(self.now + span, Action::UnreadableEnds);
            }
        }
    }

    fn reset_all(&mut self) {
        for index in 0..self.clients.len() {
            if let Some(id) = self.clients[index].link {
                let mut rng = self.rng.fork();
                self.clients[index].lost(self.now, &mut rng);
                self.links
                    .get_mut(&id)
                    .expect("a client's link is there")
                    .client = None;
                self.reset_by_client(id);
            }
        }
    }

    /// The machine's clock is `span` further at once: what was due by then is due now.
    fn clock_jump(&mut self, span: u64) {
        self.clock_ahead = self.clock_ahead.saturating_add(span).min(1 << 62);
        for shard in 0..self.nodes.len() {
            self.schedule_turn(shard);
        }
        self.saw("clock jumped");
    }

    /// The time that a shard is told.
    pub fn clock(&self) -> u64 {
        self.now + self.clock_ahead
    }

    pub fn set_disk_full(&mut self, full: bool) {
        self.disk_full = full;
        let used: usize = self.disk.files().values().map(Vec::len).sum();
        let left = self.rng.range(0..64 << 10);
        self.disk.set_capacity(full.then_some(used as u64 + left));
    }
}
