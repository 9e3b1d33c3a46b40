//! One connection's state, and its stream.
#![allow(unsafe_code)] // glommio's sockets give and take raw descriptors only.

use super::tasks::Signal;
use crate::runtime::front::Front;
use crate::shard::{ConnId, Handoff, ShardId};
use ::glommio::Task;
use ::glommio::net::TcpStream;
use futures_io::{AsyncRead, AsyncWrite};
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::task::Poll;

/// A socket, shared by the turn, its reader and its writer. No borrow lasts longer than one call.
pub(super) struct Stream {
    /// `None` once it is closed.
    tcp: RefCell<Option<TcpStream>>,
    /// The reader may read again.
    pub go: Signal,
}

impl Stream {
    /// A socket that comes from elsewhere.
    pub fn adopt(socket: OwnedFd) -> Self {
        // SAFETY: the descriptor is a connected socket, owned here and handed over.
        Self::new(unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) })
    }

    pub fn new(tcp: TcpStream) -> Self {
        Self {
            tcp: RefCell::new(Some(tcp)),
            go: Signal::default(),
        }
    }

    /// Reads what there is into `scratch` and passes it to `take`; what it returns is returned.
    pub async fn read<T>(
        &self,
        scratch: &RefCell<Vec<u8>>,
        mut take: impl FnMut(&[u8]) -> T,
    ) -> io::Result<T> {
        poll_fn(|context| {
            let mut tcp = self.tcp.borrow_mut();
            let Some(tcp) = tcp.as_mut() else {
                return Poll::Ready(Err(closed()));
            };
            let mut scratch = scratch.borrow_mut();
            Pin::new(tcp)
                .poll_read(context, &mut scratch)
                .map_ok(|len| take(&scratch[..len]))
        })
        .await
    }

    /// Writes some of it, waiting for room.
    pub async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        poll_fn(|context| {
            let mut tcp = self.tcp.borrow_mut();
            let Some(tcp) = tcp.as_mut() else {
                return Poll::Ready(Err(closed()));
            };
            Pin::new(tcp).poll_write(context, bytes)
        })
        .await
    }

    /// Does something with the descriptor, if it is still open.
    pub fn with<T>(&self, action: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        let tcp = self.tcp.borrow();
        // SAFETY: the descriptor is open as long as the stream, which the borrow keeps.
        tcp.as_ref()
            .map(|tcp| action(unsafe { BorrowedFd::borrow_raw(tcp.as_raw_fd()) }))
    }

    pub fn close(&self) {
        drop(self.tcp.borrow_mut().take());
    }
}

fn closed() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

/// Where a connection goes.
pub(super) enum Leaving {
    /// To another shard.
    Shard(ShardId, Box<Handoff>),
    /// To the control plane.
    Control(Vec<u8>),
}

/// How far a connection is.
pub(super) enum Phase {
    /// The shard knows it.
    Live,
    /// On its way out; goes when nothing is unsent.
    Leaving(Leaving),
    /// The shard has let go of it: what is unsent goes out, then our side is shut.
    Flushing,
    /// Our side is shut; what the peer sends is thrown away until it closes too.
    Lingering,
    /// The control plane answers it under TLS: what comes from it goes to this connection, which is
    /// spliced to it in turn. One of the two is the client's, the other an end of a pair.
    Spliced(ConnId),
}

/// One connection. Dropping it closes the socket and ends its tasks.
pub(super) struct Conn {
    pub stream: std::rc::Rc<Stream>,
    pub phase: Phase,
    /// What its bytes go through.
    pub front: Front,
    pub read_on: bool,
    /// The reader has delivered and waits for [`Stream::go`].
    pub reader_waits: bool,
    /// The peer has closed its side.
    pub ended: bool,
    /// What was read while reading was off, or while its handshake has to wait: one piece, as the
    /// reader waits, and as it came.
    pub held: Vec<u8>,
    /// A writer task has bytes for it.
    pub blocked: bool,
    /// What goes after them, before the connection is closed.
    pub farewell: Vec<u8>,
    /// Held, as dropping it ends it.
    pub _reader: Task<()>,
    pub writer: Option<Task<()>>,
}

impl Conn {
    pub fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Live)
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.stream.close();
    }
}
