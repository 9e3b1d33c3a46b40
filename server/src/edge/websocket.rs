//! WebSocket frames over our own buffers: tungstenite's frame header codec, no buffer of its own
//! for a connection that has nothing half-read.

use std::io::Cursor;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

/// Frames that one message may come in: more is a flood of crumbs.
const FRAGMENTS_MAX: u32 = 1024;
/// A data frame of so many bytes or more is unmasked as it arrives, into the buffer of its message.
const LARGE_FRAME_BYTES: usize = 64 << 10;
/// A message's buffer gets its final size when one of so many parts of it has arrived, and that is
/// [`RESERVES_FROM`] bytes at least: what is announced alone reserves nothing.
const RESERVES_AT: usize = 8;
const RESERVES_FROM: usize = 1 << 20;
/// Longest payload of a control frame (RFC 6455 §5.5).
const CONTROL_BYTES_MAX: u64 = 125;

/// One whole message or control frame of a client.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A binary message, unmasked.
    Binary(&'a [u8]),
    /// One that came in a large frame, in a buffer of its own.
    Large(Vec<u8>),
    /// A text message, unmasked; not checked to be UTF-8.
    Text(&'a [u8]),
    /// To be answered with a pong of the same payload.
    Ping(&'a [u8]),
    /// An answer to our ping.
    Pong,
    /// The peer closes, with its code if it gave one.
    Close(Option<u16>),
}

/// The peer broke the protocol; close with this code and reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Close code.
    pub code: u16,
    /// Close reason.
    pub reason: &'static str,
}

/// Reads the frames of one client.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Bytes of a frame that has not wholly arrived.
    partial: Vec<u8>,
    /// Payload of a message whose last fragment has not arrived.
    message: Vec<u8>,
    fragments: u32,
    fragments_text: bool,
    /// Of a large frame that is arriving: whether it is its message's last one, its mask, from the next
    /// byte on, and how many bytes are to come.
    large_final: bool,
    large_mask: [u8; 4],
    large_left: usize,
}

/// The frame at the front of some bytes.
struct Parsed {
    header: FrameHeader,
    start: usize,
    end: usize,
}

impl Parsed {
    /// Whether its bytes go to its message as they arrive.
    fn is_large(&self) -> bool {
        let data = matches!(
            self.header.opcode,
            OpCode::Data(Data::Continue | Data::Text | Data::Binary)
        );
        data && self.end - self.start >= LARGE_FRAME_BYTES
    }
}

impl Decoder {
    /// Feeds bytes as they came from the socket (they are unmasked in place), calls `each` for every
    /// message that is complete; stops when it returns `false`.
    pub fn feed(
        &mut self,
        bytes: &mut [u8],
        message_bytes_max: usize,
        each: &mut dyn FnMut(Message<'_>) -> bool,
    ) -> Result<(), Violation> {
        if self.partial.is_empty() {
            let used = self.frames(bytes, message_bytes_max, each)?;
            self.partial.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        let mut held = std::mem::take(&mut self.partial);
        held.extend_from_slice(bytes);
        let used = self.frames(&mut held, message_bytes_max, each)?;
        if used < held.len() {
            held.drain(..used);
            self.partial = held;
        }
        Ok(())
    }

    /// Heap bytes held for what is half-read.
    pub fn held_bytes(&self) -> usize {
        self.partial.capacity() + self.message.capacity()
    }

    fn frames(
        &mut self,
        bytes: &mut [u8],
        message_bytes_max: usize,
        each: &mut dyn FnMut(Message<'_>) -> bool,
    ) -> Result<usize, Violation> {
        let mut at = 0;
        while at < bytes.len() {
            if self.large_left > 0 {
                let len = self.large_left.min(bytes.len() - at);
                if !self.large_part(&mut bytes[at..at + len], each) {
                    return Ok(bytes.len());
                }
                at += len;
                continue;
            }
            let Some(frame) = parse(&bytes[at..], message_bytes_max)? else {
                break;
            };
            if frame.end > bytes.len() - at {
                if !frame.is_large() {
                    break;
                }
                let length = frame.end - frame.start;
                self.data_begins(&frame.header, length, message_bytes_max)?;
                self.large_final = frame.header.is_final;
                self.large_mask = frame.header.mask.unwrap_or_default();
                self.large_left = length;
                at += frame.start;
                continue;
            }
            let payload = &mut bytes[at + frame.start..at + frame.end];
            at += frame.end;
            unmask(payload, frame.header.mask.unwrap_or_default());
            if !self.frame(&frame.header, payload, message_bytes_max, each)? {
                return Ok(bytes.len());
            }
        }
        Ok(at)
    }

    fn frame(
        &mut self,
        header: &FrameHeader,
        payload: &[u8],
        message_bytes_max: usize,
        each: &mut dyn FnMut(Message<'_>) -> bool,
    ) -> Result<bool, Violation> {
        match header.opcode {
            OpCode::Control(Control::Ping) => Ok(each(Message::Ping(payload))),
            OpCode::Control(Control::Pong) => Ok(each(Message::Pong)),
            OpCode::Control(Control::Close) => match payload {
                [] => Ok(each(Message::Close(None))),
                [a, b, reason @ ..] => {
                    let code = u16::from_be_bytes([*a, *b]);
                    if !CloseCode::from(code).is_allowed() || std::str::from_utf8(reason).is_err() {
                        return Err(protocol(
                            "a close frame with a code or reason that RFC 6455 forbids",
                        ));
                    }
                    Ok(each(Message::Close(Some(code))))
                }
                [_] => Err(protocol("a close frame of one byte")),
            },
            OpCode::Control(Control::Reserved(_)) | OpCode::Data(Data::Reserved(_)) => {
                Err(protocol("a frame with a reserved opcode"))
            }
            OpCode::Data(kind @ (Data::Text | Data::Binary))
                if header.is_final && self.fragments == 0 =>
            {
                Ok(each(if kind == Data::Text {
                    Message::Text(payload)
                } else {
                    Message::Binary(payload)
                }))
            }
            OpCode::Data(Data::Continue | Data::Text | Data::Binary) => {
                self.data_begins(header, payload.len(), message_bytes_max)?;
                self.message.extend_from_slice(payload);
                Ok(!header.is_final || self.message_ends(each))
            }
        }
    }

    /// The next part of a large frame. Whether to go on.
    fn large_part(&mut self, part: &mut [u8], each: &mut dyn FnMut(Message<'_>) -> bool) -> bool {
        unmask(part, self.large_mask);
        self.large_mask.rotate_left(part.len() % 4);
        let arrived = self.message.len() + part.len();
        let all = self.message.len() + self.large_left;
        if arrived > self.message.capacity() && arrived >= (all / RESERVES_AT).max(RESERVES_FROM) {
            self.message.reserve_exact(self.large_left);
        }
        self.message.extend_from_slice(part);
        self.large_left -= part.len();
        self.large_left > 0 || !self.large_final || self.message_ends(each)
    }

    /// The last fragment of a message is there. Whether to go on.
    fn message_ends(&mut self, each: &mut dyn FnMut(Message<'_>) -> bool) -> bool {
        self.fragments = 0;
        let message = std::mem::take(&mut self.message);
        each(if self.fragments_text {
            Message::Text(&message)
        } else if message.len() >= LARGE_FRAME_BYTES {
            Message::Large(message)
        } else {
            Message::Binary(&message)
        })
    }

    /// A data frame of so many bytes begins: whether it may, here.
    fn data_begins(
        &mut self,
        header: &FrameHeader,
        length: usize,
        message_bytes_max: usize,
    ) -> Result<(), Violation> {
        let continues = header.opcode == OpCode::Data(Data::Continue);
        if continues && self.fragments == 0 {
            return Err(protocol("a continuation frame without a beginning"));
        }
        if !continues && self.fragments > 0 {
            return Err(protocol("a new message inside a fragmented one"));
        }
        if !continues {
            self.fragments_text = header.opcode == OpCode::Data(Data::Text);
        }
        self.fragments += 1;
        if self.message.len() + length > message_bytes_max {
            return Err(too_big());
        }
        if self.fragments > FRAGMENTS_MAX {
            return Err(Violation {
                code: 1008,
                reason: "a message in more fragments than this server takes",
            });
        }
        Ok(())
    }
}

/// The frame at the front of `bytes`, if its header is there. What can be refused by its header alone is
/// refused before its payload is waited for.
fn parse(bytes: &[u8], message_bytes_max: usize) -> Result<Option<Parsed>, Violation> {
    let mut cursor = Cursor::new(bytes);
    let (header, length) = match FrameHeader::parse(&mut cursor) {
        Ok(Some(parsed)) => parsed,
        Ok(None) => return Ok(None),
        Err(_) => return Err(protocol("a frame with a reserved opcode")),
    };
    if header.rsv1 || header.rsv2 || header.rsv3 {
        return Err(protocol("a frame with reserved bits set"));
    }
    if header.mask.is_none() {
        return Err(protocol("a client's frame that is not masked"));
    }
    if matches!(header.opcode, OpCode::Control(_))
        && (length > CONTROL_BYTES_MAX || !header.is_final)
    {
        return Err(protocol(
            "a control frame that is fragmented or longer than 125 bytes",
        ));
    }
    if length > message_bytes_max as u64 {
        return Err(too_big());
    }
    let start = cursor.position() as usize;
    let end = start + length as usize;
    Ok(Some(Parsed { header, start, end }))
}

fn protocol(reason: &'static str) -> Violation {
    Violation { code: 1002, reason }
}

fn too_big() -> Violation {
    Violation {
        code: 1009,
        reason: "a message larger than frame_bytes_max",
    }
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let key = u32::from_ne_bytes(mask);
    if key == 0 {
        return;
    }
    let wide = u64::from(key) << 32 | u64::from(key);
    let mut chunks = payload.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let word = u64::from_ne_bytes(chunk.try_into().expect("eight bytes")) ^ wide;
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    for (byte, mask) in chunks.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Appends the header of a server's final frame with this opcode and payload length.
fn frame_header(opcode: OpCode, payload_bytes: usize, out: &mut Vec<u8>) {
    let header = FrameHeader {
        opcode,
        ..FrameHeader::default()
    };
    header
        .format(payload_bytes as u64, out)
        .expect("writing to a Vec does not fail");
}

/// Appends the header of a binary frame; the caller appends `payload_bytes` bytes after it.
pub fn binary_header(payload_bytes: usize, out: &mut Vec<u8>) {
    frame_header(OpCode::Data(Data::Binary), payload_bytes, out);
}

/// Appends the header of a slice of a binary message; the caller appends its bytes after it. Control
/// frames may come between two slices.
pub fn fragment_header(first: bool, last: bool, payload_bytes: usize, out: &mut Vec<u8>) {
    let data = if first { Data::Binary } else { Data::Continue };
    let header = FrameHeader {
        opcode: OpCode::Data(data),
        is_final: last,
        ..FrameHeader::default()
    };
    header
        .format(payload_bytes as u64, out)
        .expect("writing to a Vec does not fail");
}

/// Appends a pong.
pub fn pong(payload: &[u8], out: &mut Vec<u8>) {
    frame_header(OpCode::Control(Control::Pong), payload.len(), out);
    out.extend_from_slice(payload);
}

/// Appends a ping without payload.
pub fn ping(out: &mut Vec<u8>) {
    frame_header(OpCode::Control(Control::Ping), 0, out);
}

/// Appends a close frame; `reason` is cut to the 123 bytes that fit.
pub fn close(code: u16, reason: &str, out: &mut Vec<u8>) {
    let mut end = reason.len().min(CONTROL_BYTES_MAX as usize - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    frame_header(OpCode::Control(Control::Close), 2 + end, out);
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(&reason.as_bytes()[..end]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client_frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
        let mut out = vec![first];
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
        out
    }

    fn read(chunks: &[&[u8]]) -> Result<Vec<(char, Vec<u8>)>, Violation> {
        let mut decoder = Decoder::default();
        let mut seen = Vec::new();
        for chunk in chunks {
            decoder.feed(&mut chunk.to_vec(), 1 << 20, &mut |m| {
                seen.push(match m {
                    Message::Binary(b) => ('b', b.to_vec()),
                    Message::Large(b) => ('l', b),
                    Message::Text(b) => ('t', b.to_vec()),
                    Message::Ping(b) => ('i', b.to_vec()),
                    Message::Pong => ('o', vec![]),
                    Message::Close(code) => ('c', code.unwrap_or(0).to_be_bytes().to_vec()),
                });
                true
            })?;
        }
        Ok(seen)
    }

    #[test]
    fn any_cut_of_the_stream_reads_the_same() {
        let mask = [1, 2, 3, 250];
        let stream = [
            client_frame(0x82, b"hello world", mask),
            client_frame(0x89, b"p", mask),
            client_frame(0x02, b"frag", mask),
            client_frame(0x8a, b"", mask),
            client_frame(0x80, b"ment", mask),
            client_frame(0x82, &[7; 300], mask),
            client_frame(0x88, &[3, 232], mask),
        ]
        .concat();
        let whole = read(&[&stream]).unwrap();
        assert_eq!(whole.len(), 6);
        assert_eq!(whole[0], ('b', b"hello world".to_vec()));
        assert_eq!(whole[3], ('b', b"fragment".to_vec()));
        assert_eq!(whole[5], ('c', vec![3, 232]));
        for cut in 0..stream.len() {
            assert_eq!(
                read(&[&stream[..cut], &stream[cut..]]).unwrap(),
                whole,
                "cut at {cut}"
            );
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(read(&bytes).unwrap(), whole);
    }

    #[test]
    fn violations() {
        let m = [0; 4];
        let code = |bytes: &[u8]| read(&[bytes]).unwrap_err().code;
        assert_eq!(code(&[0x82, 0x01, 0x00]), 1002, "unmasked");
        assert_eq!(code(&client_frame(0xc2, b"x", m)), 1002, "reserved bit");
        assert_eq!(code(&client_frame(0x83, b"x", m)), 1002, "reserved opcode");
        assert_eq!(code(&client_frame(0x09, b"x", m)), 1002, "fragmented ping");
        assert_eq!(code(&client_frame(0x89, &[0; 126], m)), 1002, "long ping");
        assert_eq!(
            code(&client_frame(0x80, b"x", m)),
            1002,
            "continuation of nothing"
        );
        assert_eq!(
            code(&client_frame(0x88, b"x", m)),
            1002,
            "close of one byte"
        );
        assert_eq!(code(&client_frame(0x88, &[3, 236], m)), 1002, "close 1004");
        assert_eq!(
            code(&[client_frame(0x02, b"x", m), client_frame(0x82, b"x", m)].concat()),
            1002
        );
        let announced = [0x82, 0xff, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(
            code(&announced),
            1009,
            "100 MB announced, refused before it comes"
        );
        let crumbs = [
            client_frame(0x02, b"", m),
            client_frame(0x00, b"", m).repeat(2000),
        ]
        .concat();
        assert_eq!(code(&crumbs), 1008);
        let pieces = [
            client_frame(0x02, &[0; 60000], m),
            client_frame(0x00, &[0; 60000], m).repeat(20),
        ]
        .concat();
        assert_eq!(code(&pieces), 1009);
    }

    #[test]
    fn an_idle_connection_holds_nothing() {
        let mut decoder = Decoder::default();
        let frame = client_frame(0x82, &[1; 5000], [9; 4]);
        for chunk in frame.chunks(777) {
            decoder
                .feed(&mut chunk.to_vec(), 1 << 20, &mut |_| true)
                .unwrap();
        }
        assert_eq!(decoder.held_bytes(), 0);
    }

    #[test]
    fn large_frames_read_the_same_however_they_come() {
        const LARGE: usize = 70_000;
        let payload = |seed: usize, len: usize| -> Vec<u8> {
            (0..len).map(|at| (at * 7 + seed) as u8).collect()
        };
        let mask = [1, 2, 3, 250];
        let frames = [
            client_frame(0x82, &payload(1, LARGE), mask),
            client_frame(0x82, b"small", mask),
            client_frame(0x02, &payload(2, LARGE), mask),
            client_frame(0x89, b"p", mask),
            client_frame(0x00, b"little", mask),
            client_frame(0x80, &payload(3, LARGE + 3), [0; 4]),
            client_frame(0x81, &payload(4, LARGE), mask),
        ];
        let stream = frames.concat();
        let expected = [
            ('b', payload(1, LARGE)),
            ('b', b"small".to_vec()),
            ('i', b"p".to_vec()),
            (
                'b',
                [payload(2, LARGE), b"little".to_vec(), payload(3, LARGE + 3)].concat(),
            ),
            ('t', payload(4, LARGE)),
        ];
        for piece in [1, 2, 3, 7, 1000, 4096, 65_536, 65_551, stream.len()] {
            let pieces: Vec<&[u8]> = stream.chunks(piece).collect();
            let mut read = read(&pieces).unwrap();
            for message in &mut read {
                message.0 = if message.0 == 'l' { 'b' } else { message.0 };
            }
            assert!(read == expected, "in pieces of {piece}");
        }
        let halves = [&stream[..LARGE], &stream[LARGE..]];
        assert_eq!(
            read(&halves).unwrap()[0].0,
            'l',
            "it is handed over, not lent"
        );
        let text = client_frame(0x01, &payload(1, LARGE), mask);
        let other = client_frame(0x82, &payload(1, LARGE), mask);
        let wrong = [text, other].concat();
        let cut = wrong.len() - 10;
        assert_eq!(
            read(&[&wrong[..cut], &wrong[cut..]]).unwrap_err().code,
            1002
        );
        let unbegun = client_frame(0x80, &payload(1, LARGE), mask);
        assert_eq!(read(&[&unbegun[..99]]).unwrap_err().code, 1002);
        let pieces = [
            client_frame(0x02, &vec![0; 1 << 19], mask),
            client_frame(0x80, &vec![0; (1 << 19) + 1], mask),
        ];
        assert_eq!(
            read(&[&pieces[0], &pieces[1][..99]]).unwrap_err().code,
            1009
        );
    }

    #[test]
    fn what_is_announced_reserves_nothing() {
        const ANNOUNCED: usize = 32 << 20;
        let mut decoder = Decoder::default();
        let mut sent = client_frame(0x82, &vec![1; ANNOUNCED], [9; 4]);
        let mut at = 0;
        for piece in sent.chunks_mut(65_536) {
            at += piece.len();
            decoder
                .feed(piece, ANNOUNCED, &mut |message| {
                    let Message::Large(message) = message else {
                        panic!("{message:?}")
                    };
                    assert!(message.len() == ANNOUNCED && message.capacity() == ANNOUNCED);
                    true
                })
                .unwrap();
            let held = decoder.held_bytes();
            let parts = if at < RESERVES_FROM { 2 } else { RESERVES_AT };
            assert!(held <= parts * at, "{held} for {at}");
        }
        assert_eq!(decoder.held_bytes(), 0);
    }

    #[test]
    fn close_reasons_are_cut_at_a_character() {
        let mut out = Vec::new();
        close(4400, &"ä".repeat(100), &mut out);
        assert_eq!(out.len(), 2 + 2 + 122);
        assert!(std::str::from_utf8(&out[4..]).is_ok());
    }
}
