//! The command itself: repeats of one server, and what it refuses.

use std::path::Path;
use std::process::{Command, Output};

const BENCH: &str = env!("CARGO_BIN_EXE_collabblocks-bench");

fn bench(words: &[&str]) -> Output {
    Command::new(BENCH).args(words).output().unwrap()
}

#[test]
fn repeats_start_the_server_afresh_and_are_all_reported() {
    let port = collabblocks_bench::process::free_port().unwrap();
    let target = format!("ws://127.0.0.1:{port}");
    let spawn = format!("{BENCH} floor --listen 127.0.0.1:{port}");
    let times = ["--warmup", "0", "--window", "0.2", "--drain", "0"];
    let idle = ["idle", "--connections", "4", "--rooms", "2", "--json", "-"];
    let server = ["--target", &target, "--spawn", &spawn, "--repeats", "3"];
    let output = bench(&[&idle[..], &times, &server].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let runs = json["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 3);
    let before = |run: &serde_json::Value| {
        run["report"]["server_use"]["memory_before"]["rss_bytes"].as_u64()
    };
    assert!(runs.iter().all(|run| before(run).unwrap() > 0), "{json}");
    let row = said.lines().find(|line| line.starts_with("| server | "));
    assert!(row.is_some(), "the repeats share one table: {said}");
    let medians = said.lines().rfind(|line| line.starts_with("| server"));
    assert!(medians.unwrap().contains('–'), "{said}");
}

#[test]
fn a_scenario_of_tls_wants_a_target_of_tls() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let file = folder.join("tls-idle-5000.toml");
    let output = bench(&[
        "run",
        &file.to_string_lossy(),
        "--target",
        "ws://127.0.0.1:1",
    ]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("wss://"), "{said}");
}
