//! The watchdog: a thread that looks at every core's heartbeat, names what a stalled core was doing,
//! and ends the process if it does not come back.

use crate::shard::{Event, ShardId};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// A core's sign of life. Written by its core, read by the watchdog.
///
/// The atomics are on the allow-list of shared state: a core that hangs cannot answer a message.
/// They order nothing, so all accesses are relaxed.
#[derive(Debug, Default)]
pub struct Heartbeat {
    beats: AtomicU64,
    event: AtomicU8,
    room: AtomicU64,
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

    /// The core goes into a room, named by a hash of its id: a later stall is blamed on it.
    pub fn enters_room(&self, hash: u64) {
        self.room.store(hash, Ordering::Relaxed);
    }

    fn seen(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }
}

const EVENT_NAMES: [&str; 15] = [
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
    "mail_refused",
];

fn code_of(event: &Event<'_>) -> u8 {
    match event {
        Event::Accepted { .. } => 1,
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
        Event::MailRefused { .. } => 14,
    }
}

/// A core that did not come around.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stall {
    /// Which.
    pub shard: ShardId,
    /// For how long so far.
    pub lasted: Duration,
    /// The last event that it went into.
    pub event: &'static str,
    /// The hash of the last room that it went into, 0 for none.
    pub room: u64,
    /// It lasts longer than the limit: the process is to end.
    pub hopeless: bool,
}

/// Times of the watchdog.
#[derive(Clone, Copy, Debug)]
pub struct WatchdogConfig {
    /// How often it looks.
    pub every: Duration,
    /// A stall is reported after this.
    pub report_after: Duration,
    /// The process is ended after this.
    pub exit_after: Duration,
}

impl Default for WatchdogConfig {
    fn default() -> Self {
        Self {
            every: Duration::from_millis(100),
            report_after: Duration::from_secs(1),
            exit_after: Duration::from_secs(30),
        }
    }
}

/// The running watchdog; dropping it ends its thread.
#[derive(Debug)]
pub struct Watchdog {
    stop: Option<SyncSender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watchdog {
    /// Starts the thread. `on_stall` is called on it once when a stall is noticed, once when it is
    /// hopeless.
    pub fn start(
        cores: Vec<(ShardId, Arc<Heartbeat>)>,
        config: WatchdogConfig,
        on_stall: impl FnMut(Stall) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("watchdog".into())
            .spawn(move || watch(cores, config, stopped, on_stall))?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Its own panic would have been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

struct Watched {
    shard: ShardId,
    heartbeat: Arc<Heartbeat>,
    beats: u64,
    since: Instant,
    reported: bool,
    given_up: bool,
}

fn watch(
    cores: Vec<(ShardId, Arc<Heartbeat>)>,
    config: WatchdogConfig,
    stopped: Receiver<()>,
    mut on_stall: impl FnMut(Stall),
) {
    let start = Instant::now();
    let mut cores: Vec<Watched> = cores
        .into_iter()
        .map(|(shard, heartbeat)| Watched {
            shard,
            beats: heartbeat.seen(),
            heartbeat,
            since: start,
            reported: false,
            given_up: false,
        })
        .collect();
    let mut last = start;
    while stopped.recv_timeout(config.every) == Err(RecvTimeoutError::Timeout) {
        let now = Instant::now();
        // Where the whole machine slept (a suspended laptop, a paused guest) no core is to blame.
        let slept = now - last > config.report_after;
        last = now;
        for core in &mut cores {
            let beats = core.heartbeat.seen();
            if beats != core.beats || slept {
                if core.reported {
                    tracing::warn!(
                        shard = core.shard.0,
                        stalled_ms = (now - core.since).as_millis() as u64,
                        "core came back"
                    );
                }
                (core.beats, core.since, core.reported) = (beats, now, false);
                continue;
            }
            let lasted = now - core.since;
            let hopeless = lasted >= config.exit_after && !core.given_up;
            if hopeless || (lasted >= config.report_after && !core.reported) {
                core.reported = true;
                core.given_up |= hopeless;
                let event = EVENT_NAMES[usize::from(core.heartbeat.event.load(Ordering::Relaxed))];
                let room = core.heartbeat.room.load(Ordering::Relaxed);
                on_stall(Stall {
                    shard: core.shard,
                    lasted,
                    event,
                    room,
                    hopeless,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn quick() -> WatchdogConfig {
        WatchdogConfig {
            every: Duration::from_millis(10),
            report_after: Duration::from_millis(100),
            exit_after: Duration::from_millis(300),
        }
    }

    #[test]
    fn a_core_that_stops_beating_is_named_with_its_last_event_and_room() {
        let (dead, alive) = (
            Arc::new(Heartbeat::default()),
            Arc::new(Heartbeat::default()),
        );
        dead.enters(&Event::Timer);
        dead.enters_room(77);
        let (sender, stalls) = mpsc::channel();
        let cores = vec![(ShardId(0), alive.clone()), (ShardId(1), dead)];
        let watchdog =
            Watchdog::start(cores, quick(), move |stall| sender.send(stall).unwrap()).unwrap();
        let mut seen: Vec<Stall> = Vec::new();
        let end = Instant::now() + Duration::from_secs(10);
        while !seen
            .iter()
            .any(|stall| stall.shard == ShardId(1) && stall.hopeless)
        {
            assert!(Instant::now() < end, "the stall was not given up: {seen:?}");
            alive.beat();
            seen.extend(stalls.recv_timeout(Duration::from_millis(5)));
        }
        drop(watchdog);
        let of_dead: Vec<_> = seen
            .iter()
            .filter(|stall| stall.shard == ShardId(1))
            .collect();
        assert_eq!(of_dead.len(), 2, "once noticed, once given up");
        assert!(!of_dead[0].hopeless && of_dead[0].lasted >= Duration::from_millis(100));
        assert!(
            of_dead
                .iter()
                .all(|stall| stall.event == "timer" && stall.room == 77)
        );
    }
}
