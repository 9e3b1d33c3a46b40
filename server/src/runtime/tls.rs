//! One connection's TLS, without I/O: ciphertext in, plaintext out, and back.
//!
//! A session keeps no buffer while it is idle: records are decrypted out of the buffer that they were
//! received into, and encrypted into buffers of the core ([`Sealed`]).

use rustls::ServerConfig;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use std::sync::Arc;

/// Bytes that a client may send before its handshake is done: certificate chains included.
pub const HANDSHAKE_BYTES_MAX: usize = 64 << 10;
/// Bytes that are kept of what is no whole record, or no whole message of the handshake.
const INCOMING_BYTES_MAX: usize = 96 << 10;
/// What a record of rustls' may have around its plaintext, generously.
const RECORD_OVERHEAD: usize = 64;
/// Plaintext of one record.
const RECORD_BYTES: usize = 16 << 10;
/// Room for records that rustls adds: an alert, a key update.
const EXTRA_BYTES: usize = 512;

/// One connection's TLS. Moves from core to core with its socket.
pub struct Session {
    tls: UnbufferedServerConnection,
    /// The beginning of a record or a message that is not there whole. Empty while idle.
    incoming: Vec<u8>,
    /// Came while the connection was on its way to another core.
    waiting: Vec<u8>,
    /// Records of the handshake that have to go out before anything else. Empty while idle.
    owed: Vec<u8>,
    /// Received before the handshake was done.
    handshake_bytes: usize,
    ready: bool,
    /// rustls is not asked again: it keeps places in bytes that are gone.
    failed: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("ready", &self.ready)
            .finish_non_exhaustive()
    }
}

/// What came of ciphertext.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Progress {
    /// The handshake ended with these bytes; whether it resumed an earlier session.
    pub ready: Option<bool>,
    /// The peer has ended its side.
    pub ended: bool,
    /// What it sent is not to be answered with anything but what is owed: an alert.
    pub failed: bool,
}

impl Session {
    /// A session that awaits its ClientHello.
    pub(crate) fn new(config: &Arc<ServerConfig>) -> Option<Self> {
        let tls = UnbufferedServerConnection::new(config.clone()).ok()?;
        Some(Self {
            tls,
            incoming: Vec::new(),
            waiting: Vec::new(),
            owed: Vec::new(),
            handshake_bytes: 0,
            ready: false,
            failed: false,
        })
    }

    /// Whether the handshake is done.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    /// The certificate that the client showed and that was verified, in DER.
    pub(crate) fn certificate(&self) -> Option<Box<[u8]>> {
        let first = self.tls.peer_certificates()?.first()?;
        Some(first.as_ref().into())
    }

    /// Ciphertext that is to be looked at later, with [`Session::receive`].
    pub(crate) fn keep(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
    }

    /// Takes ciphertext, which is decrypted in place; its plaintext is appended to `plain`.
    pub(crate) fn receive(&mut self, bytes: &mut [u8], plain: &mut Vec<u8>) -> Progress {
        let mut progress = Progress::default();
        if !self.ready {
            self.handshake_bytes += bytes.len();
            self.failed |= self.handshake_bytes > HANDSHAKE_BYTES_MAX;
        }
        if self.failed {
            progress.failed = true;
            return progress;
        }
        let was_ready = self.ready;
        if self.incoming.is_empty() && self.waiting.is_empty() {
            let used = self.process(bytes, plain, &mut progress);
            self.incoming.extend_from_slice(&bytes[used..]);
        } else {
            let mut incoming = std::mem::take(&mut self.incoming);
            incoming.append(&mut self.waiting);
            self.waiting = Vec::new();
            incoming.extend_from_slice(bytes);
            let used = self.process(&mut incoming, plain, &mut progress);
            if used < incoming.len() {
                incoming.drain(..used);
                self.incoming = incoming;
            }
        }
        if self.ready && !was_ready {
            let resumed = self.tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
            progress.ready = Some(resumed);
        }
        if progress.failed || progress.ended {
            // Nothing more of it is read.
            self.incoming = Vec::new();
        }
        progress.failed |= self.incoming.len() > INCOMING_BYTES_MAX;
        self.failed = progress.failed;
        progress
    }

    /// Has rustls work on what is there; returns how much of it is done with.
    fn process(&mut self, bytes: &mut [u8], plain: &mut Vec<u8>, progress: &mut Progress) -> usize {
        let mut used = 0;
        loop {
            // Always all that is left: rustls keeps places in it.
            let UnbufferedStatus { mut discard, state } =
                self.tls.process_tls_records(&mut bytes[used..]);
            let goes_on = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        match record {
                            Ok(record) => {
                                discard += record.discard;
                                plain.extend_from_slice(record.payload);
                            }
                            Err(_) => progress.failed = true,
                        }
                    }
                    true
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut data, &mut self.owed);
                    true
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    true
                }
                Ok(ConnectionState::PeerClosed) => {
                    progress.ended = true;
                    true
                }
                Ok(ConnectionState::WriteTraffic(_)) => {
                    self.ready = true;
                    false
                }
                Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => false,
                // Early data is never offered, and there is no other state.
                Ok(_) => {
                    progress.failed = true;
                    false
                }
                Err(_) => {
                    progress.failed = true;
                    true
                }
            };
            used += discard;
            // After an error nothing is read any more: only what rustls has to say is taken.
            if !goes_on || progress.failed && !self.tls.wants_write() {
                return used;
            }
        }
    }

    /// Records of the handshake that are to be sent before anything else.
    pub(crate) fn take_owed(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.owed)
    }

    /// Takes back what could not be sent.
    pub(crate) fn owe(&mut self, bytes: &[u8]) {
        self.owed.extend_from_slice(bytes);
    }

    /// Encrypts, what is owed first. `None` if there is nothing to be sent: the handshake is not done,
    /// or the keys are used up.
    pub(crate) fn seal(&mut self, plain: &[u8], sealed: &mut Sealed) -> Option<Piece> {
        let records = plain.len().div_ceil(RECORD_BYTES);
        let room = plain.len() + records * RECORD_OVERHEAD + EXTRA_BYTES;
        self.write(room, sealed, |mut traffic, out| {
            match traffic.encrypt(plain, out) {
                Ok(len) => Some(len),
                Err(EncryptError::InsufficientSize(_)) => {
                    unreachable!("records need less around them")
                }
                Err(EncryptError::EncryptExhausted) => None,
            }
        })
    }

    /// Tells the peer that nothing more will come.
    pub(crate) fn seal_end(&mut self, sealed: &mut Sealed) -> Option<Piece> {
        self.write(EXTRA_BYTES, sealed, |mut traffic, out| {
            traffic.queue_close_notify(out).ok()
        })
    }

    fn write(
        &mut self,
        room: usize,
        sealed: &mut Sealed,
        write: impl Fn(Traffic<'_>, &mut [u8]) -> Option<usize>,
    ) -> Option<Piece> {
        if !self.ready || self.failed {
            return None;
        }
        // Called until it is ready to write. What is there of a record stays as it is; the records
        // before it have been read.
        loop {
            let UnbufferedStatus { discard, state } =
                self.tls.process_tls_records(&mut self.incoming);
            let written = match state {
                Ok(ConnectionState::WriteTraffic(traffic)) => {
                    let (chunk, out) = sealed.room(self.owed.len() + room);
                    let (before, rest) = out.split_at_mut(self.owed.len());
                    before.copy_from_slice(&self.owed);
                    let len = self.owed.len() + write(traffic, rest)?;
                    Some(sealed.took(chunk, len))
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut data, &mut self.owed);
                    None
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    None
                }
                Ok(ConnectionState::PeerClosed) => None,
                Ok(_) | Err(_) => return None,
            };
            self.incoming.drain(..discard);
            if let Some(piece) = written {
                self.owed = Vec::new();
                return Some(piece);
            }
        }
    }
}

type Traffic<'a> = rustls::unbuffered::WriteTraffic<'a, ServerConnectionData>;

fn encode(
    data: &mut rustls::unbuffered::EncodeTlsData<'_, ServerConnectionData>,
    owed: &mut Vec<u8>,
) {
    let start = owed.len();
    if let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) {
        owed.resize(start + size.required_size, 0);
        let encoded = data.encode(&mut owed[start..]);
        assert!(encoded.is_ok(), "it has the room that it asked for");
    }
}

/// Ciphertext of a turn, in chunks that stay where they are: the kernel reads it from there.
#[derive(Debug, Default)]
pub(crate) struct Sealed {
    chunks: Vec<Chunk>,
}

#[derive(Debug)]
struct Chunk {
    bytes: Box<[u8]>,
    used: usize,
}

/// Bytes of a chunk, if no single piece needs more.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks that a core keeps for its next turn.
const CHUNKS_KEPT: usize = 4;

/// A piece of a turn's ciphertext.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub chunk: u32,
    pub start: usize,
    pub len: usize,
}

impl Sealed {
    /// Room for so many bytes in a row.
    fn room(&mut self, bytes: usize) -> (u32, &mut [u8]) {
        let fits = |chunk: &Chunk| chunk.bytes.len() - chunk.used >= bytes;
        // The chunks fill up in order: what is free is in the last that is used, or in those after it.
        let last = self
            .chunks
            .iter()
            .rposition(|chunk| chunk.used > 0)
            .unwrap_or(0);
        let found = self.chunks[last.min(self.chunks.len())..]
            .iter()
            .position(fits);
        let at = match found {
            Some(at) => last + at,
            None => {
                let bytes = vec![0; bytes.max(CHUNK_BYTES)].into_boxed_slice();
                self.chunks.push(Chunk { bytes, used: 0 });
                self.chunks.len() - 1
            }
        };
        let chunk = &mut self.chunks[at];
        (at as u32, &mut chunk.bytes[chunk.used..])
    }

    fn took(&mut self, chunk: u32, len: usize) -> Piece {
        let place = &mut self.chunks[chunk as usize];
        let start = place.used;
        place.used += len;
        assert!(place.used <= place.bytes.len());
        Piece { chunk, start, len }
    }

    pub fn bytes(&self, piece: Piece) -> &[u8] {
        &self.chunks[piece.chunk as usize].bytes[piece.start..][..piece.len]
    }

    /// The turn's sends have ended.
    pub fn clear(&mut self) {
        if self.chunks.is_empty() {
            return;
        }
        self.chunks.retain(|chunk| chunk.bytes.len() == CHUNK_BYTES);
        self.chunks.truncate(CHUNKS_KEPT);
        for chunk in &mut self.chunks {
            chunk.used = 0;
        }
    }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
