//! One client's socket: what is still to be read whole, and what is still to be written.

use rustix::net::{RecvFlags, recv};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

/// Most bytes that one reading of an encrypted socket brings, and a record.
const READ_BYTES_MAX: usize = 256 << 10;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Waits for the answer to its upgrade request.
    Upgrading,
    /// Waits for the first step 2.
    Syncing,
    /// Takes part.
    Synced,
    /// Gone.
    Closed,
}

/// A socket with its leftovers.
#[derive(Debug)]
pub struct Connection {
    /// The socket, non-blocking.
    pub stream: TcpStream,
    /// The encryption on it, if any.
    tls: Option<Box<rustls::ClientConnection>>,
    /// How far it has come.
    pub stage: Stage,
    /// The start of a message whose rest has not arrived; empty, without memory, when idle.
    pub tail: Vec<u8>,
    /// Bytes of a large message that are still to come and to be thrown away.
    pub skip: usize,
    /// The frames so far of a message that comes in several.
    pub parts: Option<Vec<u8>>,
    /// The message that comes in several frames is thrown away.
    pub discards: bool,
    out: Vec<u8>,
    out_sent: usize,
    /// Whether the socket is watched for room to write.
    pub watched_for_write: bool,
}

/// What became of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Everything is in the kernel's hands.
    All,
    /// The socket is full.
    Blocked,
    /// The peer is gone.
    Gone,
}

/// What became of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// This many bytes came.
    Bytes(usize),
    /// Nothing is there.
    Nothing,
    /// The peer is gone.
    Gone,
}

impl Connection {
    /// Takes over a connected, non-blocking socket.
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            tls: None,
            stage: Stage::Upgrading,
            tail: Vec::new(),
            skip: 0,
            parts: None,
            discards: false,
            out: Vec::new(),
            out_sent: 0,
            watched_for_write: false,
        }
    }

    /// The same, to be encrypted.
    pub fn with_tls(stream: TcpStream, tls: rustls::ClientConnection) -> Self {
        Self {
            tls: Some(Box::new(tls)),
            ..Self::new(stream)
        }
    }

    /// The buffer that the next flush sends; append to it.
    #[inline]
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Bytes that wait to be written.
    pub fn queued_bytes(&self) -> usize {
        self.out.len() - self.out_sent
    }

    /// Writes `bytes` at once if nothing waits before them, and keeps what the socket does not take.
    pub fn write_through(&mut self, bytes: &[u8]) -> Flushed {
        if self.queued_bytes() > 0 {
            self.out.extend_from_slice(bytes);
            return Flushed::Blocked;
        }
        if let Some(tls) = &mut self.tls {
            return write_encrypted(tls, &mut self.stream, bytes);
        }
        match write_some(&mut self.stream, bytes) {
            Received::Bytes(written) if written == bytes.len() => Flushed::All,
            Received::Bytes(written) => {
                self.out.extend_from_slice(&bytes[written..]);
                Flushed::Blocked
            }
            Received::Nothing => {
                self.out.extend_from_slice(bytes);
                Flushed::Blocked
            }
            Received::Gone => Flushed::Gone,
        }
    }

    /// Writes what waits.
    pub fn flush(&mut self) -> Flushed {
        if let Some(tls) = &mut self.tls {
            let flushed = write_encrypted(tls, &mut self.stream, &self.out);
            self.out.clear();
            return flushed;
        }
        while self.queued_bytes() > 0 {
            match write_some(&mut self.stream, &self.out[self.out_sent..]) {
                Received::Bytes(written) => self.out_sent += written,
                Received::Nothing => return Flushed::Blocked,
                Received::Gone => return Flushed::Gone,
            }
        }
        self.out.clear();
        self.out_sent = 0;
        Flushed::All
    }

    /// Throws away all that is there and says how much it was. Nothing is copied: of `buffer` only the
    /// length counts. Only for sockets without encryption.
    pub fn throw_away(&mut self, buffer: &mut [u8]) -> Received {
        assert!(self.tls.is_none(), "what is encrypted has to be read");
        let flags = RecvFlags::TRUNC | RecvFlags::DONTWAIT;
        let mut thrown = 0;
        loop {
            match recv(&self.stream, &mut *buffer, flags) {
                Ok((_, 0)) => return Received::Gone,
                Ok((_, bytes)) => {
                    thrown += bytes;
                    // What comes from here on is told anew.
                    if bytes < buffer.len() {
                        return Received::Bytes(thrown);
                    }
                }
                Err(rustix::io::Errno::AGAIN) if thrown == 0 => return Received::Nothing,
                Err(rustix::io::Errno::AGAIN) => return Received::Bytes(thrown),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return Received::Gone,
            }
        }
    }

    /// Reads once, behind the leftover of the last time, and returns how many bytes of `buffer`
    /// then hold input. `buffer` is made to hold more than the leftover.
    pub fn receive(&mut self, buffer: &mut Vec<u8>) -> Received {
        let kept = self.tail.len();
        if buffer.len() < kept * 2 {
            buffer.resize(kept * 2, 0);
        }
        let outcome = match &mut self.tls {
            Some(tls) => read_encrypted(tls, &mut self.stream, buffer, kept),
            None => read_some(&mut self.stream, &mut buffer[kept..]),
        };
        let Received::Bytes(read) = outcome else {
            return outcome;
        };
        buffer[..kept].copy_from_slice(&self.tail);
        self.tail = Vec::new();
        Received::Bytes(kept + read)
    }
}

/// Encrypts `bytes` and writes what the socket takes of all that waits. What it does not take stays
/// with the encryption.
fn write_encrypted(
    tls: &mut rustls::ClientConnection,
    stream: &mut TcpStream,
    bytes: &[u8],
) -> Flushed {
    // Without a limit, it takes all.
    if tls.writer().write_all(bytes).is_err() {
        return Flushed::Gone;
    }
    while tls.wants_write() {
        match tls.write_tls(stream) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Flushed::Blocked,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Flushed::Gone,
        }
    }
    Flushed::All
}

/// Reads and decrypts all that the socket holds, up to some bound, to `buffer` from `kept` on.
fn read_encrypted(
    tls: &mut rustls::ClientConnection,
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    kept: usize,
) -> Received {
    let mut read = 0;
    loop {
        match tls.read_tls(stream) {
            Ok(0) if read == 0 => return Received::Gone,
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return Received::Gone,
        }
        let Ok(state) = tls.process_new_packets() else {
            return Received::Gone;
        };
        let plain = state.plaintext_bytes_to_read();
        if buffer.len() < kept + read + plain {
            buffer.resize(kept + read + plain, 0);
        }
        let from = kept + read;
        if plain > 0
            && tls
                .reader()
                .read_exact(&mut buffer[from..from + plain])
                .is_err()
        {
            return Received::Gone;
        }
        read += plain;
        // What is left wakes the caller again.
        if read > READ_BYTES_MAX {
            break;
        }
    }
    // The handshake's answers.
    if tls.wants_write() && write_encrypted(tls, stream, &[]) == Flushed::Gone {
        return Received::Gone;
    }
    if read == 0 {
        return Received::Nothing;
    }
    Received::Bytes(read)
}

fn read_some(stream: &mut TcpStream, buffer: &mut [u8]) -> Received {
    loop {
        return match stream.read(buffer) {
            Ok(0) => Received::Gone,
            Ok(read) => Received::Bytes(read),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Received::Nothing,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => Received::Gone,
        };
    }
}

fn write_some(stream: &mut TcpStream, bytes: &[u8]) -> Received {
    loop {
        return match stream.write(bytes) {
            Ok(written) => Received::Bytes(written),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Received::Nothing,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => Received::Gone,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn what_is_thrown_away_is_counted_and_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        let mut connection = Connection::new(stream);
        let mut buffer = vec![7; 1 << 10];
        assert_eq!(connection.throw_away(&mut buffer), Received::Nothing);
        peer.write_all(&[1; 5_000]).unwrap();
        let mut thrown = 0;
        while thrown < 5_000 {
            if let Received::Bytes(bytes) = connection.throw_away(&mut buffer) {
                thrown += bytes;
            }
        }
        assert_eq!(thrown, 5_000);
        assert!(buffer.iter().all(|byte| *byte == 7), "nothing is copied");
        drop(peer);
        while connection.throw_away(&mut buffer) != Received::Gone {}
    }

    #[test]
    fn what_a_full_socket_refuses_is_sent_later_in_order() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        stream.set_nonblocking(true).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        let mut connection = Connection::new(stream);
        let sent: Vec<u8> = (0..32 << 20).map(|i| (i % 251) as u8).collect();
        assert_eq!(connection.write_through(&sent), Flushed::Blocked);
        assert_eq!(connection.write_through(b"end"), Flushed::Blocked);
        assert!(connection.queued_bytes() > 0);
        let reader = std::thread::spawn(move || {
            let mut all = vec![0; (32 << 20) + 3];
            peer.read_exact(&mut all).unwrap();
            all
        });
        while connection.flush() == Flushed::Blocked {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let received = reader.join().unwrap();
        assert!(received.ends_with(b"end"));
        assert!(received.starts_with(&sent));
        // The queue is as good as new afterwards.
        assert_eq!(connection.queued_bytes(), 0);
        assert_eq!(connection.write_through(b"more"), Flushed::All);
    }
}
