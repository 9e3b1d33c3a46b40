//! Feeds a shard with the events of a load, for callgrind to count what they cost, and counts what they
//! allocate.
//!
//! `shard-instructions SHAPE` opens the shape's rooms on the real engine over a disk in memory, lets
//! its clients type for a while, and then for a while longer: that part goes through
//! [`Bench::measured`], so that `valgrind --toggle-collect` counts the shard and nothing else. Time
//! is virtual and the same in every run, as is all that clients send. What that part delivered and
//! allocated is printed. `cargo xtask instructions` runs it.

use collabblocks_server::shard::{
    Admission, ConnId, Effect, Effects, Event, Instant, SessionLimits, Shard, ShardConfig, ShardId,
};
use collabblocks_storage_engine::{Engine, EngineConfig, Job, Limits};
use collabblocks_tests::allocations::{self, Counted, CountingAllocator};
use collabblocks_wal::sim_disk::SimDisk;
use collabblocks_wal::{Disk, Identity, WriteJob};
use std::path::Path;
use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// How long a write of the log takes, in virtual nanoseconds.
const WRITE_NS: u64 = 300_000;

/// How much later the end of one is noticed where the shard allows it.
const LAZY_NS: u64 = 1_000_000;

/// The first client id; all have five bytes, as most real ones do.
const CLIENT_BASE: u64 = 0x8000_0000;

/// The key that clients mask with.
const MASK: [u8; 4] = [0x3a, 0xc5, 0x91, 0x6e];

/// A load: rooms, clients in each, how many of those write, edits a second in all, and how many
/// edits are warm-up and measured.
struct Shape {
    name: &'static str,
    rooms: u32,
    clients: u32,
    writers: u32,
    edits_per_s: u64,
    warm_up: u64,
    measured: u64,
}

const SHAPES: &[Shape] = &[
    one_room("fanout-10", 10, 1_000, 2_000),
    one_room("fanout-100", 100, 200, 1_000),
    one_room("fanout-500", 500, 40, 400),
    Shape {
        name: "rooms-200",
        rooms: 200,
        clients: 2,
        writers: 2,
        edits_per_s: 1_000,
        warm_up: 800,
        measured: 2_000,
    },
];

const fn one_room(name: &'static str, clients: u32, edits_per_s: u64, measured: u64) -> Shape {
    Shape {
        name,
        rooms: 1,
        clients,
        writers: 10,
        edits_per_s,
        warm_up: measured / 4,
        measured,
    }
}

struct Bench {
    shard: Shard,
    disk: Arc<dyn Disk>,
    effects: Effects,
    now: u64,
    write: Option<(u64, WriteJob)>,
    jobs: Vec<Job>,
    timer: Option<u64>,
    opened: u32,
    /// Sends that the shard asked for, to see that the load was what it should be.
    sends: u64,
    counting: bool,
}

fn main() -> std::process::ExitCode {
    let names: Vec<_> = SHAPES.iter().map(|shape| shape.name).collect();
    let name = std::env::args().nth(1).unwrap_or_default();
    let Some(shape) = SHAPES.iter().find(|shape| shape.name == name) else {
        eprintln!("usage: shard-instructions {}", names.join("|"));
        return std::process::ExitCode::from(2);
    };
    let (delivered, counted) = run(shape);
    println!("delivered {delivered}");
    println!("edits {}", shape.measured);
    println!("allocations {}", counted.allocations);
    println!("bytes {}", counted.bytes);
    std::process::ExitCode::SUCCESS
}

/// What a load's measured part delivered, and what the shard allocated for it.
fn run(shape: &Shape) -> (u64, Counted) {
    let before = allocations::counted();
    let mut bench = Bench::new();
    bench.settle();
    for room in 0..shape.rooms {
        for _ in 0..shape.clients {
            bench.open(room);
        }
    }
    bench.settle();
    let begin = bench.now + 1_000_000_000;
    let due = |edit: u64| begin + edit * (1_000_000_000 / shape.edits_per_s);
    for edit in 0..shape.warm_up + shape.measured {
        if edit == shape.warm_up {
            (bench.counting, bench.sends) = (true, 0);
        }
        bench.until(due(edit));
        bench.edit(shape, edit);
    }
    bench.until(due(shape.warm_up + shape.measured));
    let delivered = shape.measured * u64::from(shape.clients - 1);
    // Each edit goes to all others, and to its writer unless its echo shares a send with another's.
    // Echoes of the warm-up's last edits come late.
    let most = delivered + shape.measured + u64::from(shape.rooms * shape.writers);
    assert!(
        (delivered..=most).contains(&bench.sends),
        "{} sends for {delivered} deliveries",
        bench.sends
    );
    let counted = allocations::counted();
    let counted = Counted {
        allocations: counted.allocations - before.allocations,
        bytes: counted.bytes - before.bytes,
    };
    (delivered, counted)
}

impl Bench {
    fn new() -> Self {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
        let config = EngineConfig {
            disk_reserve_bytes: 0,
            ..EngineConfig::default()
        };
        let identity = Identity {
            store: [7; 16],
            shard: 0,
        };
        let (engine, _) = Engine::open(&disk, Path::new("/shard"), identity, config)
            .expect("an empty disk opens");
        let config = ShardConfig {
            id: ShardId(0),
            shards: 1,
            strict: false,
            admission: Admission::Loopback(Vec::new()),
            authenticates: false,
            hash_seed: 7,
            limits: SessionLimits::default(),
            guard: Limits::default(),
            quarantine: Default::default(),
        };
        let mut bench = Self {
            shard: Shard::new(config, engine),
            disk,
            effects: Effects::default(),
            now: 1,
            write: None,
            jobs: Vec::new(),
            timer: None,
            opened: 0,
            sends: 0,
            counting: false,
        };
        bench.turn();
        bench
    }

    fn feed(&mut self, event: Event<'_>) {
        if self.counting {
            allocations::count(true);
            self.measured(event);
            allocations::count(false);
        } else {
            self.shard
                .on_event(Instant(self.now), event, &mut self.effects);
        }
    }

    /// What is counted: callgrind is told this function's name, so it must remain one.
    #[inline(never)]
    fn measured(&mut self, event: Event<'_>) {
        self.shard
            .on_event(Instant(self.now), event, &mut self.effects);
    }

    fn turn(&mut self) {
        self.feed(Event::TurnEnd);
        // As a runtime does, the list is emptied and kept.
        let mut list = std::mem::take(&mut self.effects.list);
        for effect in list.drain(..) {
            match effect {
                Effect::Send { .. } => self.sends += 1,
                Effect::WriteLog { job, lazy } => {
                    let ends = self.now + WRITE_NS + if lazy { LAZY_NS } else { 0 };
                    self.write = Some((ends, job));
                }
                Effect::RunJob(job) => self.jobs.push(job),
                Effect::SetTimer(at) => self.timer = Some(at.0),
                Effect::Established { .. } => {}
                other => panic!("the load asks for no {other:?}"),
            }
        }
        self.effects.list = list;
        self.effects.frames.clear();
    }

    /// Whatever is due until then happens, each in a turn of its own.
    fn until(&mut self, then: u64) {
        loop {
            let write = self.write.as_ref().map(|(at, _)| *at);
            let next = [write, self.timer].into_iter().flatten().min();
            if let Some(job) = self.jobs.pop() {
                let done = job.run(&*self.disk);
                self.feed(Event::JobDone(done));
            } else if let Some(at) = next.filter(|at| *at <= then) {
                self.now = self.now.max(at);
                if write == Some(at) {
                    let (_, job) = self.write.take().expect("it is under way");
                    let result = job.run(&*self.disk);
                    self.feed(Event::LogWritten { job, result });
                } else {
                    self.timer = None;
                    self.feed(Event::Timer);
                }
            } else {
                self.now = self.now.max(then);
                return;
            }
            self.turn();
        }
    }

    fn settle(&mut self) {
        self.until(self.now + 100_000_000);
    }

    fn receive(&mut self, conn: ConnId, bytes: &mut [u8]) {
        self.feed(Event::Received { conn, bytes });
        self.turn();
    }

    /// A client connects and syncs, and says that it has nothing.
    fn open(&mut self, room: u32) {
        let conn = ConnId {
            slot: self.opened,
            generation: 1,
        };
        self.opened += 1;
        self.feed(Event::Accepted {
            conn,
            peer: ([127, 0, 0, 1], 4321).into(),
        });
        let mut head = format!(
            "GET /room-{room} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        .into_bytes();
        self.receive(conn, &mut head);
        self.until(self.now + 1_000_000);
        for message in [&[0, 0, 1, 0][..], &[0, 1, 2, 0, 0]] {
            self.receive(conn, &mut frame(message));
        }
        self.until(self.now + 1_000_000);
    }

    fn edit(&mut self, shape: &Shape, number: u64) {
        let room = (number % u64::from(shape.rooms)) as u32;
        let index = number / u64::from(shape.rooms);
        let writer = (index % u64::from(shape.writers)) as u32;
        let clock = index / u64::from(shape.writers);
        let slot = room * shape.clients + writer;
        let update = insert(CLIENT_BASE + u64::from(slot), clock);
        let mut message = vec![0, 2, update.len() as u8];
        message.extend(update);
        let conn = ConnId {
            slot,
            generation: 1,
        };
        self.receive(conn, &mut frame(&message));
    }
}

/// A client's binary frame, masked.
fn frame(payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("messages here are short");
    assert!(length < 126);
    let mut out = vec![0x82, 0x80 | length];
    out.extend(MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(b, m)| b ^ m));
    out
}

/// The update in which `client` types its character number `clock` behind its previous one.
fn insert(client: u64, clock: u64) -> Vec<u8> {
    let mut out = vec![1, 1];
    write_uint(client, &mut out);
    write_uint(clock, &mut out);
    match clock.checked_sub(1) {
        Some(previous) => {
            out.push(0x84);
            write_uint(client, &mut out);
            write_uint(previous, &mut out);
        }
        None => out.extend([4, 1, 1, b't']),
    }
    out.extend([1, b'a' + (clock % 26) as u8, 0]);
    out
}

fn write_uint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rooms of more than 200 keep the turn's frames for their groups, so they are compared among
    /// themselves.
    #[test]
    fn nothing_is_allocated_for_a_recipient() {
        for (few, many) in [(11, 190), (250, 950)] {
            let room = |clients| run(&one_room("room", clients, 200, 100)).1;
            let (few, many) = (room(few), room(many));
            assert!(few.allocations > 0);
            assert_eq!(few, many, "fewer and more recipients");
        }
    }

    #[test]
    fn what_is_allocated_while_counting_is_counted() {
        let before = allocations::counted();
        let uncounted = vec![1_u8; 50];
        allocations::count(true);
        let mut counted = Vec::<u8>::with_capacity(100);
        counted.resize(100, 1);
        let alone = allocations::counted();
        counted.reserve_exact(200);
        allocations::count(false);
        drop(uncounted.into_iter().map(u64::from).collect::<Vec<_>>());
        let after = allocations::counted();
        assert_eq!(alone.allocations - before.allocations, 1);
        assert_eq!(alone.bytes - before.bytes, 100);
        assert_eq!(after.allocations - before.allocations, 2);
        assert_eq!(after.bytes - before.bytes, 400);
    }
}
