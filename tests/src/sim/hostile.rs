//! What a hostile client sends.

use super::document::Document;
use super::frames::{self, BINARY, TEXT};
use super::rng::Rng;

/// All that one hostile connection sends.
pub(crate) fn attack(room: &str, rng: &mut Rng) -> Vec<u8> {
    let mut out = frames::upgrade(room);
    match rng.range(0..14) {
        0 => return garbage(rng, 200),
        1 => return b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        2 => {
            let mut head = b"GET / HTTP/1.1\r\nX: ".to_vec();
            head.resize(20 << 10, b'x');
            return head;
        }
        // A head that never ends.
        3 => return b"GET /room HTTP/1.1\r\nHost: loc".to_vec(),
        4 => frames::masked(TEXT, b"{\"hello\":1}", rng, &mut out),
        5 => out.extend([0x82, 3, 1, 2, 3]),
        6 => out.extend(garbage(rng, 100)),
        7 => {
            let payload = garbage(rng, 60);
            frames::masked(BINARY, &payload, rng, &mut out);
        }
        8 => {
            let update = garbage(rng, 60);
            frames::masked(BINARY, &frames::sync(2, &update), rng, &mut out);
        }
        9 => {
            // Updates that build on one that is kept back, again and again.
            let mut document = Document::new(stranger(rng));
            while document.edit(rng).is_none() {}
            for _ in 0..12 {
                if let Some(update) = document.edit(rng) {
                    frames::masked(
                        BINARY,
                        &frames::sync(1 + rng.range(0..2) as u8, &update),
                        rng,
                        &mut out,
                    );
                }
            }
        }
        10 => {
            // A good update, damaged, where nobody else is: one that still reads well may say things that
            // make replicas differ, which no server can find out.
            out = frames::upgrade("elsewhere");
            let mut document = Document::new(stranger(rng));
            let mut update = loop {
                if let Some(update) = document.edit(rng) {
                    break update;
                }
            };
            let at = rng.index(update.len());
            update[at] ^= 1 << rng.range(0..8);
            frames::masked(BINARY, &frames::sync(2, &update), rng, &mut out);
        }
        11 => {
            // Presence of clients that do not exist, and then silence.
            let state = Some("{\"ghost\":true}");
            let ghosts = [(7001, 1, state), (7002, rng.range(0..9), state)];
            frames::masked(
                BINARY,
                &frames::awareness(ghosts.into_iter()),
                rng,
                &mut out,
            );
        }
        12 => {
            // Asks for everything, and reads nothing.
            for _ in 0..40 {
                frames::masked(BINARY, &frames::sync(0, &[0]), rng, &mut out);
            }
        }
        _ => {
            let vector = garbage(rng, 20);
            frames::masked(BINARY, &frames::sync(0, &vector), rng, &mut out);
            frames::masked(BINARY, &[3], rng, &mut out);
        }
    }
    out
}

/// A client id that nobody else has: the same id with other content would be a lie that no server can
/// find out.
fn stranger(rng: &mut Rng) -> u64 {
    (1 << 31) + (rng.next() >> 34)
}

fn garbage(rng: &mut Rng, len_max: usize) -> Vec<u8> {
    (0..1 + rng.index(len_max))
        .map(|_| rng.next() as u8)
        .collect()
}
