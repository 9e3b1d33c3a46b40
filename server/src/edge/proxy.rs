//! The PROXY protocol's header, versions 1 and 2: who a balancer speaks for.
//!
//! Strict: what the specification does not allow is refused, so that no two readers of a header see
//! two addresses in it. Extensions of version 2 (TLVs) are passed over.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use ipnet::IpNet;

/// The longest line of version 1, with its end.
const LINE_BYTES_MAX: usize = 107;
/// The longest header of version 2 that is taken, extensions included.
pub const HEADER_BYTES_MAX: usize = 4096;

const LINE_BEGINS: &[u8] = b"PROXY ";
const BINARY_BEGINS: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const BINARY_FIXED_BYTES: usize = BINARY_BEGINS.len() + 4;

/// Whether connections begin with a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// No: a header is read as a request, and refused as such.
    #[default]
    Off,
    /// Those of trusted peers may.
    Optional,
    /// All must; peers that are not trusted are not served.
    Required,
}

/// Who may send a header.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Whether one is expected.
    pub mode: Mode,
    /// Peers that may send one.
    pub trusted: Vec<IpNet>,
}

/// What is to be done with a new connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// It begins with its own bytes.
    Nothing,
    /// It may begin with a header.
    Maybe,
    /// It begins with a header, or is refused.
    Header,
    /// It is refused.
    Stranger,
}

impl Rules {
    /// What to expect of a peer.
    pub fn expect(&self, peer: IpAddr) -> Expect {
        let peer = peer.to_canonical();
        let trusted = || self.trusted.iter().any(|range| range.contains(&peer));
        match self.mode {
            Mode::Off => Expect::Nothing,
            Mode::Optional if trusted() => Expect::Maybe,
            Mode::Optional => Expect::Nothing,
            Mode::Required if trusted() => Expect::Header,
            Mode::Required => Expect::Stranger,
        }
    }
}

/// What a connection begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Header {
    /// More bytes are needed to tell.
    Incomplete,
    /// No header.
    None,
    /// A header of so many bytes, and the address of the peer that it speaks for; `None` if it speaks
    /// for the sender itself (LOCAL, UNKNOWN) or for one that has no internet address.
    Taken(usize, Option<SocketAddr>),
    /// Something that begins as a header and is none.
    Refused(&'static str),
}

/// Reads the header from all bytes received so far; never asks for more than [`HEADER_BYTES_MAX`].
pub fn parse(bytes: &[u8]) -> Header {
    let begins = |with: &[u8]| {
        let len = with.len().min(bytes.len());
        bytes[..len] == with[..len]
    };
    if begins(BINARY_BEGINS) {
        binary(bytes)
    } else if begins(LINE_BEGINS) {
        line(bytes)
    } else {
        Header::None
    }
}

fn line(bytes: &[u8]) -> Header {
    let within = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = within.windows(2).position(|pair| pair == b"\r\n") else {
        return if within.len() < LINE_BYTES_MAX {
            Header::Incomplete
        } else {
            Header::Refused("the PROXY line is longer than 107 bytes")
        };
    };
    let len = end + 2;
    let Ok(text) = std::str::from_utf8(&bytes[LINE_BEGINS.len()..end]) else {
        return Header::Refused("the PROXY line is no text");
    };
    if text == "UNKNOWN" || text.starts_with("UNKNOWN ") {
        return Header::Taken(len, None);
    }
    let words: Vec<&str> = text.split(' ').collect();
    let [family, source, destination, source_port, destination_port] = words[..] else {
        return Header::Refused("the PROXY line has not five fields");
    };
    let source: Option<IpAddr> = match family {
        "TCP4" => both::<Ipv4Addr>(source, destination),
        "TCP6" => both::<Ipv6Addr>(source, destination),
        _ => return Header::Refused("the PROXY line is for no TCP connection"),
    };
    match (source, port(source_port), port(destination_port)) {
        (Some(source), Some(port), Some(_)) => {
            Header::Taken(len, Some(SocketAddr::new(source, port)))
        }
        _ => Header::Refused("the PROXY line has an address or a port that is none"),
    }
}

/// The first of two addresses, if both are of this family.
fn both<A: std::str::FromStr + Into<IpAddr>>(source: &str, destination: &str) -> Option<IpAddr> {
    destination.parse::<A>().ok()?;
    source.parse::<A>().ok().map(Into::into)
}

fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let padded = text.len() > 1 && text.starts_with('0');
    text.parse().ok().filter(|_| plain && !padded)
}

fn binary(bytes: &[u8]) -> Header {
    let Some((fixed, rest)) = bytes.split_at_checked(BINARY_FIXED_BYTES) else {
        return Header::Incomplete;
    };
    let [.., command, family, high, low] = *fixed else {
        unreachable!("it has its length")
    };
    let body = usize::from(u16::from_be_bytes([high, low]));
    let len = BINARY_FIXED_BYTES + body;
    let local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Header::Refused("the PROXY header has another version or command"),
    };
    if len > HEADER_BYTES_MAX {
        return Header::Refused("the PROXY header is longer than 4096 bytes");
    }
    let Some(rest) = rest.get(..body) else {
        return Header::Incomplete;
    };
    // What else a LOCAL header says is to be passed over.
    if local {
        return Header::Taken(len, None);
    }
    let source = match family {
        // Unspecified, and Unix stream sockets, which have no internet address.
        0x00 | 0x31 => return Header::Taken(len, None),
        0x11 => addresses::<4>(rest, |ip| Ipv4Addr::from(ip).into()),
        0x21 => addresses::<16>(rest, |ip| Ipv6Addr::from(ip).into()),
        _ => return Header::Refused("the PROXY header is for no TCP connection"),
    };
    match source {
        Some(source) => Header::Taken(len, Some(source)),
        None => Header::Refused("the PROXY header is shorter than its addresses"),
    }
}

/// The source, out of two addresses of `N` bytes and two ports.
fn addresses<const N: usize>(body: &[u8], ip: fn([u8; N]) -> IpAddr) -> Option<SocketAddr> {
    let (source, rest) = body.split_first_chunk::<N>()?;
    let (_destination, rest) = rest.split_first_chunk::<N>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    rest.split_first_chunk::<2>()?;
    Some(SocketAddr::new(ip(*source), u16::from_be_bytes(*port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let len = (body.len() as u16).to_be_bytes();
        [BINARY_BEGINS, &[command, family], &len, body].concat()
    }

    fn addr(text: &str) -> Option<SocketAddr> {
        Some(text.parse().unwrap())
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0x30, 0x39, 0x01, 0xbb];

    #[test]
    fn headers_are_taken_whole_and_not_before() {
        let mut v6 = [0u8; 36];
        v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        (v6[15], v6[32], v6[33]) = (1, 0x30, 0x39);
        let long = [V4.as_slice(), &[4; HEADER_BYTES_MAX - 28]].concat();
        let line = |text: &str| text.as_bytes().to_vec();
        let table: Vec<(Vec<u8>, Option<SocketAddr>)> = vec![
            (
                line("PROXY TCP4 192.0.2.7 198.51.100.1 12345 443\r\n"),
                addr("192.0.2.7:12345"),
            ),
            (
                line("PROXY TCP6 2001:db8::1 ::1 12345 443\r\n"),
                addr("[2001:db8::1]:12345"),
            ),
            (
                line("PROXY TCP4 127.0.0.1 127.0.0.1 0 65535\r\n"),
                addr("127.0.0.1:0"),
            ),
            (line("PROXY UNKNOWN\r\n"), None),
            (line("PROXY UNKNOWN ffff:: what ever\r\n"), None),
            (
                line(
                    "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
                ),
                addr("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"),
            ),
            (binary(0x21, 0x11, &V4), addr("192.0.2.7:12345")),
            (
                binary(
                    0x21,
                    0x11,
                    &[V4.as_slice(), &[3, 0, 4, 1, 2, 3, 4]].concat(),
                ),
                addr("192.0.2.7:12345"),
            ),
            (binary(0x21, 0x11, &long), addr("192.0.2.7:12345")),
            (binary(0x21, 0x21, &v6), addr("[2001:db8::1]:12345")),
            (binary(0x20, 0x00, &[]), None),
            (binary(0x20, 0x11, &[1]), None),
            (binary(0x21, 0x00, &[9; 30]), None),
            (binary(0x21, 0x31, &[0; 216]), None),
        ];
        for (header, source) in table {
            for len in 0..header.len() {
                assert_eq!(
                    parse(&header[..len]),
                    Header::Incomplete,
                    "{len} of {header:?}"
                );
            }
            let taken = Header::Taken(header.len(), source);
            assert_eq!(parse(&header), taken, "{header:?}");
            assert_eq!(
                parse(&[&header, b"\x16\x03\r\n".as_slice()].concat()),
                taken
            );
        }
    }

    #[test]
    fn what_is_no_header_is_left_alone() {
        for bytes in [
            b"GET / HTTP/1.1\r\n".as_slice(),
            b"POST / HTTP/1.1\r\n",
            b"PROXX",
            b"\x16\x03\x01\x02\x00",
            b"\r\n\r\n\0\r\nQUIX",
            b"\r\nGET",
        ] {
            assert_eq!(parse(bytes), Header::None, "{bytes:?}");
        }
    }

    #[test]
    fn hostile_headers_are_refused() {
        let mut table: Vec<Vec<u8>> = [
            "PROXY TCP4 192.0.2.7 198.51.100.1 12345\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 12345 443 \r\n",
            "PROXY  TCP4 192.0.2.7 198.51.100.1 12345 443\r\n",
            "PROXY TCP4 192.0.2.07 198.51.100.1 12345 443\r\n",
            "PROXY TCP4 ::1 ::1 12345 443\r\n",
            "PROXY TCP6 192.0.2.7 198.51.100.1 12345 443\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 +12345 443\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 012345 443\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1  443\r\n",
            "PROXY TCP4 192.0.2.7 nowhere 12345 443\r\n",
            "PROXY UDP4 192.0.2.7 198.51.100.1 12345 443\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY \r\n",
            "PROXY tcp4 192.0.2.7 198.51.100.1 12345 443\r\n",
            "PROXY TCP6 fe80::1%1 ::1 1 1\r\n",
        ]
        .map(|text| text.as_bytes().to_vec())
        .into();
        table.push(b"PROXY TCP4 \xff\xfe 198.51.100.1 12345 443\r\n".to_vec());
        table.push([b"PROXY UNKNOWN ".as_slice(), &[b'a'; 100]].concat());
        // Refused by what is there, whatever would follow.
        table.push(binary(0x11, 0x11, &[])[..16].to_vec());
        table.push(binary(0x22, 0x11, &V4));
        table.push(binary(0x21, 0x12, &V4));
        table.push(binary(0x21, 0x41, &V4));
        table.push(binary(0x21, 0x11, &V4[..11]));
        table.push(binary(0x21, 0x21, &[0; 35]));
        table.push(binary(0x21, 0x11, &[0; HEADER_BYTES_MAX - 15])[..16].to_vec());
        table.push(binary(0x20, 0x00, &[0; 65535])[..16].to_vec());
        for bytes in table {
            assert!(matches!(parse(&bytes), Header::Refused(_)), "{bytes:?}");
        }
    }

    #[test]
    fn whatever_comes_there_is_an_end() {
        // A small generator of its own: beginnings of headers, with bytes changed.
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        let begins = [
            b"PROXY TCP4 192.0.2.7 198.51.100.1 12345 443\r\n".to_vec(),
            binary(0x21, 0x11, &V4),
            binary(0x21, 0x21, &[7; 50]),
        ];
        for round in 0..30_000 {
            let mut bytes = begins[round % begins.len()].clone();
            for _ in 0..next() % 4 {
                let at = next() as usize % bytes.len();
                bytes[at] = next() as u8;
            }
            bytes.resize(HEADER_BYTES_MAX, next() as u8);
            let whole = parse(&bytes);
            assert_ne!(whole, Header::Incomplete, "{bytes:?}");
            let len = next() as usize % 200;
            let part = parse(&bytes[..len]);
            assert!(
                part == Header::Incomplete || part == whole,
                "{part:?} {whole:?}"
            );
        }
    }

    #[test]
    fn only_trusted_peers_may_speak_for_others() {
        let rules = |mode| Rules {
            mode,
            trusted: vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
        };
        let table = [
            (Mode::Off, "10.1.2.3", Expect::Nothing),
            (Mode::Optional, "10.1.2.3", Expect::Maybe),
            (Mode::Optional, "::ffff:10.1.2.3", Expect::Maybe),
            (Mode::Optional, "11.1.2.3", Expect::Nothing),
            (Mode::Required, "::1", Expect::Header),
            (Mode::Required, "::2", Expect::Stranger),
            (Mode::Required, "127.0.0.1", Expect::Stranger),
        ];
        for (mode, peer, expect) in table {
            assert_eq!(
                rules(mode).expect(peer.parse().unwrap()),
                expect,
                "{mode:?} {peer}"
            );
        }
    }
}
