//! What stands between a connection's socket and its shard: the balancer's header, then TLS. Both
//! come before the room is known. Without I/O, and the same for all runtimes.

use super::tls::{Progress, Session};
use crate::edge::proxy::{self, Expect, Header};
use rustls::ServerConfig;
use std::net::SocketAddr;
use std::sync::Arc;

/// What a client that speaks HTTP reads from a port that speaks TLS.
const SPEAK_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 64\r\n\r\nthis port speaks TLS: use https:// or wss:// instead of http://\n";
/// What a peer reads that was to send a PROXY header.
const SEND_HEADER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 49\r\n\r\nthis port wants a PROXY protocol header at first\n";
/// Receives of a turn that may cost what a handshake costs; those of further connections wait for
/// the next turn. A handshake is some hundred microseconds of the core's time.
pub(crate) const HANDSHAKES_PER_TURN: u32 = 8;
/// The first byte of a TLS client: a handshake record.
const HANDSHAKE_RECORD: u8 = 0x16;

/// What connections have to begin with. Each core has its own.
#[derive(Clone, Debug, Default)]
pub struct FrontRules {
    /// Who may send a PROXY protocol header.
    pub proxy: proxy::Rules,
    /// The certificate, if clients are to speak TLS.
    pub tls: Option<Arc<ServerConfig>>,
}

/// One connection's.
#[derive(Debug, Default)]
pub(crate) enum Front {
    /// Bytes are the shard's as they are.
    #[default]
    Clear,
    /// The header, or the first byte of TLS, is awaited.
    Opening(Box<Opening>),
    /// They are TLS.
    Tls(Box<Session>),
}

/// A connection of which nothing is known yet.
#[derive(Debug)]
pub(crate) struct Opening {
    expect: Expect,
    /// TLS follows.
    tls: bool,
    /// What was read of the header.
    read: Vec<u8>,
}

/// What came of bytes; what is to be fed to the shard and to be sent is in [`Through`].
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// The peer is in truth this one.
    pub peer: Option<SocketAddr>,
    /// A handshake ended; whether it resumed an earlier session.
    pub handshake: Option<bool>,
    pub end: End,
}

/// Whether a connection goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum End {
    #[default]
    No,
    /// The peer has closed.
    Peer,
    /// It is refused: what it is sent is the last.
    Refused,
}

/// What went through a front: reused from connection to connection.
#[derive(Debug, Default)]
pub(crate) struct Through {
    /// For the shard.
    pub plain: Vec<u8>,
    /// For the socket, at once.
    pub out: Vec<u8>,
}

impl FrontRules {
    /// A copy for a core: cores do not count references in the same place.
    pub(crate) fn of_its_own(&self) -> Self {
        Self {
            proxy: self.proxy.clone(),
            tls: self.tls.as_deref().map(|tls| Arc::new(tls.clone())),
        }
    }

    /// What a new connection has to go through; `None` if the peer is not served.
    pub(crate) fn front_of(&self, peer: SocketAddr) -> Option<Front> {
        let expect = self.proxy.expect(peer.ip());
        let tls = self.tls.is_some();
        match expect {
            Expect::Stranger => None,
            Expect::Nothing if !tls => Some(Front::Clear),
            _ => Some(Front::Opening(Box::new(Opening {
                expect,
                tls,
                read: Vec::new(),
            }))),
        }
    }
}

impl Front {
    pub fn is_clear(&self) -> bool {
        matches!(self, Front::Clear)
    }

    /// Whether its next bytes may cost what a handshake costs.
    pub fn is_handshaking(&self) -> bool {
        match self {
            Front::Clear => false,
            Front::Opening(opening) => opening.tls,
            Front::Tls(session) => !session.is_ready(),
        }
    }

    /// What has to go out before anything else, and could not so far.
    pub fn take_owed(&mut self) -> Vec<u8> {
        match self {
            Front::Tls(session) => session.take_owed(),
            Front::Clear | Front::Opening(_) => Vec::new(),
        }
    }

    /// Takes back what could not go out.
    pub fn owe(&mut self, bytes: &[u8]) {
        if let Front::Tls(session) = self {
            session.owe(bytes);
        }
    }

    /// The certificate that its client showed.
    pub fn certificate(&self) -> Option<Box<[u8]>> {
        match self {
            Front::Tls(session) => session.certificate(),
            Front::Clear | Front::Opening(_) => None,
        }
    }

    /// Its TLS, for another core.
    pub fn into_tls(self) -> Option<Box<Session>> {
        match self {
            Front::Tls(session) => Some(session),
            Front::Clear => None,
            Front::Opening(_) => unreachable!("nothing was heard of it by the shard"),
        }
    }

    pub fn of_tls(tls: Option<Box<Session>>) -> Self {
        tls.map_or(Front::Clear, Front::Tls)
    }

    /// Takes bytes of the socket; may change them.
    pub fn receive(
        &mut self,
        bytes: &mut [u8],
        rules: &FrontRules,
        through: &mut Through,
    ) -> Taken {
        let mut taken = Taken::default();
        let progress = match self {
            Front::Clear => {
                through.plain.extend_from_slice(bytes);
                return taken;
            }
            Front::Tls(session) => session.receive(bytes, &mut through.plain),
            Front::Opening(opening) => {
                let mut read = std::mem::take(&mut opening.read);
                read.extend_from_slice(bytes);
                return match opening.header(&read, through, &mut taken) {
                    Ok(None) => {
                        opening.read = read;
                        taken
                    }
                    Ok(Some(begins)) => self.begin(&mut read[begins..], rules, through, taken),
                    Err(()) => {
                        taken.end = End::Refused;
                        taken
                    }
                };
            }
        };
        self.progressed(progress, through, &mut taken);
        taken
    }

    /// The header is behind us: these bytes are the client's.
    fn begin(
        &mut self,
        bytes: &mut [u8],
        rules: &FrontRules,
        through: &mut Through,
        mut taken: Taken,
    ) -> Taken {
        let Front::Opening(opening) = self else {
            unreachable!("it begins once")
        };
        if !opening.tls {
            *self = Front::Clear;
            through.plain.extend_from_slice(bytes);
            return taken;
        }
        let Some(first) = bytes.first() else {
            opening.expect = Expect::Nothing;
            return taken;
        };
        let session = rules
            .tls
            .as_ref()
            .filter(|_| *first == HANDSHAKE_RECORD)
            .and_then(Session::new);
        let Some(mut session) = session else {
            if first.is_ascii_uppercase() {
                through.out.extend_from_slice(SPEAK_TLS);
            }
            taken.end = End::Refused;
            return taken;
        };
        let progress = session.receive(bytes, &mut through.plain);
        *self = Front::Tls(Box::new(session));
        self.progressed(progress, through, &mut taken);
        taken
    }

    fn progressed(&mut self, progress: Progress, through: &mut Through, taken: &mut Taken) {
        let Front::Tls(session) = self else {
            unreachable!("TLS made progress")
        };
        taken.handshake = progress.ready;
        if progress.failed {
            through.plain.clear();
            taken.end = End::Refused;
        } else if progress.ended {
            taken.end = End::Peer;
        }
        through.out.append(&mut session.take_owed());
    }
}

impl Opening {
    /// What it is answered with goes out as it is.
    pub fn is_clear(&self) -> bool {
        !self.tls
    }

    /// Where the client's own bytes begin, once that is known. An error if it is to be refused.
    fn header(
        &mut self,
        read: &[u8],
        through: &mut Through,
        taken: &mut Taken,
    ) -> Result<Option<usize>, ()> {
        if self.expect == Expect::Nothing {
            return Ok(Some(0));
        }
        match proxy::parse(read) {
            Header::Incomplete => Ok(None),
            Header::None if self.expect == Expect::Maybe => Ok(Some(0)),
            Header::None => {
                if !self.tls {
                    through.out.extend_from_slice(SEND_HEADER);
                }
                Err(())
            }
            Header::Refused(_) => Err(()),
            Header::Taken(len, source) => {
                taken.peer = source;
                Ok(Some(len))
            }
        }
    }
}
