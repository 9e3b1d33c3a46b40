//! Dialects: wire protocol families. Each turns frames into commands and notices into frames; rooms
//! know neither. Pure.

pub mod lib0;
pub mod y_websocket;

/// What a client asks of its room, borrowed from the frame it came in.
#[derive(Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// "This is what I have": a state vector; wants what it lacks.
    SyncRequest(&'a [u8]),
    /// The answer to the server's own sync request: an update.
    SyncReply(&'a [u8]),
    /// An update as it was made.
    Update(&'a [u8]),
    /// Presence of one or more clients (an awareness update).
    Presence(&'a [u8]),
    /// Wants the presence of all.
    PresenceRequest,
}

/// The frame cannot be read; the connection is closed with this reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadFrame(pub &'static str);
