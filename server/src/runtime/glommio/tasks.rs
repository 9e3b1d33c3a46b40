//! The small tasks around the turn, and how they reach it.
#![allow(unsafe_code)] // glommio's listener takes a raw descriptor and gives some.

use super::conn::Stream;
use crate::runtime::{ACCEPT_REST_NS, progress_bytes};
use crate::shard::{ConnId, Instant};
use ::glommio::net::{TcpListener, TcpStream};
use ::glommio::timer::Timer;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// Bytes of one read, at most.
const READ_BYTES: usize = 16384;

/// What a task tells the turn.
pub(super) enum Got {
    Accepted(TcpStream),
    AcceptFailed,
    Bytes(ConnId, Vec<u8>),
    /// The peer closed, or the socket failed.
    End(ConnId),
    /// The writer has this many bytes left.
    Progress(ConnId, usize),
    /// The writer is done; how many bytes it wrote.
    Drained(ConnId, usize),
    SendFailed(ConnId),
    /// The timer that was armed for this time.
    Timer(Instant),
}

/// A flag that one task waits for.
#[derive(Default)]
pub(super) struct Signal {
    set: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Signal {
    pub fn set(&self) {
        self.set.set(true);
        let waiter = self.waiter.borrow_mut().take();
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    /// Waits until it is set, and clears it.
    pub async fn wait(&self) {
        poll_fn(|context| {
            if self.set.take() {
                return Poll::Ready(());
            }
            *self.waiter.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// The way from the tasks to the turn. Bounded by its senders: each connection has at most one piece
/// of bytes under way, acceptors yield.
pub(super) struct Queue {
    got: RefCell<VecDeque<Got>>,
    pub filled: Signal,
    /// Where all readers read to before they copy what they got.
    scratch: RefCell<Vec<u8>>,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            got: RefCell::default(),
            filled: Signal::default(),
            scratch: RefCell::new(vec![0; READ_BYTES]),
        }
    }
}

impl Queue {
    pub fn push(&self, got: Got) {
        self.got.borrow_mut().push_back(got);
        self.filled.set();
    }

    pub fn pop(&self) -> Option<Got> {
        self.got.borrow_mut().pop_front()
    }

    pub fn is_empty(&self) -> bool {
        self.got.borrow().is_empty()
    }
}

/// Reads from a connection, one piece at a time: after each it waits until it may go on.
pub(super) async fn read(conn: ConnId, stream: Rc<Stream>, queue: Rc<Queue>) {
    loop {
        match stream.read(&queue.scratch, <[u8]>::to_vec).await {
            Ok(bytes) if !bytes.is_empty() => queue.push(Got::Bytes(conn, bytes)),
            _ => return queue.push(Got::End(conn)),
        }
        stream.go.wait().await;
    }
}

/// Writes what a socket did not take at once.
pub(super) async fn write(conn: ConnId, stream: Rc<Stream>, bytes: Vec<u8>, queue: Rc<Queue>) {
    let (mut sent, mut told) = (0, 0);
    while sent < bytes.len() {
        match stream.write(&bytes[sent..]).await {
            Ok(taken) if taken > 0 => sent += taken,
            _ => return queue.push(Got::SendFailed(conn)),
        }
        if sent - told >= progress_bytes(bytes.len()) && sent < bytes.len() {
            told = sent;
            queue.push(Got::Progress(conn, bytes.len() - sent));
        }
    }
    queue.push(Got::Drained(conn, sent));
}

/// Accepts on a listener for as long as the task lives.
pub(super) async fn accept(listener: std::net::TcpListener, queue: Rc<Queue>) {
    // SAFETY: the descriptor is a listening socket, owned here and handed over.
    let listener = unsafe { TcpListener::from_raw_fd(listener.into_raw_fd()) };
    loop {
        match listener.accept().await {
            Ok(stream) => {
                // SAFETY: the stream is open until it is pushed below.
                let fd = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
                // glommio accepts without it. It cannot fail on an open descriptor.
                let _ = rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC);
                queue.push(Got::Accepted(stream));
            }
            Err(_) => {
                queue.push(Got::AcceptFailed);
                Timer::new(Duration::from_nanos(ACCEPT_REST_NS)).await;
            }
        }
        ::glommio::yield_if_needed().await;
    }
}

/// Wakes the turn after a while.
pub(super) async fn wait(at: Instant, time: Duration, queue: Rc<Queue>) {
    Timer::new(time).await;
    queue.push(Got::Timer(at));
}
