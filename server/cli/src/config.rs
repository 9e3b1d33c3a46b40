//! `collabblocks config`, and reading the configuration for the other commands.

use crate::{exit, given};
use clap::ArgMatches;
use collabblocks_server::certificate::Certificate;
use collabblocks_server::config::{Effective, Inputs, Key, default_file, load};
use std::path::PathBuf;

/// Reads the configuration from all its sources; what is wrong goes to standard error.
pub fn read(matches: &ArgMatches) -> Result<Effective, u8> {
    read_without(matches, &[])
}

/// As [`read`], for a command that does not use these keys.
pub fn read_without(matches: &ArgMatches, unused: &[&'static str]) -> Result<Effective, u8> {
    let env = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        Some((name, value.to_string_lossy().into_owned()))
    });
    let flags = Key::all()
        .iter()
        .filter_map(|key| Some((key.name, given(matches, key.name, key.list)?)));
    let inputs = Inputs {
        file: matches.get_one::<PathBuf>("config").cloned(),
        env: env.collect(),
        flags: flags.collect(),
        unused: unused.to_vec(),
    };
    load(&inputs).map_err(|problems| {
        for problem in problems {
            eprintln!("{problem}");
        }
        exit::CONFIG
    })
}

/// Runs the command; its exit code.
pub fn run(matches: &ArgMatches) -> u8 {
    let result = match matches.subcommand() {
        Some(("check", matches)) => read(matches).and_then(|effective| {
            warn(&effective);
            // As a start does.
            if let Some(files) = effective.config.certificate() {
                Certificate::load(files).map_err(|why| {
                    eprintln!("{why}");
                    exit::CONFIG
                })?;
            }
            println!("ok");
            Ok(())
        }),
        Some(("print", matches)) => read(matches).map(|effective| {
            warn(&effective);
            print!("{}", effective.print());
        }),
        Some(("default", _)) => {
            print!("{}", default_file());
            Ok(())
        }
        other => unreachable!("config {other:?} has no arm"),
    };
    result.err().unwrap_or(exit::OK)
}

fn warn(effective: &Effective) {
    for warning in &effective.warnings {
        eprintln!("warning: {warning}");
    }
}
