//! Carrying out a turn's effects.
#![allow(unsafe_code)] // Sends point into the turn's frames.

use super::conn::{Leaving, Phase, Recv};
use super::uring::Op;
use super::{Pending, Ring};
use crate::mailbox::Parcel;
use crate::runtime::front::Front;
use crate::runtime::{CLOSE_NS_MAX, Core, complete_reply};
use crate::shard::{ConnId, ControlReply, Effect, Instant, Mail, ShardId};
use io_uring::opcode;
use io_uring::squeue::Flags;
use io_uring::types::Fd;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

impl<C: Core> Ring<C> {
    /// Carries out the effects of the turn, then starts the receives that are due.
    pub(super) fn carry_out(&mut self) -> io::Result<()> {
        let mut list = std::mem::take(&mut self.seat.effects.list);
        self.conns
            .warm(list.iter().filter_map(|effect| match effect {
                Effect::Send { conn, .. } => Some(*conn),
                _ => None,
            }));
        for effect in list.drain(..) {
            match effect {
                Effect::Send { conn, range } => self.send(conn, range)?,
                Effect::Established { conn } => {
                    if let Some(state) = self.conns.live(conn) {
                        state.established = true;
                        self.queue_arm(conn);
                    }
                }
                Effect::Close { conn, flush } => self.close(conn, flush)?,
                Effect::Read { conn, on } => self.read(conn, on)?,
                Effect::Handoff { conn, to, handoff } => {
                    assert_ne!(to, self.ports.shard, "a shard hands nothing to itself");
                    self.leave(conn, Leaving::Shard(to, handoff))?;
                }
                Effect::Authenticate { conn, mut request } => {
                    let state = self.conns.live(conn);
                    request.certificate = state.and_then(|state| state.front.certificate());
                    self.ports.identity.ask(conn, *request);
                }
                Effect::PassToControl { conn, bytes } => {
                    self.leave(conn, Leaving::Control(bytes))?
                }
                Effect::Mail { to, mail } => self.mail(to, mail)?,
                Effect::WriteLog { job, lazy } => self.write_log(job, lazy)?,
                Effect::RunJob(job) => self.ports.jobs.send(job),
                Effect::SetTimer(at) => self.timer = Some(at),
                Effect::Reply(reply) => self.reply(reply),
                Effect::StopAccepting => self.acceptor.stop(&mut self.uring)?,
                Effect::Fatal(why) => {
                    self.fatal.get_or_insert(why);
                }
            }
        }
        self.seat.effects.list = list;
        self.arm()
    }

    fn send(&mut self, id: ConnId, range: Range<usize>) -> io::Result<()> {
        let Some(conn) = self.conns.live(id) else {
            return Ok(());
        };
        let bytes = &self.seat.effects.frames[range.clone()];
        if conn.failed || bytes.is_empty() {
            return Ok(());
        }
        let (bytes, chunk, start) = match &mut conn.front {
            Front::Clear => (bytes, None, range.start),
            Front::Tls(session) => match session.seal(bytes, &mut self.sealed) {
                Some(piece) => (self.sealed.bytes(piece), Some(piece.chunk), piece.start),
                None if session.is_ready() => return self.fail(id),
                // There is no way to tell a client anything yet.
                None => return Ok(()),
            },
            Front::Opening(opening) if opening.is_clear() => (bytes, None, range.start),
            Front::Opening(_) => return Ok(()),
        };
        if conn.is_blocked() {
            assert!(conn.farewell.is_empty(), "a blocked connection is closed");
            conn.farewell = bytes.to_vec();
            return Ok(());
        }
        assert_ne!(
            conn.sent_in_turn, self.turn,
            "one send for each connection and turn"
        );
        let len = u32::try_from(bytes.len()).expect("a turn's frames are less than 4 GiB");
        conn.sent_in_turn = self.turn;
        conn.sent_chunk = chunk;
        conn.sent_start = start;
        conn.sent_len = bytes.len();
        self.stats.bytes_sent += u64::from(len);
        let send = opcode::Send::new(Fd(conn.socket.as_raw_fd()), bytes.as_ptr(), len)
            .flags(libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build()
            .user_data(Op::SendNow.on(id))
            .flags(Flags::SKIP_SUCCESS);
        // SAFETY: the frames and the chunks stay as they are until the next `enter` has returned, by
        // which this send, which does not wait, has ended; so does the socket (`Conn::is_quiet`).
        unsafe { self.uring.push(&[send]) }
    }

    fn close(&mut self, id: ConnId, flush: bool) -> io::Result<()> {
        let Some(conn) = self.conns.live(id) else {
            return Ok(());
        };
        conn.held = Vec::new();
        if flush && !conn.failed {
            conn.phase = Phase::Flushing;
            self.closing
                .add(Instant(self.seat.now.0 + CLOSE_NS_MAX), id);
        } else {
            conn.phase = Phase::Dead;
        }
        self.go_on(id)
    }

    fn read(&mut self, id: ConnId, on: bool) -> io::Result<()> {
        let Some(conn) = self.conns.live(id) else {
            return Ok(());
        };
        conn.read_on = on;
        if on {
            if !conn.held.is_empty() {
                self.pending.push_back(Pending::Held(id));
            }
            self.queue_arm(id);
        } else if conn.recv == Recv::Armed {
            conn.recv = Recv::Ending;
            self.cancel(Op::Recv.on(id))?;
        }
        Ok(())
    }

    fn leave(&mut self, id: ConnId, leaving: Leaving) -> io::Result<()> {
        let Some(conn) = self.conns.live(id) else {
            return Ok(());
        };
        match leaving {
            Leaving::Control(bytes) if !conn.front.is_clear() => self.splice(id, bytes),
            leaving => {
                conn.phase = Phase::Leaving(leaving);
                self.go_on(id)
            }
        }
    }

    fn mail(&mut self, to: ShardId, mail: Mail) -> io::Result<()> {
        let parcel = Parcel {
            mail,
            socket: None,
            tls: None,
        };
        match self.ports.outbox.send(to, parcel) {
            Ok(false) => Ok(()),
            Ok(true) => self.wake(to),
            Err(parcel) => {
                self.stats.mailbox_full += 1;
                self.pending
                    .push_back(Pending::MailRefused(to, parcel.mail));
                Ok(())
            }
        }
    }

    /// Wakes another core.
    pub(super) fn wake(&mut self, to: ShardId) -> io::Result<()> {
        let wake = self.ports.outbox.wake_of(to).clone();
        let Some(ring) = wake.ring() else {
            wake.poke();
            return Ok(());
        };
        let message = opcode::MsgRingData::new(Fd(ring.as_raw_fd()), 0, Op::Messaged.at(0), None)
            .build()
            .user_data(Op::MessageFailed.at(u32::from(to.0)))
            .flags(Flags::SKIP_SUCCESS);
        // SAFETY: no memory is involved; the outbox holds the ring's descriptor open.
        unsafe { self.uring.push(&[message]) }
    }

    /// Has the next poke from another thread end a wait.
    pub(super) fn listen_to_pokes(&mut self) -> io::Result<()> {
        let event = Fd(self.ports.wake.event().as_raw_fd());
        let read =
            opcode::Read::new(event, self.poked.as_mut_ptr(), self.poked.len() as u32).build();
        // SAFETY: `poked` is on the heap, used for nothing else, and freed after the ring is quiet;
        // the wake, and with it the descriptor, lives as long as the ports.
        unsafe { self.uring.push(&[read.user_data(Op::Poked.at(0))]) }
    }

    pub(super) fn reply(&mut self, mut reply: ControlReply) {
        if matches!(reply, ControlReply::Drained) && self.hedge.is_late() {
            // It says that the log has ended, which a write under way denies.
            self.drained = Some(reply);
            return;
        }
        complete_reply(&mut reply, &mut self.stats, self.seat.now, self.started);
        // Without a control plane nobody wants the answer.
        let _ = self.ports.replies.send((self.ports.shard, reply));
    }
}
