//! A y-websocket client that notes what was acknowledged: a list of numbers in a shared text.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::time::{Duration, Instant};
use tungstenite::{Message, WebSocket};
use yrs::updates::decoder::Decode;
use yrs::{Doc, GetString, ReadTxn, StateVector, Text, Transact, Update};

/// A client in a room.
pub struct Client {
    socket: WebSocket<TcpStream>,
    doc: Doc,
    next: u64,
    waiting: Vec<(u64, Vec<u8>)>,
    synced: bool,
}

/// What came in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// This number is safe.
    Acknowledged(u64),
    /// Another client's update.
    Update,
    /// Something else, or nothing in time.
    Nothing,
    /// The connection is over.
    Closed,
}

fn uint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn read_uint(bytes: &mut &[u8]) -> Option<u64> {
    let (mut value, mut shift) = (0, 0);
    loop {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
}

fn message(step: u8, body: &[u8]) -> Message {
    let mut bytes = vec![0, step];
    uint(body.len() as u64, &mut bytes);
    bytes.extend_from_slice(body);
    Message::binary(bytes)
}

impl Client {
    /// Connects and waits until it has the room's content.
    pub fn connect(address: &str, room: &str) -> Result<Self, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let stream = TcpStream::connect(address).map_err(|e| text(&e))?;
        stream.set_nodelay(true).map_err(|e| text(&e))?;
        let (socket, _) =
            tungstenite::client(format!("ws://{address}/{room}"), stream).map_err(|e| text(&e))?;
        let mut client = Self {
            socket,
            doc: Doc::new(),
            next: 0,
            waiting: Vec::new(),
            synced: false,
        };
        client.socket.send(message(0, &[0])).map_err(|e| text(&e))?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while !client.synced {
            if client.hear(Duration::from_secs(1)) == Heard::Closed || Instant::now() > deadline {
                return Err("the room's content does not come".into());
            }
        }
        client.next = client.numbers().last().map_or(0, |last| last + 1);
        Ok(client)
    }

    /// Writes the next number into the text; it, unless the connection is over.
    pub fn write(&mut self) -> Option<u64> {
        let number = self.next;
        self.next += 1;
        let text = self.doc.get_or_insert_text("text");
        let mut txn = self.doc.transact_mut();
        text.insert(&mut txn, 0, &format!("{number};"));
        let update = txn.encode_update_v1();
        drop(txn);
        self.socket.send(message(2, &update)).ok()?;
        self.waiting.push((number, update));
        Some(number)
    }

    /// Numbers that were sent and not acknowledged.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes in what comes next.
    pub fn hear(&mut self, within: Duration) -> Heard {
        let stream = self.socket.get_ref();
        if stream.set_read_timeout(Some(within)).is_err() {
            return Heard::Closed;
        }
        let bytes = match self.socket.read() {
            Ok(Message::Binary(bytes)) => bytes,
            Ok(Message::Close(_)) => return Heard::Closed,
            Ok(_) => return Heard::Nothing,
            Err(tungstenite::Error::Io(error))
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                return Heard::Nothing;
            }
            Err(_) => return Heard::Closed,
        };
        self.take(&bytes).unwrap_or(Heard::Nothing)
    }

    fn take(&mut self, mut bytes: &[u8]) -> Option<Heard> {
        let rest = &mut bytes;
        if read_uint(rest)? != 0 {
            return None;
        }
        let step = read_uint(rest)?;
        let len = read_uint(rest)? as usize;
        let body = rest.get(..len)?;
        match step {
            0 => {
                let vector = StateVector::decode_v1(body).ok()?;
                let diff = self.doc.transact().encode_state_as_update_v1(&vector);
                if self.socket.send(message(1, &diff)).is_err() {
                    return Some(Heard::Closed);
                }
                None
            }
            1 => {
                self.apply(body);
                self.synced = true;
                None
            }
            _ => {
                if let Some(at) = self.waiting.iter().position(|(_, sent)| sent == body) {
                    return Some(Heard::Acknowledged(self.waiting.remove(at).0));
                }
                self.apply(body);
                Some(Heard::Update)
            }
        }
    }

    fn apply(&mut self, update: &[u8]) {
        let update = Update::decode_v1(update).expect("the server's updates are good");
        self.doc
            .transact_mut()
            .apply_update(update)
            .expect("the server's updates apply");
    }

    /// The numbers in the text.
    pub fn numbers(&self) -> BTreeSet<u64> {
        let text = self.doc.get_or_insert_text("text");
        let text = text.get_string(&self.doc.transact());
        text.split(';').filter_map(|n| n.parse().ok()).collect()
    }
}

/// The numbers in a room.
pub fn ledger(address: &str, room: &str) -> Result<BTreeSet<u64>, String> {
    Client::connect(address, room).map(|client| client.numbers())
}
