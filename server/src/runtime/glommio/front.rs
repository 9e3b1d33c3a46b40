//! Connections whose bytes are not their shard's as they are: the header before them, TLS, and
//! those that the control plane answers under TLS.

use super::conn::{Phase, Stream};
use super::tasks;
use super::turn::{Pending, Turn};
use crate::runtime::front::{End, Front, Taken};
use crate::runtime::{CLOSE_NS_MAX, Core, UNAVAILABLE, pair, pass};
use crate::shard::{ConnId, Event, Instant};
use rustix::net::{SendFlags, Shutdown};

const AT_ONCE: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

impl<C: Core> Turn<C> {
    /// Bytes of a connection that have to go through its front.
    pub(super) fn take_through(&mut self, id: ConnId, mut bytes: Vec<u8>) {
        let Some(conn) = self.conns.get(id) else {
            return;
        };
        if conn.is_live() && conn.front.is_handshaking() {
            if self.handshakes_left == 0 {
                conn.held = bytes;
                return self.pending.push_back(Pending::Held(id));
            }
            self.handshakes_left -= 1;
        }
        let taken = conn
            .front
            .receive(&mut bytes, &self.ports.front, &mut self.through);
        self.took(id, taken);
    }

    /// What came of them is in `self.through`.
    fn took(&mut self, id: ConnId, taken: Taken) {
        if let Some(resumed) = taken.handshake {
            self.stats.tls_handshakes += 1;
            self.stats.tls_resumed += u64::from(resumed);
        }
        self.send_through(id);
        let mut plain = std::mem::take(&mut self.through.plain);
        match self.conns.get(id).map(|conn| &conn.phase) {
            Some(Phase::Spliced(_)) if plain.is_empty() => self.go.push(id),
            Some(Phase::Spliced(to)) => {
                let to = *to;
                self.pass_on(to, &plain);
            }
            Some(Phase::Live) => {
                if let Some(peer) = taken.peer {
                    self.seat.feed(Event::Proxied { conn: id, peer });
                }
                if !plain.is_empty() {
                    let bytes = &mut plain;
                    self.seat.feed(Event::Received { conn: id, bytes });
                }
                self.go.push(id);
            }
            _ => {}
        }
        plain.clear();
        self.through.plain = plain;
        match taken.end {
            End::No => {}
            End::Peer => self.on_end(id),
            End::Refused => self.refuse_front(id),
        }
    }

    /// Sends what a handshake wants to say. It fits a socket that has nothing to send yet.
    fn send_through(&mut self, id: ConnId) {
        if self.through.out.is_empty() {
            return;
        }
        let mut out = std::mem::take(&mut self.through.out);
        if let Some(conn) = self.conns.get(id) {
            if conn.blocked {
                conn.front.owe(&out);
            } else {
                let sent = conn.stream.with(|fd| rustix::net::send(fd, &out, AT_ONCE));
                let sent = sent.and_then(Result::ok).unwrap_or(0);
                self.stats.bytes_sent += sent as u64;
                if sent != out.len() {
                    self.pending.push_back(Pending::Failed(id));
                }
            }
        }
        out.clear();
        self.through.out = out;
    }

    /// One of two spliced connections is at its end.
    pub(super) fn end_of_spliced(&mut self, id: ConnId, to: ConnId) {
        let conn = self.conns.get(id).expect("it has just ended");
        if conn.front.is_clear() {
            // The control plane has said all.
            drop(self.conns.remove(id));
            return self.flush(to);
        }
        if let Some(other) = self.conns.get(to) {
            // A pair that cannot be shut is closed already.
            let _ = other
                .stream
                .with(|fd| rustix::net::shutdown(fd, Shutdown::Write));
        }
    }

    /// A connection does not come through its front.
    fn refuse_front(&mut self, id: ConnId) {
        self.stats.fronts_refused += 1;
        if self.live(id).is_none() {
            return self.lose(id);
        }
        self.seat.feed(Event::Closed { conn: id });
        self.flush(id);
    }

    /// The shard knows nothing of it (any more): what is unsent goes out, then it is closed.
    pub(super) fn flush(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else {
            return;
        };
        conn.phase = Phase::Flushing;
        conn.held = Vec::new();
        let until = Instant(self.seat.now.0 + CLOSE_NS_MAX);
        self.closing.add(until, id);
        self.go.push(id);
        self.go_on(id);
    }

    /// Shuts our side, after the last word of TLS.
    pub(super) fn shut(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else {
            return;
        };
        if let Front::Tls(session) = &mut conn.front
            && let Some(piece) = session.seal_end(&mut self.sealed)
        {
            let bytes = self.sealed.bytes(piece);
            // A client that does not take it sees the socket's end.
            let _ = conn.stream.with(|fd| rustix::net::send(fd, bytes, AT_ONCE));
        }
        conn.front = Front::Clear;
        // A socket that cannot be shut is closed already.
        let _ = conn
            .stream
            .with(|fd| rustix::net::shutdown(fd, Shutdown::Write));
    }

    /// What it held back is sent: sends what TLS could not say meanwhile.
    pub(super) fn send_owed(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get(id) {
            self.through.out = conn.front.take_owed();
            self.send_through(id);
        }
    }

    /// A connection came from another core: looks at what was received on the way.
    pub(super) fn take_kept(&mut self, id: ConnId) {
        if let Some(conn) = self.live(id).filter(|conn| !conn.front.is_clear()) {
            let mut front = std::mem::take(&mut conn.front);
            let taken = front.receive(&mut [], &self.ports.front, &mut self.through);
            self.live(id).expect("still there").front = front;
            self.took(id, taken);
        }
    }

    /// The control plane answers a TLS client: it gets one end of a pair of sockets, and this core
    /// moves bytes between the other end and TLS.
    pub(super) fn splice(&mut self, id: ConnId, bytes: Vec<u8>) {
        let made = pair(self.ports.sockets_below).and_then(|(ours, theirs)| {
            let other = self.insert(Stream::adopt(ours), Front::Clear)?;
            Some((other, theirs))
        });
        let Some((other, theirs)) = made else {
            self.stats.accept_errors += 1;
            if let Some(conn) = self.conns.get(id)
                && let Front::Tls(session) = &mut conn.front
                && let Some(piece) = session.seal(UNAVAILABLE, &mut self.sealed)
            {
                let bytes = self.sealed.bytes(piece);
                // Best effort, as in the clear.
                let _ = conn.stream.with(|fd| rustix::net::send(fd, bytes, AT_ONCE));
            }
            return self.flush(id);
        };
        for (one, to) in [(id, other), (other, id)] {
            let conn = self.conns.get(one).expect("both are there");
            conn.phase = Phase::Spliced(to);
            self.go.push(one);
        }
        pass(&self.ports.passed, theirs, bytes, true);
    }

    /// Sends what came from one of two spliced connections to the other. It is not read any further
    /// until that is done.
    fn pass_on(&mut self, to: ConnId, plain: &[u8]) {
        let Some(conn) = self.conns.get(to) else {
            return;
        };
        assert!(!conn.blocked, "nothing is read for a blocked connection");
        let bytes = match &mut conn.front {
            Front::Tls(session) => match session.seal(plain, &mut self.sealed) {
                Some(piece) => self.sealed.bytes(piece).to_vec(),
                None => return self.pending.push_back(Pending::Failed(to)),
            },
            Front::Clear | Front::Opening(_) => plain.to_vec(),
        };
        let writer = tasks::write(to, conn.stream.clone(), bytes, self.queue.clone());
        conn.blocked = true;
        conn.writer = Some(::glommio::spawn_local(writer));
    }
}
