//! What clients send before it is an update, and what operators write.

use crate::sim::frames;
use crate::sim::rng::Rng;
use collabblocks_server::config::{Inputs, Key, load};
use collabblocks_server::dialect::{Command, y_websocket};
use collabblocks_server::edge::http::{self, Head};
use collabblocks_server::edge::request;
use collabblocks_server::edge::websocket::{Decoder, Message};
use collabblocks_storage_engine::guard::{Limits, awareness, state_vector};

const MESSAGE_BYTES_MAX: usize = 4 << 10;

/// One message as it is seen.
fn seen(message: &Message<'_>) -> String {
    format!("{message:?}")
}

/// WebSocket frames, cut where the first byte says: in one piece or in many, the same is read.
pub(super) fn websocket(input: &[u8]) {
    let Some((&cut, bytes)) = input.split_first() else {
        return;
    };
    let whole = {
        let mut messages = Vec::new();
        let end = Decoder::default().feed(&mut bytes.to_vec(), MESSAGE_BYTES_MAX, &mut |message| {
            messages.push(seen(&message));
            true
        });
        (messages, end)
    };
    let mut decoder = Decoder::default();
    let mut messages = Vec::new();
    let mut end = Ok(());
    for piece in bytes.chunks(1 + usize::from(cut)) {
        end = decoder.feed(&mut piece.to_vec(), MESSAGE_BYTES_MAX, &mut |message| {
            messages.push(seen(&message));
            true
        });
        assert!(
            decoder.held_bytes() < 8 * (MESSAGE_BYTES_MAX + 300),
            "{} bytes are held",
            decoder.held_bytes()
        );
        if end.is_err() {
            break;
        }
    }
    assert_eq!(whole, (messages, end), "cut into pieces of {cut} + 1");
}

pub(super) fn websocket_seeds() -> Vec<Vec<u8>> {
    let mut rng = Rng::new(1);
    let mut seeds = Vec::new();
    for (opcode, len) in [(1, 3), (2, 0), (2, 130), (8, 2), (9, 4), (10, 4), (0, 5)] {
        let mut seed = vec![rng.range(0..20) as u8];
        frames::masked(opcode, &vec![3; len], &mut rng, &mut seed);
        frames::masked(2, &[0, 0, 1, 0], &mut rng, &mut seed);
        seeds.push(seed);
    }
    // A message in two frames.
    let mut seed = vec![255];
    frames::masked(2, &[0, 0], &mut rng, &mut seed);
    seed[1] &= 0x7f;
    frames::masked(0, &[1, 0], &mut rng, &mut seed);
    seeds.push(seed);
    seeds
}

/// A request head; a longer beginning of it is never understood differently.
pub(super) fn http(input: &[u8]) {
    const MAX: usize = 1 << 10;
    let whole = http::parse(input, MAX);
    if let Head::Upgrade(upgrade) = &whole {
        assert!(upgrade.head_bytes <= input.len().min(MAX));
        let mut out = Vec::new();
        upgrade.accept(&mut out);
        let lines = out.windows(2).filter(|pair| *pair == b"\r\n").count();
        assert!(
            (4..=6).contains(&lines),
            "{:?}",
            String::from_utf8_lossy(&out)
        );
        upgrade.origin_allowed(&["https://example.com".into()], true);
        let head = &input[..upgrade.head_bytes];
        let origin = request::header(head, "origin");
        assert_eq!(origin, upgrade.origin.as_deref());
        if let Some(query) = request::query(head) {
            request::parameter(query, "token");
        }
        let again = http::parse(head, MAX);
        assert!(matches!(again, Head::Upgrade(_)), "{again:?}");
    }
    for end in 0..input.len().min(MAX) {
        match http::parse(&input[..end], MAX) {
            Head::Incomplete => {}
            // As soon as it is understood, it stays so.
            earlier => {
                assert_eq!(
                    std::mem::discriminant(&earlier),
                    std::mem::discriminant(&whole),
                    "after {end} bytes"
                );
                return;
            }
        }
    }
}

pub(super) fn http_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = ["room", "a%20b?c=d", "", "health", "../x", "a/b/c"]
        .iter()
        .map(|room| frames::upgrade(room))
        .collect();
    seeds.push(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec());
    seeds.push(b"POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc".to_vec());
    let mut browser = frames::upgrade("room");
    browser.truncate(browser.len() - 2);
    browser.extend(b"Origin: http://localhost:80\r\nSec-WebSocket-Protocol: a, b\r\n\r\n");
    seeds.push(browser);
    seeds
}

/// The messages of a binary frame.
pub(super) fn messages(input: &[u8]) {
    let limits = Limits::default();
    let mut bodies = 0;
    for command in y_websocket::commands(input) {
        match command {
            Ok(Command::SyncRequest(vector)) => {
                bodies += vector.len();
                if let Ok(clocks) = state_vector(vector, &limits) {
                    assert!(2 * clocks.len() <= vector.len(), "more clients than bytes");
                }
            }
            Ok(Command::SyncReply(body) | Command::Update(body)) => bodies += body.len(),
            Ok(Command::Presence(update)) => {
                bodies += update.len();
                if let Ok(entries) = awareness(update, &limits) {
                    assert!(3 * entries.len() <= update.len(), "more entries than bytes");
                }
            }
            Ok(_) => {}
            Err(bad) => assert!(!bad.0.is_empty()),
        }
    }
    assert!(bodies <= input.len(), "more was read than is there");
}

pub(super) fn messages_seeds() -> Vec<Vec<u8>> {
    let state = Some("{\"a\":[1,null,\"x\"]}");
    vec![
        frames::sync(0, &[0]),
        frames::sync(0, &[2, 5, 7, 200, 1, 9]),
        frames::sync(1, &[0, 0]),
        frames::sync(2, &[1, 1, 1, 0, 4, 1, 1, b't', 1, b'a', 0]),
        frames::awareness([(1, 1, state), (2, 300, None)].into_iter()),
        vec![3],
        vec![2, 0],
    ]
}

/// A configuration: a file's text, or values of variables, as the first byte says.
pub(super) fn config(input: &[u8]) {
    let Some((&kind, text)) = input.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(text).into_owned();
    let mut inputs = Inputs::default();
    let path = std::env::temp_dir().join(format!("collabblocks-fuzz-{}.toml", std::process::id()));
    if kind.is_multiple_of(2) {
        std::fs::write(&path, &text).expect("the temporary directory can be written");
        inputs.file = Some(path.clone());
    } else {
        let key = &Key::all()[usize::from(kind / 2) % Key::all().len()];
        inputs.env.push((key.env(), text));
    }
    match load(&inputs) {
        Ok(effective) => assert!(!effective.print().is_empty()),
        Err(problems) => {
            assert!(!problems.is_empty());
            for problem in problems {
                assert!(!problem.to_string().is_empty());
            }
        }
    }
    if inputs.file.is_some() {
        std::fs::remove_file(&path).expect("it was just written");
    }
}

pub(super) fn config_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "cores = [1, 0]\n[wal]\ncommit_delay_us = 1_500\nsegments_max = 8\nsync = 'dsync'\n",
        "runtime = 'glommio'\nlog.level = \"debug\"\nallowed_origins = [\"https://a.b\"]\n",
        "listen = '[::1]:80'\n[limits]\nupdate_bytes_max = 1e6\n",
        "[wla]\nx = { y = 1 }\n",
    ];
    let files = texts.iter().map(|text| [&[0], text.as_bytes()].concat());
    let values = (0..Key::all().len() as u8).map(|key| vec![2 * key + 1, b'1']);
    files.chain(values).collect()
}
