//! `collabblocks check`: what the machine is set to.

use crate::config;
use clap::ArgMatches;
use collabblocks_server::certificate::{self, Files};
use collabblocks_server::config::{Runtime, WalSync};
use collabblocks_server::validity::UnixSeconds;
use collabblocks_tuning::{Certificate, Facts, evaluate, exit_code, json, text};

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
        certificate: Some(certificate(config.certificate())),
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

fn certificate(files: Option<Files>) -> Certificate {
    let Some(files) = files else {
        return Certificate::None;
    };
    match certificate::Certificate::load(files) {
        Err(why) => Certificate::Unusable(why),
        Ok((certificate, _)) => {
            let (validity, now) = (certificate.validity(), UnixSeconds::now());
            Certificate::Dated {
                not_after: validity.not_after.to_string(),
                holds_in_s: validity.not_before.0 - now.0,
                expires_in_s: validity.not_after.0 - now.0,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_check_warns_as_soon_as_the_server_does() {
        let server = collabblocks_server::validity::EXPIRES_SOON_S;
        assert_eq!(collabblocks_tuning::CERTIFICATE_LEFT_S_MIN, server);
    }
}
