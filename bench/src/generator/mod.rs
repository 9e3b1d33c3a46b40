//! The generator: one thread, one epoll, thousands of clients.

pub mod join;
mod load;
mod presence;

use crate::connection::{Connection, Flushed, Received, Stage};
use crate::dialect::{self, Dialect, Message};
use crate::scenario::Scenario;
use crate::tls::Connector;
use crate::tracker::{Timebase, Totals, Tracker, new_histogram};
use crate::websocket::{self, BINARY, Frame, Parsed};
use crate::{Error, Result, update};
use hdrhistogram::Histogram;
use join::Joins;
use presence::Presence;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use socket2::{Domain, Socket, Type};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Instant;

/// Upgrades under way at the same time while connecting.
const HANDSHAKES_MAX: usize = 64;

/// How long connecting may make no progress.
const CONNECT_STALL_NS: u64 = 20_000_000_000;

/// After this long without a delivery a closed loop takes what is in flight for lost.
const STALL_NS: u64 = 3_000_000_000;

/// Room for the reading of one socket; grows for longer frames.
const READ_BUFFER_BYTES: usize = 256 << 10;

const EVENTS_PER_TURN: usize = 128;

/// The receive buffer of those who read nothing, and the largest segment that they are sent.
const STALLED_BUFFER_BYTES: usize = 8 << 10;
const STALLED_SEGMENT_BYTES: u32 = 1_400;

/// Where the load goes.
#[derive(Clone, Debug)]
pub struct Target {
    /// The server.
    pub address: SocketAddr,
    /// Encryption, if the server wants it.
    pub tls: Option<Connector>,
    /// The request path; `{room}` stands for the room's name.
    pub path_template: String,
    /// What it speaks.
    pub dialect: Dialect,
    /// Start of all room names; a run needs its own, so that its rooms are empty.
    pub room_prefix: String,
    /// The first client id.
    pub client_base: u64,
    /// Whether the generator polls without sleeping.
    pub spin: bool,
}

/// Moments of a run at which the caller may look at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before the first connection.
    Start,
    /// The measured window begins.
    WindowStart,
    /// It ends.
    WindowEnd,
    /// All has come, or was waited for long enough.
    End,
}

/// What went wrong or was odd, in numbers.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Oddities {
    /// Connections that the server closed or broke.
    pub closed: u64,
    /// Messages that could not be read.
    pub unreadable: u64,
    /// Text frames, which clients of this protocol choke on.
    pub text_frames: u64,
    /// Requests for our state in the middle of the load.
    pub asked_again: u64,
    /// Refusals.
    pub refused: u64,
    /// Edits that a closed loop gave up on.
    pub given_up: u64,
}

/// What a run measured on the client's side.
#[derive(Debug)]
pub struct Outcome {
    /// How long the measured window really was, in nanoseconds.
    pub window_ns: u64,
    /// Edits sent in the window.
    pub sent_in_window: u64,
    /// Edits sent in the whole run.
    pub sent: u64,
    /// Deliveries of those that were owed to others whose frames are read.
    pub owed: u64,
    /// Totals at the window's start.
    pub at_window_start: Totals,
    /// Totals at its end.
    pub at_window_end: Totals,
    /// Totals at the end of the run.
    pub at_end: Totals,
    /// Deliveries that never came.
    pub undelivered: u64,
    /// Latency of deliveries to others, nanoseconds.
    pub delivery_ns: Histogram<u64>,
    /// Latency of echoes, nanoseconds.
    pub ack_ns: Histogram<u64>,
    /// How late the generator itself handed edits to its sockets, nanoseconds.
    pub send_lag_ns: Histogram<u64>,
    /// What became of presence, where there was any.
    pub presence: Option<presence::Shown>,
    /// Bytes received in the window by clients whose frames are read.
    pub received_bytes_in_window: u64,
    /// Clients whose frames are read.
    pub readers: usize,
    /// Bytes received in the window by the others.
    pub thrown_bytes_in_window: u64,
    /// What was odd.
    pub oddities: Oddities,
}

/// Runs one scenario against one target; `on_moment` is called as it goes.
pub fn run(
    scenario: &Scenario,
    target: &Target,
    on_moment: &mut dyn FnMut(Moment) -> Result<()>,
) -> Result<Outcome> {
    let mut generator = Generator::new(scenario, target)?;
    on_moment(Moment::Start)?;
    generator.connect_all()?;
    generator.drive(on_moment)
}

struct Generator<'a> {
    scenario: &'a Scenario,
    target: &'a Target,
    origin: Instant,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    tracker: Tracker,
    prefixes: Vec<Vec<u8>>,
    buffer: Vec<u8>,
    update: Vec<u8>,
    message: Vec<u8>,
    frame: Vec<u8>,
    dirty: Vec<usize>,
    is_dirty: Vec<bool>,
    /// Edits sent by room.
    sent_by_room: Vec<u64>,
    sent: u64,
    next_edit: u64,
    received_bytes: u64,
    thrown_bytes: u64,
    /// What a connection receives is thrown away.
    is_thrown: Vec<bool>,
    /// Deliveries of edits to others whose frames are read.
    owed: u64,
    /// Clients of a room whose frames are read.
    readers: u64,
    send_lag_ns: Histogram<u64>,
    loaded: bool,
    synced: usize,
    failure: Option<String>,
    oddities: Oddities,
    presence: Option<Presence>,
    /// What is kept of those who join, in a scenario of that kind.
    joins: Option<Joins>,
}

impl<'a> Generator<'a> {
    fn new(scenario: &'a Scenario, target: &'a Target) -> Result<Self> {
        let rooms = scenario.rooms;
        let prefixes = (0..rooms)
            .map(|room| target.dialect.prefix(&room_name(target, room)))
            .collect();
        Ok(Self {
            scenario,
            target,
            origin: Instant::now(),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            connections: Vec::with_capacity(scenario.connections()),
            // Replaced when the load's start is known; until then every edit is a stranger's.
            tracker: new_tracker(scenario, target, Timebase::Sent(Vec::new()), 0..0),
            prefixes,
            buffer: vec![0; READ_BUFFER_BYTES],
            update: Vec::new(),
            message: Vec::new(),
            frame: Vec::new(),
            dirty: Vec::new(),
            is_dirty: Vec::new(),
            sent_by_room: vec![0; rooms],
            sent: 0,
            next_edit: 0,
            received_bytes: 0,
            thrown_bytes: 0,
            is_thrown: Vec::new(),
            owed: 0,
            readers: scenario.clients_per_room as u64,
            send_lag_ns: new_histogram(),
            loaded: false,
            synced: 0,
            failure: None,
            oddities: Oddities::default(),
            presence: None,
            joins: None,
        })
    }

    /// The room of a connection: those who join are dealt out over all rooms.
    #[inline]
    fn room_of(&self, index: usize) -> usize {
        if self.joins.is_some() {
            index % self.scenario.rooms
        } else {
            self.scenario.room_of(index)
        }
    }

    #[inline]
    fn now_ns(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    fn connect_all(&mut self) -> Result<()> {
        let total = self.scenario.connections();
        let mut progress = (0, self.now_ns());
        while self.synced < total {
            while self.connections.len() < total
                && self.connections.len() - self.synced < HANDSHAKES_MAX
            {
                self.connect()?;
            }
            self.turn(10_000_000, &mut |_, _, _| {})?;
            if let Some(failure) = self.failure.take() {
                return Err(Error::new(failure));
            }
            let now = self.now_ns();
            if self.synced > progress.0 {
                progress = (self.synced, now);
            } else if now - progress.1 > CONNECT_STALL_NS {
                return Err(Error::new(format!(
                    "only {} of {total} clients got synced",
                    self.synced
                )));
            }
        }
        Ok(())
    }

    fn connect(&mut self) -> Result<()> {
        let index = self.connections.len();
        let room = self.room_of(index);
        let stream = self
            .socket(self.joins.is_none() && self.scenario.is_stalled(index))
            .map_err(|error| Error::new(format!("client {index} cannot connect: {error}")))?;
        epoll::add(
            &self.epoll,
            &stream,
            EventData::new_u64(index as u64),
            EventFlags::IN,
        )?;
        let path = self
            .target
            .path_template
            .replace("{room}", &room_name(self.target, room));
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
            self.target.address
        );
        let mut connection = match &self.target.tls {
            Some(tls) => Connection::with_tls(stream, tls.connect()?),
            None => Connection::new(stream),
        };
        connection.out().extend_from_slice(request.as_bytes());
        self.connections.push(connection);
        self.is_dirty.push(false);
        self.is_thrown.push(false);
        if let Some(joins) = &mut self.joins {
            joins.on_connect();
        }
        self.flush(index)
    }

    /// A socket that is connecting.
    fn socket(&self, stalled: bool) -> std::io::Result<TcpStream> {
        let address = self.target.address;
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking(),
            None,
        )?;
        socket.set_tcp_nodelay(true)?;
        if stalled {
            // As over a real network, the kernels hold little of what is not read: loopback's large
            // segments would have them hold megabytes.
            socket.set_recv_buffer_size(STALLED_BUFFER_BYTES)?;
            socket.set_tcp_mss(STALLED_SEGMENT_BYTES)?;
        }
        match socket.connect(&address.into()) {
            Ok(()) => {}
            Err(error)
                if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        Ok(socket.into())
    }

    /// Waits once, for at most `timeout_ns`, and handles what came. `between` runs after each
    /// socket, so that a turn full of input does not hold up what is due.
    fn turn(
        &mut self,
        timeout_ns: u64,
        between: &mut dyn FnMut(&mut Self, usize, u64),
    ) -> Result<()> {
        let timeout = Timespec {
            tv_sec: (timeout_ns / 1_000_000_000) as i64,
            tv_nsec: (timeout_ns % 1_000_000_000) as i64,
        };
        let mut events = Vec::with_capacity(EVENTS_PER_TURN);
        let waited = epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&timeout),
        );
        match waited {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        for event in events {
            let index = event.data.u64() as usize;
            if self.connections[index].stage == Stage::Closed {
                continue;
            }
            let flags = event.flags;
            if flags.contains(EventFlags::OUT) {
                self.flush(index)?;
            }
            if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                let now = self.receive(index)?;
                between(self, index, now);
            }
        }
        Ok(())
    }

    fn receive(&mut self, index: usize) -> Result<u64> {
        if self.is_thrown[index] {
            match self.connections[index].throw_away(&mut self.buffer) {
                Received::Bytes(bytes) => self.thrown_bytes += bytes as u64,
                Received::Nothing => {}
                Received::Gone => self.close(index, "the server closed the connection"),
            }
            return Ok(self.now_ns());
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let kept = self.connections[index].tail.len();
        let received = self.connections[index].receive(&mut buffer);
        let now = self.now_ns();
        match received {
            Received::Bytes(length) => {
                self.received_bytes += (length - kept) as u64;
                let used = self.on_bytes(index, &buffer[..length], now);
                if self.connections[index].stage != Stage::Closed {
                    self.connections[index]
                        .tail
                        .extend_from_slice(&buffer[used..length]);
                    self.look_at_join(index, length - kept, now);
                }
            }
            Received::Nothing => {}
            Received::Gone => self.close(index, "the server closed the connection"),
        }
        self.buffer = buffer;
        self.flush_dirty()?;
        Ok(now)
    }

    /// Handles what `bytes` hold whole and returns how much that was.
    fn on_bytes(&mut self, index: usize, bytes: &[u8], now: u64) -> usize {
        let skipped = self.connections[index].skip.min(bytes.len());
        self.connections[index].skip -= skipped;
        let mut from = skipped;
        if self.connections[index].stage == Stage::Upgrading {
            let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
                return 0;
            };
            if !bytes.starts_with(b"HTTP/1.1 101") {
                let line = bytes
                    .split(|byte| *byte == b'\r')
                    .next()
                    .unwrap_or_default();
                let line = String::from_utf8_lossy(line).into_owned();
                self.close(index, &format!("the server answered: {line}"));
                return bytes.len();
            }
            from = end + 4;
            self.connections[index].stage = Stage::Syncing;
            let room = self.room_of(index);
            for message in self.target.dialect.hello(&self.prefixes[room]) {
                self.send(index, BINARY, &message);
            }
        }
        let room = self.room_of(index);
        let prefix_length = self.prefixes[room].len();
        loop {
            let frame = match websocket::parse(&bytes[from..]) {
                Parsed::Frame(frame) => frame,
                Parsed::Incomplete(need) => {
                    return self
                        .skip_document(index, &bytes[from..], need)
                        .map_or(from, |()| bytes.len());
                }
                Parsed::Invalid => {
                    self.close(index, "the server sent an invalid frame");
                    return bytes.len();
                }
            };
            let payload = &bytes[from + frame.payload_start..from + frame.length];
            from += frame.length;
            match frame.opcode {
                BINARY if frame.fin => self.on_message(index, payload, prefix_length, now),
                websocket::PING => self.send(index, websocket::PONG, payload),
                websocket::PONG => {}
                websocket::TEXT if frame.fin => self.oddities.text_frames += 1,
                websocket::CLOSE => {
                    let code = payload
                        .get(..2)
                        .map_or(0, |c| u16::from_be_bytes([c[0], c[1]]));
                    self.close(index, &format!("the server closed with code {code}"));
                    return bytes.len();
                }
                BINARY | websocket::CONTINUATION => {
                    self.on_part(index, frame, payload, prefix_length, now);
                }
                _ => {
                    self.close(index, "the server sent a frame of an unknown kind");
                    return bytes.len();
                }
            }
        }
    }

    /// A frame of a message that comes in several.
    fn on_part(&mut self, index: usize, frame: Frame, part: &[u8], prefix_length: usize, now: u64) {
        if frame.opcode == BINARY {
            self.connections[index].discards = self.is_document(index, part, prefix_length);
            self.connections[index].parts = Some(Vec::new());
        }
        let connection = &mut self.connections[index];
        let Some(parts) = &mut connection.parts else {
            return self.close(
                index,
                "the server went on with a message that it had not begun",
            );
        };
        if !connection.discards {
            parts.extend_from_slice(part);
        }
        if frame.fin
            && let Some(message) = connection.parts.take()
            && !std::mem::take(&mut connection.discards)
        {
            self.on_message(index, &message, prefix_length, now);
        }
    }

    #[inline]
    fn on_message(&mut self, index: usize, payload: &[u8], prefix_length: usize, now: u64) {
        match self.target.dialect.read(payload, prefix_length) {
            Some(Message::Update(update)) => self.on_update(index, update, now),
            Some(Message::Step2(update)) => {
                if self.connections[index].stage == Stage::Syncing {
                    self.connections[index].stage = Stage::Synced;
                    self.synced += 1;
                }
                self.on_update(index, update, now);
            }
            Some(Message::Step1) => {
                self.oddities.asked_again += u64::from(self.loaded);
                let room = self.room_of(index);
                let mut reply = Vec::new();
                dialect::write_empty_step2(&mut reply, &self.prefixes[room]);
                self.send(index, BINARY, &reply);
            }
            Some(Message::Awareness(states)) => self.on_states(index, states, now),
            Some(Message::Ping(pong)) => self.send(index, BINARY, pong),
            Some(Message::Refused(reason)) => {
                self.oddities.refused += 1;
                let reason = String::from_utf8_lossy(reason).into_owned();
                self.failure
                    .get_or_insert(format!("the server refused: {reason}"));
            }
            Some(Message::Other) => {}
            None => self.oddities.unreadable += 1,
        }
    }

    #[inline]
    fn on_update(&mut self, index: usize, update: &[u8], now: u64) {
        if let Some(joins) = &mut self.joins {
            return joins.on_update(index, update);
        }
        let tracker = &mut self.tracker;
        let read = update::for_each_range(update, |client, clock, length| {
            tracker.on_range(index, client, clock, length, now);
        });
        if read.is_none() {
            self.oddities.unreadable += 1;
        }
    }

    fn send(&mut self, index: usize, opcode: u8, payload: &[u8]) {
        websocket::write_client_frame(self.connections[index].out(), opcode, payload);
        self.mark_dirty(index);
    }

    #[inline]
    fn mark_dirty(&mut self, index: usize) {
        if !self.is_dirty[index] {
            self.is_dirty[index] = true;
            self.dirty.push(index);
        }
    }

    fn flush_dirty(&mut self) -> Result<()> {
        while let Some(index) = self.dirty.pop() {
            self.is_dirty[index] = false;
            if self.connections[index].stage != Stage::Closed {
                self.flush(index)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        let blocked = match connection.flush() {
            Flushed::All => false,
            Flushed::Blocked => true,
            Flushed::Gone => {
                self.close(index, "the server closed the connection");
                return Ok(());
            }
        };
        if blocked != connection.watched_for_write {
            connection.watched_for_write = blocked;
            let flags = if blocked {
                EventFlags::IN | EventFlags::OUT
            } else {
                EventFlags::IN
            };
            epoll::modify(
                &self.epoll,
                &connection.stream,
                EventData::new_u64(index as u64),
                flags,
            )?;
        }
        Ok(())
    }

    fn close(&mut self, index: usize, why: &str) {
        let connection = &mut self.connections[index];
        if connection.stage == Stage::Closed {
            return;
        }
        // During the load it is counted; before, it ends the run.
        if !self.loaded {
            self.failure.get_or_insert(format!("client {index}: {why}"));
        }
        connection.stage = Stage::Closed;
        self.oddities.closed += 1;
        // An error here means that the socket is gone from the set already.
        let _ = epoll::delete(&self.epoll, &connection.stream);
        let _ = connection.stream.shutdown(std::net::Shutdown::Both);
    }
}

fn room_name(target: &Target, room: usize) -> String {
    format!("{}{room}", target.room_prefix)
}

fn new_tracker(
    scenario: &Scenario,
    target: &Target,
    timebase: Timebase,
    window: std::ops::Range<u64>,
) -> Tracker {
    Tracker::new(
        scenario.rooms,
        scenario.clients_per_room,
        scenario.writers_per_room,
        target.client_base,
        timebase,
        window,
    )
    .with_clocks_per_edit(scenario.chars_per_edit)
}
