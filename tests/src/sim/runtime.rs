//! The simulated runtime: feeds a shard what is ready, carries out its effects, and holds it to the
//! contract between the two.

use super::network::ServerEnd;
use super::node::{CLOSE_NS, Input, Node, Parcel};
use super::plan::{MICROSECOND, SECOND};
use super::world::{Action, World};
use collabblocks_server::shard::{ConnId, ControlReply, Effect, Event, Instant};
use collabblocks_wal::{Disk, WriteJob};
use std::io;
use std::ops::Range;

/// Most bytes that one event brings.
const RECEIVE_BYTES_MAX: usize = 16 << 10;

impl World {
    /// A turn of a shard.
    pub fn turn(&mut self, shard: usize) {
        let node = &mut self.nodes[shard];
        if node.turn_at != Some(self.now) {
            // An earlier one came in between.
            return;
        }
        node.turn_at = None;
        node.turn += 1;
        node.lost.clear();
        // What the sockets did not take comes before all else.
        for (conn, unsent_bytes) in std::mem::take(&mut node.blocked) {
            if self.nodes[shard].live(conn).is_some() {
                self.feed(shard, Event::Blocked { conn, unsent_bytes });
            }
        }
        let all = self.nodes[shard].inbox.len();
        let now = if self.rng.one_in(6) { self.rng.index(all + 1) } else { all };
        for _ in 0..now {
            let Some(input) = self.nodes[shard].inbox.pop_front() else {
                break;
            };
            self.take_input(shard, input);
        }
        if now < all {
            self.schedule_turn(shard);
        }
        for from in 0..self.nodes.len() {
            while let Some(Parcel { link, handoff }) = self.nodes[shard].mail[from].pop_front() {
                let conn = self.nodes[shard].insert(link);
                let end = &mut self.links.get_mut(&link).expect("a link stays while its server end lives").server;
                *end = ServerEnd::Shard(shard, conn);
                self.feed(shard, Event::HandedOff { conn, handoff });
                self.nodes[shard].inbox.push_back(Input::Readable(conn));
                self.schedule_turn(shard);
            }
        }
        let node = &mut self.nodes[shard];
        if node.timer.is_some_and(|at| at <= self.now) {
            node.timer = None;
            self.feed(shard, Event::Timer);
        }
        self.feed(shard, Event::TurnEnd);
        self.carry_out(shard);
        if let Some(at) = self.nodes[shard].timer {
            // A turn takes its time.
            self.turn_by(shard, at.max(self.now + MICROSECOND));
        }
        self.check_node(shard);
        self.look_at_process();
    }

    fn feed(&mut self, shard: usize, event: Event<'_>) {
        match &event {
            Event::Blocked { .. } => self.saw("blocked"),
            Event::Drained { .. } => self.saw("unblocked"),
            Event::HandedOff { .. } => self.saw("handed off"),
            Event::HandoffRefused { .. } => self.saw("handoff refused"),
            _ => {}
        }
        match &event {
            Event::Received { conn, bytes } => {
                self.log.note(self.now, format_args!("shard {shard}: {conn:?} receives {}", bytes.len()));
                self.log.bytes(bytes);
            }
            Event::LogWritten { job, result } => {
                self.log.note(self.now, format_args!("shard {shard}: {}+{} written: {result:?}", job.segment.0, job.offset));
            }
            Event::HandedOff { conn, handoff } => {
                self.log.note(self.now, format_args!("shard {shard}: {conn:?} handed off"));
                self.log.bytes(&handoff.bytes);
            }
            other => self.log.note(self.now, format_args!("shard {shard}: {other:?}")),
        }
        let node = &mut self.nodes[shard];
        node.shard.on_event(Instant(self.now), event, &mut node.effects);
    }

    fn take_input(&mut self, shard: usize, input: Input) {
        match input {
            Input::Accept(link) => {
                let conn = self.nodes[shard].insert(link);
                let end = &mut self.links.get_mut(&link).expect("a link stays while its server end lives").server;
                *end = ServerEnd::Shard(shard, conn);
                self.feed(shard, Event::Accepted { conn, loopback: true });
                self.nodes[shard].inbox.push_back(Input::Readable(conn));
                self.schedule_turn(shard);
            }
            Input::Readable(conn) => self.receive(shard, conn),
            Input::Reset(conn) => self.lose(shard, conn),
            Input::Drained(conn) => {
                if let Some(state) = self.nodes[shard].live(conn) {
                    state.blocked_since = None;
                    self.feed(shard, Event::Drained { conn });
                }
            }
            Input::Refused(conn) => {
                if let Some(state) = self.nodes[shard].get(conn) {
                    state.live = true;
                    state.read_on = true;
                    self.feed(shard, Event::HandoffRefused { conn });
                    self.nodes[shard].inbox.push_back(Input::Readable(conn));
                    self.schedule_turn(shard);
                }
            }
            Input::LogWritten(job, result) => {
                self.nodes[shard].writing = false;
                self.feed(shard, Event::LogWritten { job, result });
            }
            Input::JobDone(done) => self.feed(shard, Event::JobDone(done)),
            Input::Control(request) => self.feed(shard, Event::Control(request)),
        }
    }

    /// Feeds what has arrived on a connection: all of it once it is established, before that one
    /// piece a turn.
    fn receive(&mut self, shard: usize, conn: ConnId) {
        while let Some(state) = self.nodes[shard].live(conn)
            && state.read_on
        {
            let (id, once) = (state.link, !state.established);
            let link = self.links.get_mut(&id).expect("a link stays while its server end lives");
            let mut bytes = link.up.read(RECEIVE_BYTES_MAX);
            let client = link.client;
            if bytes.is_empty() {
                if link.up.ended {
                    self.lose(shard, conn);
                }
                return;
            }
            self.feed(shard, Event::Received { conn, bytes: &mut bytes });
            if let Some(client) = client {
                self.send_of_client(client);
            }
            if once {
                self.nodes[shard].inbox.push_back(Input::Readable(conn));
                return self.schedule_turn(shard);
            }
        }
    }

    /// The peer has closed or reset: the shard is told, if it still knows the connection.
    fn lose(&mut self, shard: usize, conn: ConnId) {
        let Some(state) = self.nodes[shard].get(conn) else {
            return;
        };
        let live = state.live;
        let link = state.link;
        self.nodes[shard].remove(conn);
        if live {
            self.nodes[shard].lost.push(conn);
            self.feed(shard, Event::Closed { conn });
        }
        self.links.get_mut(&link).expect("a link stays while its server end lives").server = ServerEnd::Gone;
        self.end_down(link);
    }

    fn carry_out(&mut self, shard: usize) {
        let mut list = std::mem::take(&mut self.nodes[shard].effects.list);
        for effect in list.drain(..) {
            self.effect(shard, effect);
        }
        let node = &mut self.nodes[shard];
        node.effects.list = list;
        node.effects.frames.clear();
    }

    fn effect(&mut self, shard: usize, effect: Effect) {
        match &effect {
            Effect::Send { conn, range } => {
                self.log.note(self.now, format_args!("shard {shard}: sends {} to {conn:?}", range.len()));
                self.log.bytes(&self.nodes[shard].effects.frames[range.clone()]);
            }
            Effect::WriteLog(job) => {
                self.log.note(self.now, format_args!("shard {shard}: writes {}+{}", job.segment.0, job.offset));
                self.log.bytes(job.buffer.as_slice());
            }
            Effect::Reply(_) => {}
            other => self.log.note(self.now, format_args!("shard {shard}: {other:?}")),
        }
        if let Effect::Established { conn }
        | Effect::Read { conn, .. }
        | Effect::Handoff { conn, .. }
        | Effect::PassToControl { conn, .. } = &effect
            && self.nodes[shard].lost.contains(conn)
        {
            // Asked for before the shard was told, in the same turn.
            return;
        }
        match &effect {
            Effect::Close { flush: false, .. } => self.saw("closed at once"),
            Effect::Read { on: false, .. } => self.saw("not read"),
            Effect::Fatal(_) => self.saw("fatal"),
            Effect::Reply(ControlReply::Drained) => self.saw("drained"),
            _ => {}
        }
        match effect {
            Effect::Send { conn, range } => self.send(shard, conn, range),
            Effect::Established { conn } => {
                let state = known(&mut self.nodes[shard], conn);
                assert!(!state.established, "a connection is established once");
                state.established = true;
                self.nodes[shard].inbox.push_back(Input::Readable(conn));
                self.schedule_turn(shard);
            }
            Effect::Close { conn, flush } => self.close(shard, conn, flush),
            Effect::Read { conn, on } => {
                known(&mut self.nodes[shard], conn).read_on = on;
                if on {
                    self.input(shard, Input::Readable(conn));
                }
            }
            Effect::Handoff { conn, to, handoff } => {
                let to = usize::from(to.0);
                assert!(to != shard && to < self.nodes.len(), "a handoff goes to another shard");
                let link = known(&mut self.nodes[shard], conn).link;
                if self.nodes[to].mail[shard].len() >= self.plan.mailbox_parcels {
                    let state = known(&mut self.nodes[shard], conn);
                    state.live = false;
                    state.read_on = false;
                    return self.input(shard, Input::Refused(conn));
                }
                self.nodes[shard].remove(conn);
                self.links.get_mut(&link).expect("a link stays while its server end lives").server = ServerEnd::Nobody;
                self.nodes[to].mail[shard].push_back(Parcel { link, handoff });
                self.schedule_turn(to);
            }
            Effect::PassToControl { conn, .. } => {
                let id = known(&mut self.nodes[shard], conn).link;
                self.nodes[shard].remove(conn);
                self.links.get_mut(&id).expect("a link stays while its server end lives").server = ServerEnd::Gone;
                self.end_down(id);
            }
            Effect::WriteLog(job) => {
                let node = &mut self.nodes[shard];
                assert!(!node.writing, "one batch of the log is under way at a time");
                node.writing = true;
                let at = self.now + self.disk_delay(self.plan.log_delay.clone());
                self.at(at, Action::LogWrite(self.process, shard, job));
            }
            Effect::RunJob(job) => {
                let at = self.now + self.disk_delay(self.plan.job_delay.clone());
                self.at(at, Action::Run(self.process, shard, job));
            }
            Effect::SetTimer(at) => self.nodes[shard].timer = Some(at.0),
            Effect::Reply(ControlReply::Stats { stats, .. }) => self.nodes[shard].stats = Some(stats),
            Effect::Reply(ControlReply::Drained) => self.nodes[shard].drained = true,
            Effect::StopAccepting => self.nodes[shard].accepting = false,
            Effect::Fatal(why) => {
                self.nodes[shard].fatal.get_or_insert(why);
            }
        }
    }

    fn disk_delay(&mut self, of: Range<u64>) -> u64 {
        let factor = if self.slow_disk { 20 } else { 1 };
        self.rng.range(of) * factor
    }

    /// The write of a batch reaches the disk; its sync follows.
    pub fn log_write(&mut self, shard: usize, job: WriteJob) {
        let bytes = job.buffer.as_slice();
        let result = if std::mem::take(&mut self.log_error) {
            let part = bytes.len() / 2 * self.rng.index(3);
            let written = self.disk.write_at(&job.path, job.offset, &bytes[..part.min(bytes.len())]);
            written.and(Err(io::Error::other("simulated input/output error")))
        } else {
            let written = self.disk.write_at(&job.path, job.offset, bytes);
            written.map(|()| bytes.len())
        };
        if result.is_err() {
            return self.input(shard, Input::LogWritten(job, result));
        }
        if std::mem::take(&mut self.power_in_write) {
            return self.crash(true);
        }
        let at = self.now + self.disk_delay(self.plan.log_delay.clone());
        self.at(at, Action::LogSync(self.process, shard, job, result));
    }

    fn send(&mut self, shard: usize, conn: ConnId, range: Range<usize>) {
        let node = &mut self.nodes[shard];
        let turn = node.turn;
        let bytes = node.effects.frames[range].to_vec();
        assert!(!bytes.is_empty(), "a send has bytes");
        let state = known(node, conn);
        assert!(state.blocked_since.is_none(), "nothing is sent to a blocked connection");
        assert_ne!(state.sent_in_turn, turn, "one send for each connection and turn");
        state.sent_in_turn = turn;
        let id = state.link;
        let taken = self.write_down(id, &bytes);
        if taken < bytes.len() {
            let node = &mut self.nodes[shard];
            let state = known(node, conn);
            state.rest.extend(&bytes[taken..]);
            state.blocked_since = Some(self.now);
            node.blocked.push((conn, bytes.len() - taken));
            self.schedule_turn(shard);
        }
    }

    fn close(&mut self, shard: usize, conn: ConnId, flush: bool) {
        let state = known(&mut self.nodes[shard], conn);
        let id = state.link;
        state.live = false;
        if flush && !state.rest.is_empty() {
            state.deadline = Some(self.now + CLOSE_NS);
            return self.at(self.now + CLOSE_NS, Action::CloseDeadline(self.process, shard, conn));
        }
        self.nodes[shard].remove(conn);
        self.links.get_mut(&id).expect("a link stays while its server end lives").server = ServerEnd::Gone;
        if flush {
            self.end_down(id);
        } else {
            self.reset_by_server(id);
        }
    }

    /// A closing connection has had its time.
    pub fn close_deadline(&mut self, shard: usize, conn: ConnId) {
        if let Some(state) = self.nodes[shard].remove(conn) {
            self.links.get_mut(&state.link).expect("a link stays while its server end lives").server = ServerEnd::Gone;
            self.reset_by_server(state.link);
            self.look_at_process();
        }
    }

    /// The bounds of what a runtime can see.
    fn check_node(&mut self, shard: usize) {
        let limits = self.plan.limits;
        let patience = limits.slow_reader_timeout.as_nanos() as u64 + 2 * SECOND;
        for (id, conn) in self.nodes[shard].conns() {
            if let Some(since) = conn.blocked_since.filter(|_| conn.live) {
                let blocked = self.now - since;
                assert!(blocked < patience, "{id:?} is blocked for {blocked} ns and not closed");
            }
            let bound = limits.queue_hard_bytes + limits.queue_soft_bytes + (256 << 10);
            assert!(conn.rest.len() <= bound, "{id:?} holds {} bytes", conn.rest.len());
        }
    }
}

/// A connection that an effect names: the shard knows it, so it is there.
fn known(node: &mut Node, conn: ConnId) -> &mut super::node::Conn {
    node.live(conn).unwrap_or_else(|| panic!("an effect for {conn:?}, which is gone"))
}
