//! What docs/operations.md gives to be copied: the unit and the configurations are taken by the binary.

use collabblocks_server::config::Config;
use std::process::{Command, Output};

fn document() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md");
    std::fs::read_to_string(path).unwrap()
}

/// The blocks of code in this language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let begin = format!("```{language}\n");
    text.split(&begin)
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap().to_owned())
        .collect()
}

fn collabblocks(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_collabblocks"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("COLLABBLOCKS_") {
            command.env_remove(name);
        }
    }
    command.args(args).output().unwrap()
}

#[test]
fn the_unit_starts_a_server_and_leaves_it_what_it_needs() {
    let units = blocks(&document(), "ini");
    let [unit] = units.as_slice() else {
        panic!("one unit");
    };
    let value = |key: &str| {
        let mut lines = unit.lines().filter_map(|line| line.split_once('='));
        let found = lines.find(|(name, _)| *name == key);
        found.unwrap_or_else(|| panic!("{key} is not set")).1
    };
    let start = value("ExecStart").strip_prefix("/usr/local/bin/collabblocks serve ");
    let args: Vec<&str> = start.unwrap().split(' ').collect();
    let output = collabblocks(&[&["config", "print"], args.as_slice()].concat());
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let data = format!("\"/var/lib/{}\"", value("StateDirectory"));
    assert!(printed.contains(&data), "{printed}");

    let stop_ms = 1000 * value("TimeoutStopSec").parse::<u64>().unwrap();
    assert!(stop_ms >= 2 * Config::default().limits.shutdown_timeout_ms);
    // With less a start is warned of it, and `collabblocks check` too.
    assert_eq!(value("LimitMEMLOCK"), "64M");
    assert!(value("LimitNOFILE").parse::<u64>().unwrap() >= 65_536);
    assert_eq!(value("Restart"), "on-failure");
    let config = collabblocks_server::preflight::EXIT_CONFIG.to_string();
    assert_eq!(value("RestartPreventExitStatus"), config);
}

#[test]
fn its_configurations_are_taken() {
    let text = document();
    let blocks = blocks(&text, "toml");
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, &block).unwrap();
        // The certificate is not there, which `config check` says.
        let output = collabblocks(&["config", "print", "--config", path.to_str().unwrap()]);
        assert!(output.status.success(), "{block}: {output:?}");
    }
}

#[test]
fn its_exit_codes_and_defaults_are_those_of_the_server() {
    let text = document();
    for (code, of) in [
        (
            collabblocks_server::preflight::EXIT_CONFIG.into(),
            "Exit code",
        ),
        (
            collabblocks_server::preflight::EXIT_UNAVAILABLE.into(),
            "69 says what the machine lacks",
        ),
        (
            collabblocks_server::server::EXIT_FATAL,
            "70 that the disk failed",
        ),
    ] {
        assert!(
            text.contains(of) && text.contains(&format!("{code} ")),
            "{of}"
        );
    }
    let stop = Config::default().limits.shutdown_timeout_ms / 1000;
    assert!(text.contains(&format!("`limits.shutdown_timeout_ms` ({stop} s)")));
}
