//! What threads that may hang leave for the watchdog to read: a core's sign of life, and where a file
//! worker is.

use crate::shard::{Event, ShardId};
use collabblocks_storage_engine::{RoomId, Watch, WatchJob};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, AtomicUsize, Ordering};

/// Bytes of a room's name that a heartbeat can hold: as many as a name may have.
const NAME_BYTES_MAX: usize = 4096;
/// Of no room.
const NO_ROOM: u64 = u64::MAX;

/// A core's sign of life. Written by its core, read by the watchdog.
///
/// The atomics are on the allow-list of shared state: a core that hangs cannot answer a message.
/// They order nothing, so all accesses are relaxed: the name of a room is only believed once the core
/// has been in that room for longer than the watchdog takes to look twice.
#[derive(Debug)]
pub struct Heartbeat {
    beats: AtomicU64,
    event: AtomicU8,
    /// The room whose name stands in `place`.
    room: AtomicU64,
    place: Place,
    ended: AtomicBool,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self {
            beats: AtomicU64::new(0),
            event: AtomicU8::new(0),
            room: AtomicU64::new(NO_ROOM),
            place: Place::default(),
            ended: AtomicBool::new(false),
        }
    }
}

impl Heartbeat {
    /// The loop came around. A core does so at least four times a second, also when it is idle.
    pub fn beat(&self) {
        // One writer: no read-modify-write needed.
        self.beats.store(
            self.beats.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Relaxed,
        );
    }

    /// The core goes into an event.
    pub fn enters(&self, event: &Event<'_>) {
        self.event.store(code_of(event), Ordering::Relaxed);
    }

    /// The core's thread has ended: nothing more is expected of it.
    pub fn ends(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    pub(super) fn seen(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    /// Odd while the core is in a room.
    pub(super) fn steps(&self) -> u64 {
        self.place.steps()
    }

    /// The last event that the core went into.
    pub(super) fn event_name(&self) -> &'static str {
        EVENT_NAMES[usize::from(self.event.load(Ordering::Relaxed))]
    }

    /// The name of the room that the core went into last, empty if it was in none.
    pub fn room_name(&self) -> RoomName {
        self.place.room_name()
    }
}

impl Watch for Heartbeat {
    fn enters_room(&self, room: RoomId, name: &str) {
        let number = u64::from(room.slot) << 32 | u64::from(room.generation);
        if self.room.load(Ordering::Relaxed) != number {
            self.place.set_name(name);
            self.room.store(number, Ordering::Relaxed);
        }
        self.place.step();
    }

    fn leaves_room(&self) {
        self.place.step();
    }
}

/// Where a file worker is. Written by the worker, read by the watchdog, as a [`Heartbeat`] is: a worker
/// that hangs answers no message either.
#[derive(Debug, Default)]
pub struct WorkerMark {
    /// Whose job it has.
    shard: AtomicU16,
    place: Place,
}

impl WorkerMark {
    /// The worker takes a job of this shard.
    pub fn takes_job_of(&self, shard: ShardId) {
        self.shard.store(shard.0, Ordering::Relaxed);
    }

    pub(super) fn shard(&self) -> ShardId {
        ShardId(self.shard.load(Ordering::Relaxed))
    }

    /// Odd while the worker is in a room's document.
    pub(super) fn steps(&self) -> u64 {
        self.place.steps()
    }

    /// The name of the room that the worker went into last.
    pub(super) fn room_name(&self) -> RoomName {
        self.place.room_name()
    }
}

impl WatchJob for WorkerMark {
    fn enters_room(&self, name: &str) {
        self.place.set_name(name);
        self.place.step();
    }

    fn leaves_room(&self) {
        self.place.step();
    }
}

/// The room that a thread is in, or was in last.
#[derive(Debug)]
struct Place {
    /// Odd while the thread is in a room.
    steps: AtomicU64,
    name_bytes: AtomicUsize,
    name: Box<[AtomicU64]>,
}

impl Default for Place {
    fn default() -> Self {
        let words = NAME_BYTES_MAX / size_of::<u64>();
        Self {
            steps: AtomicU64::new(0),
            name_bytes: AtomicUsize::new(0),
            name: (0..words).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Place {
    fn step(&self) {
        let steps = self.steps.load(Ordering::Relaxed);
        self.steps.store(steps.wrapping_add(1), Ordering::Relaxed);
    }

    fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    fn set_name(&self, name: &str) {
        let kept = &name.as_bytes()[..name.len().min(NAME_BYTES_MAX)];
        for (word, bytes) in self.name.iter().zip(kept.chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_le_bytes(padded), Ordering::Relaxed);
        }
        self.name_bytes.store(name.len(), Ordering::Relaxed);
    }

    fn room_name(&self) -> RoomName {
        let bytes = self.name_bytes.load(Ordering::Relaxed);
        let kept = bytes.min(NAME_BYTES_MAX);
        let words = self.name.iter().take(kept.div_ceil(8));
        let mut name: Vec<u8> = words
            .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes())
            .collect();
        name.truncate(kept);
        RoomName {
            name: String::from_utf8_lossy(&name).into_owned(),
            whole: kept == bytes,
        }
    }
}

/// The name of a room, as far as a heartbeat holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoomName {
    /// It, or its beginning.
    pub name: String,
    /// Whether it is all of it.
    pub whole: bool,
}

const EVENT_NAMES: [&str; 17] = [
    "none",
    "accepted",
    "handed_off",
    "handoff_refused",
    "received",
    "blocked",
    "drained",
    "closed",
    "log_written",
    "job_done",
    "mail",
    "control",
    "timer",
    "turn_end",
    "proxied",
    "mail_refused",
    "authenticated",
];

fn code_of(event: &Event<'_>) -> u8 {
    match event {
        Event::Accepted { .. } => 1,
        Event::Proxied { .. } => 14,
        Event::HandedOff { .. } => 2,
        Event::HandoffRefused { .. } => 3,
        Event::Received { .. } => 4,
        Event::Blocked { .. } => 5,
        Event::Drained { .. } => 6,
        Event::Closed { .. } => 7,
        Event::LogWritten { .. } => 8,
        Event::JobDone(_) => 9,
        Event::Mail { .. } => 10,
        Event::Control(_) => 11,
        Event::Timer => 12,
        Event::TurnEnd => 13,
        Event::MailRefused { .. } => 15,
        Event::Authenticated { .. } => 16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_too_long_is_cut() {
        let heartbeat = Heartbeat::default();
        let room = RoomId {
            slot: 0,
            generation: 0,
        };
        heartbeat.enters_room(room, &"x".repeat(NAME_BYTES_MAX));
        assert!(heartbeat.room_name().whole);
        let room = RoomId {
            generation: 1,
            ..room
        };
        heartbeat.enters_room(room, &"y".repeat(NAME_BYTES_MAX + 1));
        let name = heartbeat.room_name();
        assert!(!name.whole && name.name == "y".repeat(NAME_BYTES_MAX));
    }
}
