//! What happens on a connection's socket: receiving, sending what was left, closing, leaving.
#![allow(unsafe_code)] // The kernel reads the bytes that are sent, and writes those received.

use super::buffers::{BUFFER_BYTES, GROUP};
use super::conn::{Conn, Leaving, Phase, Recv};
use super::uring::{Done, Op};
use super::{Pending, Ring};
use crate::mailbox::Parcel;
use crate::runtime::front::Front;
use crate::runtime::tls::Piece;
use crate::runtime::{Core, pass, progress_bytes};
use crate::shard::{ConnId, Event, Mail};
use io_uring::opcode;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::Fd;
use std::io;
use std::os::fd::AsRawFd;

impl<C: Core> Ring<C> {
    /// Has a connection's receive started when the effects have been carried out, if it is still
    /// wanted then.
    pub(super) fn queue_arm(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get(id)
            && !conn.arm_queued
        {
            conn.arm_queued = true;
            self.arm.push(id);
        }
    }

    /// Starts receives that are wanted.
    pub(super) fn arm(&mut self) -> io::Result<()> {
        for id in std::mem::take(&mut self.arm) {
            let to = match self.conns.get(id).map(|conn| &conn.phase) {
                Some(Phase::Spliced(to)) => Some(*to),
                _ => None,
            };
            let held_up = to.is_some_and(|to| self.is_held_up(to));
            let Some(conn) = self.conns.get(id) else {
                continue;
            };
            conn.arm_queued = false;
            let wanted = match conn.phase {
                Phase::Live => conn.read_on && conn.held.is_empty(),
                // The peer's end is waited for.
                Phase::Lingering => true,
                Phase::Spliced(_) => !held_up,
                Phase::Flushing | Phase::Leaving(_) | Phase::Dead => false,
            };
            if !wanted || conn.ended || conn.recv != Recv::Idle {
                continue;
            }
            let fd = Fd(conn.socket.as_raw_fd());
            let entry = if conn.established {
                opcode::RecvMulti::new(fd, GROUP).build()
            } else {
                opcode::Recv::new(fd, std::ptr::null_mut(), BUFFER_BYTES as u32)
                    .buf_group(GROUP)
                    .build()
                    .flags(Flags::BUFFER_SELECT)
            };
            conn.recv = Recv::Armed;
            // SAFETY: received bytes go to the provided buffers, which outlive the ring's operations;
            // the socket is closed only when nothing is under way on it.
            unsafe { self.uring.push(&[entry.user_data(Op::Recv.on(id))])? };
        }
        Ok(())
    }

    pub(super) fn on_received(&mut self, done: Done) -> io::Result<()> {
        let id = done.conn;
        let waits = done.result > 0 && self.handshake_waits(id);
        let conn = self
            .conns
            .get(id)
            .expect("a connection stays while a receive is under way");
        if !done.more() {
            conn.recv = Recv::Idle;
        }
        let buffer = done.buffer();
        let len = usize::try_from(done.result).unwrap_or(0);
        let bytes = match buffer {
            Some(buffer) => self.buffers.filled(buffer, len),
            None => &mut [],
        };
        let (mut lost, mut taken) = (false, None);
        match &mut conn.phase {
            _ if done.result == 0 => {
                conn.ended = true;
                // While reading is off, what is held comes first.
                lost = conn.held.is_empty();
            }
            _ if done.result < 0 => match -done.result {
                // Buffers ran out, or the receive was cancelled: started again if wanted.
                libc::ENOBUFS | libc::ECANCELED | libc::EINTR | libc::EAGAIN => {}
                _ => {
                    conn.ended = true;
                    lost = true;
                }
            },
            Phase::Live if conn.read_on && conn.held.is_empty() && !waits => {
                self.stats.bytes_received += len as u64;
                if conn.front.is_clear() {
                    self.seat.feed(Event::Received { conn: id, bytes });
                } else {
                    let rules = &self.ports.front;
                    taken = Some(conn.front.receive(bytes, rules, &mut self.through));
                }
            }
            Phase::Live => {
                self.stats.bytes_received += len as u64;
                conn.held.extend_from_slice(bytes);
            }
            Phase::Leaving(Leaving::Shard(_, handoff)) => match &mut conn.front {
                Front::Tls(session) => session.keep(bytes),
                Front::Clear | Front::Opening(_) => handoff.bytes.extend_from_slice(bytes),
            },
            Phase::Leaving(Leaving::Control(read)) => read.extend_from_slice(bytes),
            Phase::Spliced(_) => {
                let rules = &self.ports.front;
                taken = Some(conn.front.receive(bytes, rules, &mut self.through));
            }
            Phase::Flushing | Phase::Lingering | Phase::Dead => {}
        }
        if let Some(buffer) = buffer {
            self.buffers.put_back(buffer);
        }
        if let Some(taken) = taken {
            self.took(id, taken)?;
        }
        if lost {
            let phase = self.conns.get(id).map(|conn| &conn.phase);
            match phase {
                Some(Phase::Live) => return self.lose(id),
                Some(Phase::Spliced(_)) => return self.end_of_peer(id),
                _ => {}
            }
        }
        if !done.more() {
            self.queue_arm(id);
        }
        self.go_on(id)
    }

    /// Feeds what was received while reading was off.
    pub(super) fn feed_held(&mut self, id: ConnId) -> io::Result<()> {
        let Some(conn) = self.conns.live(id).filter(|conn| conn.read_on) else {
            return Ok(());
        };
        let mut held = std::mem::take(&mut conn.held);
        let (ended, clear) = (conn.ended, conn.front.is_clear());
        if clear {
            for bytes in held.chunks_mut(BUFFER_BYTES) {
                self.seat.feed(Event::Received { conn: id, bytes });
            }
        } else if self.handshake_waits(id) {
            self.conns.get(id).expect("still there").held = held;
            return Ok(());
        } else if let Some(conn) = self.conns.live(id) {
            let rules = &self.ports.front;
            let taken = conn.front.receive(&mut held, rules, &mut self.through);
            self.took(id, taken)?;
        }
        if ended {
            return self.lose(id);
        }
        self.queue_arm(id);
        Ok(())
    }

    /// A send that did not wait failed or was short.
    pub(super) fn on_sent_short(&mut self, done: Done) -> io::Result<()> {
        let id = done.conn;
        let conn = self
            .conns
            .get(id)
            .expect("a connection stays while a send is under way");
        assert_eq!(
            conn.sent_in_turn, self.turn,
            "a send that does not wait has ended with its submission"
        );
        let taken = match done.result {
            taken if taken >= 0 => taken as usize,
            error if error == -libc::EAGAIN => 0,
            _ => {
                self.stats.bytes_sent -= conn.sent_len as u64;
                return self.fail(id);
            }
        };
        let (start, len) = (conn.sent_start, conn.sent_len);
        let sent = match conn.sent_chunk {
            None => &self.seat.effects.frames[start..][..len],
            Some(chunk) => self.sealed.bytes(Piece { chunk, start, len }),
        };
        let unsent = &sent[taken..];
        if unsent.is_empty() {
            return Ok(());
        }
        self.stats.bytes_sent -= unsent.len() as u64;
        conn.rest = unsent.to_vec();
        conn.rest_sent = 0;
        conn.rest_part = progress_bytes(unsent.len());
        let (unsent_bytes, live) = (unsent.len(), conn.is_live());
        self.send_rest(id)?;
        if live {
            self.seat.feed(Event::Blocked {
                conn: id,
                unsent_bytes,
            });
        }
        Ok(())
    }

    pub(super) fn send_rest(&mut self, id: ConnId) -> io::Result<()> {
        let conn = self.conns.get(id).expect("it has something left to send");
        // In parts, each of which tells the core that the socket takes bytes.
        let bytes = &conn.rest[conn.rest_sent..];
        let bytes = &bytes[..bytes.len().min(conn.rest_part)];
        let send = opcode::Send::new(
            Fd(conn.socket.as_raw_fd()),
            bytes.as_ptr(),
            bytes.len() as u32,
        )
        .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
        .build();
        conn.rest_sending = true;
        // SAFETY: `rest` is left alone while `rest_sending` is set, and the connection stays (also
        // when the table around it moves: the bytes are on the heap).
        unsafe { self.uring.push(&[send.user_data(Op::SendRest.on(id))]) }
    }

    pub(super) fn on_rest_sent(&mut self, done: Done) -> io::Result<()> {
        let id = done.conn;
        let conn = self
            .conns
            .get(id)
            .expect("a connection stays while a send is under way");
        conn.rest_sending = false;
        match done.result {
            taken if taken >= 0 => {
                conn.rest_sent += taken as usize;
                self.stats.bytes_sent += taken as u64;
            }
            error if error == -libc::EINTR || error == -libc::EAGAIN => {}
            error if error == -libc::ECANCELED => return self.go_on(id),
            _ => return self.fail(id),
        }
        if conn.rest_sent == conn.rest.len() {
            conn.rest = std::mem::take(&mut conn.farewell);
            conn.rest_sent = 0;
        } else if conn.rest_sent > conn.rest.len() / 2 {
            conn.rest.drain(..conn.rest_sent);
            conn.rest.shrink_to_fit();
            conn.rest_sent = 0;
        }
        let unsent_bytes = conn.rest.len() - conn.rest_sent;
        if unsent_bytes > 0 {
            if matches!(conn.phase, Phase::Dead) {
                return self.go_on(id);
            }
            let live = conn.is_live();
            self.send_rest(id)?;
            if live {
                self.seat.feed(Event::Blocked {
                    conn: id,
                    unsent_bytes,
                });
            }
            return Ok(());
        }
        conn.rest = Vec::new();
        match conn.phase {
            Phase::Live => {
                self.send_owed(id)?;
                self.seat.feed(Event::Drained { conn: id });
                Ok(())
            }
            Phase::Spliced(from) => {
                self.send_owed(id)?;
                self.queue_arm(from);
                Ok(())
            }
            _ => self.go_on(id),
        }
    }

    /// A send failed. What the peer sent before may still be in this reap: the loss is reported after
    /// it.
    pub(super) fn fail(&mut self, id: ConnId) -> io::Result<()> {
        let conn = self.conns.get(id).expect("a send was under way");
        if !conn.failed {
            conn.failed = true;
            self.failed.push(id);
        }
        Ok(())
    }

    /// The peer closed or the socket failed: tells the shard, if it knows the connection, and lets
    /// go of it.
    pub(super) fn lose(&mut self, id: ConnId) -> io::Result<()> {
        let Some(conn) = self.conns.get(id) else {
            return Ok(());
        };
        let was = std::mem::replace(&mut conn.phase, Phase::Dead);
        match was {
            Phase::Live => self.seat.feed(Event::Closed { conn: id }),
            Phase::Spliced(to) => self.lose_other(to)?,
            _ => {}
        }
        self.go_on(id)
    }

    /// A closing connection has had its time.
    pub(super) fn give_up(&mut self, id: ConnId) -> io::Result<()> {
        match self.conns.get(id) {
            Some(conn) => {
                assert!(
                    !conn.is_live(),
                    "only connections on their way out have a deadline"
                );
                conn.phase = Phase::Dead;
                self.go_on(id)
            }
            None => Ok(()),
        }
    }

    /// Takes a connection that is on its way out as far as it can go now.
    pub(super) fn go_on(&mut self, id: ConnId) -> io::Result<()> {
        let turn = self.turn;
        let Some(conn) = self.conns.get(id) else {
            return Ok(());
        };
        if conn.is_live() {
            return Ok(());
        }
        if conn.sent_in_turn == turn {
            self.after_sends.push(id);
            return Ok(());
        }
        if matches!(conn.phase, Phase::Flushing) && !conn.is_blocked() {
            conn.phase = Phase::Lingering;
            self.shut(id);
        }
        let Some(conn) = self.conns.get(id) else {
            return Ok(());
        };
        if matches!(conn.phase, Phase::Lingering) {
            if !conn.ended {
                self.queue_arm(id);
                return Ok(());
            }
            conn.phase = Phase::Dead;
        }
        let goes = match conn.phase {
            Phase::Dead => conn.is_quiet(turn),
            Phase::Leaving(_) => conn.is_quiet(turn) && !conn.is_blocked(),
            _ => return Ok(()),
        };
        if goes {
            return self.let_go(id);
        }
        let (end_recv, end_send) = (
            conn.recv == Recv::Armed,
            conn.rest_sending && matches!(conn.phase, Phase::Dead),
        );
        if end_recv {
            conn.recv = Recv::Ending;
            self.cancel(Op::Recv.on(id))?;
        }
        if end_send {
            self.cancel(Op::SendRest.on(id))?;
        }
        Ok(())
    }

    pub(super) fn cancel(&mut self, user_data: u64) -> io::Result<()> {
        let cancel: Entry = opcode::AsyncCancel::new(user_data).build();
        // SAFETY: no memory is involved.
        unsafe {
            self.uring.push(&[cancel
                .user_data(Op::Cancel.at(0))
                .flags(Flags::SKIP_SUCCESS)])
        }
    }

    /// Nothing is under way on it: closes it, or gives it away.
    fn let_go(&mut self, id: ConnId) -> io::Result<()> {
        let conn = self.conns.remove(id);
        let Phase::Leaving(leaving) = conn.phase else {
            return Ok(());
        };
        match leaving {
            Leaving::Control(bytes) => pass(&self.ports.passed, conn.socket, bytes, false),
            Leaving::Shard(to, handoff) => {
                let parcel = Parcel {
                    mail: Mail::Handoff(handoff),
                    socket: Some(conn.socket),
                    tls: conn.front.into_tls(),
                };
                match self.ports.outbox.send(to, parcel) {
                    Ok(false) => {}
                    Ok(true) => self.wake(to)?,
                    Err(parcel) => {
                        self.stats.mailbox_full += 1;
                        let front = Front::of_tls(parcel.tls);
                        let socket = parcel.socket.expect("it comes back as it went");
                        self.conns.put_back(id, Conn::through(front, socket));
                        self.pending.push_back(Pending::Refused(id));
                        self.queue_arm(id);
                    }
                }
            }
        }
        Ok(())
    }
}
