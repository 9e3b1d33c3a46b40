//! WebSocket framing as the generator and the floors need it, over buffers of their own.

/// Opcode of a continuation frame.
pub const CONTINUATION: u8 = 0;
/// Opcode of a text frame.
pub const TEXT: u8 = 1;
/// Opcode of a binary frame.
pub const BINARY: u8 = 2;
/// Opcode of a close frame.
pub const CLOSE: u8 = 8;
/// Opcode of a ping frame.
pub const PING: u8 = 9;
/// Opcode of a pong frame.
pub const PONG: u8 = 10;

/// Frames above this are taken for garbage: no scenario moves documents of this size.
pub const PAYLOAD_BYTES_MAX: u64 = 256 << 20;

/// One frame's place in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Whether the message ends with this frame.
    pub fin: bool,
    /// What kind of frame it is.
    pub opcode: u8,
    /// The mask key, where there is one.
    pub mask: Option<[u8; 4]>,
    /// Where the payload starts, from the frame's first byte.
    pub payload_start: usize,
    /// Length of the whole frame in bytes.
    pub length: usize,
}

/// What the front of a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A whole frame.
    Frame(Frame),
    /// Not yet a whole frame; at least this many bytes are needed in all.
    Incomplete(usize),
    /// No frame that a server or client of ours would send.
    Invalid,
}

/// Looks at the frame at the front of `bytes`.
#[inline]
pub fn parse(bytes: &[u8]) -> Parsed {
    let &[first, second, ..] = bytes else {
        return Parsed::Incomplete(2);
    };
    if first & 0x70 != 0 {
        return Parsed::Invalid;
    }
    let masked = second & 0x80 != 0;
    let (length, header) = match second & 0x7f {
        126 => match bytes.get(2..4) {
            Some(field) => (u64::from(u16::from_be_bytes([field[0], field[1]])), 4),
            None => return Parsed::Incomplete(4),
        },
        127 => match bytes.get(2..10) {
            Some(field) => {
                let field: [u8; 8] = field.try_into().expect("the slice is eight bytes");
                (u64::from_be_bytes(field), 10)
            }
            None => return Parsed::Incomplete(10),
        },
        short => (u64::from(short), 2),
    };
    if length > PAYLOAD_BYTES_MAX {
        return Parsed::Invalid;
    }
    let payload_start = header + if masked { 4 } else { 0 };
    let whole = payload_start + length as usize;
    if bytes.len() < whole {
        return Parsed::Incomplete(whole);
    }
    let mask = masked.then(|| {
        bytes[header..payload_start]
            .try_into()
            .expect("a mask key is four bytes")
    });
    Parsed::Frame(Frame {
        fin: first & 0x80 != 0,
        opcode: first & 0x0f,
        mask,
        payload_start,
        length: whole,
    })
}

/// Undoes (or applies) a mask. A zero key, which is legal, costs nothing.
#[inline]
pub fn unmask(payload: &mut [u8], key: [u8; 4]) {
    if key == [0; 4] {
        return;
    }
    for (index, byte) in payload.iter_mut().enumerate() {
        *byte ^= key[index & 3];
    }
}

/// Appends an unmasked frame, as servers send them.
pub fn write_server_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    write_header(out, opcode, payload.len(), 0);
    out.extend_from_slice(payload);
}

/// Appends a frame masked with the zero key, as our clients send them.
pub fn write_client_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    write_header(out, opcode, payload.len(), 0x80);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
}

fn write_header(out: &mut Vec<u8>, opcode: u8, length: usize, mask_bit: u8) {
    out.push(0x80 | opcode);
    match length {
        0..126 => out.push(mask_bit | length as u8),
        126..=0xffff => {
            out.push(mask_bit | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(mask_bit | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_length_class_are_found_at_every_split() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536] {
            let payload: Vec<u8> = (0..length).map(|i| i as u8).collect();
            for client in [false, true] {
                let mut bytes = Vec::new();
                if client {
                    write_client_frame(&mut bytes, BINARY, &payload);
                } else {
                    write_server_frame(&mut bytes, BINARY, &payload);
                }
                let whole = bytes.len();
                bytes.extend_from_slice(&[0x82, 0x00]);
                let Parsed::Frame(frame) = parse(&bytes) else {
                    panic!("no frame")
                };
                assert_eq!(frame.length, whole);
                let length_field = match length {
                    0..126 => 0,
                    126..=65_535 => 2,
                    _ => 8,
                };
                let mask_key = if client { 4 } else { 0 };
                assert_eq!(frame.payload_start, 2 + length_field + mask_key);
                assert_eq!(&bytes[frame.payload_start..whole], payload);
                assert_eq!(frame.mask, client.then_some([0; 4]));
                for cut in (0..whole).filter(|cut| *cut < 20 || cut + 3 > whole) {
                    let Parsed::Incomplete(need) = parse(&bytes[..cut]) else {
                        panic!("length {length} cut at {cut} was taken as whole")
                    };
                    assert!(need > cut && need <= whole);
                }
            }
        }
    }

    #[test]
    fn refuses_reserved_bits_and_absurd_lengths() {
        assert_eq!(parse(&[0xc2, 0]), Parsed::Invalid);
        let mut huge = vec![0x82, 127];
        huge.extend_from_slice(&(1u64 << 40).to_be_bytes());
        assert_eq!(parse(&huge), Parsed::Invalid);
    }

    #[test]
    fn masking_twice_gives_the_bytes_back() {
        let mut bytes = *b"collaborate";
        unmask(&mut bytes, [1, 2, 3, 4]);
        assert_ne!(&bytes, b"collaborate");
        unmask(&mut bytes, [1, 2, 3, 4]);
        assert_eq!(&bytes, b"collaborate");
    }
}
