//! Who a client is and what it may do: asked before the upgrade, carried with its connection.

use super::types::{ConnId, Instant};
use crate::edge::request;
use core::net::SocketAddr;
use std::borrow::Cow;
use std::sync::Arc;

/// What a session may do in its room.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Access {
    /// Hear everything and be present; its updates are refused.
    ReadOnly,
    /// Write too.
    #[default]
    ReadWrite,
}

/// What is known of a client once it was let in. By default it has no name, may write, and stays for
/// as long as it likes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Claims {
    /// Who it is, in the words of whoever authenticated it.
    pub subject: Option<Arc<str>>,
    /// What it may do.
    pub access: Access,
    /// When its session is closed, on the monotonic clock; [`crate::identity::instant_of`] makes it of
    /// the time of day.
    pub expires_at: Option<Instant>,
}

impl Claims {
    /// Whether they hold no longer.
    pub fn have_expired(&self, now: Instant) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// Why a client is not let in; the text is the answer's body, and says what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Denied {
    /// It is not known who it is: HTTP 401.
    Unauthenticated(Cow<'static, str>),
    /// It is known, and may not: HTTP 403.
    Forbidden(Cow<'static, str>),
    /// It could not be found out: HTTP 503, and it may try again.
    Unavailable(Cow<'static, str>),
}

impl Denied {
    /// The HTTP status, and the text.
    pub fn answer(&self) -> (u16, &str) {
        match self {
            Denied::Unauthenticated(why) => (401, why),
            Denied::Forbidden(why) => (403, why),
            Denied::Unavailable(why) => (503, why),
        }
    }
}

/// How an authentication ended.
pub type Verdict = Result<Claims, Denied>;

/// What is known of a client that wants in.
#[derive(Debug)]
pub struct Request {
    /// The room: the path without its first `/`, up to `?`, as it came.
    pub room: String,
    /// Its address; behind a balancer that sends a PROXY header, the address in that.
    pub peer: SocketAddr,
    /// The certificate that it showed and that was verified, in DER. The runtime fills it in.
    pub certificate: Option<Box<[u8]>>,
    /// The request head, as it came.
    pub head: Box<[u8]>,
}

impl Request {
    /// The value of a header, if there is one and it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        request::header(&self.head, name)
    }

    /// The page that connects, if a browser does.
    pub fn origin(&self) -> Option<&str> {
        self.header("origin")
    }

    /// What follows the path after `?`, as it came.
    pub fn query(&self) -> Option<&str> {
        request::query(&self.head)
    }

    /// A parameter of the query, decoded.
    pub fn parameter(&self, name: &str) -> Option<String> {
        request::parameter(self.query()?, name)
    }

    /// The token: the parameter `token`, where the providers put it, or else that of
    /// `Authorization: Bearer`.
    pub fn token(&self) -> Option<String> {
        self.parameter("token").or_else(|| {
            let (scheme, token) = self.header("authorization")?.split_once(' ')?;
            (scheme.eq_ignore_ascii_case("bearer")).then(|| token.trim().to_owned())
        })
    }
}

/// A question under way, for as long as the shard waits for the answer.
#[derive(Debug)]
pub(super) struct Asked {
    /// The request head and all bytes read after it.
    pub bytes: Vec<u8>,
    /// The same, as it was understood.
    pub upgrade: crate::edge::http::Upgrade,
    /// When the question was asked.
    pub since: Instant,
}

/// An answer on its way to a shard.
#[derive(Debug)]
pub struct Authenticated {
    /// Who it is about.
    pub conn: ConnId,
    /// What it is.
    pub verdict: Verdict,
}
