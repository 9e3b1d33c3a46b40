//! `collabblocks check`: what the machine is set to.

use crate::config;
use clap::ArgMatches;
use collabblocks_server::config::{Runtime, WalSync};
use collabblocks_tuning::{Facts, evaluate, exit_code, json, text};

/// Runs the command; its exit code.
pub fn run(matches: &ArgMatches) -> u8 {
    let effective = match config::read(matches) {
        Ok(effective) => effective,
        Err(code) => return code,
    };
    let config = &effective.config;
    let facts = Facts {
        // The other runtime always has one.
        log_on_thread: Some(
            config.wal.sync == WalSync::Thread || config.runtime == Runtime::Glommio,
        ),
        ..Facts::gather(&config.data)
    };
    let findings = evaluate(&facts);
    let report = if matches.get_flag("json") {
        json(&findings)
    } else {
        text(&findings)
    };
    print!("{report}");
    exit_code(&findings)
}
