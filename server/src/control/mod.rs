//! The control plane: everything that is not on the path of an edit. Runs on tokio on a thread of
//! its own and reaches shards only by their control mailboxes. A slow client of it slows no room.

mod hosts;
mod http;
mod metrics;
mod page;
mod passed;
mod renew;

pub use hosts::Hosts;

use crate::certificate::Certificate;
use crate::runtime::Passed;
use crate::shard::{ControlReply, ControlRequest, ShardId, Stats};
use crate::validity::Validity;
use renew::Renewal;
use rustls::ServerConfig;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{Receiver, UnboundedReceiver};
use tokio::sync::{Mutex, Semaphore, watch};

/// Sockets that wait to be taken by the control plane; past this the runtimes answer 503.
pub const PASSED_SOCKETS_MAX: usize = 1024;
/// How long a shard may take to answer before it counts as not responding.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the shards' figures are good for.
const STATS_KEPT: Duration = Duration::from_millis(100);

/// How long accepting rests after it failed.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// After so long a shard is asked again to drain: its mailbox may have been full.
const DRAIN_ASKED_AGAIN: Duration = Duration::from_millis(500);

/// How the control plane reaches the shards. Callable from any thread.
pub trait Shards: Send + Sync {
    /// How many there are.
    fn count(&self) -> u16;
    /// Puts a request into a shard's control mailbox.
    fn ask(&self, shard: ShardId, request: ControlRequest);
    /// Has new connections shown this certificate; `false` if a shard did not hear it.
    fn show_certificate(&self, config: &ServerConfig) -> bool;
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
    /// The certificate, to be looked after.
    pub certificate: Option<Certificate>,
    /// The hosts that requests may name.
    pub hosts: Hosts,
    /// How long a drain may take.
    pub drain_timeout: Duration,
}

/// What requests see.
struct State {
    shards: Box<dyn Shards>,
    replies: Mutex<Replies>,
    hosts: Hosts,
    /// The dates of the certificate that is served.
    certificate: watch::Receiver<Option<Validity>>,
    bounds: http::Bounds,
    page: page::Page,
    /// One for each connection that may be served.
    places: Arc<Semaphore>,
    next_id: AtomicU64,
    draining: AtomicBool,
    started: Instant,
}

/// The shards' answers, and what was made of them last.
struct Replies {
    coming: UnboundedReceiver<(ShardId, ControlReply)>,
    last: Option<(Instant, Arc<BTreeMap<u16, Stats>>)>,
}

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All is durable and every client was told.
    Drained,
    /// Some shard did not finish in time.
    TimedOut,
}

/// Serves until SIGTERM or SIGINT (or `stop`), then drains the shards. Blocks its thread. `on_ready` is
/// called as soon as signals are heard.
pub fn run(
    control: Control,
    mut stop: watch::Receiver<bool>,
    on_ready: impl FnOnce(),
) -> io::Result<Ended> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let Control {
        shards,
        replies,
        mut sockets,
        listener,
        certificate,
        hosts,
        drain_timeout,
    } = control;
    let (shown, dates) = watch::channel(None);
    let state = State::new(shards, replies, hosts, dates, http::Bounds::default());
    let state = Arc::new(state);
    runtime.block_on(async {
        let listener = match listener {
            Some(listener) => {
                listener.set_nonblocking(true)?;
                Some(tokio::net::TcpListener::from_std(listener)?)
            }
            None => None,
        };
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let mut renewal = Renewal::new(certificate, shown)?;
        let mut int = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
        on_ready();
        loop {
            tokio::select! {
                Some(socket) = sockets.recv() => http::serve_passed(&state, socket),
                (stream, address) = accept(listener.as_ref()) => http::serve(&state, stream, address),
                () = renewal.due() => renewal.look(&*state.shards),
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
            loop {
                tokio::select! {
                    Some(socket) = sockets.recv() => http::serve_passed(&state, socket),
                    (stream, address) = accept(listener.as_ref()) => http::serve(&state, stream, address),
                }
            }
        };
        tokio::select! {
            result = drained => Ok(if result.is_ok() { Ended::Drained } else { Ended::TimedOut }),
            () = answer => unreachable!("it has no end"),
        }
    })
}

/// The next connection, and the address that it is to.
async fn accept(
    listener: Option<&tokio::net::TcpListener>,
) -> (tokio::net::TcpStream, Option<IpAddr>) {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let address = stream.local_addr().ok().map(|address| address.ip());
                return (stream, address);
            }
            // No descriptors, for example: accepting again at once would burn the core.
            Err(_) => tokio::time::sleep(ACCEPT_REST).await,
        }
    }
}

impl State {
    fn new(
        shards: Box<dyn Shards>,
        replies: UnboundedReceiver<(ShardId, ControlReply)>,
        hosts: Hosts,
        certificate: watch::Receiver<Option<Validity>>,
        bounds: http::Bounds,
    ) -> Self {
        Self {
            shards,
            replies: Mutex::new(Replies {
                coming: replies,
                last: None,
            }),
            hosts,
            certificate,
            bounds,
            page: page::Page::new(),
            places: Arc::new(Semaphore::new(bounds.connections_max)),
            next_id: AtomicU64::new(1),
            draining: AtomicBool::new(false),
            started: Instant::now(),
        }
    }

    /// The figures of every shard that answers in time. However many ask, the shards are asked once
    /// in a while, and who waited for a shard that does not answer shares the waiting.
    async fn stats(&self) -> Arc<BTreeMap<u16, Stats>> {
        let mut replies = self.replies.lock().await;
        if let Some((at, found)) = &replies.last
            && at.elapsed() < STATS_KEPT
        {
            return found.clone();
        }
        let mut found = BTreeMap::new();
        let collect = async {
            let wanted = self.next_id.fetch_add(1, Ordering::Relaxed);
            for shard in 0..self.shards.count() {
                self.shards
                    .ask(ShardId(shard), ControlRequest::Stats { id: wanted });
            }
            while found.len() < usize::from(self.shards.count()) {
                match replies.coming.recv().await {
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
        let found = Arc::new(found);
        replies.last = Some((Instant::now(), found.clone()));
        found
    }

    async fn drain(&self) {
        let mut replies = self.replies.lock().await;
        let mut left: BTreeSet<u16> = (0..self.shards.count()).collect();
        while !left.is_empty() {
            for &shard in &left {
                self.shards.ask(ShardId(shard), ControlRequest::Drain);
            }
            let answers = async {
                while !left.is_empty() {
                    match replies.coming.recv().await {
                        Some((shard, ControlReply::Drained)) => {
                            left.remove(&shard.0);
                        }
                        Some(_) => {}
                        // The shards have ended, and none will answer.
                        None => std::future::pending().await,
                    }
                }
            };
            let _ = tokio::time::timeout(DRAIN_ASKED_AGAIN, answers).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::sync::atomic::AtomicU32;
    use tokio::sync::mpsc::UnboundedSender;

    /// Takes the so-manieth request to drain, and loses those before.
    struct Deaf {
        hears: u32,
        asked: AtomicU32,
        replies: UnboundedSender<(ShardId, ControlReply)>,
    }

    impl Shards for Deaf {
        fn count(&self) -> u16 {
            1
        }

        fn show_certificate(&self, _: &ServerConfig) -> bool {
            unreachable!("there is none")
        }

        fn ask(&self, shard: ShardId, request: ControlRequest) {
            if matches!(request, ControlRequest::Drain)
                && self.asked.fetch_add(1, Ordering::SeqCst) + 1 == self.hears
            {
                self.replies.send((shard, ControlReply::Drained)).unwrap();
            }
        }
    }

    fn drained(hears: u32, listener: Option<TcpListener>, timeout_ms: u64) -> Ended {
        let (sender, replies) = tokio::sync::mpsc::unbounded_channel();
        let (_passed, sockets) = tokio::sync::mpsc::channel(1);
        let shards = Deaf {
            hears,
            asked: AtomicU32::new(0),
            replies: sender,
        };
        let control = Control {
            shards: Box::new(shards),
            replies,
            sockets,
            listener,
            certificate: None,
            hosts: Hosts::Any,
            drain_timeout: Duration::from_millis(timeout_ms),
        };
        run(control, watch::channel(true).1, || {}).unwrap()
    }

    #[test]
    fn a_shard_that_missed_the_drain_is_asked_again() {
        assert_eq!(drained(2, None, 20_000), Ended::Drained);
        assert_eq!(drained(0, None, 100), Ended::TimedOut);
    }

    #[test]
    fn its_own_port_answers_while_the_shards_drain() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = std::thread::spawn(move || {
            let mut socket = std::net::TcpStream::connect(address).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            socket
                .write_all(b"GET /health/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                .unwrap();
            let mut answer = String::new();
            let _ = socket.read_to_string(&mut answer);
            answer
        });
        assert_eq!(drained(3, Some(listener), 20_000), Ended::Drained);
        let answer = client.join().unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.ends_with("draining\n"), "{answer}");
    }
}
