//! The simulated runtime: feeds a shard what is ready, carries out its effects, and holds it to the
//! contract between the two.

use super::network::ServerEnd;
use super::node::{Input, Parcel};
use super::plan::{MICROSECOND, SECOND};
use super::world::World;
use collabblocks_server::shard::{ConnId, Event, Instant, ShardId};

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
        self.nodes[shard].mailed.clear();
        for (to, mail) in std::mem::take(&mut self.nodes[shard].refused) {
            self.feed(shard, Event::MailRefused { to, mail });
        }
        let all = self.nodes[shard].inbox.len();
        let now = if self.rng.one_in(6) {
            self.rng.index(all + 1)
        } else {
            all
        };
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
            while let Some(parcel) = self.nodes[shard].mail[from].pop_front() {
                let (link, handoff) = match parcel {
                    Parcel::Handoff(link, handoff) => (link, handoff),
                    Parcel::Mail(mail) => {
                        let from = ShardId(from as u16);
                        self.feed(shard, Event::Mail { from, mail });
                        continue;
                    }
                };
                let conn = self.nodes[shard].insert(link);
                let end = &mut self
                    .links
                    .get_mut(&link)
                    .expect("a link stays while its server end lives")
                    .server;
                *end = ServerEnd::Shard(shard, conn);
                self.feed(shard, Event::HandedOff { conn, handoff });
                self.nodes[shard].inbox.push_back(Input::Readable(conn));
                self.schedule_turn(shard);
            }
        }
        let node = &mut self.nodes[shard];
        if node
            .timer
            .is_some_and(|at| at <= self.now + self.clock_ahead)
        {
            node.timer = None;
            self.feed(shard, Event::Timer);
        }
        self.feed(shard, Event::TurnEnd);
        self.carry_out(shard);
        if let Some(at) = self.nodes[shard].timer {
            // A turn takes its time.
            let at = at.saturating_sub(self.clock_ahead);
            self.turn_by(shard, at.max(self.now + MICROSECOND));
        }
        self.check_node(shard);
        self.check_access(shard);
        self.look_at_process();
    }

    fn feed(&mut self, shard: usize, event: Event<'_>) {
        match &event {
            Event::Blocked { .. } => self.saw("blocked"),
            Event::Drained { .. } => self.saw("unblocked"),
            Event::HandedOff { .. } => self.saw("handed off"),
            Event::HandoffRefused { .. } => self.saw("handoff refused"),
            Event::Mail { mail, .. } => self.saw_mail(&format!("{mail:?}")),
            Event::MailRefused { .. } => self.saw("mail refused"),
            _ => {}
        }
        match &event {
            Event::Received { conn, bytes } => {
                self.log.note(
                    self.now,
                    format_args!("shard {shard}: {conn:?} receives {}", bytes.len()),
                );
                self.log.bytes(bytes);
            }
            Event::LogWritten { job, result } => {
                self.log.note(
                    self.now,
                    format_args!(
                        "shard {shard}: {}+{} written: {result:?}",
                        job.segment.0, job.offset
                    ),
                );
            }
            Event::HandedOff { conn, handoff } => {
                self.log
                    .note(self.now, format_args!("shard {shard}: {conn:?} handed off"));
                self.log.bytes(&handoff.bytes);
            }
            other => self
                .log
                .note(self.now, format_args!("shard {shard}: {other:?}")),
        }
        let now = Instant(self.clock());
        let node = &mut self.nodes[shard];
        node.shard.on_event(now, event, &mut node.effects);
    }

    fn saw_mail(&mut self, mail: &str) {
        for kind in [
            "Attach", "Live", "Turn", "Diff", "Stream", "CatchUp", "Ask", "States", "Leave",
            "Close",
        ] {
            if mail.contains(&format!(" {kind} {{")) || mail.contains(&format!("[{kind} {{")) {
                self.saw(kind);
            }
        }
    }

    fn take_input(&mut self, shard: usize, input: Input) {
        match input {
            Input::Accept(link) => {
                let conn = self.nodes[shard].insert(link);
                let end = &mut self
                    .links
                    .get_mut(&link)
                    .expect("a link stays while its server end lives")
                    .server;
                *end = ServerEnd::Shard(shard, conn);
                self.feed(
                    shard,
                    Event::Accepted {
                        conn,
                        peer: ([127, 0, 0, 1], 4321).into(),
                    },
                );
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
            Input::Progress(conn, unsent_bytes) => {
                if self.nodes[shard].live(conn).is_some() {
                    self.saw("progress");
                    self.feed(shard, Event::Blocked { conn, unsent_bytes });
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
            Input::Authenticated(conn, verdict) => {
                self.let_in(shard, conn, &verdict);
                self.feed(shard, Event::Authenticated { conn, verdict });
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
            let link = self
                .links
                .get_mut(&id)
                .expect("a link stays while its server end lives");
            let mut bytes = link.up.read(RECEIVE_BYTES_MAX);
            let client = link.client;
            if bytes.is_empty() {
                if link.up.ended {
                    self.lose(shard, conn);
                }
                return;
            }
            self.feed(
                shard,
                Event::Received {
                    conn,
                    bytes: &mut bytes,
                },
            );
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
        self.links
            .get_mut(&link)
            .expect("a link stays while its server end lives")
            .server = ServerEnd::Gone;
        self.end_down(link);
    }

    /// The bounds of what a runtime can see.
    fn check_node(&mut self, shard: usize) {
        let limits = self.plan.limits;
        // Each sixteenth that is taken gives it time for the next.
        let patience = 17 * limits.slow_reader_timeout.as_nanos() as u64 + 2 * SECOND;
        for (id, conn) in self.nodes[shard].conns() {
            if let Some(since) = conn.blocked_since.filter(|_| conn.live) {
                assert!(
                    !conn.farewell,
                    "{id:?} was told its farewell and not closed"
                );
                let blocked = self.now - since;
                assert!(
                    blocked < patience,
                    "{id:?} is blocked for {blocked} ns and not closed"
                );
            }
            let bound = limits.queue_hard_bytes + limits.queue_soft_bytes + (256 << 10);
            assert!(
                conn.rest.len() <= bound,
                "{id:?} holds {} bytes",
                conn.rest.len()
            );
        }
    }
}
