//! The `collabblocks` binary: the server, and what an operator needs around it.

mod args;
mod check;
mod config;
mod exit;
mod health;
mod logs;
mod serve;
mod trust;
mod wal;

use clap::ArgMatches;
use std::process::ExitCode;

fn main() -> ExitCode {
    let matches = args::command().get_matches();
    let code = match matches.subcommand() {
        None => serve::run(&matches),
        Some(("serve", matches)) => serve::run(matches),
        Some(("config", matches)) => config::run(matches),
        Some(("check", matches)) => check::run(matches),
        Some(("health", matches)) => health::run(matches),
        Some(("wal", matches)) => wal::run(matches),
        Some((other, _)) => unreachable!("subcommand {other} has no arm"),
    };
    ExitCode::from(code)
}

/// The values given for a flag, the last of them or all of them joined if it is a list.
fn given(matches: &ArgMatches, id: &str, list: bool) -> Option<String> {
    let values: Vec<&String> = matches.try_get_many(id).ok()??.collect();
    if list {
        let texts: Vec<&str> = values.iter().map(|value| value.as_str()).collect();
        Some(texts.join(","))
    } else {
        values.last().map(|value| (*value).clone())
    }
}
