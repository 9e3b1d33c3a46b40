//! What goes inside the WebSocket messages: just enough to sync, write, and recognise edits.

use crate::lib0::{Reader, write_var_bytes, write_var_uint};
use serde::{Deserialize, Serialize};

const SYNC: u8 = 0;
const AWARENESS: u8 = 1;
const AUTH: u8 = 2;
const STEP_1: u8 = 0;
const STEP_2: u8 = 1;
const UPDATE: u8 = 2;
/// The one-byte ping of Hocuspocus 4; its answer is the next number.
const HOCUSPOCUS_PING: [u8; 1] = [9];
const HOCUSPOCUS_PONG: [u8; 1] = [10];

/// Which wire protocol the target speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// y-websocket: the room is in the path. Also y-sweet and y-partyserver.
    #[default]
    YWebsocket,
    /// Hocuspocus: each message is addressed to a document, and a token comes first.
    Hocuspocus,
}

/// A received message, as far as the generator cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// The server asks what we have.
    Step1,
    /// The answer to our own question: we are synced.
    Step2(&'a [u8]),
    /// An update.
    Update(&'a [u8]),
    /// Presence: the states of some clients.
    Awareness(&'a [u8]),
    /// Wants this payload back.
    Ping(&'static [u8]),
    /// The server refused us, in its words.
    Refused(&'a [u8]),
    /// Status and the like.
    Other,
}

impl Dialect {
    /// What precedes every message about `room`.
    pub fn prefix(self, room: &str) -> Vec<u8> {
        let mut prefix = Vec::new();
        if self == Self::Hocuspocus {
            write_var_bytes(&mut prefix, room.as_bytes());
        }
        prefix
    }

    /// The messages that a client sends when its socket opens.
    pub fn hello(self, prefix: &[u8]) -> Vec<Vec<u8>> {
        let step1 = [prefix, &[SYNC, STEP_1, 1, 0]].concat();
        match self {
            Self::YWebsocket => vec![step1],
            Self::Hocuspocus => {
                let mut auth = [prefix, &[AUTH, 0]].concat();
                write_var_bytes(&mut auth, b"");
                write_var_bytes(&mut auth, b"4.8.0");
                vec![auth, step1]
            }
        }
    }

    /// Reads one message. `prefix_length` is that of [`Dialect::prefix`] for the connection's room.
    #[inline]
    pub fn read(self, message: &[u8], prefix_length: usize) -> Option<Message<'_>> {
        if self == Self::Hocuspocus && message == HOCUSPOCUS_PING {
            return Some(Message::Ping(&HOCUSPOCUS_PONG));
        }
        let mut reader = Reader::new(message.get(prefix_length..)?);
        match reader.byte()? {
            SYNC => match reader.byte()? {
                STEP_1 => Some(Message::Step1),
                STEP_2 => Some(Message::Step2(reader.var_bytes()?)),
                UPDATE => Some(Message::Update(reader.var_bytes()?)),
                _ => None,
            },
            AWARENESS => Some(Message::Awareness(reader.var_bytes()?)),
            AUTH => {
                let refused = match self {
                    Self::YWebsocket => 0,
                    Self::Hocuspocus => 1,
                };
                if reader.byte()? == refused {
                    return Some(Message::Refused(reader.var_bytes()?));
                }
                Some(Message::Other)
            }
            _ => Some(Message::Other),
        }
    }
}

/// Appends the message that carries `update`.
#[inline]
pub fn write_update(out: &mut Vec<u8>, prefix: &[u8], update: &[u8]) {
    out.extend_from_slice(prefix);
    out.extend_from_slice(&[SYNC, UPDATE]);
    write_var_uint(out, update.len() as u64);
    out.extend_from_slice(update);
}

/// Whether a message that has only begun is a step 2 (true) or an update (false).
pub fn begins_with_step2(message: &[u8], prefix_length: usize) -> Option<bool> {
    match message.get(prefix_length..prefix_length + 2)? {
        [SYNC, STEP_2] => Some(true),
        [SYNC, UPDATE] => Some(false),
        _ => None,
    }
}

/// Appends the presence message in which `client` has moved its cursor for the time `clock`.
pub fn write_awareness(out: &mut Vec<u8>, prefix: &[u8], client: u64, clock: u64) {
    let state = format!(
        "{{\"user\":{{\"name\":\"Client {client}\",\"color\":\"#30bced\"}},\
         \"cursor\":{{\"anchor\":{clock},\"head\":{clock}}}}}"
    );
    let mut states = vec![1];
    write_var_uint(&mut states, client);
    write_var_uint(&mut states, clock);
    write_var_bytes(&mut states, state.as_bytes());
    out.extend_from_slice(prefix);
    out.push(AWARENESS);
    write_var_bytes(out, &states);
}

/// Calls `on_state(client, clock)` for every state that a presence message carries; `None` at the
/// first thing that it cannot read.
pub fn for_each_state(states: &[u8], mut on_state: impl FnMut(u64, u64)) -> Option<()> {
    let mut reader = Reader::new(states);
    for _ in 0..reader.var_uint()? {
        let (client, clock) = (reader.var_uint()?, reader.var_uint()?);
        reader.var_bytes()?;
        on_state(client, clock);
    }
    Some(())
}

/// Appends the step 2 that says "nothing that you lack".
pub fn write_empty_step2(out: &mut Vec<u8>, prefix: &[u8]) {
    out.extend_from_slice(prefix);
    out.extend_from_slice(&[SYNC, STEP_2, 2, 0, 0]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_dialects_recognise_sync_messages_behind_their_prefix() {
        for dialect in [Dialect::YWebsocket, Dialect::Hocuspocus] {
            let prefix = dialect.prefix("room-1");
            let mut message = Vec::new();
            write_update(&mut message, &prefix, b"xyz");
            assert_eq!(
                dialect.read(&message, prefix.len()),
                Some(Message::Update(b"xyz"))
            );
            message.clear();
            write_empty_step2(&mut message, &prefix);
            assert_eq!(
                dialect.read(&message, prefix.len()),
                Some(Message::Step2(&[0, 0]))
            );
            let hello = dialect.hello(&prefix);
            let last = hello.last().unwrap();
            assert_eq!(dialect.read(last, prefix.len()), Some(Message::Step1));
        }
        assert_eq!(Dialect::YWebsocket.read(&[0, 2, 5, 1], 0), None);
        assert_eq!(
            Dialect::YWebsocket.read(&[1, 1, 0], 0),
            Some(Message::Awareness(&[0]))
        );
        assert_eq!(
            Dialect::YWebsocket.read(&[9, 1, 0], 0),
            Some(Message::Other)
        );
        assert_eq!(begins_with_step2(&[7, 0, 1, 200], 1), Some(true));
        assert_eq!(begins_with_step2(&[0], 0), None);
    }

    #[test]
    fn states_are_read_as_they_were_written() {
        let mut message = Vec::new();
        write_awareness(&mut message, &[], 0x8000_0007, 41);
        let Some(Message::Awareness(states)) = Dialect::YWebsocket.read(&message, 0) else {
            panic!("no presence");
        };
        let mut seen = Vec::new();
        for_each_state(states, |client, clock| seen.push((client, clock))).unwrap();
        assert_eq!(seen, [(0x8000_0007, 41)]);
        assert_eq!(for_each_state(&states[..9], |_, _| {}), None);
    }

    #[test]
    fn refusals_and_pings_are_seen() {
        assert_eq!(
            Dialect::YWebsocket.read(b"\x02\x00\x02no", 0),
            Some(Message::Refused(b"no"))
        );
        let hocuspocus = Dialect::Hocuspocus;
        assert_eq!(
            hocuspocus.read(b"\x01r\x02\x01\x02no", 2),
            Some(Message::Refused(b"no"))
        );
        assert_eq!(
            hocuspocus.read(b"\x01r\x02\x02\x00", 2),
            Some(Message::Other)
        );
        assert_eq!(hocuspocus.read(&[9], 2), Some(Message::Ping(&[10])));
    }
}
