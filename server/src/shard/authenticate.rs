//! Who is let in, and what those are told who may not do what they try.

use super::connection::Stage;
use super::effect::{Effect, Effects};
use super::identity::{Asked, Request, Verdict};
use super::types::{ConnId, Instant};
use super::{Admission, Claims, Shard};
use crate::dialect::y_websocket;
use crate::edge::http::Upgrade;

const READ_ONLY: &str = "the access is read-only; what was written here stays on this device";
const FOREIGN: &str = "pages of this origin may not connect; list it in allowed_origins";
/// Of pages that may not connect one is logged in that time: each visitor of one tries again and again.
const ORIGIN_LOG_NS: u64 = 10_000_000_000;
/// Bytes of an origin that are logged.
const ORIGIN_LOG_BYTES_MAX: usize = 200;
const EXPIRED: &str = "the access has expired; get a new token and connect again";

impl Shard {
    /// A request for a room's socket. Without an authenticator it is decided here and now.
    pub(super) fn on_upgrade(
        &mut self,
        now: Instant,
        id: ConnId,
        bytes: Vec<u8>,
        upgrade: Upgrade,
        effects: &mut Effects,
    ) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        let peer = connection.peer;
        let loopback = peer.ip().to_canonical().is_loopback();
        if let Err(why) = admit(&self.config.admission, &upgrade, loopback) {
            if why == FOREIGN {
                self.log_origin(now, &upgrade);
            }
            return self.refuse(id, 403, why);
        }
        if upgrade.reserved {
            return self.refuse(
                id,
                404,
                "this path is reserved and this server serves no room socket on it",
            );
        }
        if !self.config.authenticates {
            return self.let_in(now, id, bytes, &upgrade, Claims::default(), effects);
        }
        if self.authenticating >= self.config.limits.authenticating_max {
            let why = "too many others wait to be let in; try later";
            return self.refuse(id, 503, why);
        }
        self.authenticating += 1;
        let request = Box::new(Request {
            room: upgrade.room.clone(),
            peer,
            certificate: None,
            head: bytes[..upgrade.head_bytes].into(),
        });
        let asked = Asked {
            bytes,
            upgrade,
            since: now,
        };
        let connection = self.connection(id).expect("its head was read");
        connection.stage = Stage::Authenticating(Box::new(asked));
        // Nothing is under way on the socket when it is handed off, and what waits is bounded.
        effects.list.push(Effect::Read {
            conn: id,
            on: false,
        });
        effects
            .list
            .push(Effect::Authenticate { conn: id, request });
    }

    pub(super) fn on_authenticated(
        &mut self,
        now: Instant,
        id: ConnId,
        verdict: Verdict,
        effects: &mut Effects,
    ) {
        let left = self.authenticating.checked_sub(1);
        self.authenticating = left.expect("each question is answered once");
        let Some(connection) = self.connection(id) else {
            return;
        };
        let Stage::Authenticating(asked) = &mut connection.stage else {
            // It waited for too long, or the server is shutting down.
            return;
        };
        let claims = match verdict {
            Ok(claims) if claims.have_expired(now) => return self.deny(id, 401, EXPIRED),
            Ok(claims) => claims,
            Err(denied) => {
                let (status, why) = denied.answer();
                return self.deny(id, status, why);
            }
        };
        let bytes = std::mem::take(&mut asked.bytes);
        let stage = std::mem::replace(&mut connection.stage, Stage::Head(Vec::new()));
        let Stage::Authenticating(asked) = stage else {
            unreachable!("matched above")
        };
        effects.list.push(Effect::Read { conn: id, on: true });
        self.let_in(now, id, bytes, &asked.upgrade, claims, effects);
    }

    /// An operator who forgot `allowed_origins` reads here what to add to it.
    fn log_origin(&mut self, now: Instant, upgrade: &Upgrade) {
        let recent = |then: Instant| now.0.saturating_sub(then.0) < ORIGIN_LOG_NS;
        if self.origin_logged.is_some_and(recent) {
            return;
        }
        self.origin_logged = Some(now);
        let origin = upgrade.origin.as_deref().unwrap_or_default();
        let origin = &origin[..origin.floor_char_boundary(ORIGIN_LOG_BYTES_MAX)];
        tracing::warn!(
            shard = self.config.id.0,
            origin,
            "a page may not connect: its origin is not in allowed_origins"
        );
    }

    fn deny(&mut self, id: ConnId, status: u16, why: &str) {
        self.count_refused("denied");
        self.answer_and_close(id, status, why);
    }

    /// A session that may only read sent an update: nothing comes of it. It is told once, unless it
    /// was a reply, which says what a client has and not what it did.
    pub(super) fn refuse_update(&mut self, id: ConnId, reply: bool) {
        self.count_refused("read_only");
        let Some(session) = self.session(id) else {
            return;
        };
        if reply || std::mem::replace(&mut session.told_read_only, true) {
            return;
        }
        if let Some(connection) = self.touch(id) {
            y_websocket::permission_denied(READ_ONLY, &mut connection.out);
        }
    }
}

/// The default's answer: all of this machine, or all who reach the port; of pages, those of origins
/// that may.
fn admit(admission: &Admission, upgrade: &Upgrade, loopback: bool) -> Result<(), &'static str> {
    let (origins, local) = match admission {
        Admission::Loopback(origins) => (origins, true),
        Admission::Open(origins) => (origins, false),
    };
    if local && !loopback {
        return Err(
            "this server serves its own machine only; set access = \"open\" to change that",
        );
    }
    if !upgrade.origin_allowed(origins, local) {
        return Err(FOREIGN);
    }
    Ok(())
}
