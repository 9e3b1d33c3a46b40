//! Carrying out a shard's effects, and holding it to what it may ask.

use super::network::ServerEnd;
use super::node::{CLOSE_NS, Conn, Input, Node, Parcel};
use super::world::{Action, World};
use collabblocks_server::shard::{ConnId, ControlReply, Effect};
use collabblocks_wal::{Disk, WriteJob};
use std::io;
use std::ops::Range;

/// What a disk writes whole.
const SECTOR_BYTES: usize = 512;

impl World {
    pub fn carry_out(&mut self, shard: usize) {
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
                self.log.note(
                    self.now,
                    format_args!("shard {shard}: sends {} to {conn:?}", range.len()),
                );
                self.log
                    .bytes(&self.nodes[shard].effects.frames[range.clone()]);
            }
            Effect::WriteLog { job, .. } => {
                self.log.note(
                    self.now,
                    format_args!("shard {shard}: writes {}+{}", job.segment.0, job.offset),
                );
                self.log.bytes(job.buffer.as_slice());
            }
            Effect::Reply(_) => {}
            other => self
                .log
                .note(self.now, format_args!("shard {shard}: {other:?}")),
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
                assert!(
                    to != shard && to < self.nodes.len(),
                    "a handoff goes to another shard"
                );
                let link = known(&mut self.nodes[shard], conn).link;
                if self.mailboxes_full
                    || self.nodes[to].mail[shard].len() >= self.plan.mailbox_parcels
                {
                    let state = known(&mut self.nodes[shard], conn);
                    state.live = false;
                    state.read_on = false;
                    return self.input(shard, Input::Refused(conn));
                }
                self.nodes[shard].remove(conn);
                self.links
                    .get_mut(&link)
                    .expect("a link stays while its server end lives")
                    .server = ServerEnd::Nobody;
                self.nodes[to].mail[shard].push_back(Parcel::Handoff(link, handoff));
                self.schedule_turn(to);
            }
            Effect::Authenticate { conn, request } => {
                // One that was lost in the same turn is asked about all the same: the shard counts.
                if !self.nodes[shard].lost.contains(&conn) {
                    known(&mut self.nodes[shard], conn);
                }
                self.ask(shard, conn, &request);
            }
            Effect::Mail { to, mail } => {
                let node = &mut self.nodes[shard];
                assert!(
                    !node.mailed.contains(&to),
                    "one letter for each shard and turn"
                );
                node.mailed.push(to);
                let index = usize::from(to.0);
                assert!(
                    index != shard && index < self.nodes.len(),
                    "mail goes to another shard"
                );
                if self.mailboxes_full
                    || self.nodes[index].mail[shard].len() >= self.plan.mailbox_parcels
                {
                    self.nodes[shard].refused.push((to, mail));
                    return self.schedule_turn(shard);
                }
                self.nodes[index].mail[shard].push_back(Parcel::Mail(mail));
                self.schedule_turn(index);
            }
            Effect::PassToControl { conn, .. } => {
                let id = known(&mut self.nodes[shard], conn).link;
                self.nodes[shard].remove(conn);
                self.links
                    .get_mut(&id)
                    .expect("a link stays while its server end lives")
                    .server = ServerEnd::Gone;
                self.end_down(id);
            }
            Effect::WriteLog { job, .. } => {
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
            Effect::Reply(ControlReply::Stats { stats, .. }) => {
                self.nodes[shard].stats = Some(stats)
            }
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
            let written =
                self.disk
                    .write_at(&job.path, job.offset, &bytes[..part.min(bytes.len())]);
            written
                .and_then(|()| self.fail_sync(&job.path))
                .and(Err(io::Error::other("simulated input/output error")))
        } else {
            let offset = self.offset_of_write(&job);
            let written = self.disk.write_at(&job.path, offset, bytes);
            written.map(|()| bytes.len())
        };
        if result.is_err() {
            return self.input(shard, Input::LogWritten(job, result));
        }
        // A batch within one sector is written whole or not at all.
        let tears = can_tear(&job);
        if tears && std::mem::take(&mut self.power_in_write) {
            self.saw("power gone in a write");
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
        if state.blocked_since.is_some() {
            state.rest.extend(&bytes);
            state.farewell = true;
            return;
        }
        assert_ne!(
            state.sent_in_turn, turn,
            "one send for each connection and turn"
        );
        state.sent_in_turn = turn;
        let id = state.link;
        let taken = self.write_down(id, &bytes);
        if taken < bytes.len() {
            let node = &mut self.nodes[shard];
            let state = known(node, conn);
            state.rest.extend(&bytes[taken..]);
            state.blocked_since = Some(self.now);
            state.held_back = state.rest.len();
            state.told = state.held_back;
            node.blocked.push((conn, bytes.len() - taken));
            self.schedule_turn(shard);
        }
    }

    fn close(&mut self, shard: usize, conn: ConnId, flush: bool) {
        let state = known(&mut self.nodes[shard], conn);
        let id = state.link;
        state.live = false;
        assert!(flush || !state.farewell, "a farewell is sent out");
        if flush && !state.rest.is_empty() {
            state.deadline = Some(self.now + CLOSE_NS);
            return self.at(
                self.now + CLOSE_NS,
                Action::CloseDeadline(self.process, shard, conn),
            );
        }
        self.nodes[shard].remove(conn);
        self.links
            .get_mut(&id)
            .expect("a link stays while its server end lives")
            .server = ServerEnd::Gone;
        if flush {
            self.end_down(id);
        } else {
            self.reset_by_server(id);
        }
    }

    /// A closing connection has had its time.
    pub fn close_deadline(&mut self, shard: usize, conn: ConnId) {
        if let Some(state) = self.nodes[shard].remove(conn) {
            self.links
                .get_mut(&state.link)
                .expect("a link stays while its server end lives")
                .server = ServerEnd::Gone;
            self.reset_by_server(state.link);
            self.look_at_process();
        }
    }
}

/// A connection that an effect names: the shard knows it, so it is there.
fn known(node: &mut Node, conn: ConnId) -> &mut Conn {
    node.live(conn)
        .unwrap_or_else(|| panic!("an effect for {conn:?}, which is gone"))
}

/// Whether a batch has content in more than one sector.
fn can_tear(job: &WriteJob) -> bool {
    let rest = job.buffer.as_slice().get(SECTOR_BYTES..);
    rest.is_some_and(|rest| rest.iter().any(|byte| *byte != 0))
}
