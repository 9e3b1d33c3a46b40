//! Connections whose bytes are not their shard's as they are: the header before them, TLS, and
//! those that the control plane answers under TLS.

use super::conn::{Conn, Phase};
use super::{Pending, Ring};
use crate::runtime::front::{End, Front, Taken};
use crate::runtime::{CLOSE_NS_MAX, Core, UNAVAILABLE, pair, pass, progress_bytes};
use crate::shard::{ConnId, Event, Instant};
use rustix::net::{SendFlags, Shutdown};
use std::io;
use std::os::fd::AsFd;

const AT_ONCE: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

impl<C: Core> Ring<C> {
    /// Whether a connection's handshake has to wait for the next turn. If not, it is counted.
    pub(super) fn handshake_waits(&mut self, id: ConnId) -> bool {
        if !self
            .conns
            .get(id)
            .is_some_and(|conn| conn.front.is_handshaking())
        {
            return false;
        }
        if self.handshakes_left == 0 {
            self.pending.push_back(Pending::Held(id));
            return true;
        }
        self.handshakes_left -= 1;
        false
    }

    /// Bytes went through a connection's front: what came of them is in `self.through`.
    pub(super) fn took(&mut self, id: ConnId, taken: Taken) -> io::Result<()> {
        if let Some(resumed) = taken.handshake {
            self.stats.tls_handshakes += 1;
            self.stats.tls_resumed += u64::from(resumed);
        }
        self.send_through(id)?;
        let mut plain = std::mem::take(&mut self.through.plain);
        let phase = self.conns.get(id).map(|conn| &conn.phase);
        match phase {
            Some(Phase::Spliced(to)) => {
                let to = *to;
                self.pass_on(to, &plain)?;
            }
            Some(Phase::Live) => {
                if let Some(peer) = taken.peer {
                    self.seat.feed(Event::Proxied { conn: id, peer });
                }
                if !plain.is_empty() {
                    let bytes = &mut plain;
                    self.seat.feed(Event::Received { conn: id, bytes });
                }
            }
            _ => {}
        }
        plain.clear();
        self.through.plain = plain;
        match taken.end {
            End::No => Ok(()),
            End::Peer => self.end_of_peer(id),
            End::Refused => self.refuse(id),
        }
    }

    /// Sends what a handshake wants to say. It fits a socket that has nothing to send yet.
    fn send_through(&mut self, id: ConnId) -> io::Result<()> {
        if self.through.out.is_empty() {
            return Ok(());
        }
        let mut out = std::mem::take(&mut self.through.out);
        let mut fails = false;
        if let Some(conn) = self.conns.get(id) {
            if conn.is_blocked() {
                conn.front.owe(&out);
            } else {
                let sent = rustix::net::send(&conn.socket, &out, AT_ONCE);
                fails = sent != Ok(out.len());
                self.stats.bytes_sent += sent.unwrap_or(0) as u64;
            }
        }
        out.clear();
        self.through.out = out;
        if fails { self.fail(id) } else { Ok(()) }
    }

    /// The peer has ended its side, by TLS or by its socket.
    pub(super) fn end_of_peer(&mut self, id: ConnId) -> io::Result<()> {
        let Some(conn) = self.conns.get(id) else {
            return Ok(());
        };
        conn.ended = true;
        let Phase::Spliced(to) = conn.phase else {
            return if conn.is_live() {
                self.lose(id)
            } else {
                self.go_on(id)
            };
        };
        if conn.front.is_clear() {
            // The control plane has said all.
            conn.phase = Phase::Dead;
            self.go_on(id)?;
            return self.flush(to);
        }
        if let Some(other) = self.conns.get(to) {
            // A pair that cannot be shut is closed already.
            let _ = rustix::net::shutdown(&other.socket, Shutdown::Write);
        }
        Ok(())
    }

    /// A connection does not come through its front.
    fn refuse(&mut self, id: ConnId) -> io::Result<()> {
        self.stats.fronts_refused += 1;
        if self.conns.live(id).is_none() {
            return self.lose(id);
        }
        self.seat.feed(Event::Closed { conn: id });
        self.flush(id)
    }

    /// The shard knows nothing of it (any more): what is unsent goes out, then it is closed.
    fn flush(&mut self, id: ConnId) -> io::Result<()> {
        let Some(conn) = self.conns.get(id) else {
            return Ok(());
        };
        conn.phase = Phase::Flushing;
        conn.held = Vec::new();
        let until = Instant(self.seat.now.0 + CLOSE_NS_MAX);
        self.closing.add(until, id);
        self.go_on(id)
    }

    /// Tells a TLS client that this was all, before the socket is shut.
    pub(super) fn say_end(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id).filter(|conn| !conn.failed) else {
            return;
        };
        if let Front::Tls(session) = &mut conn.front
            && let Some(piece) = session.seal_end(&mut self.sealed)
        {
            // A client that does not take it sees the socket's end.
            let _ = rustix::net::send(&conn.socket, self.sealed.bytes(piece), AT_ONCE);
        }
        conn.front = Front::Clear;
    }

    /// What it held back is sent: sends what TLS could not say meanwhile.
    pub(super) fn send_owed(&mut self, id: ConnId) -> io::Result<()> {
        let Some(conn) = self.conns.get(id) else {
            return Ok(());
        };
        self.through.out = conn.front.take_owed();
        self.send_through(id)
    }

    /// A connection came from another core: looks at what was received on the way.
    pub(super) fn take_kept(&mut self, id: ConnId) -> io::Result<()> {
        let Some(conn) = self.conns.live(id) else {
            return Ok(());
        };
        let taken = conn
            .front
            .receive(&mut [], &self.ports.front, &mut self.through);
        self.took(id, taken)
    }

    /// The control plane answers a TLS client: it gets one end of a pair of sockets, and this core
    /// moves bytes between the other end and TLS.
    pub(super) fn splice(&mut self, id: ConnId, bytes: Vec<u8>) -> io::Result<()> {
        let made = pair(self.ports.sockets_below);
        let made = made.and_then(|(ours, theirs)| {
            let other = self.conns.insert(|_| Conn::new(ours))?;
            Some((other, theirs))
        });
        let Some((other, theirs)) = made else {
            self.stats.accept_errors += 1;
            if let Some(conn) = self.conns.get(id)
                && let Front::Tls(session) = &mut conn.front
                && let Some(piece) = session.seal(UNAVAILABLE, &mut self.sealed)
            {
                // Best effort, as in the clear.
                let _ = rustix::net::send(&conn.socket, self.sealed.bytes(piece), AT_ONCE);
            }
            return self.flush(id);
        };
        for (one, to) in [(id, other), (other, id)] {
            let conn = self.conns.get(one).expect("both are there");
            conn.phase = Phase::Spliced(to);
            conn.read_on = true;
            self.queue_arm(one);
        }
        pass(&self.ports.passed, theirs, bytes, true);
        Ok(())
    }

    /// Sends what came from one of two spliced connections to the other. It is not read any further
    /// until that is done.
    fn pass_on(&mut self, to: ConnId, plain: &[u8]) -> io::Result<()> {
        let Some(conn) = self.conns.get(to).filter(|_| !plain.is_empty()) else {
            return Ok(());
        };
        assert!(
            !conn.is_blocked(),
            "nothing is read for a blocked connection"
        );
        conn.rest = match &mut conn.front {
            Front::Tls(session) => match session.seal(plain, &mut self.sealed) {
                Some(piece) => self.sealed.bytes(piece).to_vec(),
                None => return self.fail(to),
            },
            Front::Clear | Front::Opening(_) => plain.to_vec(),
        };
        conn.rest_sent = 0;
        conn.rest_part = progress_bytes(conn.rest.len());
        self.send_rest(to)
    }

    /// Of two spliced connections the other one is gone.
    pub(super) fn lose_other(&mut self, id: ConnId) -> io::Result<()> {
        if let Some(conn) = self.conns.get(id)
            && matches!(conn.phase, Phase::Spliced(_))
        {
            conn.phase = Phase::Dead;
            return self.go_on(id);
        }
        Ok(())
    }

    /// Whether bytes of a spliced connection have nowhere to go now.
    pub(super) fn is_held_up(&mut self, to: ConnId) -> bool {
        self.conns.get(to).is_none_or(|other| other.is_blocked())
    }

    /// Shuts our side, after the last word of TLS.
    pub(super) fn shut(&mut self, id: ConnId) {
        self.say_end(id);
        if let Some(conn) = self.conns.get(id) {
            // A socket that cannot be shut is closed already.
            let _ = rustix::net::shutdown(conn.socket.as_fd(), Shutdown::Write);
        }
    }
}
