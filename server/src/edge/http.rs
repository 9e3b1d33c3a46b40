//! The HTTP/1.1 request head: enough of it to tell a room socket from everything else.

use tungstenite::handshake::derive_accept_key;

/// Header lines in a request head before it is refused.
const HEADERS_MAX: usize = 64;

/// Paths that belong to other dialects and to the HTTP API: never room names, whether or not this
/// version serves them. Each stands for itself and for all below it.
pub const RESERVED: &[&str] = &[
    "/d",
    "/doc",
    "/parties",
    "/hocuspocus",
    "/v7",
    "/v8",
    "/v2",
    "/api",
    "/collab",
    "/inspect",
    "/health",
    "/metrics",
];

/// What the bytes read so far amount to.
#[derive(Debug, PartialEq, Eq)]
pub enum Head {
    /// The head is not complete.
    Incomplete,
    /// It can never become one, or is refused: answer with this and close.
    Refused(Refusal),
    /// A WebSocket upgrade.
    Upgrade(Upgrade),
    /// Any other request: the control plane's.
    Plain,
}

/// A refusal of a request head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// One sentence for the answer's body.
    pub why: &'static str,
}

/// A WebSocket upgrade request.
#[derive(Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// Bytes of the head; what follows are frames.
    pub head_bytes: usize,
    /// The path without its first `/`, up to `?`, as it came (not percent-decoded).
    pub room: String,
    /// The path is one of [`RESERVED`].
    pub reserved: bool,
    /// The value of `Origin`, if there is one.
    pub origin: Option<String>,
    /// The value of `Host`, if there is one.
    pub host: Option<String>,
    accept: String,
    protocol: Option<String>,
}

/// Looks at all bytes read so far of a connection.
pub fn parse(bytes: &[u8], head_bytes_max: usize) -> Head {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let head_bytes = match request.parse(bytes) {
        Ok(httparse::Status::Complete(n)) if n <= head_bytes_max => n,
        Ok(httparse::Status::Partial) if bytes.len() < head_bytes_max => return Head::Incomplete,
        Ok(_) => return refused(431, "the request head is larger than this server takes"),
        Err(httparse::Error::TooManyHeaders) => {
            return refused(
                431,
                "the request has more header lines than this server takes",
            );
        }
        Err(_) => return refused(400, "this is not an HTTP/1.1 request"),
    };
    let header = |name: &str| {
        let value = request
            .headers
            .iter()
            .find(|h| h.name.eq_ignore_ascii_case(name))?
            .value;
        std::str::from_utf8(value).ok().map(str::trim)
    };
    if !header("upgrade").is_some_and(|v| list_has(v, "websocket")) {
        return Head::Plain;
    }
    if request.method != Some("GET")
        || !header("connection").is_some_and(|v| list_has(v, "upgrade"))
    {
        return refused(
            400,
            "a WebSocket upgrade is a GET with 'Connection: Upgrade'",
        );
    }
    if header("sec-websocket-version") != Some("13") {
        return refused(426, "this server speaks WebSocket version 13");
    }
    let Some(key) = header("sec-websocket-key").filter(|k| k.len() == 24) else {
        return refused(400, "the Sec-WebSocket-Key header is missing or malformed");
    };
    let target = request.path.unwrap_or("/");
    let path = target.split('?').next().unwrap_or("/");
    let Some(room) = path.strip_prefix('/') else {
        return refused(400, "the request target does not begin with '/'");
    };
    Head::Upgrade(Upgrade {
        head_bytes,
        room: room.to_owned(),
        reserved: is_reserved(path),
        origin: header("origin").map(str::to_owned),
        host: header("host").map(str::to_owned),
        accept: derive_accept_key(key.as_bytes()),
        // Some clients smuggle a token here; a browser fails the connection unless one is echoed.
        protocol: header("sec-websocket-protocol")
            .and_then(|v| v.split(',').next())
            .map(|p| p.trim().to_owned())
            .filter(|p| !p.is_empty()),
    })
}

fn refused(status: u16, why: &'static str) -> Head {
    Head::Refused(Refusal { status, why })
}

fn list_has(value: &str, token: &str) -> bool {
    value
        .split(',')
        .any(|v| v.trim().eq_ignore_ascii_case(token))
}

/// Whether the path is one of [`RESERVED`], or below one.
pub(crate) fn is_reserved(path: &str) -> bool {
    RESERVED.iter().any(|r| {
        path.strip_prefix(r)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

impl Upgrade {
    /// Whether a page of this origin may connect: any origin at all where there is none (not a
    /// browser), the server's own host, a listed one, and on loopback any loopback page.
    pub fn origin_allowed(&self, allowed: &[String], loopback_pages: bool) -> bool {
        let Some(origin) = self.origin.as_deref() else {
            return true;
        };
        if allowed.iter().any(|a| a == origin || a == "*") {
            return true;
        }
        let Some(authority) = origin.split_once("://").map(|(_, a)| a) else {
            return false;
        };
        let loopback = matches!(host_name(authority), "localhost" | "127.0.0.1" | "[::1]");
        if loopback_pages {
            // A page of another name that resolves to loopback (DNS rebinding) is not let in.
            return loopback;
        }
        self.host.as_deref() == Some(authority)
    }

    /// Appends the `101 Switching Protocols` answer.
    pub fn accept(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ");
        out.extend_from_slice(self.accept.as_bytes());
        if let Some(protocol) = &self.protocol {
            out.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
            out.extend_from_slice(protocol.as_bytes());
        }
        out.extend_from_slice(b"\r\n\r\n");
    }
}

fn host_name(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// Appends the whole answer of a refusal; the connection is closed after it.
pub fn refuse(status: u16, why: &str, out: &mut Vec<u8>) {
    let phrase = match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Request Timeout",
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Error",
    };
    let extra = match status {
        401 => "WWW-Authenticate: Bearer\r\n",
        426 => "Sec-WebSocket-Version: 13\r\n",
        503 => "Retry-After: 1\r\n",
        _ => "",
    };
    let text = format!(
        "HTTP/1.1 {status} {phrase}\r\n{extra}Connection: close\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\r\n{why}\n",
        why.len() + 1,
    );
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upgrade(target: &str, more: &str) -> Head {
        let text = format!(
            "GET {target} HTTP/1.1\r\nHost: example.org:8080\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
        );
        parse(text.as_bytes(), 16384)
    }

    fn room(target: &str) -> (String, bool) {
        match upgrade(target, "") {
            Head::Upgrade(u) => (u.room, u.reserved),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn room_names_are_the_raw_path() {
        assert_eq!(
            room("/a%20b/%C3%BC?token=x%20y"),
            ("a%20b/%C3%BC".into(), false)
        );
        assert_eq!(room("/"), (String::new(), false));
        assert_eq!(room("//x/"), ("/x/".into(), false));
        assert_eq!(room("/dx"), ("dx".into(), false));
        for reserved in RESERVED {
            assert!(room(reserved).1, "{reserved}");
            assert!(room(&format!("{reserved}/x?y")).1, "{reserved}/");
        }
    }

    #[test]
    fn the_answer_is_the_one_of_the_rfc() {
        let Head::Upgrade(u) = upgrade("/r", "Sec-WebSocket-Protocol: tok, other\r\n") else {
            panic!()
        };
        let mut out = Vec::new();
        u.accept(&mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
            "{text}"
        );
        assert!(
            text.ends_with("Sec-WebSocket-Protocol: tok\r\n\r\n"),
            "{text}"
        );
    }

    #[test]
    fn origins() {
        let with = |origin: &str| match upgrade("/r", &format!("Origin: {origin}\r\n")) {
            Head::Upgrade(u) => u,
            other => panic!("{other:?}"),
        };
        let none: &[String] = &[];
        assert!(with("http://localhost:5173").origin_allowed(none, true));
        assert!(with("http://[::1]:8080").origin_allowed(none, true));
        assert!(!with("http://evil.example").origin_allowed(none, true));
        assert!(!with("http://localhost.evil.example").origin_allowed(none, true));
        assert!(with("http://example.org:8080").origin_allowed(none, false));
        assert!(!with("http://example.org:8080").origin_allowed(none, true));
        assert!(!with("http://example.org").origin_allowed(none, false));
        // A page of this machine is not of this host and port.
        assert!(!with("http://localhost:5173").origin_allowed(none, false));
        assert!(!with("null").origin_allowed(none, false));
        assert!(with("https://app.example").origin_allowed(&["https://app.example".into()], false));
    }

    #[test]
    fn what_is_no_upgrade() {
        let get = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
        assert_eq!(parse(get, 16384), Head::Plain);
        assert_eq!(parse(&get[..20], 16384), Head::Incomplete);
        assert!(matches!(
            parse(b"\x16\x03\x01\x02\x00", 16384),
            Head::Refused(Refusal { status: 400, .. })
        ));
        let long = [b"GET /r HTTP/1.1\r\nX: ".as_slice(), &[b'a'; 20000]].concat();
        assert!(matches!(
            parse(&long, 16384),
            Head::Refused(Refusal { status: 431, .. })
        ));
        let many = format!("GET /r HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(100));
        assert!(matches!(
            parse(many.as_bytes(), 16384),
            Head::Refused(Refusal { status: 431, .. })
        ));
        assert!(matches!(
            parse(
                b"POST /r HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
                16384
            ),
            Head::Refused(Refusal { status: 400, .. })
        ));
    }
}
