//! The control plane: everything that is not on the path of an edit. Runs on tokio on a thread of
//! its own and reaches shards only by their control mailboxes. A slow client of it slows no room.

mod http;
mod metrics;
mod page;
mod passed;

use crate::runtime::Passed;
use crate::shard::{ControlReply, ControlRequest, ShardId, Stats};
use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{Receiver, UnboundedReceiver};
use tokio::sync::{Mutex, watch};

/// Sockets that wait to be taken by the control plane; past this the runtimes answer 503.
pub const PASSED_SOCKETS_MAX: usize = 1024;
/// How long a shard may take to answer before it counts as not responding.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// How the control plane reaches the shards. Callable from any thread.
pub trait Shards: Send + Sync {
    /// How many there are.
    fn count(&self) -> u16;
    /// Puts a request into a shard's control mailbox.
    fn ask(&self, shard: ShardId, request: ControlRequest);
}

/// What the control plane is made of.
pub struct Control {
    /// The way to the shards.
    pub shards: Box<dyn Shards>,
    /// Their answers.
    pub replies: UnboundedReceiver<(ShardId, ControlReply)>,
    /// Sockets whose request was no room's.
    pub sockets: Receiver<Passed>,
    /// A port of its own, if wanted.
    pub listener: Option<TcpListener>,
    /// How long a drain may take.
    pub drain_timeout: Duration,
}

/// What requests see.
struct State {
    shards: Box<dyn Shards>,
    replies: Mutex<UnboundedReceiver<(ShardId, ControlReply)>>,
    next_id: AtomicU64,
    draining: AtomicBool,
    started: Instant,
}

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All is durable and every client was told.
    Drained,
    /// Some shard did not finish in time.
    TimedOut,
}

/// Serves until SIGTERM or SIGINT (or `stop`), then drains the shards. Blocks its thread.
pub fn run(control: Control, mut stop: watch::Receiver<bool>) -> io::Result<Ended> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let Control {
        shards,
        replies,
        mut sockets,
        listener,
        drain_timeout,
    } = control;
    let state = Arc::new(State {
        shards,
        replies: Mutex::new(replies),
        next_id: AtomicU64::new(1),
        draining: AtomicBool::new(false),
        started: Instant::now(),
    });
    runtime.block_on(async {
        let listener = match listener {
            Some(listener) => {
                listener.set_nonblocking(true)?;
                Some(tokio::net::TcpListener::from_std(listener)?)
            }
            None => None,
        };
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let mut int = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
        loop {
            tokio::select! {
                Some(socket) = sockets.recv() => http::serve_passed(&state, socket),
                Ok((stream, _)) = accept(listener.as_ref()) => http::serve(&state, stream),
                _ = term.recv() => break,
                _ = int.recv() => break,
                changed = stop.wait_for(|stop| *stop) => {
                    drop(changed);
                    break;
                }
            }
        }
        tracing::info!("draining: no new connections, flushing the logs, then closing sessions");
        state.draining.store(true, Ordering::SeqCst);
        let drained = tokio::time::timeout(drain_timeout, state.drain());
        // Health checks go on being answered while the shards drain.
        let answer = async {
            while let Some(socket) = sockets.recv().await {
                http::serve_passed(&state, socket);
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            result = drained => Ok(if result.is_ok() { Ended::Drained } else { Ended::TimedOut }),
            () = answer => unreachable!("pending"),
        }
    })
}

async fn accept(
    listener: Option<&tokio::net::TcpListener>,
) -> io::Result<(tokio::net::TcpStream, std::net::SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

impl State {
    /// The figures of every shard that answers in time.
    async fn stats(&self) -> BTreeMap<u16, Stats> {
        let mut found = BTreeMap::new();
        let collect = async {
            let mut replies = self.replies.lock().await;
            let wanted = self.next_id.fetch_add(1, Ordering::Relaxed);
            for shard in 0..self.shards.count() {
                self.shards
                    .ask(ShardId(shard), ControlRequest::Stats { id: wanted });
            }
            while found.len() < usize::from(self.shards.count()) {
                match replies.recv().await {
                    Some((shard, ControlReply::Stats { id, stats })) if id == wanted => {
                        found.insert(shard.0, *stats);
                    }
                    Some(_) => {}
                    None => break,
                }
            }
        };
        // Whoever has not answered by now is missing from the answer.
        let _ = tokio::time::timeout(ANSWER_TIMEOUT, collect).await;
        found
    }

    async fn drain(&self) {
        let mut replies = self.replies.lock().await;
        for shard in 0..self.shards.count() {
            self.shards.ask(ShardId(shard), ControlRequest::Drain);
        }
        let mut left = self.shards.count();
        while left > 0 {
            match replies.recv().await {
                Some((_, ControlReply::Drained)) => left -= 1,
                Some(_) => {}
                None => break,
            }
        }
    }
}
