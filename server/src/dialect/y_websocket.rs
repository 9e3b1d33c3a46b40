//! y-websocket (v1, v2, v3, and @y/websocket 4): y-protocols messages in binary frames, one room a
//! connection. Clients may concatenate messages in a frame; to them it is always one a frame, since
//! versions before 4 read only the first.

use super::lib0::{read_bytes, read_uint, uint_bytes, write_uint};
use super::{BadFrame, Command};
use crate::edge::websocket::binary_header;

const SYNC: u8 = 0;
const AWARENESS: u8 = 1;
const AUTH: u8 = 2;
const QUERY_AWARENESS: u8 = 3;
const PERMISSION_DENIED: u8 = 0;
const STEP_1: u8 = 0;
const STEP_2: u8 = 1;
const UPDATE: u8 = 2;

/// A whole frame that is a no-op to every client: it keeps their liveness timers fed, which pings
/// do not.
pub const KEEPALIVE: &[u8] = &[0x82, 3, AWARENESS, 1, 0];

/// The messages of one frame.
#[derive(Debug)]
pub struct Commands<'a> {
    rest: &'a [u8],
}

/// Reads the messages of a binary frame.
pub fn commands(frame: &[u8]) -> Commands<'_> {
    Commands { rest: frame }
}

impl<'a> Iterator for Commands<'a> {
    type Item = Result<Command<'a>, BadFrame>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let command = self.read();
        if !matches!(command, Ok(Some(_))) {
            self.rest = &[];
        }
        command.transpose()
    }
}

impl<'a> Commands<'a> {
    /// `None`: a message type that means nothing to a server; what follows it cannot be found.
    fn read(&mut self) -> Result<Option<Command<'a>>, BadFrame> {
        let rest = &mut self.rest;
        let kind = read_uint(rest).ok_or(BadFrame("the message type is malformed"))?;
        Ok(Some(match u8::try_from(kind).unwrap_or(u8::MAX) {
            SYNC => {
                let step = read_uint(rest).ok_or(BadFrame("the sync step is malformed"))?;
                let body =
                    read_bytes(rest).ok_or(BadFrame("a sync message is shorter than it says"))?;
                match u8::try_from(step).unwrap_or(u8::MAX) {
                    STEP_1 => Command::SyncRequest(body),
                    STEP_2 => Command::SyncReply(body),
                    UPDATE => Command::Update(body),
                    _ => return Err(BadFrame("the sync step is not 0, 1 or 2")),
                }
            }
            AWARENESS => Command::Presence(
                read_bytes(rest).ok_or(BadFrame("an awareness message is shorter than it says"))?,
            ),
            QUERY_AWARENESS => Command::PresenceRequest,
            AUTH => return Err(BadFrame("clients of this protocol send no auth message")),
            _ => return Ok(None),
        }))
    }
}

/// Bytes of a sync message beside its body, at most.
const SYNC_BYTES_MAX: usize = 12;

fn sync_frame(step: u8, body: &[u8], out: &mut Vec<u8>) {
    binary_header(2 + uint_bytes(body.len() as u64) + body.len(), out);
    out.extend_from_slice(&[SYNC, step]);
    write_uint(body.len() as u64, out);
    out.extend_from_slice(body);
}

/// Appends the frame that asks a client for what the server lacks.
pub fn sync_request(state_vector: &[u8], out: &mut Vec<u8>) {
    sync_frame(STEP_1, state_vector, out);
}

/// Appends the frame that answers a [`Command::SyncRequest`].
pub fn sync_reply(update: &[u8], out: &mut Vec<u8>) {
    sync_frame(STEP_2, update, out);
}

/// Appends the frame of an update.
pub fn update(update: &[u8], out: &mut Vec<u8>) {
    sync_frame(UPDATE, update, out);
}

/// What stands before an update of so many bytes in its message, without the header of a frame.
pub fn update_head(update_bytes: usize) -> Vec<u8> {
    sync_head(UPDATE, update_bytes)
}

/// The same of an answer to a [`Command::SyncRequest`].
pub fn reply_head(update_bytes: usize) -> Vec<u8> {
    sync_head(STEP_2, update_bytes)
}

fn sync_head(step: u8, body_bytes: usize) -> Vec<u8> {
    let mut head = Vec::with_capacity(SYNC_BYTES_MAX);
    head.extend_from_slice(&[SYNC, step]);
    write_uint(body_bytes as u64, &mut head);
    head
}

/// Appends the frame of an awareness update.
pub fn presence(awareness_update: &[u8], out: &mut Vec<u8>) {
    binary_header(
        1 + uint_bytes(awareness_update.len() as u64) + awareness_update.len(),
        out,
    );
    out.push(AWARENESS);
    write_uint(awareness_update.len() as u64, out);
    out.extend_from_slice(awareness_update);
}

/// Appends the frame that says a client may not do what it did: it logs the reason, and goes on.
pub fn permission_denied(reason: &str, out: &mut Vec<u8>) {
    let len = reason.len();
    binary_header(2 + uint_bytes(len as u64) + len, out);
    out.extend_from_slice(&[AUTH, PERMISSION_DENIED]);
    write_uint(len as u64, out);
    out.extend_from_slice(reason.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(frame: &[u8]) -> Vec<Result<Command<'_>, BadFrame>> {
        commands(frame).collect()
    }

    #[test]
    fn frames_as_clients_send_them() {
        assert_eq!(all(&[0, 0, 1, 0]), [Ok(Command::SyncRequest(&[0]))]);
        assert_eq!(all(&[0, 1, 2, 0, 0]), [Ok(Command::SyncReply(&[0, 0]))]);
        assert_eq!(all(&[0, 2, 2, 0, 0]), [Ok(Command::Update(&[0, 0]))]);
        assert_eq!(all(&[1, 1, 0]), [Ok(Command::Presence(&[0]))]);
        assert_eq!(all(&[3]), [Ok(Command::PresenceRequest)]);
        assert_eq!(
            all(&[0, 0, 1, 0, 3, 0, 2, 2, 0, 0]),
            [
                Ok(Command::SyncRequest(&[0])),
                Ok(Command::PresenceRequest),
                Ok(Command::Update(&[0, 0]))
            ]
        );
    }

    #[test]
    fn what_cannot_be_read() {
        assert_eq!(all(&[]), []);
        assert_eq!(all(&[77, 1, 2, 3]), [], "unknown types are ignored");
        for bad in [
            &[0][..],
            &[0, 0],
            &[0, 0, 5, 1],
            &[0, 3, 0],
            &[1],
            &[1, 9],
            &[2, 0, 0],
            &[0x80],
        ] {
            assert!(matches!(all(bad)[..], [Err(_)]), "{bad:?}");
        }
        assert!(matches!(
            all(&[3, 0, 9])[..],
            [Ok(Command::PresenceRequest), Err(_)]
        ));
    }

    #[test]
    fn frames_to_clients() {
        let mut out = Vec::new();
        sync_request(&[0], &mut out);
        assert_eq!(out, [0x82, 4, 0, 0, 1, 0]);
        out.clear();
        sync_reply(&[0, 0], &mut out);
        assert_eq!(out, [0x82, 5, 0, 1, 2, 0, 0]);
        out.clear();
        update(&[7; 130], &mut out);
        assert_eq!(out[..8], [0x82, 126, 0, 134, 0, 2, 0x82, 1]);
        out.clear();
        presence(&[0], &mut out);
        assert_eq!(out, KEEPALIVE);
        out.clear();
        permission_denied("no", &mut out);
        assert_eq!(out, [0x82, 5, 2, 0, 2, b'n', b'o']);
    }
}
