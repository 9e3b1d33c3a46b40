//! Accepting: one multishot accept for each listener.
#![allow(unsafe_code)] // Entries are pushed to the ring.

use super::Ring;
use super::conn::Conn;
use super::uring::{Done, Op, Uring};
use crate::runtime::{ACCEPT_REST_NS, Core, leaves_files, peer_of};
use crate::shard::{Event, Instant};
use io_uring::opcode::{AcceptMulti, AsyncCancel};
use io_uring::squeue::Flags;
use io_uring::types::Fd;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

struct Listener {
    /// `None` once it is closed.
    socket: Option<TcpListener>,
    armed: bool,
}

/// The listeners of a core.
pub(super) struct Acceptor {
    listeners: Vec<Listener>,
    rests_until: Option<Instant>,
    stopping: bool,
}

impl Acceptor {
    pub fn new(listeners: Vec<TcpListener>) -> Self {
        let listeners = listeners.into_iter().map(|socket| Listener {
            socket: Some(socket),
            armed: false,
        });
        Self {
            listeners: listeners.collect(),
            rests_until: None,
            stopping: false,
        }
    }

    /// Starts accepting where it is not under way.
    pub fn start(&mut self, uring: &mut Uring) -> io::Result<()> {
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            let Some(socket) = listener.socket.as_ref().filter(|_| !listener.armed) else {
                continue;
            };
            let accept = AcceptMulti::new(Fd(socket.as_raw_fd()))
                .flags(libc::SOCK_CLOEXEC)
                .build();
            // SAFETY: no memory is involved; the socket is closed only after the last completion.
            unsafe { uring.push(&[accept.user_data(Op::Accept.at(index as u32))])? };
            listener.armed = true;
        }
        Ok(())
    }

    /// Ends accepting and closes the listeners.
    pub fn stop(&mut self, uring: &mut Uring) -> io::Result<()> {
        self.stopping = true;
        self.rests_until = None;
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            if listener.armed {
                let cancel = AsyncCancel::new(Op::Accept.at(index as u32)).build();
                // SAFETY: no memory is involved.
                unsafe {
                    uring.push(&[cancel
                        .user_data(Op::Cancel.at(0))
                        .flags(Flags::SKIP_SUCCESS)])?
                };
            } else {
                listener.socket = None;
            }
        }
        Ok(())
    }

    pub fn rests_until(&self) -> Option<Instant> {
        self.rests_until
    }

    /// Starts again when the rest is over.
    pub fn go_on(&mut self, uring: &mut Uring, now: Instant) -> io::Result<()> {
        if self.rests_until.is_some_and(|until| until <= now) {
            self.rests_until = None;
            self.start(uring)?;
        }
        Ok(())
    }

    fn on_end(
        &mut self,
        index: u32,
        error: Option<i32>,
        uring: &mut Uring,
        now: Instant,
    ) -> io::Result<()> {
        let listener = &mut self.listeners[index as usize];
        listener.armed = false;
        if self.stopping {
            listener.socket = None;
            return Ok(());
        }
        match error {
            // The peer gave up in the queue, or the completion queue was full: go on at once.
            None | Some(libc::ECONNABORTED | libc::EAGAIN | libc::EINTR) => self.start(uring),
            // No descriptors or no memory: accepting again at once would burn the core.
            Some(_) => {
                self.rests_until
                    .get_or_insert(Instant(now.0 + ACCEPT_REST_NS));
                Ok(())
            }
        }
    }
}

impl<C: Core> Ring<C> {
    pub(super) fn on_accepted(&mut self, done: Done) -> io::Result<()> {
        if !done.more() {
            let error = (done.result < 0).then_some(-done.result);
            self.acceptor
                .on_end(done.conn.slot, error, &mut self.uring, self.seat.now)?;
        }
        if done.result < 0 {
            if done.result != -libc::ECANCELED {
                self.stats.accept_errors += 1;
            }
            return Ok(());
        }
        // SAFETY: the kernel made this descriptor for us and nobody else knows it.
        let socket = unsafe { OwnedFd::from_raw_fd(done.result) };
        if !leaves_files(&socket, self.ports.sockets_below) {
            self.stats.accept_errors += 1;
            return Ok(());
        }
        // Without a peer the connection was reset already; without a number left 16 million are open.
        let Some(peer) = peer_of(&socket) else {
            return Ok(());
        };
        let Some(front) = self.ports.front.front_of(peer) else {
            self.stats.fronts_refused += 1;
            return Ok(());
        };
        if let Some(conn) = self.conns.insert(|_| Conn::through(front, socket)) {
            self.seat.feed(Event::Accepted { conn, peer });
            self.queue_arm(conn);
        }
        Ok(())
    }
}
