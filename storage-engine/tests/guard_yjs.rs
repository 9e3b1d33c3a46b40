//! Random concurrent editing between real Yjs replicas, with a [`RoomDoc`] as their server.

use collabblocks_storage_engine::{Applied, Limits, Refusal, RoomDoc, split_update};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

fn fixtures() -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/guard");
    assert!(
        path.join("node_modules/yjs").is_dir(),
        "Yjs is not installed: run `npm ci --prefix tests/fixtures/guard` in the repository's root"
    );
    path
}

fn from_hex(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number"))
    })
}

/// A room that gets `updates` in another order, each as soon as the gate lets it through.
fn in_another_order(updates: &[Vec<u8>], random: &mut ChaCha8Rng) -> RoomDoc {
    let mut room = RoomDoc::new();
    let mut waiting: Vec<&Vec<u8>> = updates.iter().collect();
    while !waiting.is_empty() {
        let at = random.random_range(0..waiting.len().min(12));
        match room.apply(waiting[at], false, &Limits::default()) {
            Ok(Applied::New | Applied::Known) => {
                waiting.remove(at);
            }
            // What came first then builds on nothing that is still waiting.
            Err(Refusal::Gap) if at > 0 => {}
            answer => panic!("{answer:?} for {}", to_hex(waiting[at])),
        }
    }
    room
}

/// A running generator; ended when dropped.
struct Editors(Child);

impl Drop for Editors {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn agrees_with_yjs_on_what_yjs_wrote() {
    let seed = number("COLLABBLOCKS_SEED", 1);
    let episodes = number("COLLABBLOCKS_GUARD_EPISODES", 100);
    let operations = 1_000;
    println!("COLLABBLOCKS_SEED={seed}");
    let child = Command::new("node")
        .current_dir(fixtures())
        .args([
            "edit.mjs".to_owned(),
            seed.to_string(),
            episodes.to_string(),
            operations.to_string(),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node is installed");
    let mut editors = Editors(child);
    let mut answers = editors.0.stdin.take().unwrap();
    let lines = BufReader::new(editors.0.stdout.take().unwrap()).lines();
    let limits = Limits::default();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut room = RoomDoc::new();
    // The same room, whose document is given each update at once.
    let mut prompt = RoomDoc::new();
    let mut updates = Vec::new();
    let (mut episode, mut step) = (0, 0);
    for line in lines {
        let line = line.unwrap();
        let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
        step += 1;
        match word {
            "new" => {
                (room, prompt) = (RoomDoc::new(), RoomDoc::new());
                updates.clear();
                (episode, step) = (episode + 1, 0);
            }
            "update" | "step2" => {
                let update = from_hex(rest);
                let applied = room.apply(&update, word == "step2", &limits);
                let taken = matches!(applied, Ok(Applied::New | Applied::Known));
                assert!(
                    taken,
                    "seed {seed}, episode {episode}, step {step}: {applied:?} for {rest}"
                );
                assert_eq!(prompt.apply(&update, word == "step2", &limits), applied);
                prompt.settle().unwrap();
                // What was just taken is known.
                assert_eq!(
                    room.apply(&update, false, &limits),
                    Ok(Applied::Known),
                    "seed {seed}: {rest}"
                );
                updates.push(update);
            }
            "check" => {
                let state = room.encode_state().unwrap();
                let mut vector = Vec::new();
                room.state_vector(&mut vector);
                let prompt_state = prompt.encode_state().unwrap();
                assert_eq!(
                    room.apply(&prompt_state, false, &limits),
                    Ok(Applied::Known)
                );
                assert_eq!(prompt.apply(&state, false, &limits), Ok(Applied::Known));
                let mut again = RoomDoc::from_state(&state).unwrap();
                let mut vector_again = Vec::new();
                again.state_vector(&mut vector_again);
                assert_eq!(vector, vector_again);
                // Everything is known to the reloaded room, deletions included.
                assert_eq!(
                    room.apply(&again.encode_state().unwrap(), false, &limits),
                    Ok(Applied::Known)
                );
                let other = in_another_order(&updates, &mut random)
                    .encode_state()
                    .unwrap();
                writeln!(
                    answers,
                    "{} {} {}",
                    to_hex(&state),
                    to_hex(&vector),
                    to_hex(&other)
                )
                .unwrap();
            }
            "diff" => {
                let diff = room.diff(&from_hex(rest), &limits).unwrap();
                writeln!(answers, "{}", to_hex(&diff)).unwrap();
            }
            "split" => {
                let state = room.encode_state().unwrap();
                let mut other = RoomDoc::new();
                let parts = split_update(&state, rest.parse().unwrap());
                for part in &parts {
                    // A part that deletes what came as a tombstone is known.
                    assert!(matches!(
                        other.apply(part, false, &limits),
                        Ok(Applied::New | Applied::Known)
                    ));
                }
                let parts: Vec<String> = parts.iter().map(|part| to_hex(part)).collect();
                writeln!(answers, "{}", parts.join(",")).unwrap();
            }
            "ok" => {
                assert_eq!(rest, (episodes * operations).to_string());
                return;
            }
            _ => panic!("seed {seed}: {line}"),
        }
    }
    panic!("seed {seed}: the generator ended early, in episode {episode}");
}
