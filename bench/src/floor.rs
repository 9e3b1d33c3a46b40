//! The floors: relays that move the same bytes over the same sockets and do nothing else.
//!
//! A floor upgrades sockets, answers a step 1 with an empty step 2, and relays each update to all
//! clients of its room, the writer included: the y-websocket reference server echoes, and so do the
//! servers that are compared, so a floor without the echo would move fewer bytes than they must.
//! No document, no log, no guard. Where a scenario is about joining, it remembers the updates and gives
//! them out as they came.

use crate::connection::{Connection, Flushed, Received, Stage};
use crate::dialect::{Dialect, Message, write_empty_step2};
use crate::websocket::{self, BINARY, Parsed};
use crate::{Error, Result};
use rustix::event::epoll::{self, EventData, EventFlags};
use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

const LISTENER: u64 = u64::MAX;
const READ_BUFFER_BYTES: usize = 64 << 10;
const EVENTS_PER_TURN: usize = 1024;

/// A connection with more than this waiting for it is closed.
const QUEUE_BYTES_MAX: usize = 256 << 20;

/// A request head longer than this is none.
const REQUEST_BYTES_MAX: usize = 16 << 10;

/// How a floor writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// One write for each recipient and edit, at once.
    Unbatched,
    /// One write for each recipient and turn of the loop, with all that the turn brought.
    Batched,
}

struct Client {
    connection: Connection,
    room: usize,
}

#[derive(Default)]
struct Room {
    members: Vec<usize>,
    turn: Vec<u8>,
    /// All updates so far, where the floor remembers them.
    history: Vec<u8>,
}

/// A bare relay on one thread.
pub struct Floor {
    mode: Mode,
    remembers: bool,
    epoll: OwnedFd,
    listener: TcpListener,
    clients: Vec<Option<Client>>,
    free: Vec<usize>,
    room_ids: HashMap<Vec<u8>, usize>,
    rooms: Vec<Room>,
    dirty_rooms: Vec<usize>,
    /// Clients whose sockets were full or broke while others were served.
    blocked: Vec<usize>,
    gone: Vec<usize>,
    frame: Vec<u8>,
}

impl Floor {
    /// Listens on `address`.
    pub fn bind(mode: Mode, address: SocketAddr) -> Result<Self> {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM.nonblocking().cloexec(),
            None,
        )?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        let listener = TcpListener::from(socket);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(
            &epoll,
            &listener,
            EventData::new_u64(LISTENER),
            EventFlags::IN,
        )?;
        Ok(Self {
            mode,
            remembers: false,
            epoll,
            listener,
            clients: Vec::new(),
            free: Vec::new(),
            room_ids: HashMap::new(),
            rooms: Vec::new(),
            dirty_rooms: Vec::new(),
            blocked: Vec::new(),
            gone: Vec::new(),
            frame: Vec::new(),
        })
    }

    /// The same, but who joins gets all updates so far, as they came.
    pub fn that_remembers(self) -> Self {
        Self {
            remembers: true,
            ..self
        }
    }

    /// Where it listens.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Relays until something breaks or the process ends.
    pub fn run(mut self) -> Result<std::convert::Infallible> {
        let mut events = Vec::with_capacity(EVENTS_PER_TURN);
        let mut buffer = vec![0; READ_BUFFER_BYTES];
        loop {
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                None,
            ) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            for event in events.drain(..) {
                let token = event.data.u64();
                if token == LISTENER {
                    self.accept()?;
                    continue;
                }
                let index = token as usize;
                let flags = event.flags;
                if flags.contains(EventFlags::OUT) {
                    self.flush(index)?;
                }
                if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                    self.receive(index, &mut buffer);
                }
                self.settle()?;
            }
            self.end_turn();
            self.settle()?;
        }
    }

    fn accept(&mut self) -> Result<()> {
        while let Ok((stream, _)) = self.listener.accept() {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let index = self.free.pop().unwrap_or_else(|| {
                self.clients.push(None);
                self.clients.len() - 1
            });
            epoll::add(
                &self.epoll,
                &stream,
                EventData::new_u64(index as u64),
                EventFlags::IN,
            )?;
            self.clients[index] = Some(Client {
                connection: Connection::new(stream),
                room: usize::MAX,
            });
        }
        Ok(())
    }

    fn receive(&mut self, index: usize, buffer: &mut Vec<u8>) {
        let Some(client) = &mut self.clients[index] else {
            return;
        };
        let received = match client.connection.receive(buffer) {
            Received::Bytes(received) => received,
            Received::Nothing => return,
            Received::Gone => return self.gone.push(index),
        };
        let mut from = 0;
        if client.connection.stage == Stage::Upgrading {
            match self.upgrade(index, &buffer[..received]) {
                Ok(Some(end)) => from = end,
                Ok(None) => {}
                Err(_) => return self.gone.push(index),
            }
        }
        let is_synced = self.clients[index]
            .as_ref()
            .is_some_and(|client| client.connection.stage == Stage::Synced);
        if is_synced {
            match self.on_frames(index, &mut buffer[from..received]) {
                Some(used) => from += used,
                None => return self.gone.push(index),
            }
        }
        if let Some(client) = &mut self.clients[index] {
            let tail = &mut client.connection.tail;
            tail.extend_from_slice(&buffer[from..received]);
        }
    }

    /// Handles the whole frames in `bytes` and returns their length; `None` when the client is done.
    fn on_frames(&mut self, index: usize, bytes: &mut [u8]) -> Option<usize> {
        let mut from = 0;
        loop {
            let frame = match websocket::parse(&bytes[from..]) {
                Parsed::Frame(frame) => frame,
                Parsed::Incomplete(_) => return Some(from),
                Parsed::Invalid => return None,
            };
            let payload = &mut bytes[from + frame.payload_start..from + frame.length];
            websocket::unmask(payload, frame.mask.unwrap_or_default());
            match frame.opcode {
                BINARY => self.on_message(index, payload),
                websocket::CLOSE => return None,
                _ => {}
            }
            from += frame.length;
        }
    }

    /// Answers an upgrade request and returns where it ended, once it is whole.
    fn upgrade(&mut self, index: usize, bytes: &[u8]) -> Result<Option<usize>> {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            let too_long = bytes.len() > REQUEST_BYTES_MAX;
            return if too_long {
                Err(Error::new("request head too long"))
            } else {
                Ok(None)
            };
        };
        let head = &bytes[..end];
        let path = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        let key = header(head, "sec-websocket-key").ok_or_else(|| Error::new("no key"))?;
        let accept = tungstenite::handshake::derive_accept_key(key);
        let response = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        let room = *self.room_ids.entry(path.to_vec()).or_insert_with(|| {
            self.rooms.push(Room::default());
            self.rooms.len() - 1
        });
        self.rooms[room].members.push(index);
        if let Some(client) = &mut self.clients[index] {
            client.room = room;
            client.connection.stage = Stage::Synced;
        }
        self.write(index, response.as_bytes());
        Ok(Some(end + 4))
    }

    fn on_message(&mut self, index: usize, message: &[u8]) {
        match Dialect::YWebsocket.read(message, 0) {
            Some(Message::Step1) => {
                let mut step2 = Vec::new();
                write_empty_step2(&mut step2, &[]);
                let mut frames = Vec::new();
                websocket::write_server_frame(&mut frames, BINARY, &step2);
                let room = self.clients[index].as_ref().map(|client| client.room);
                if let Some(room) = room.and_then(|room| self.rooms.get(room)) {
                    frames.extend_from_slice(&room.history);
                }
                self.write(index, &frames);
            }
            Some(Message::Update(_)) => {
                self.keep(index, message);
                self.relay(index, message);
            }
            Some(Message::Awareness(_)) => self.relay(index, message),
            _ => {}
        }
    }

    /// Remembers an update for those who join later, where that is asked for.
    fn keep(&mut self, index: usize, message: &[u8]) {
        if !self.remembers {
            return;
        }
        let room = self.clients[index].as_ref().map(|client| client.room);
        if let Some(room) = room.and_then(|room| self.rooms.get_mut(room)) {
            websocket::write_server_frame(&mut room.history, BINARY, message);
        }
    }

    fn relay(&mut self, index: usize, message: &[u8]) {
        let Some(room_id) = self.clients[index].as_ref().map(|client| client.room) else {
            return;
        };
        let room = &mut self.rooms[room_id];
        if self.mode == Mode::Batched {
            if room.turn.is_empty() {
                self.dirty_rooms.push(room_id);
            }
            return websocket::write_server_frame(&mut room.turn, BINARY, message);
        }
        self.frame.clear();
        websocket::write_server_frame(&mut self.frame, BINARY, message);
        let frame = std::mem::take(&mut self.frame);
        for position in 0..self.rooms[room_id].members.len() {
            self.write(self.rooms[room_id].members[position], &frame);
        }
        self.frame = frame;
    }

    /// Sends what the turn gathered, one write a client.
    fn end_turn(&mut self) {
        for room_id in std::mem::take(&mut self.dirty_rooms) {
            let mut turn = std::mem::take(&mut self.rooms[room_id].turn);
            for position in 0..self.rooms[room_id].members.len() {
                self.write(self.rooms[room_id].members[position], &turn);
            }
            turn.clear();
            self.rooms[room_id].turn = turn;
        }
    }

    #[inline]
    fn write(&mut self, index: usize, bytes: &[u8]) {
        let Some(client) = &mut self.clients[index] else {
            return;
        };
        match client.connection.write_through(bytes) {
            Flushed::All => {}
            Flushed::Blocked if client.connection.queued_bytes() > QUEUE_BYTES_MAX => {
                self.gone.push(index);
            }
            Flushed::Blocked => {
                if !client.connection.watched_for_write {
                    client.connection.watched_for_write = true;
                    self.blocked.push(index);
                }
            }
            Flushed::Gone => self.gone.push(index),
        }
    }

    fn flush(&mut self, index: usize) -> Result<()> {
        let Some(client) = &mut self.clients[index] else {
            return Ok(());
        };
        match client.connection.flush() {
            Flushed::All => {
                client.connection.watched_for_write = false;
                let data = EventData::new_u64(index as u64);
                epoll::modify(&self.epoll, &client.connection.stream, data, EventFlags::IN)?;
            }
            Flushed::Blocked => {}
            Flushed::Gone => self.gone.push(index),
        }
        Ok(())
    }

    /// Watches full sockets and drops broken ones, outside the loops over members.
    fn settle(&mut self) -> Result<()> {
        while let Some(index) = self.blocked.pop() {
            if let Some(client) = &self.clients[index] {
                let data = EventData::new_u64(index as u64);
                let flags = EventFlags::IN | EventFlags::OUT;
                epoll::modify(&self.epoll, &client.connection.stream, data, flags)?;
            }
        }
        while let Some(index) = self.gone.pop() {
            if let Some(client) = self.clients[index].take() {
                if let Some(room) = self.rooms.get_mut(client.room) {
                    room.members.retain(|member| *member != index);
                }
                self.free.push(index);
            }
        }
        Ok(())
    }
}

/// The value of a request header, by its lower-case name.
fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        line[..colon]
            .eq_ignore_ascii_case(name.as_bytes())
            .then(|| line[colon + 1..].trim_ascii())
    })
}
