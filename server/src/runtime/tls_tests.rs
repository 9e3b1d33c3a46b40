use super::*;
use crate::certificate::{Certificate, Files};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::io::{Read, Write};

fn configs() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
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
    (Arc::new(server), Arc::new(client))
}

fn client(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("localhost").unwrap();
    ClientConnection::new(config.clone(), name).unwrap()
}

/// Has the client read ciphertext; returns the plaintext.
fn hear(client: &mut ClientConnection, mut bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).unwrap();
        client.process_new_packets().unwrap();
        // It has all there is for now.
        let _ = client.reader().read_to_end(&mut plain);
    }
    plain
}

/// What the client has to say.
fn says(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// A session and its client, past the handshake.
fn ready() -> (Session, ClientConnection) {
    let (server, config) = configs();
    let mut session = Session::new(&server).unwrap();
    let mut client = client(&config);
    let mut plain = Vec::new();
    while client.is_handshaking() || !session.is_ready() {
        let progress = session.receive(&mut says(&mut client), &mut plain);
        assert!(!progress.failed && !progress.ended);
        hear(&mut client, &session.take_owed());
    }
    assert!(plain.is_empty());
    (session, client)
}

fn sealed(session: &mut Session, plain: &[u8]) -> Vec<u8> {
    let mut sealed = Sealed::default();
    let piece = session.seal(plain, &mut sealed).unwrap();
    sealed.bytes(piece).to_vec()
}

#[test]
fn an_idle_session_holds_no_buffer() {
    let (mut session, mut client) = ready();
    let mut plain = Vec::new();
    client.writer().write_all(&[7; 40_000]).unwrap();
    let mut bytes = says(&mut client);
    let (first, rest) = bytes.split_at_mut(20_000);
    session.receive(first, &mut plain);
    assert!(session.incoming.capacity() > 0, "half a record is kept");
    session.receive(rest, &mut plain);
    assert!(plain == [7; 40_000]);
    let bytes = sealed(&mut session, &[8; 100_000]);
    assert!(hear(&mut client, &bytes) == [8; 100_000]);
    let held = [&session.incoming, &session.waiting, &session.owed].map(Vec::capacity);
    assert_eq!(held, [0; 3]);
    // What it is itself; rustls' boxes and keys come on top and are measured from outside.
    assert!(
        size_of::<Session>() <= 2048,
        "{} bytes",
        size_of::<Session>()
    );
}

#[test]
fn what_is_said_while_nothing_can_be_sent_comes_first_later() {
    let (mut session, mut client) = ready();
    client.refresh_traffic_keys().unwrap();
    let mut plain = Vec::new();
    // The client asks for new keys: the answer is owed, and later bytes are in those.
    assert!(!session.receive(&mut says(&mut client), &mut plain).failed);
    let owed = session.take_owed();
    session.owe(&owed);
    let bytes = sealed(&mut session, b"hallo");
    assert_eq!(hear(&mut client, &bytes), b"hallo");
    client.writer().write_all(b"again").unwrap();
    session.receive(&mut says(&mut client), &mut plain);
    assert_eq!(plain, b"again");
}

#[test]
fn an_end_is_told_from_a_torn_connection() {
    let (mut session, mut client) = ready();
    let mut plain = Vec::new();
    client.writer().write_all(b"last").unwrap();
    client.send_close_notify();
    let progress = session.receive(&mut says(&mut client), &mut plain);
    assert!(progress.ended && !progress.failed);
    assert_eq!(plain, b"last");
    let mut sealed = Sealed::default();
    let piece = session.seal_end(&mut sealed).unwrap();
    let mut end = sealed.bytes(piece);
    client.read_tls(&mut end).unwrap();
    assert!(client.process_new_packets().unwrap().peer_has_closed());
}

#[test]
fn pieces_of_a_turn_stay_where_they_are() {
    let (mut session, mut client) = ready();
    let mut chunks = Sealed::default();
    let sizes = [10, 200_000, 100_000, 600_000, 5, 250_000, 100];
    for _ in 0..3 {
        let pieces: Vec<Piece> = sizes
            .iter()
            .map(|len| session.seal(&vec![1; *len], &mut chunks).unwrap())
            .collect();
        let at: Vec<_> = pieces
            .iter()
            .map(|piece| chunks.bytes(*piece).as_ptr())
            .collect();
        session.seal(&[1; 300_000], &mut chunks).unwrap();
        let still: Vec<_> = pieces
            .iter()
            .map(|piece| chunks.bytes(*piece).as_ptr())
            .collect();
        assert_eq!(at, still);
        for (piece, len) in pieces.iter().zip(sizes) {
            assert!(hear(&mut client, chunks.bytes(*piece)) == vec![1; len]);
        }
        chunks.clear();
        assert!(chunks.chunks.len() <= CHUNKS_KEPT);
        // The client misses the one above: a new pair for the next round.
        (session, client) = ready();
    }
}

/// A small generator of its own.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 as usize % below
    }

    fn spoil(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.next(4) {
            let at = self.next(bytes.len());
            match self.next(4) {
                0 => bytes[at] = self.next(256) as u8,
                1 => bytes[at] ^= 1 << self.next(8),
                2 => bytes.truncate(at.max(1)),
                _ => {
                    let record = [22, 3, 1, 0, self.next(9) as u8, 1, 0, self.next(200) as u8];
                    let end = at + self.next(bytes.len() - at);
                    bytes.splice(at..end, record);
                }
            }
        }
    }
}

/// Feeds bytes in pieces, as a socket would, until the session is at its end.
fn feed(session: &mut Session, bytes: &[u8], random: &mut Random) -> Progress {
    let (mut plain, mut at) = (Vec::new(), 0);
    loop {
        let len = (1 + random.next(bytes.len())).min(bytes.len() - at);
        let progress = session.receive(&mut bytes[at..at + len].to_vec(), &mut plain);
        at += len;
        if progress.failed || progress.ended || at == bytes.len() {
            return progress;
        }
        // The shard may want to say something at any time.
        let _ = session.seal(b"x", &mut Sealed::default());
    }
}

#[test]
fn spoilt_bytes_never_panic() {
    let seed = std::env::var("COLLABBLOCKS_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(0x5eed_1e55);
    eprintln!("COLLABBLOCKS_SEED={seed}");
    let mut random = Random(seed);
    let (server, config) = configs();
    let rounds = std::env::var("COLLABBLOCKS_ROUNDS")
        .ok()
        .and_then(|rounds| rounds.parse().ok());
    for round in 0..rounds.unwrap_or(600) {
        let mut session = Session::new(&server).unwrap();
        let mut client = client(&config);
        let mut hello = says(&mut client);
        if round % 3 != 0 {
            random.spoil(&mut hello);
            feed(&mut session, &hello, &mut random);
            let _ = session.take_owed();
            let _ = session.seal_end(&mut Sealed::default());
            continue;
        }
        feed(&mut session, &hello, &mut random);
        hear(&mut client, &session.take_owed());
        let mut second = says(&mut client);
        if round % 2 == 0 {
            random.spoil(&mut second);
            feed(&mut session, &second, &mut random);
            let _ = session.seal_end(&mut Sealed::default());
            continue;
        }
        feed(&mut session, &second, &mut random);
        assert!(session.is_ready());
        client.writer().write_all(&[3; 30_000]).unwrap();
        let _ = client.refresh_traffic_keys();
        let mut bytes = says(&mut client);
        random.spoil(&mut bytes);
        feed(&mut session, &bytes, &mut random);
        let _ = session.seal_end(&mut Sealed::default());
    }
}

#[test]
fn who_speaks_another_protocol_is_told_so() {
    let (server, config) = configs();
    let mut config = (*config).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut session = Session::new(&server).unwrap();
    let mut client = client(&Arc::new(config));
    let progress = session.receive(&mut says(&mut client), &mut Vec::new());
    assert!(progress.failed);
    // In TLS 1.3 the alert comes after the ServerHello.
    let owed = session.take_owed();
    client.read_tls(&mut owed.as_slice()).unwrap();
    let error = client.process_new_packets().unwrap_err();
    let alert = rustls::AlertDescription::NoApplicationProtocol;
    assert_eq!(error, rustls::Error::AlertReceived(alert));
}

#[test]
fn a_handshake_has_a_bound() {
    let (server, _) = configs();
    let mut session = Session::new(&server).unwrap();
    // A ClientHello that says it is a megabyte long, in small records.
    let mut record = vec![22, 3, 1, 4, 0];
    record.resize(5 + 1024, 0);
    let mut first = record.clone();
    first[5..9].copy_from_slice(&[1, 0x0f, 0xff, 0xff]);
    let mut received = first.len();
    let mut progress = session.receive(&mut first, &mut Vec::new());
    while !progress.failed {
        received += record.len();
        assert!(
            received < 2 * HANDSHAKE_BYTES_MAX,
            "taken: {received} bytes"
        );
        progress = session.receive(&mut record.clone(), &mut Vec::new());
    }
}
