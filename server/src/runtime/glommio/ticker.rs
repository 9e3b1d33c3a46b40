//! The ticker: a thread that wakes the turn every 10 ms.

use crate::mailbox::Wake;
use crate::runtime::placement;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

const EVERY: Duration = Duration::from_millis(10);
/// Ticks without an answer between two wakes, at most. Wakes that the executor does not take in
/// count up, and it dies at 32,767 of them.
const SILENT_TICKS_MAX: u32 = 128;

/// The running ticker; dropping it ends its thread.
pub(super) struct Ticker {
    /// Set by the ticker, cleared by the turn: on the allow-list of shared state, as an executor that
    /// does not run cannot take a message. It orders nothing.
    asked: Arc<AtomicBool>,
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    pub fn start(wake: Arc<Wake>) -> io::Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        let (stop, stopped) = sync_channel(1);
        let of_thread = asked.clone();
        let tick = move || {
            // What keeps its shard's core busy must not keep it from waking the shard.
            placement::unpin();
            let (mut silent, mut next) = (0, 1);
            while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                if of_thread.swap(true, Ordering::Relaxed) {
                    silent += 1;
                    if silent < next {
                        continue;
                    }
                    next = (next * 2).min(SILENT_TICKS_MAX);
                } else {
                    next = 1;
                }
                silent = 0;
                wake.poke();
            }
        };
        let thread = std::thread::Builder::new()
            .name("ticker".into())
            .spawn(tick)?;
        Ok(Self {
            asked,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// To be cleared in each turn.
    pub fn asked(&self) -> Arc<AtomicBool> {
        self.asked.clone()
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Its own panic would have been reported by the panic hook.
            let _ = thread.join();
        }
    }
}
