//! The file workers: plain threads that do the blocking work of all shards.

use crate::mailbox::Wake;
use crate::runtime::heartbeat::WorkerMark;
use crate::shard::ShardId;
use collabblocks_storage_engine::{Job, JobDone, WatchJob};
use collabblocks_wal::Disk;
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Jobs that wait for a worker, over all shards. What does not fit stays with its shard.
const JOBS_QUEUED_MAX: usize = 256;

/// Blocking work of any kind.
pub trait Work: Send + 'static {
    /// What comes of it.
    type Done: Send + 'static;
    /// Does it. `watch` is told which room's document it is in.
    fn run(self, disk: &dyn Disk, watch: &dyn WatchJob) -> Self::Done;
}

impl Work for Job {
    type Done = JobDone;

    fn run(self, disk: &dyn Disk, watch: &dyn WatchJob) -> JobDone {
        self.run_watched(disk, watch)
    }
}

struct Order<W: Work> {
    shard: ShardId,
    work: W,
    done: Sender<W::Done>,
    wake: Arc<Wake>,
}

/// The running workers. Dropped after all senders, it waits for the work under way.
#[derive(Debug)]
pub struct FileWorkers<W: Work = Job> {
    orders: Option<SyncSender<Order<W>>>,
    threads: Vec<JoinHandle<()>>,
    marks: Vec<Arc<WorkerMark>>,
}

impl<W: Work> FileWorkers<W> {
    /// Starts `count` threads. `on_panic` is called with the message when work panics: its shard
    /// waits for an answer that will not come, so it must end the process.
    pub fn start(
        count: usize,
        disk: Arc<dyn Disk>,
        on_panic: impl Fn(&str) + Send + Sync + Clone + 'static,
    ) -> io::Result<Self> {
        let (orders, receiver) = sync_channel::<Order<W>>(JOBS_QUEUED_MAX);
        // The lock is only ever taken by the workers, to share one queue among them.
        let receiver = Arc::new(Mutex::new(receiver));
        let marks: Vec<Arc<WorkerMark>> = (0..count).map(|_| Arc::default()).collect();
        let threads = (marks.iter().cloned().enumerate())
            .map(|(number, mark)| {
                let (receiver, disk, on_panic) = (receiver.clone(), disk.clone(), on_panic.clone());
                std::thread::Builder::new()
                    .name(format!("files-{number}"))
                    .spawn(move || work(&receiver, &*disk, &mark, &on_panic))
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self {
            orders: Some(orders),
            threads,
            marks,
        })
    }

    /// Where each worker is, for the watchdog.
    pub fn marks(&self) -> Vec<Arc<WorkerMark>> {
        self.marks.clone()
    }

    /// A shard's way to the workers; what is done comes back on `done`, with a wake.
    pub fn sender(&self, shard: ShardId, done: Sender<W::Done>, wake: Arc<Wake>) -> JobSender<W> {
        let orders = self.orders.clone().expect("present until drop");
        JobSender {
            shard,
            orders,
            done,
            wake,
            waiting: VecDeque::new(),
        }
    }
}

impl<W: Work> Drop for FileWorkers<W> {
    fn drop(&mut self) {
        drop(self.orders.take());
        for thread in self.threads.drain(..) {
            // Work cannot panic through: it is caught.
            let _ = thread.join();
        }
    }
}

fn work<W: Work>(
    orders: &Mutex<Receiver<Order<W>>>,
    disk: &dyn Disk,
    mark: &WorkerMark,
    on_panic: &dyn Fn(&str),
) {
    loop {
        let order = orders.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Order {
            shard,
            work,
            done,
            wake,
        }) = order
        else {
            return;
        };
        mark.takes_job_of(shard);
        match catch_unwind(AssertUnwindSafe(|| work.run(disk, mark))) {
            // A shard that has ended does not want it any more.
            Ok(result) => drop(done.send(result)),
            Err(panic) => on_panic(message_of(&*panic)),
        }
        wake.notify();
    }
}

/// The text of a panic.
pub(crate) fn message_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("panic without a message")
}

/// One shard's way to the workers. Lives on its core, never blocks.
pub struct JobSender<W: Work = Job> {
    shard: ShardId,
    orders: SyncSender<Order<W>>,
    done: Sender<W::Done>,
    wake: Arc<Wake>,
    /// What the workers' queue had no room for; bounded by what the shard has under way.
    waiting: VecDeque<W>,
}

impl<W: Work> std::fmt::Debug for JobSender<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobSender")
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

impl<W: Work> JobSender<W> {
    /// Queues work.
    pub fn send(&mut self, work: W) {
        self.waiting.push_back(work);
        self.retry();
    }

    /// Passes on what could not be queued earlier, as far as there is room. Returns whether some is
    /// still waiting: then call again soon.
    pub fn retry(&mut self) -> bool {
        while let Some(work) = self.waiting.pop_front() {
            let order = Order {
                shard: self.shard,
                work,
                done: self.done.clone(),
                wake: self.wake.clone(),
            };
            match self.orders.try_send(order) {
                Ok(()) => {}
                Err(TrySendError::Full(order) | TrySendError::Disconnected(order)) => {
                    self.waiting.push_front(order.work);
                    return true;
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::watchdog::{Stall, Stalled, Watchdog, WatchdogConfig};
    use collabblocks_wal::FsDisk;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    /// Doubles a number; panics on an odd one.
    struct Double(u32);

    impl Work for Double {
        type Done = u32;

        fn run(self, _: &dyn Disk, _: &dyn WatchJob) -> u32 {
            assert!(self.0.is_multiple_of(2), "{} is odd", self.0);
            self.0 * 2
        }
    }

    #[test]
    fn all_work_is_done_and_a_panic_is_reported_and_survived() {
        let (panics, panicked) = channel();
        let workers = FileWorkers::start(2, Arc::new(FsDisk::default()), move |why: &str| {
            panics.send(why.to_owned()).unwrap();
        })
        .unwrap();
        let (done, results) = channel();
        let mut sender = workers.sender(ShardId(0), done, Arc::new(Wake::new().unwrap()));
        sender.send(Double(3));
        // More than the queue holds: the rest waits with its shard.
        (0..1000).for_each(|number| sender.send(Double(number * 2)));
        let mut sum = 0;
        for _ in 0..1000 {
            while sender.retry() {
                std::thread::yield_now();
            }
            sum += results.recv_timeout(Duration::from_secs(20)).unwrap();
        }
        assert_eq!(sum, 4 * 999 * 1000 / 2);
        assert_eq!(
            panicked.recv_timeout(Duration::from_secs(20)),
            Ok("3 is odd".to_owned())
        );
        drop(sender);
        drop(workers);
    }

    /// Is in a room's document, or merely slow, until it is let go.
    struct Slow(Option<&'static str>, Receiver<()>);

    impl Work for Slow {
        type Done = Option<&'static str>;

        fn run(self, _: &dyn Disk, watch: &dyn WatchJob) -> Self::Done {
            let Self(room, go) = self;
            room.inspect(|room| watch.enters_room(room));
            let _ = go.recv_timeout(Duration::from_secs(20));
            room.inspect(|_| watch.leaves_room());
            room
        }
    }

    #[test]
    fn work_that_does_not_come_out_of_a_document_is_given_up_and_named() {
        let workers = FileWorkers::start(3, Arc::new(FsDisk::default()), |_: &str| {}).unwrap();
        let config = WatchdogConfig {
            every: Duration::from_millis(10),
            job_exit_after: Duration::from_millis(300),
            ..WatchdogConfig::default()
        };
        let (stall, stalls) = channel();
        let on_stall = move |seen| stall.send(seen).unwrap();
        let watchdog = Watchdog::start(vec![], workers.marks(), config, on_stall).unwrap();
        let wake = Arc::new(Wake::new().unwrap());
        let (done, results) = channel();
        let of = |shard, room| {
            let (go, gone) = channel();
            let mut sender = workers.sender(ShardId(shard), done.clone(), wake.clone());
            sender.send(Slow(room, gone));
            go
        };
        // A disk that hangs is no room's fault.
        let disk = of(7, None);
        let quick = of(4, Some("a longer name, which left its document"));
        quick.send(()).unwrap();
        let room = Some("größe/7");
        assert!(results.recv_timeout(Duration::from_secs(20)).is_ok());
        let stuck = of(5, room);
        let seen: Vec<Stall> = (0..2)
            .map(|_| stalls.recv_timeout(Duration::from_secs(20)).unwrap())
            .collect();
        let hopeless: Vec<bool> = seen.iter().map(|stall| stall.hopeless).collect();
        assert_eq!(hopeless, [false, true], "once noticed, once given up");
        for stall in seen {
            assert_eq!((stall.shard, stall.what), (ShardId(5), Stalled::Worker));
            let name = stall.room.expect("it is in one");
            assert_eq!((Some(name.name.as_str()), name.whole), (room, true));
        }
        stuck.send(()).unwrap();
        assert_eq!(results.recv_timeout(Duration::from_secs(20)), Ok(room));
        std::thread::sleep(Duration::from_millis(400));
        drop(watchdog);
        assert!(stalls.try_recv().is_err(), "of the others nothing was told");
        disk.send(()).unwrap();
        drop(workers);
    }

    #[test]
    fn a_sleeping_shard_is_woken_when_its_work_is_done() {
        let workers = FileWorkers::start(1, Arc::new(FsDisk::default()), |_: &str| {}).unwrap();
        let (done, results) = channel();
        let wake = Arc::new(Wake::new().unwrap());
        let mut sender = workers.sender(ShardId(0), done, wake.clone());
        assert!(wake.falls_asleep());
        sender.send(Double(4));
        let mut counter = [0; 8];
        assert_eq!(rustix::io::read(wake.event(), &mut counter), Ok(8));
        assert_eq!(results.try_recv(), Ok(8));
        assert!(!wake.must_wake(), "one wake is enough");
        drop(sender);
    }
}
