//! The balancer's header and TLS before the toy's own bytes.

use super::harness::{Set, Stage, descriptors, get, until};
use super::toy;
use collabblocks_server::certificate::{Certificate, Files};
use collabblocks_server::edge::proxy::{Mode, Rules};
use collabblocks_server::runtime::{FrontRules, RuntimeKind};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A certificate, and clients that trust it.
struct Trust {
    rules: FrontRules,
    client: Arc<ClientConfig>,
}

fn trust() -> Trust {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let files = Files {
        certificate: dir.path().join("a.pem"),
        key: dir.path().join("a.key"),
        client_ca: None,
    };
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let (_, server) = Certificate::load(files).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Trust {
        rules: FrontRules {
            tls: Some(Arc::new(server)),
            ..FrontRules::default()
        },
        client: Arc::new(client),
    }
}

impl Trust {
    fn start(&self, runtime: RuntimeKind) -> Stage {
        let mut set = Set::of(runtime);
        set.front = self.rules.clone();
        set.start()
    }

    /// A handshake over a socket, on which something may have been sent before.
    fn over(&self, socket: TcpStream, hello: &str) -> Tls {
        let name = ServerName::try_from("localhost").unwrap();
        let client = ClientConnection::new(self.client.clone(), name).unwrap();
        let mut stream = StreamOwned::new(client, socket);
        stream.write_all(hello.as_bytes()).unwrap();
        stream
    }

    fn connect(&self, stage: &Stage, hello: &str) -> Tls {
        self.over(stage.connect(""), hello)
    }
}

fn expect(stream: &mut impl Read, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    stream.read_exact(&mut got).unwrap();
    assert!(got == bytes, "other bytes came back");
}

fn echo(stream: &mut (impl Read + Write), bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
    stream.flush().unwrap();
    expect(stream, bytes);
}

pub fn bytes_come_back_in_order_under_tls(runtime: RuntimeKind) {
    let trust = trust();
    let stage = trust.start(runtime);
    let mut stream = trust.connect(&stage, "ec");
    std::thread::sleep(Duration::from_millis(20));
    stream.write_all(b"ho\n").unwrap();
    for len in [1, 10, 1000, 16_384, 16_385, 100_000] {
        let bytes: Vec<u8> = (0..len).map(toy::pattern).collect();
        echo(&mut stream, &bytes);
    }
    // Larger than what sockets hold: in pieces, so that nobody waits for the other.
    let piece: Vec<u8> = (0..50_000).map(toy::pattern).collect();
    for _ in 0..40 {
        echo(&mut stream, &piece);
    }
    assert_eq!(get(&stage.counts.accepted), 1);
    stage.end();
}

pub fn two_thousand_tls_handoffs_lose_no_byte_and_no_descriptor(runtime: RuntimeKind) {
    const THREADS: usize = 4;
    const EACH: usize = 500;
    let trust = trust();
    let stage = trust.start(runtime);
    drop(trust.connect(&stage, "echo\n"));
    until("the first is gone", || get(&stage.counts.closed) == 1);
    let before = descriptors();
    std::thread::scope(|scope| {
        let (stage, trust) = (&stage, &trust);
        for thread in 0..THREADS {
            scope.spawn(move || {
                for number in 0..EACH {
                    let len = 2 + (thread * 7919 + number * 104_729) % 5000;
                    let payload: Vec<u8> = (0..len).map(|at| toy::pattern(at + number)).collect();
                    let mut stream = trust.connect(stage, "other echo\n");
                    // The first half may come before the handoff, during it, or after it.
                    let (first, second) = payload.split_at(len / 2);
                    stream.write_all(first).unwrap();
                    stream.write_all(second).unwrap();
                    expect(&mut stream, &payload);
                }
            });
        }
    });
    let counts = &stage.counts;
    assert_eq!(get(&counts.handed_off), (THREADS * EACH) as u64);
    let all = 1 + (THREADS * EACH) as u64;
    until("all closed", || get(&counts.closed) == all);
    until("no descriptor is left", || descriptors() == before);
    stage.end();
}

pub fn a_full_mailbox_refuses_tls_too(runtime: RuntimeKind) {
    const COUNT: u64 = 2400;
    let trust = trust();
    let stage = trust.start(runtime);
    let before = descriptors();
    let mut streams: Vec<Tls> = (0..COUNT)
        .map(|_| {
            let mut stream = trust.connect(&stage, "");
            stream.conn.complete_io(&mut stream.sock).unwrap();
            stream
        })
        .collect();
    let mut sleeper = trust.connect(&stage, "first sleep 2500\n");
    std::thread::sleep(Duration::from_millis(100));
    for stream in &mut streams {
        stream.write_all(b"first echo\nhallo").unwrap();
    }
    let mut full = 0;
    for stream in &mut streams {
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        if &answer == b"full" {
            full += 1;
            echo(stream, b"still here");
        } else {
            assert_eq!(&answer, b"hall");
            expect(stream, b"o");
        }
    }
    assert_eq!(get(&stage.counts.refused), full);
    assert!(full > 0, "the mailbox was never full");
    echo(&mut sleeper, b"awake");
    drop((streams, sleeper));
    until("no descriptor is left", || descriptors() == before);
    stage.end();
}

pub fn a_slow_reader_under_tls_gets_all_in_order(runtime: RuntimeKind) {
    const BYTES: usize = 12_000_000;
    let trust = trust();
    let stage = trust.start(runtime);
    let mut streams: Vec<Tls> = (0..3)
        .map(|_| trust.connect(&stage, &format!("pourclose {BYTES}\n")))
        .collect();
    until("all three are blocked", || get(&stage.counts.blocked) >= 3);
    echo(&mut trust.connect(&stage, "echo\n"), b"hallo");
    for stream in &mut streams {
        let mut got = Vec::new();
        // Ends well only if TLS says that this was all.
        stream.read_to_end(&mut got).unwrap();
        assert_eq!(got.len(), BYTES);
        assert!(
            (0..BYTES).all(|at| got[at] == toy::pattern(at)),
            "other bytes"
        );
    }
    stage.end();
}

pub fn a_turn_is_shared_under_tls(runtime: RuntimeKind) {
    const MEMBERS: u64 = 400;
    let trust = trust();
    let mut set = Set::of(runtime);
    set.shards = 1;
    set.front = trust.rules.clone();
    let stage = set.start();
    let mut members: Vec<Tls> = (0..MEMBERS)
        .map(|_| trust.connect(&stage, "broadcast\n"))
        .collect();
    until("all joined", || {
        get(&stage.counts.received_bytes) == MEMBERS * 10
    });
    // More ciphertext than chunks are kept for.
    for round in 0..3usize {
        let bytes = vec![round as u8; 5_000];
        members[round].write_all(&bytes).unwrap();
        for member in &mut members {
            expect(member, &bytes);
        }
    }
    stage.end();
}

pub fn the_control_plane_is_reached_through_tls(runtime: RuntimeKind) {
    const BYTES: usize = 1_000_000;
    let trust = trust();
    let mut stage = trust.start(runtime);
    drop(trust.connect(&stage, "echo\n"));
    until("the first is gone", || get(&stage.counts.closed) == 1);
    let before = descriptors();
    let mut stream = trust.connect(&stage, "pass\nGET");
    let passed = stage.passed.blocking_recv().unwrap();
    assert!(passed.paired && passed.bytes == b"pass\nGET");
    let mut control = std::os::unix::net::UnixStream::from(passed.socket);
    control.set_nonblocking(false).unwrap();
    // Both ways more than sockets hold.
    let sent: Vec<u8> = (0..BYTES).map(toy::pattern).collect();
    let answer = sent.clone();
    let answers = std::thread::spawn(move || {
        let mut got = vec![0; BYTES];
        control.read_exact(&mut got).unwrap();
        control.write_all(&got).unwrap();
        assert!(got == answer);
    });
    stream.write_all(&sent).unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert!(got == sent);
    answers.join().unwrap();
    drop(stream);
    until("no descriptor is left", || descriptors() == before);

    // A client that goes away is noticed on the other side.
    let stream = trust.connect(&stage, "pass\n");
    let passed = stage.passed.blocking_recv().unwrap();
    drop(stream);
    let mut control = std::os::unix::net::UnixStream::from(passed.socket);
    control.set_nonblocking(false).unwrap();
    assert_eq!(control.read(&mut [0; 10]).unwrap(), 0);
    drop(control);
    until("no descriptor is left", || descriptors() == before);

    // One that the control plane has no place for is told so. Two fit the channel.
    let _held: Vec<Tls> = (0..2).map(|_| trust.connect(&stage, "pass\n")).collect();
    until("both are there", || stage.passed.len() == 2);
    let mut stream = trust.connect(&stage, "pass\n");
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert_eq!(got, collabblocks_server::runtime::UNAVAILABLE);
    stage.end();
}

pub fn what_is_no_tls_is_refused(runtime: RuntimeKind) {
    let trust = trust();
    let stage = trust.start(runtime);
    drop(trust.connect(&stage, "echo\n"));
    until("the first is gone", || get(&stage.counts.closed) == 1);
    let before = descriptors();
    let mut clear = stage.connect("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut answer = String::new();
    clear.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(
        answer
            .ends_with("\r\n\r\nthis port speaks TLS: use https:// or wss:// instead of http://\n"),
        "{answer}"
    );
    drop(clear);
    let mut hostile: Vec<Vec<u8>> = vec![
        b"\0".to_vec(),
        b"\x16\x03\x01\xff\xff".to_vec(),
        b"\x16\x03\x01\x00\x04\x01\x00\x00\x00".to_vec(),
        b"\x16\x02\x00\x00\x10aaaaaaaaaaaaaaaa".to_vec(),
        b"\x16\x03\x01\x40\x00".to_vec(),
    ];
    // A ClientHello of a megabyte, in records.
    let mut endless = b"\x16\x03\x01\x40\x00\x01\x0f\xff\xff".to_vec();
    endless.resize(5 + 16_384, 0);
    for _ in 0..20 {
        endless.extend_from_slice(b"\x16\x03\x01\x40\x00");
        endless.resize(endless.len() + 16_384, 0);
    }
    hostile.push(endless);
    for bytes in &hostile {
        let mut stream = stage.connect("");
        // The server may have closed before it is all sent.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.len() < 100 && !rest.starts_with(b"HTTP"), "{rest:?}");
    }
    // Handshakes that stop in the middle.
    for _ in 0..50 {
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(trust.client.clone(), name).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        let mut stream = stage.connect("");
        stream.write_all(&hello[..hello.len() / 2]).unwrap();
    }
    echo(&mut trust.connect(&stage, "echo\n"), b"served all the same");
    until("all are closed", || {
        get(&stage.counts.closed) == 53 + hostile.len() as u64
    });
    until("no descriptor is left", || descriptors() == before);
    stage.end();
}

fn proxied(mode: Mode, trusted: &str, tls: Option<&Trust>) -> FrontRules {
    FrontRules {
        proxy: Rules {
            mode,
            trusted: vec![trusted.parse().unwrap()],
        },
        tls: tls.and_then(|trust| trust.rules.tls.clone()),
    }
}

const V2_REMOTE: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x7f\0\0\x01\x30\x39\x01\xbb";
const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

pub fn the_proxied_address_is_the_peers(runtime: RuntimeKind) {
    let mut set = Set::of(runtime);
    set.front = proxied(Mode::Optional, "127.0.0.0/8", None);
    let stage = set.start();
    let ask = |bytes: &[u8]| {
        let mut stream = stage.connect("");
        stream.write_all(bytes).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        String::from_utf8(answer.to_vec()).unwrap()
    };
    let of = |header: &[u8]| ask(&[header, b"who\n"].concat());
    assert_eq!(of(b""), "near");
    assert_eq!(of(b"PROXY TCP4 192.0.2.7 127.0.0.1 1 2\r\n"), "far!");
    assert_eq!(of(b"PROXY TCP4 127.0.0.1 192.0.2.7 1 2\r\n"), "near");
    assert_eq!(of(b"PROXY UNKNOWN\r\n"), "near");
    assert_eq!(of(V2_REMOTE), "far!");
    assert_eq!(of(V2_LOCAL), "near");
    // It stays with the connection when that goes to another core.
    assert_eq!(ask(&[V2_REMOTE, b"other who\n"].concat()), "far!");
    // Byte by byte.
    let mut stream = stage.connect("");
    for byte in [V2_REMOTE, b"who\n"].concat() {
        stream.write_all(&[byte]).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    super::harness::expect(&mut stream, b"far!");
    // What begins as a header and is none.
    let mut stream = stage.connect("PROXY TCP4 nobody 127.0.0.1 1 2\r\nwho\n");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"");
    stage.end();

    // A peer that is not trusted does not speak for others: its header is no request.
    let mut set = Set::of(runtime);
    set.front = proxied(Mode::Optional, "192.0.2.0/24", None);
    let stage = set.start();
    let mut stream = stage.connect("PROXY TCP4 192.0.2.7 127.0.0.1 1 2\r\nwho\n");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert_eq!(rest, b"");
    stage.end();
}

pub fn a_header_that_is_required_is_insisted_on(runtime: RuntimeKind) {
    let mut set = Set::of(runtime);
    set.front = proxied(Mode::Required, "127.0.0.0/8", None);
    let stage = set.start();
    let mut stream = stage.connect("who\n");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(
        answer.ends_with("\r\n\r\nthis port wants a PROXY protocol header at first\n"),
        "{answer}"
    );
    let mut stream = stage.connect("PROXY UNKNOWN\r\nwho\n");
    super::harness::expect(&mut stream, b"near");
    stage.end();

    let mut set = Set::of(runtime);
    set.front = proxied(Mode::Required, "192.0.2.0/24", None);
    let stage = set.start();
    let mut stream = stage.connect("");
    let _ = stream.write_all(b"PROXY UNKNOWN\r\nwho\n");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert_eq!(rest, b"");
    assert_eq!(get(&stage.counts.accepted), 0);
    stage.end();
}

pub fn tls_comes_after_the_header(runtime: RuntimeKind) {
    let trust = trust();
    let mut set = Set::of(runtime);
    set.front = proxied(Mode::Required, "127.0.0.0/8", Some(&trust));
    let stage = set.start();
    for (header, who) in [(V2_REMOTE, b"far!"), (V2_LOCAL, b"near")] {
        for hello in ["who\n", "other who\n", "first who\n"] {
            let mut socket = stage.connect("");
            socket.write_all(header).unwrap();
            expect(&mut trust.over(socket, hello), who);
        }
    }
    stage.end();
}
