//! The wire as a client sees it, written for the simulator alone, so that a mistake in the server's
//! codec is not repeated here.

use super::rng::Rng;

pub(crate) const CONTINUED: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// The request that opens a room.
pub(crate) fn upgrade(room: &str) -> Vec<u8> {
    format!(
        "GET /{room} HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes()
}

/// Appends a frame, masked as a client's must be.
pub(crate) fn masked(opcode: u8, payload: &[u8], rng: &mut Rng, out: &mut Vec<u8>) {
    let mask = (rng.next() as u32).to_be_bytes();
    out.push(0x80 | opcode);
    match payload.len() {
        n @ 0..126 => out.push(0x80 | n as u8),
        n @ 126..65536 => {
            out.push(0x80 | 126);
            out.extend((n as u16).to_be_bytes());
        }
        n => {
            out.push(0x80 | 127);
            out.extend((n as u64).to_be_bytes());
        }
    }
    out.extend(mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
}

/// Takes one whole frame of a server off the front; `None` while it is incomplete. Whether it is the
/// last of its message, its opcode, its payload.
pub(crate) fn take(bytes: &mut Vec<u8>) -> Option<(bool, u8, Vec<u8>)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    assert_eq!(first & 0x70, 0, "a server's frame has no reserved bit set");
    assert_eq!(second & 0x80, 0, "a server's frame is not masked");
    let (len, start) = match second {
        126 => (
            u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?) as usize,
            4,
        ),
        127 => (
            u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize,
            10,
        ),
        n => (n as usize, 2),
    };
    let payload = bytes.get(start..start + len)?.to_vec();
    bytes.drain(..start + len);
    Some((first & 0x80 != 0, first & 0x0f, payload))
}

/// Appends a varUint.
pub(crate) fn write_uint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a varUint off the front. The server is trusted to be well-formed: anything else is a panic.
pub(crate) fn read_uint(bytes: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let (&byte, rest) = bytes
            .split_first()
            .expect("a number of the server is whole");
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return value;
        }
        shift += 7;
    }
}

/// Takes a byte string off the front.
pub(crate) fn read_bytes<'a>(bytes: &mut &'a [u8]) -> &'a [u8] {
    let len = read_uint(bytes) as usize;
    let (taken, rest) = bytes.split_at(len);
    *bytes = rest;
    taken
}

/// A message of the sync protocol (0: step 1, 1: step 2, 2: update).
pub(crate) fn sync(step: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0, step];
    write_uint(body.len() as u64, &mut out);
    out.extend_from_slice(body);
    out
}

/// An awareness message with these clients' clocks and states.
pub(crate) fn awareness<'a>(
    entries: impl ExactSizeIterator<Item = (u64, u64, Option<&'a str>)>,
) -> Vec<u8> {
    let mut body = Vec::new();
    write_uint(entries.len() as u64, &mut body);
    for (client, clock, state) in entries {
        let state = state.unwrap_or("null");
        write_uint(client, &mut body);
        write_uint(clock, &mut body);
        write_uint(state.len() as u64, &mut body);
        body.extend_from_slice(state.as_bytes());
    }
    let mut out = vec![1];
    write_uint(body.len() as u64, &mut out);
    out.extend(body);
    out
}
