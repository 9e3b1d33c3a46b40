//! A server that knows its clients: the whole product, with an authenticator of one's own.
//!
//! `cargo run --release -p collabblocks-server --example authenticated -- --listen 127.0.0.1:8080`
//!
//! It takes the flags of `collabblocks serve`, as `--flag value`. Clients show a token, as in
//! `new WebsocketProvider(url, room, doc, { params: { token: 'writer' } })`; a real authenticator
//! would verify a signature, or ask the application.

use collabblocks_server::config::{Inputs, Key, load};
use collabblocks_server::identity::{Answer, instant_of};
use collabblocks_server::shard::{Access, Claims, Denied, Request, Verdict};
use collabblocks_server::{Extensions, preflight, serve_with};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Who a token belongs to, and what it allows.
fn decide(token: Option<&str>, room: &str) -> Verdict {
    let claims = |subject: &str, access| Claims {
        subject: Some(subject.into()),
        access,
        expires_at: None,
    };
    match token {
        Some("writer" | "later") => Ok(claims("ann", Access::ReadWrite)),
        Some("reader") if room.starts_with("private/") => {
            let why = "this room is private; ask its owner to invite you";
            Err(Denied::Forbidden(why.into()))
        }
        Some("reader") => Ok(claims("bob", Access::ReadOnly)),
        Some("brief") => Ok(Claims {
            expires_at: Some(instant_of(SystemTime::now() + Duration::from_secs(2))),
            ..claims("cem", Access::ReadWrite)
        }),
        _ => {
            let why = "the token is missing or unknown; sign in and connect again";
            Err(Denied::Unauthenticated(why.into()))
        }
    }
}

/// Called on a thread of its own, never on a core that serves rooms.
fn authenticate(request: Request, answer: Answer) {
    let verdict = match &request.certificate {
        // Verified already: `tls.client_ca` says whose certificates are good.
        Some(_) => Ok(Claims::default()),
        None => decide(request.token().as_deref(), &request.room),
    };
    if request.token().as_deref() == Some("later") {
        // What takes its time goes elsewhere, such as a task of one's own runtime.
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            answer.give(verdict);
        });
    } else if request.token().as_deref() != Some("lost") {
        answer.give(verdict);
    }
    // An answer that is dropped says that the client may try again.
}

fn run() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "serve")
        .collect();
    let mut inputs = Inputs {
        env: std::env::vars().collect(),
        ..Inputs::default()
    };
    for pair in arguments.chunks(2) {
        let flag = pair[0].strip_prefix("--").unwrap_or(&pair[0]);
        let key = Key::all().iter().find(|key| key.flag() == flag);
        let key = key.ok_or_else(|| format!("{flag} is no flag of the server"))?;
        let value = pair
            .get(1)
            .ok_or_else(|| format!("--{flag} wants a value"))?;
        inputs.flags.push((key.name, value.clone()));
    }
    let effective = load(&inputs).map_err(|problems| {
        let lines = problems.iter().map(ToString::to_string);
        lines.collect::<Vec<_>>().join("\n")
    })?;
    let prepared = preflight::prepare(&effective).map_err(|refusal| refusal.to_string())?;
    let extensions = Extensions {
        authenticator: Some(Arc::new(authenticate)),
    };
    // Ends on SIGTERM and SIGINT; who holds the sender may end it too.
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    serve_with(
        effective.config,
        prepared,
        extensions,
        stopped,
        |addresses| {
            eprintln!("listening on {addresses:?}");
        },
    )
    .map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_mean_what_they_say() {
        assert!(matches!(decide(None, "r"), Err(Denied::Unauthenticated(_))));
        assert!(matches!(
            decide(Some("reader"), "private/r"),
            Err(Denied::Forbidden(_))
        ));
        assert_eq!(
            decide(Some("reader"), "r").unwrap().access,
            Access::ReadOnly
        );
        assert_eq!(
            decide(Some("writer"), "r").unwrap().access,
            Access::ReadWrite
        );
        assert!(decide(Some("brief"), "r").unwrap().expires_at.is_some());
    }
}
