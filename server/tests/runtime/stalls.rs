//! The gate: mailboxes, timers, sockets and the log under CPU hogs, measured from outside. And a core
//! that stands still while the server is stopped.

use super::harness::{Hogs, Set, Stage, echo, expect};
use super::toy::STICKY_ROOM;
use collabblocks_server::quarantine;
use collabblocks_server::runtime::{LogSync, RuntimeKind};
use collabblocks_server::shard::ShardId;
use std::io::{Read, Seek, Write};
use std::time::{Duration, Instant};

/// No round trip may take as long.
const STALL: Duration = Duration::from_secs(1);

/// For a write of the log to end once the hogs have.
const LOG_TIMEOUT: Duration = Duration::from_secs(20);

/// Round trips of one kind.
struct Trips {
    name: &'static str,
    took: Vec<Duration>,
}

impl Trips {
    fn quantile(&self, share: f64) -> Duration {
        let last = self.took.len() - 1;
        self.took[(last as f64 * share).round() as usize]
    }

    fn longest(&self) -> Duration {
        self.quantile(1.0)
    }
}

/// Whatever way the log is synced, nothing that does not wait for the log waits with it, and what does,
/// an acknowledgement, waits for the disk and not for a core. The end of a write that the ring made is
/// handled by a kernel worker of one core, which an overcommitted core can leave waiting for seconds:
/// what takes long is written by a thread as well. `docs/performance.md` has the figures.
pub fn nothing_stalls_under_cpu_hogs(runtime: RuntimeKind) {
    let seconds = std::env::var("COLLABBLOCKS_STALL_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let time = Duration::from_secs(seconds.unwrap_or(2));
    let hogs = std::env::var("COLLABBLOCKS_STALL_HOGS")
        .ok()
        .and_then(|text| text.parse().ok());
    let modes = match runtime {
        RuntimeKind::Ring => &[LogSync::Thread, LogSync::Dsync, LogSync::Fdatasync][..],
        // Its log always has a thread.
        RuntimeKind::Glommio => &[LogSync::Thread][..],
    };
    for &sync in modes {
        let mut set = Set::of(runtime);
        set.sync = sync;
        let stage = set.start();
        let hogs = Hogs::start(hogs.unwrap_or(2));
        let all = run_all(&stage, time, hogs);
        let disk = all[0].longest();
        for trips in all {
            let [half, most, longest] =
                [0.5, 0.99, 1.0].map(|share| trips.quantile(share).as_secs_f64() * 1e3);
            println!(
                "{runtime:?} {sync:?} {:>8}: {:>6} round trips, ms p50 {half:.2} p99 {most:.2} max {longest:.0}",
                trips.name,
                trips.took.len(),
            );
            let bound = match trips.name {
                // The disk may be slow all by itself.
                "log" => STALL + disk,
                "disk" => continue,
                _ => STALL,
            };
            assert!(
                trips.longest() < bound,
                "{} stalled for {:?} with {sync:?}",
                trips.name,
                trips.longest(),
            );
        }
        stage.end();
    }
}

/// What is still under way after `time` ends without the hogs.
fn run_all(stage: &Stage, time: Duration, hogs: Hogs) -> [Trips; 6] {
    std::thread::scope(|scope| {
        let run = |name, mut action: Box<dyn FnMut() + Send>| {
            let thread = scope.spawn(move || {
                let (end, mut took) = (Instant::now() + time, Vec::new());
                while Instant::now() < end {
                    let start = Instant::now();
                    action();
                    took.push(start.elapsed());
                }
                took.sort_unstable();
                took
            });
            (name, thread)
        };
        // On the shard whose log is written too, and on the other.
        let mut socket = stage.connect("other echo\n");
        let mut log = stage.connect("other log\n");
        log.set_read_timeout(Some(time + LOG_TIMEOUT)).unwrap();
        let mut timer = stage.connect("delay\n");
        let mut idle = stage.connect("echo\n");
        let mut file = std::fs::File::create(stage.dir.path().join("plain")).unwrap();
        let threads = [
            run(
                "disk",
                Box::new(move || {
                    file.rewind().unwrap();
                    file.write_all(&[1; 4096]).unwrap();
                    file.sync_data().unwrap();
                }),
            ),
            run("socket", Box::new(move || echo(&mut socket, b"ping"))),
            run(
                "mailbox",
                Box::new(move || echo(&mut stage.connect("other echo\n"), b"ping")),
            ),
            run(
                "log",
                Box::new(move || {
                    log.write_all(b"x").unwrap();
                    expect(&mut log, b"w");
                }),
            ),
            run(
                "timer",
                Box::new(move || {
                    timer.write_all(b"x").unwrap();
                    expect(&mut timer, b"t");
                }),
            ),
            run(
                "idle",
                Box::new(move || {
                    std::thread::sleep(Duration::from_millis(150));
                    echo(&mut idle, b"ping");
                }),
            ),
        ];
        std::thread::sleep(time);
        drop(hogs);
        threads.map(|(name, thread)| Trips {
            name,
            took: thread.join().unwrap(),
        })
    })
}

/// What never ends would otherwise keep the process from its end, too: a core, or a file worker.
pub fn a_stop_is_watched_to_its_end(runtime: RuntimeKind) {
    let mut set = Set::of(runtime);
    set.watchdog.report_after = Duration::from_millis(200);
    set.watchdog.exit_after = Duration::from_millis(1200);
    let mut stage = set.start();
    let mut probe = stage.connect("first echo\n");
    echo(&mut probe, b"x");
    let _sticky = stage.connect("first stick 2500\n");
    let timeout = Some(Duration::from_millis(200));
    probe.set_read_timeout(timeout).unwrap();
    while probe.write_all(b"x").is_ok() && probe.read_exact(&mut [0]).is_ok() {}
    assert_eq!(
        *stage.fatal.lock().unwrap(),
        [],
        "it stands still since now"
    );
    stage.server.take().unwrap().stop();
    // The other has ended meanwhile, and is not taken for one that stands still.
    let fatal = stage.fatal.lock().unwrap().clone();
    assert!(matches!(&fatal[..], [(ShardId(0), _)]), "{fatal:?}");
    assert_eq!(quarantine::rooms(stage.dir.path()).unwrap(), [STICKY_ROOM]);
}
