//! The binary as an operator meets it.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

fn run(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_collabblocks"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("COLLABBLOCKS_") {
            command.env_remove(name);
        }
    }
    command
        .args(args)
        .envs(env.iter().copied())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn file(dir: &Path, content: &str) -> String {
    let path = dir.join("c.toml");
    std::fs::write(&path, content).unwrap();
    path.display().to_string()
}

#[test]
fn a_good_configuration_is_ok_from_a_flag_or_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), "[wal]\ncommit_delay_us = 500\n");
    for output in [
        run(&["config", "check", "--config", &path], &[]),
        run(&["config", "check"], &[("COLLABBLOCKS_CONFIG", &path)]),
        run(&["config", "check"], &[]),
    ] {
        assert_eq!(
            (output.status.code(), text(&output.stdout).as_str()),
            (Some(0), "ok\n")
        );
    }
}

#[test]
fn a_bad_configuration_is_told_with_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(
        dir.path(),
        "durability = 'ack'\n[wal]\ncommit_dealy_us = 500\nsegments_max = 'x'\n",
    );
    let output = run(&["config", "check", "--config", &path], &[]);
    assert_eq!(
        (output.status.code(), text(&output.stdout).as_str()),
        (Some(78), "")
    );
    let errors = text(&output.stderr);
    assert!(errors.contains(&format!(
        "{path}:3: unknown key wal.commit_dealy_us; did you mean wal.commit_delay_us?"
    )));
    assert!(
        errors.contains(&format!("{path}:4: wal.segments_max: wants a whole number")),
        "{errors}"
    );
}

#[test]
fn the_configuration_is_printed_with_its_sources() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), "[wal]\ncommit_delay_us = 500\n");
    let output = run(
        &[
            "config",
            "print",
            "--config",
            &path,
            "--listen",
            "127.0.0.1:1",
            "--listen",
            "127.0.0.1:2",
            "--cores",
            "1",
            "--cores",
            "2",
        ],
        &[
            ("COLLABBLOCKS_LOG_LEVEL", "warn"),
            ("COLLABBLOCKS_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ],
    );
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let printed = text(&output.stdout);
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = printed.lines().map(words).collect();
    for want in [
        "listen = [\"127.0.0.1:1\", \"127.0.0.1:2\"] # flag --listen",
        "cores = 2 # flag --cores",
        "level = \"warn\" # environment COLLABBLOCKS_LOG_LEVEL",
        &format!("commit_delay_us = 500 # {path}:2"),
        "durability = \"ack\" # default",
    ] {
        assert!(
            lines.iter().any(|line| line == want),
            "{want} is not in\n{printed}"
        );
    }
    assert!(text(&output.stderr).contains("COLLABBLOCKS_PORT_8080_TCP is no key"));
}

#[test]
fn the_default_file_passes_the_check() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), &text(&run(&["config", "default"], &[]).stdout));
    assert_eq!(
        run(&["config", "check", "--config", &path], &[])
            .status
            .code(),
        Some(0)
    );
}

#[test]
fn serving_is_refused_in_one_sentence_with_or_without_the_command() {
    let dir = tempfile::tempdir().unwrap();
    let occupied = file(dir.path(), "");
    for command in [vec!["serve"], vec![]] {
        let with = |more: &[&'static str]| [command.clone(), more.to_vec()].concat();
        let output = run(&with(&["--listen", "0.0.0.0:0"]), &[]);
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        assert!(text(&output.stderr).starts_with("--listen: 0.0.0.0:0 is not a loopback address"));
        let output = run(
            &with(&["--listen", "127.0.0.1:0"]),
            &[("COLLABBLOCKS_DATA", &occupied)],
        );
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let errors = text(&output.stderr);
        assert!(
            errors.starts_with("collabblocks: ") && errors.contains("is not a directory"),
            "{errors}"
        );
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
}

#[test]
fn a_mistaken_flag_is_answered_with_the_right_one() {
    let output = run(&["serve", "--comit-delay-us", "1"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).contains("--wal-commit-delay-us")
            || text(&output.stderr).contains("unexpected")
    );
    let output = run(&["serve", "--lisen", "127.0.0.1:0"], &[]);
    assert!(
        text(&output.stderr).contains("'--listen'"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn help_and_version_answer() {
    let output = run(&["--version"], &[]);
    assert_eq!(
        text(&output.stdout),
        format!("collabblocks {}\n", env!("CARGO_PKG_VERSION"))
    );
    let output = run(&["--help"], &[]);
    let help = text(&output.stdout);
    assert!(
        help.contains("Exit codes:") && help.contains("serve") && help.contains("wal"),
        "{help}"
    );
    assert_eq!(run(&["serve", "--help"], &[]).status.code(), Some(0));
}

#[test]
fn the_machine_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data").display().to_string();
    let output = run(&["check", "--json", "--data", &data], &[]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], output.status.success());
    assert!(report["checks"].as_array().unwrap().len() > 10);
    let output = run(&["check", "--data", &data], &[]);
    assert!(text(&output.stdout).contains("io_uring is allowed"));
    assert!(!Path::new(&data).exists());
}

/// Answers one request with these bytes.
fn answering(bytes: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        let count = stream.read(&mut request).unwrap();
        assert!(request[..count].starts_with(b"GET /health/ready HTTP/1.1\r\n"));
        stream.write_all(bytes.as_bytes()).unwrap();
    });
    address
}

#[test]
fn health_asks_the_server() {
    let ready = answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(
        run(&["health", "--listen", &ready], &[]).status.code(),
        Some(0)
    );
    let ready = answering("HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(
        run(&["health"], &[("COLLABBLOCKS_CONTROL_LISTEN", &ready)])
            .status
            .code(),
        Some(0)
    );
    let loading = answering("HTTP/1.1 503 Service Unavailable\r\n\r\nloading");
    let output = run(&["health", "--listen", &loading], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("503 loading"));
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    assert_eq!(
        run(&["health", "--listen", &nobody], &[]).status.code(),
        Some(1)
    );
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let output = run(
        &["health", "--listen", &address, "--timeout-ms", "100"],
        &[],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("timed out"),
        "{}",
        text(&output.stderr)
    );
}
