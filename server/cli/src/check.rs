//! `collabblocks check`: what the machine is set to.

use crate::config;
use clap::ArgMatches;
use collabblocks_tuning::{Facts, evaluate, exit_code, json, text};

/// Runs the command; its exit code.
pub fn run(matches: &ArgMatches) -> u8 {
    let effective = match config::read(matches) {
        Ok(effective) => effective,
        Err(code) => return code,
    };
    let findings = evaluate(&Facts::gather(&effective.config.data));
    let report = if matches.get_flag("json") {
        json(&findings)
    } else {
        text(&findings)
    };
    print!("{report}");
    exit_code(&findings)
}
