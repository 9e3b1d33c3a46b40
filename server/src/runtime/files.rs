//! The file workers: plain threads that do the blocking work of all shards.

use crate::mailbox::Wake;
use collabblocks_storage_engine::{Job, JobDone};
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
    /// Does it.
    fn run(self, disk: &dyn Disk) -> Self::Done;
}

impl Work for Job {
    type Done = JobDone;

    fn run(self, disk: &dyn Disk) -> JobDone {
        Job::run(self, disk)
    }
}

struct Order<W: Work> {
    work: W,
    done: Sender<W::Done>,
    wake: Arc<Wake>,
}

/// The running workers. Dropped after all senders, it waits for the work under way.
#[derive(Debug)]
pub struct FileWorkers<W: Work = Job> {
    orders: Option<SyncSender<Order<W>>>,
    threads: Vec<JoinHandle<()>>,
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
        let threads = (0..count)
            .map(|number| {
                let (receiver, disk, on_panic) = (receiver.clone(), disk.clone(), on_panic.clone());
                std::thread::Builder::new()
                    .name(format!("files-{number}"))
                    .spawn(move || work(&receiver, &*disk, &on_panic))
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self {
            orders: Some(orders),
            threads,
        })
    }

    /// A shard's way to the workers; what is done comes back on `done`, with a wake.
    pub fn sender(&self, done: Sender<W::Done>, wake: Arc<Wake>) -> JobSender<W> {
        let orders = self.orders.clone().expect("present until drop");
        JobSender {
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

fn work<W: Work>(orders: &Mutex<Receiver<Order<W>>>, disk: &dyn Disk, on_panic: &dyn Fn(&str)) {
    loop {
        let order = orders.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Order { work, done, wake }) = order else {
            return;
        };
        match catch_unwind(AssertUnwindSafe(|| work.run(disk))) {
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
