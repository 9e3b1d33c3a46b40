//! What a run is like: drawn from its seed, so that many seeds cover many mixtures.

use super::identity::Door;
use super::rng::Rng;
use collabblocks_server::shard::{Admission, Pace, SessionLimits, ShardConfig, ShardId};
use collabblocks_storage_engine::{EngineConfig, Limits, WorkLimits};
use collabblocks_wal::LogConfig;
use std::ops::Range;
use std::time::Duration;

pub(crate) const MICROSECOND: u64 = 1_000;
pub(crate) const MILLISECOND: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000_000_000;

/// Larger than any answer here.
const SLICE_BYTES: usize = 256 << 10;

/// How a client behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// As the published providers do.
    Honest,
    /// Honest, but stops reading now and then.
    Slow,
    /// Sends what no client should.
    Hostile,
    /// Honest, but may only read; it writes all the same.
    ReadOnly,
    /// Is not let in, and sends what it has without waiting for that.
    Denied,
    /// Honest; its access ends after a while, and it comes back.
    Brief,
}

impl Role {
    /// Whether what it writes is to be in its room.
    pub fn writes(self) -> bool {
        matches!(self, Role::Honest | Role::Slow | Role::Brief)
    }

    /// Whether nothing of what it writes may ever be.
    pub fn may_not_write(self) -> bool {
        matches!(self, Role::ReadOnly | Role::Denied)
    }

    /// Whether it is gone once nothing goes wrong any more.
    pub fn leaves_early(self) -> bool {
        matches!(self, Role::Hostile | Role::Denied)
    }
}

/// What goes wrong, besides the clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The machine loses power: memory, and what the disk had not synced.
    Power,
    /// The same, in the middle of disk work: after so many more disk operations.
    PowerAtOperation(u64),
    /// The same, between the next write of a log and its sync.
    PowerInWrite,
    /// The process is killed; the disk's caches live on.
    Kill,
    /// An orderly stop and a new start.
    Drain,
    /// The next log write fails.
    LogError,
    /// The next preparation of whatever file fails for want of space.
    NoSpace,
    /// The disk has no space left for so long.
    DiskFull(u64),
    /// Writes and jobs take twenty times as long, for so long.
    SlowDisk(u64),
    /// Mailboxes between shards take nothing, for so long.
    FullMailboxes(u64),
    /// Every connection is reset.
    Storm,
    /// The same, and all come back at once.
    Stampede,
    /// The clock goes forward by so much at once, as after a machine was suspended.
    ClockJump(u64),
    /// The next log write arrives, and its sync fails.
    SyncError,
    /// The next job fails at this disk operation.
    JobError(u64),
    /// The next log write goes so many blocks astray and says that it went well.
    Misdirected(i64),
    /// The next log sync says that it is done, and did nothing.
    LostSync,
    /// A bit flips in what was durable.
    Rot,
    /// After so many more reads one fails.
    ReadError(u64),
    /// Of the next job that reads, this read fails.
    JobReadError(u64),
    /// A sector of some file cannot be read, for so long.
    Unreadable(u64),
}

/// Which kinds of faults a plan draws from. A kind that is added later must not change what a seed
/// meant before: it is drawn from a stream of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mix {
    /// Those there were when the seeds of `SEEDS_OF_FIRST_FAULTS` were found.
    First,
    /// Those there were when the seeds of `SEEDS_WITHOUT_IDENTITY` were found: nobody was asked who he
    /// is.
    WithoutIdentity,
    /// Those there were when the seeds of `SEEDS_WITHOUT_HEARSAY` were found; the disk gives what it
    /// holds.
    WithoutHearsay,
    /// All.
    All,
}

/// The parameters of a run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub shards: u16,
    pub rooms: Vec<String>,
    /// Each client's behaviour and room.
    pub clients: Vec<(Role, usize)>,
    /// How long clients edit and faults happen.
    pub span: u64,
    /// Time between two doings of a client.
    pub pace: Range<u64>,
    pub latency: Range<u64>,
    pub log_delay: Range<u64>,
    pub job_delay: Range<u64>,
    pub turn_delay: Range<u64>,
    pub socket_bytes: usize,
    pub mailbox_parcels: usize,
    pub faults: Vec<(u64, Fault)>,
    /// When content comes to clients past the server, and with which chances.
    pub hearsay: Vec<(u64, u64)>,
    pub strict: bool,
    pub limits: SessionLimits,
    pub engine: EngineConfig,
    /// How clients are authenticated, if they are.
    pub door: Option<Door>,
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64, rng: &mut Rng, mix: Mix) -> Self {
        let mut plan = Self::draw(rng);
        if mix != Mix::First {
            let more = later_faults(&mut Rng::new(!seed), plan.span);
            plan.faults.extend(more);
            plan.faults.sort_by_key(|(at, _)| *at);
        }
        if matches!(mix, Mix::WithoutHearsay | Mix::All) {
            let mut rng = Rng::new(seed.rotate_left(32) ^ 0x1de7);
            plan.door = Door::draw(&mut rng, &mut plan);
        }
        if mix == Mix::All {
            plan.hearsay = hearsay(&mut Rng::new(seed.rotate_left(32) + 1), plan.span);
            let more = read_faults(&mut Rng::new(seed.rotate_left(32) ^ 0xeadd), plan.span);
            plan.faults.extend(more);
            plan.faults.sort_by_key(|(at, _)| *at);
        }
        plan
    }

    fn draw(rng: &mut Rng) -> Self {
        let shards = if rng.one_in(3) {
            1
        } else {
            rng.range(1..5) as u16
        };
        let rooms: Vec<String> = (0..rng.range(1..4))
            .map(|n| format!("room-{n}-{}", rng.range(0..100)))
            .collect();
        let hostile = rng.one_in(3);
        let count = rng.range(2..6) + u64::from(hostile);
        let clients = (0..count).map(|n| {
            let role = match n {
                0 if hostile => Role::Hostile,
                _ if rng.one_in(4) => Role::Slow,
                _ => Role::Honest,
            };
            (role, rng.index(rooms.len()))
        });
        let clients = clients.collect();
        let span = rng.range(SECOND / 2..3 * SECOND);
        let step = *rng.pick(&[10, 30, 100]) * MILLISECOND;
        let latency = *rng.pick(&[20 * MICROSECOND, MILLISECOND, 40 * MILLISECOND]);
        let log = *rng.pick(&[50 * MICROSECOND, MILLISECOND, 20 * MILLISECOND]);
        let faults = faults(rng, span);
        let mut plan = Self {
            shards,
            rooms,
            clients,
            span,
            pace: step / 4..step * 2,
            latency: latency / 4..latency * 2,
            log_delay: log / 2..log * 3,
            job_delay: log..log * 10,
            turn_delay: MICROSECOND..*rng.pick(&[5 * MICROSECOND, MILLISECOND]),
            socket_bytes: *rng.pick(&[300, 2000, 64 << 10]),
            mailbox_parcels: *rng.pick(&[1, 2, 1024]),
            faults,
            hearsay: Vec::new(),
            strict: rng.one_in(4),
            limits: limits(rng),
            engine: engine(rng),
            door: None,
        };
        // Drawn last, so that older seeds stay what they were in all else.
        plan.limits.hot_room_sessions = *rng.pick(&[0, 1, 1, 3, 512]);
        if plan.limits.hot_room_sessions < 10 && rng.one_in(2) {
            for _ in 0..rng.range(1..8) {
                let role = *rng.pick(&[Role::Honest, Role::Honest, Role::Slow]);
                plan.clients.push((role, 0));
            }
        }
        plan.limits.presence_rate_max = *rng.pick(&[2, 20]);
        plan.limits.pace = Pace {
            presence_sessions: 1,
            document_sessions: 2,
            full_sessions: 8,
            interval_max: Duration::from_millis(*rng.pick(&[0, 25, 200])),
        };
        plan
    }

    /// Whether no answer is so large that it comes in slices.
    pub fn whole_answers(&self) -> bool {
        self.limits.slice_bytes >= SLICE_BYTES
    }

    /// A shard's configuration.
    pub fn shard(&self, id: u16, shards: u16) -> ShardConfig {
        ShardConfig {
            id: ShardId(id),
            shards,
            strict: self.strict,
            admission: Admission::Loopback(Vec::new()),
            authenticates: self.door.is_some(),
            hash_seed: 7,
            quarantine: Default::default(),
            limits: self.limits,
            guard: Limits::default(),
        }
    }
}

fn faults(rng: &mut Rng, span: u64) -> Vec<(u64, Fault)> {
    if rng.one_in(8) {
        return Vec::new();
    }
    // Swarm testing: each run has but a few kinds, so that none hides another.
    let kinds: Vec<u64> = (0..rng.range(1..4)).map(|_| rng.range(0..13)).collect();
    let mut faults: Vec<(u64, Fault)> = (0..rng.range(1..6))
        .map(|_| {
            let fault = match *rng.pick(&kinds) {
                0 => Fault::Power,
                1 => Fault::PowerAtOperation(rng.range(0..30)),
                2 => Fault::Kill,
                3 => Fault::Drain,
                4 => Fault::LogError,
                5 => Fault::NoSpace,
                6 => Fault::DiskFull(rng.range(0..span)),
                7 => Fault::SlowDisk(rng.range(0..span)),
                8 | 10 | 11 => Fault::PowerInWrite,
                9 => Fault::FullMailboxes(rng.range(0..span)),
                _ => Fault::Storm,
            };
            (rng.range(0..span), fault)
        })
        .collect();
    faults.sort_by_key(|(at, _)| *at);
    faults
}

/// Of the kinds that came later, in half of the runs.
fn later_faults(rng: &mut Rng, span: u64) -> Vec<(u64, Fault)> {
    if rng.one_in(2) {
        return Vec::new();
    }
    let kinds: Vec<u64> = (0..rng.range(1..3)).map(|_| rng.range(0..8)).collect();
    let faults = (0..rng.range(1..4)).map(|_| {
        let fault = match *rng.pick(&kinds) {
            0 => Fault::Stampede,
            1 => Fault::ClockJump(*rng.pick(&[SECOND / 10, SECOND, 100 * SECOND, 1 << 62])),
            2 => Fault::SyncError,
            3 => Fault::JobError(rng.range(0..4)),
            4 => Fault::Misdirected(*rng.pick(&[-4, -2, -1, 1, 2, 3])),
            5 => Fault::LostSync,
            _ => Fault::Rot,
        };
        (rng.range(0..span), fault)
    });
    faults.collect()
}

/// In a quarter of the runs.
fn read_faults(rng: &mut Rng, span: u64) -> Vec<(u64, Fault)> {
    let times = if rng.one_in(4) { rng.range(1..5) } else { 0 };
    let kind = rng.range(0..3);
    let faults = (0..times).map(|_| {
        let fault = match kind {
            0 => Fault::ReadError(rng.range(0..30)),
            1 => Fault::JobReadError(rng.range(0..2)),
            _ => Fault::Unreadable(rng.range(0..span)),
        };
        (rng.range(0..span), fault)
    });
    faults.collect()
}

/// In a third of the runs.
fn hearsay(rng: &mut Rng, span: u64) -> Vec<(u64, u64)> {
    let times = if rng.one_in(3) { rng.range(1..4) } else { 0 };
    (0..times)
        .map(|_| (rng.range(0..span), rng.next()))
        .collect()
}

fn limits(rng: &mut Rng) -> SessionLimits {
    let mut limits = SessionLimits {
        http_head_timeout: Duration::from_secs(1),
        queue_soft_bytes: *rng.pick(&[200, 4 << 10, 1 << 20]),
        queue_hard_bytes: *rng.pick(&[16 << 10, 1 << 20]),
        slow_reader_timeout: Duration::from_secs(1),
        load_queue_commands_max: *rng.pick(&[2, 1000]),
        load_timeout: Duration::from_secs(5),
        keepalive: Duration::from_millis(800),
        ping: Duration::from_secs(1),
        slice_bytes: *rng.pick(&[256, SLICE_BYTES]),
        ..SessionLimits::default()
    };
    if limits.slice_bytes < SLICE_BYTES && limits.queue_soft_bytes < 1 << 20 {
        // One large answer at a time.
        limits.answer_bytes_max = 1;
    }
    limits
}

fn engine(rng: &mut Rng) -> EngineConfig {
    EngineConfig {
        log: LogConfig {
            segment_bytes: *rng.pick(&[32 << 10, 128 << 10]),
            batch_bytes: 8 << 10,
            queue_bytes_max: *rng.pick(&[8 << 10, 1 << 20]),
            segments_ready: 1 + rng.index(2),
            salt_seed: 0,
        },
        segments_max: rng.range(2..6),
        commit_delay: Duration::from_micros(*rng.pick(&[0, 1000, 50_000])),
        commit_bytes: 4 << 10,
        seal_after: Duration::from_millis(20),
        evict_after: Duration::from_millis(*rng.pick(&[0, 100, 60_000])),
        memory_bytes_max: *rng.pick(&[0, 1 << 30]),
        disk_reserve_bytes: 16 << 10,
        snapshot_segment_bytes: *rng.pick(&[16 << 10, 64 << 10]),
        snapshot_live_ratio_min: 0.5,
        apart_bytes_min: *rng.pick(&[1, 16, 40, 200, 64 << 10]),
        work: WorkLimits {
            core_steps_max: *rng.pick(&[1, 30, 1000, 700_000]),
            part_steps_max: *rng.pick(&[1, 1000, 100_000_000]),
            ..WorkLimits::default()
        },
        ..EngineConfig::default()
    }
}
