//! The ring is slow here because what was queued for it is submitted when the test says so.

use super::*;
use crate::identity::Asker;
use crate::mailbox::mesh;
use crate::runtime::files::FileWorkers;
use crate::runtime::{LogSync, Passed};
use crate::shard::{ControlReply, Effect, Effects, Instant, ShardId};
use collabblocks_wal::sim_disk::SimDisk;
use collabblocks_wal::{AlignedBuf, SegmentId};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

/// What the core is told of batches: the first byte, and whether it is durable.
#[derive(Default)]
struct Told(Vec<(u8, Result<usize, String>)>);

impl Core for Told {
    fn on_event(&mut self, _: Instant, event: Event<'_>, _: &mut Effects) {
        if let Event::LogWritten { job, result } = event {
            let first = job.buffer.as_slice()[0];
            self.0.push((first, result.map_err(|e| e.to_string())));
        }
    }
}

struct Rig {
    ring: Ring<Told>,
    replies: tokio::sync::mpsc::UnboundedReceiver<(ShardId, ControlReply)>,
    _passed: tokio::sync::mpsc::Receiver<Passed>,
    _workers: FileWorkers,
}

const A: SegmentId = SegmentId(1);
const B: SegmentId = SegmentId(2);

impl Rig {
    fn new(log_sync: LogSync) -> Self {
        let post = mesh(1).unwrap().remove(0);
        let workers = FileWorkers::start(0, Arc::new(SimDisk::default()), |_| {}).unwrap();
        let (replies_in, replies) = tokio::sync::mpsc::unbounded_channel();
        let (passed_in, passed) = tokio::sync::mpsc::channel(1);
        let ports = Ports {
            shard: ShardId(0),
            listeners: Vec::new(),
            inbox: post.inbox,
            outbox: post.outbox,
            jobs: workers.sender(ShardId(0), post.jobs, post.wake.clone()),
            identity: Asker::new(None, post.identity, post.wake.clone()),
            wake: post.wake,
            log_ends: post.log,
            replies: replies_in,
            passed: passed_in,
            front: Default::default(),
            heartbeat: Arc::default(),
            log_sync,
            sockets_below: u64::MAX,
            log_lag: Duration::from_millis(2),
        };
        Self {
            ring: Ring::new(Told::default(), ports).unwrap(),
            replies,
            _passed: passed,
            _workers: workers,
        }
    }

    fn write(&mut self, segment: SegmentId, path: &Path, first: u8) {
        self.start(segment, path, first, false);
    }

    fn start(&mut self, segment: SegmentId, path: &Path, first: u8, lazy: bool) {
        let mut buffer = AlignedBuf::zeroed(4096);
        buffer.as_mut_slice().fill(first);
        let job = WriteJob {
            segment,
            path: path.into(),
            offset: u64::from(first) * 4096,
            buffer,
        };
        self.effect(Effect::WriteLog { job, lazy });
    }

    fn effect(&mut self, effect: Effect) {
        self.ring.seat.effects.list.push(effect);
        self.ring.carry_out().unwrap();
    }

    /// So much later the core looks what there is, and submits nothing.
    fn pass(&mut self, ns: u64) {
        self.ring.seat.now.0 += ns;
        self.ring.called |= self.ring.ports.wake.awoke();
        self.ring.take_log().unwrap();
        self.ring.take_others().unwrap();
        self.ring.hedge_log();
    }

    fn hedged(&self) -> u64 {
        self.ring.stats.hedged_writes
    }

    /// Waits until the core was told of so many batches by the thread.
    fn thread_until(&mut self, told: usize) {
        for _ in 0..2_000 {
            if self.told().len() == told {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
            self.pass(1);
        }
        panic!("the thread writes nothing: {:?}", self.told());
    }

    /// The ring does what it was asked for until then, at last.
    fn submit_until(&mut self, holds: impl Fn(&Self) -> bool) {
        for _ in 0..500 {
            let wait = Some(Duration::from_millis(20));
            self.ring.uring.enter(wait).unwrap();
            self.ring.take_completions().unwrap();
            if holds(self) {
                return;
            }
        }
        panic!("the ring writes nothing: {:?}", self.told());
    }

    fn told(&self) -> &[(u8, Result<usize, String>)] {
        &self.ring.seat.core.0
    }
}

fn segment(dir: &Path, name: &str) -> std::path::PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, vec![0; 16 * 4096]).unwrap();
    path
}

/// A file of which a test can say from when on writes to it fail.
fn sealable() -> (File, std::path::PathBuf) {
    let file = File::from(memfd_create("log", MemfdFlags::ALLOW_SEALING).unwrap());
    file.set_len(16 * 4096).unwrap();
    let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
    (file, path)
}

#[test]
fn a_batch_that_the_ring_is_slow_with_ends_on_the_thread_and_the_log_goes_on_there() {
    for sync in [LogSync::Dsync, LogSync::Fdatasync] {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (segment(dir.path(), "a"), segment(dir.path(), "b"));
        let mut rig = Rig::new(sync);
        assert!(rig.ring.log_thread.is_none(), "none before it is needed");
        rig.write(A, &a, 1);
        rig.pass(HEDGE_AFTER_NS - 1);
        assert_eq!(rig.hedged(), 0);
        assert!(rig.ring.log_thread.is_none(), "none before it is needed");
        rig.pass(1);
        rig.thread_until(1);
        assert_eq!((rig.hedged(), rig.told()), (1, &[(1, Ok(4096))][..]));
        assert_eq!(std::fs::read(&a).unwrap()[4096], 1);

        // The ring is still late: the next batch goes to the thread, and does so at once.
        rig.write(A, &a, 2);
        rig.thread_until(2);
        assert_eq!(rig.told()[1], (2, Ok(4096)));

        // One for another segment waits, and so does the word that the log has ended.
        rig.write(B, &b, 3);
        rig.pass(HEDGE_AFTER_NS * 100);
        rig.effect(Effect::Reply(ControlReply::Drained));
        std::thread::sleep(Duration::from_millis(20));
        rig.pass(1);
        assert_eq!((rig.told().len(), rig.hedged()), (2, 1));
        assert_eq!(std::fs::read(&b).unwrap()[3 * 4096], 0);
        assert!(rig.replies.try_recv().is_err(), "a write is under way");

        rig.submit_until(|rig| rig.told().len() == 3);
        assert_eq!(rig.told()[2..], [(3, Ok(4096))]);
        assert_eq!(std::fs::read(&b).unwrap()[3 * 4096], 3);
        assert!(matches!(
            rig.replies.try_recv(),
            Ok((_, ControlReply::Drained))
        ));
        assert_eq!((rig.ring.fatal.take(), rig.hedged()), (None, 1));
    }
}

#[test]
fn a_late_write_that_fails_ends_the_shard_and_nothing_counts_as_durable_after_it() {
    let (file, path) = sealable();
    let mut rig = Rig::new(LogSync::Dsync);
    rig.write(A, &path, 1);
    rig.pass(HEDGE_AFTER_NS);
    rig.thread_until(1);
    rig.write(A, &path, 2);
    // The second batch is written, and its end not noticed yet.
    while std::fs::read(&path).unwrap()[2 * 4096] != 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(20));
    fcntl_add_seals(&file, SealFlags::WRITE).unwrap();
    rig.submit_until(|rig| rig.ring.fatal.is_some());
    let why = rig.ring.fatal.clone().unwrap_or_default();
    assert!(why.contains("a second write of a batch"), "{why:?}");
    rig.thread_until(2);
    assert_eq!(rig.told()[0], (1, Ok(4096)));
    assert!(rig.told()[1].1.is_err(), "{:?}", rig.told());
}

#[test]
fn a_copy_that_fails_is_told_at_once() {
    let (file, path) = sealable();
    let mut rig = Rig::new(LogSync::Dsync);
    rig.write(A, &path, 1);
    fcntl_add_seals(&file, SealFlags::WRITE).unwrap();
    rig.pass(HEDGE_AFTER_NS);
    rig.thread_until(1);
    assert!(rig.told()[0].1.is_err(), "{:?}", rig.told());
    assert!(rig.ring.hedge.is_late(), "the ring's own write goes on");
}

#[test]
fn a_ring_that_ends_first_is_believed_and_the_copy_is_late() {
    let dir = tempfile::tempdir().unwrap();
    let a = segment(dir.path(), "a");
    let mut rig = Rig::new(LogSync::Dsync);
    rig.write(A, &a, 1);
    rig.ring.seat.now.0 += HEDGE_AFTER_NS;
    rig.ring.hedge_log();
    // What the thread says is not listened to.
    rig.submit_until(|rig| rig.told().len() == 1);
    assert_eq!(rig.told(), [(1, Ok(4096))]);
    assert!(rig.ring.hedge.is_late());
    rig.write(A, &a, 2);
    rig.submit_until(|rig| rig.told().len() == 2);
    assert_eq!(rig.told()[1], (2, Ok(4096)));
    while rig.ring.hedge.is_late() {
        std::thread::sleep(Duration::from_millis(1));
        rig.pass(1);
    }
    assert_eq!((rig.told().len(), rig.hedged()), (2, 1));
    assert_eq!(rig.ring.fatal.take(), None);
}

#[test]
fn a_batch_that_nobody_waits_for_is_found_whichever_way_it_went() {
    let own = tempfile::tempdir().unwrap();
    // One that takes writes without waiting, and one that may not.
    for (sync, dir) in [
        (LogSync::Dsync, own.path()),
        (LogSync::Dsync, Path::new("/dev/shm")),
        (LogSync::Fdatasync, own.path()),
    ] {
        let dir = tempfile::tempdir_in(dir).unwrap();
        let a = segment(dir.path(), "a");
        let mut rig = Rig::new(sync);
        for first in 1..=9 {
            rig.start(A, &a, first, true);
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
            while std::time::Instant::now() < deadline {
                rig.ring.uring.enter(None).unwrap();
                rig.ring.take_completions().unwrap();
                rig.pass(1);
                if rig.told().len() == usize::from(first) {
                    break;
                }
                std::thread::yield_now();
            }
            let last = usize::from(first) - 1;
            assert_eq!(rig.told()[last..], [(first, Ok(4096))], "{sync:?} {dir:?}");
            assert_eq!(std::fs::read(&a).unwrap()[usize::from(first) * 4096], first);
            assert_eq!(rig.ring.log_due, None, "nobody waits any more");
        }
    }
}
