//! The watchdog: a thread that looks at every core's heartbeat, and at which room's document each file
//! worker is in. It names what a stalled one was doing, and ends the process if it does not come back.

use super::heartbeat::{Heartbeat, RoomName, WorkerMark};
use crate::shard::ShardId;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// What does not come back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stalled {
    /// A core, from the event that it went into last.
    Core(&'static str),
    /// A file worker, from a room's document.
    Worker,
}

/// A core that did not come around, or a file worker that did not come out of a room's document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stall {
    /// Whose core, or whose job.
    pub shard: ShardId,
    /// Which of both.
    pub what: Stalled,
    /// For how long so far.
    pub lasted: Duration,
    /// The room that it is in. Of a core: if it has been in one document for half of that time.
    pub room: Option<RoomName>,
    /// It lasts longer than the limit: the process is to end.
    pub hopeless: bool,
}

/// Times of the watchdog.
#[derive(Clone, Copy, Debug)]
pub struct WatchdogConfig {
    /// How often it looks.
    pub every: Duration,
    /// A core's stall is reported after this.
    pub report_after: Duration,
    /// The process is ended after this.
    pub exit_after: Duration,
    /// A file worker that is in one document is reported after this.
    pub job_report_after: Duration,
    /// The process is ended after this.
    pub job_exit_after: Duration,
}

impl Default for WatchdogConfig {
    fn default() -> Self {
        Self {
            every: Duration::from_millis(100),
            report_after: Duration::from_secs(1),
            exit_after: Duration::from_secs(30),
            job_report_after: Duration::from_secs(10),
            job_exit_after: Duration::from_secs(60),
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
        workers: Vec<Arc<WorkerMark>>,
        config: WatchdogConfig,
        on_stall: impl FnMut(Stall) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("watchdog".into())
            .spawn(move || watch(cores, workers, config, stopped, on_stall))?;
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

/// Since when something stands still, and what was said of it.
struct Standstill {
    since: Instant,
    reported: bool,
    given_up: bool,
}

impl Standstill {
    fn from(since: Instant) -> Self {
        Self {
            since,
            reported: false,
            given_up: false,
        }
    }

    /// It moved. Answers for how long it had stood still, if that was reported.
    fn ends(&mut self, now: Instant) -> Option<Duration> {
        let lasted = now - std::mem::replace(&mut self.since, now);
        std::mem::take(&mut self.reported).then_some(lasted)
    }

    /// Whether it is to be told now, and if so, whether as hopeless.
    fn goes_on(&mut self, lasted: Duration, report: Duration, exit: Duration) -> Option<bool> {
        let hopeless = lasted >= exit && !self.given_up;
        let told = hopeless || (lasted >= report && !self.reported);
        self.reported |= told;
        self.given_up |= hopeless;
        told.then_some(hopeless)
    }
}

struct WatchedCore {
    shard: ShardId,
    heartbeat: Arc<Heartbeat>,
    beats: u64,
    steps: u64,
    /// Since when `steps` is what it is.
    steps_since: Instant,
    standstill: Standstill,
}

impl WatchedCore {
    fn look(&mut self, now: Instant, slept: bool, config: &WatchdogConfig) -> Option<Stall> {
        let beats = self.heartbeat.seen();
        let steps = self.heartbeat.steps();
        if steps != self.steps {
            (self.steps, self.steps_since) = (steps, now);
        }
        if beats != self.beats || slept || self.heartbeat.has_ended() {
            self.beats = beats;
            if let Some(lasted) = self.standstill.ends(now) {
                tracing::warn!(
                    shard = self.shard.0,
                    stalled_ms = lasted.as_millis() as u64,
                    "core came back"
                );
            }
            return None;
        }
        let lasted = now - self.standstill.since;
        let hopeless = self
            .standstill
            .goes_on(lasted, config.report_after, config.exit_after)?;
        let event = self.heartbeat.event_name();
        // A turn may go through many rooms: one that merely came last is not to blame.
        let in_room = !steps.is_multiple_of(2) && now - self.steps_since >= lasted / 2;
        Some(Stall {
            shard: self.shard,
            what: Stalled::Core(event),
            lasted,
            room: in_room.then(|| self.heartbeat.room_name()),
            hopeless,
        })
    }
}

struct WatchedWorker {
    mark: Arc<WorkerMark>,
    steps: u64,
    standstill: Standstill,
}

impl WatchedWorker {
    fn look(&mut self, now: Instant, slept: bool, config: &WatchdogConfig) -> Option<Stall> {
        let steps = self.mark.steps();
        // Outside of a document it waits for work, or for the disk.
        if steps != self.steps || steps.is_multiple_of(2) || slept {
            self.steps = steps;
            if let Some(lasted) = self.standstill.ends(now) {
                tracing::warn!(
                    took_ms = lasted.as_millis() as u64,
                    "large work on a document came back"
                );
            }
            return None;
        }
        let lasted = now - self.standstill.since;
        // It is told before it is given up, whatever the limit.
        let report = config.job_report_after.min(config.job_exit_after / 2);
        let hopeless = (self.standstill).goes_on(lasted, report, config.job_exit_after)?;
        Some(Stall {
            shard: self.mark.shard(),
            what: Stalled::Worker,
            lasted,
            room: Some(self.mark.room_name()),
            hopeless,
        })
    }
}

fn watch(
    cores: Vec<(ShardId, Arc<Heartbeat>)>,
    workers: Vec<Arc<WorkerMark>>,
    config: WatchdogConfig,
    stopped: Receiver<()>,
    mut on_stall: impl FnMut(Stall),
) {
    let start = Instant::now();
    let mut cores: Vec<_> = cores
        .into_iter()
        .map(|(shard, heartbeat)| WatchedCore {
            shard,
            beats: heartbeat.seen(),
            steps: heartbeat.steps(),
            heartbeat,
            steps_since: start,
            standstill: Standstill::from(start),
        })
        .collect();
    let mut workers: Vec<_> = workers
        .into_iter()
        .map(|mark| WatchedWorker {
            steps: mark.steps(),
            mark,
            standstill: Standstill::from(start),
        })
        .collect();
    let mut last = start;
    while stopped.recv_timeout(config.every) == Err(RecvTimeoutError::Timeout) {
        let now = Instant::now();
        // Where the whole machine slept (a suspended laptop, a paused guest) no thread is to blame.
        let slept = now - last > config.report_after;
        last = now;
        let of_cores = cores.iter_mut().filter_map(|c| c.look(now, slept, &config));
        of_cores.for_each(&mut on_stall);
        let of_workers = workers
            .iter_mut()
            .filter_map(|w| w.look(now, slept, &config));
        of_workers.for_each(&mut on_stall);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::Event;
    use collabblocks_storage_engine::{RoomId, Watch};
    use std::sync::mpsc;

    fn quick() -> WatchdogConfig {
        WatchdogConfig {
            every: Duration::from_millis(10),
            report_after: Duration::from_millis(100),
            exit_after: Duration::from_millis(300),
            job_report_after: Duration::from_secs(3600),
            job_exit_after: Duration::from_millis(400),
        }
    }

    const ROOM: RoomId = RoomId {
        slot: 0,
        generation: 0,
    };

    /// What is told of core 1, which does nothing but what it did before and what `on` does every few
    /// milliseconds, until it is given up.
    fn stalls_of(dead: Arc<Heartbeat>, mut on: impl FnMut()) -> Vec<Stall> {
        let alive = Arc::new(Heartbeat::default());
        let (sender, stalls) = mpsc::channel();
        let cores = vec![(ShardId(0), alive.clone()), (ShardId(1), dead)];
        let watchdog = Watchdog::start(cores, vec![], quick(), move |stall| {
            sender.send(stall).unwrap()
        })
        .unwrap();
        let mut seen: Vec<Stall> = Vec::new();
        let end = Instant::now() + Duration::from_secs(10);
        while !seen
            .iter()
            .any(|stall| stall.shard == ShardId(1) && stall.hopeless)
        {
            assert!(Instant::now() < end, "the stall was not given up: {seen:?}");
            alive.beat();
            on();
            seen.extend(stalls.recv_timeout(Duration::from_millis(5)));
        }
        drop(watchdog);
        seen.retain(|stall| stall.shard == ShardId(1));
        seen
    }

    #[test]
    fn a_core_that_stops_beating_is_named_with_its_last_event_and_room() {
        let dead = Arc::new(Heartbeat::default());
        dead.enters(&Event::Timer);
        dead.enters_room(ROOM, "a longer name than the next");
        dead.leaves_room();
        let room = RoomId { slot: 1, ..ROOM };
        dead.enters_room(room, "größe/7");
        let seen = stalls_of(dead, || {});
        assert_eq!(seen.len(), 2, "once noticed, once given up");
        assert!(!seen[0].hopeless && seen[0].lasted >= Duration::from_millis(100));
        for stall in seen {
            assert_eq!(stall.what, Stalled::Core("timer"));
            let room = stall.room.expect("it is in a room");
            assert_eq!((room.name.as_str(), room.whole), ("größe/7", true));
        }
    }

    #[test]
    fn a_room_that_the_core_left_or_just_entered_is_not_to_blame() {
        let dead = Arc::new(Heartbeat::default());
        dead.enters_room(ROOM, "left");
        dead.leaves_room();
        assert!(stalls_of(dead, || {}).iter().all(|s| s.room.is_none()));

        let dead = Arc::new(Heartbeat::default());
        dead.enters_room(ROOM, "one of many");
        let goes = dead.clone();
        // One room after the other, in one endless turn.
        let seen = stalls_of(dead, || {
            goes.leaves_room();
            goes.enters_room(ROOM, "one of many");
        });
        assert!(seen.iter().all(|s| s.room.is_none()), "{seen:?}");
    }
}
