//! `collabblocks serve`: configuration, preflight, then the server until it ends.

use crate::{config, exit, logs};
use clap::ArgMatches;
use collabblocks_server::ServeError;
use collabblocks_server::preflight::{self, EXIT_UNAVAILABLE};

/// Runs the command; its exit code.
pub fn run(matches: &ArgMatches) -> u8 {
    let effective = match config::read(matches) {
        Ok(effective) => effective,
        Err(code) => return code,
    };
    let prepared = match preflight::prepare(&effective) {
        Ok(prepared) => prepared,
        Err(refusal) => {
            eprintln!("collabblocks: {refusal}");
            return refusal.exit_code;
        }
    };
    let _logs = logs::start(&effective.config.log);
    for warning in effective.warnings.iter().chain(&prepared.warnings) {
        tracing::warn!("{warning}");
    }
    match collabblocks_server::serve(effective.config, prepared) {
        Ok(()) => exit::OK,
        Err(error) => {
            tracing::error!("{error}");
            match error {
                ServeError::Store(_) | ServeError::Start(_) => EXIT_UNAVAILABLE,
                ServeError::Io { .. } | ServeError::DrainTimedOut => exit::FAILED,
            }
        }
    }
}
