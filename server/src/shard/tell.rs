//! What a delivery says to a room's sessions: the same bytes to all of them, but for those who wrote
//! some of it.

use super::Stats;
use super::connection::{Behind, Connection, Session, Stage};
use super::effect::Effects;
use super::fanout::{own_range, send};
use super::types::{ConnId, Instant};
use std::ops::Range;

/// Bytes of a delivery, to all its sessions together, past which they get it in parts. Each send is a
/// copy, by the kernel or for a socket that does not take it.
const TOLD_AT_ONCE_BYTES_MAX: usize = 64 << 20;

/// What sessions are told.
#[derive(Clone)]
pub(super) enum Delivery {
    /// All at once.
    Whole(Whole),
    /// It is large: they fall behind, and get it at their sockets' pace.
    InParts,
}

/// Where in the turn's frames a delivery lies.
#[derive(Clone)]
pub(super) struct Whole {
    pub(super) all: Range<usize>,
    /// Where its document frames end, and presence begins.
    pub(super) documents: usize,
}

/// Whether so many bytes for each of so many sessions go out in parts.
pub(super) fn goes_in_parts(bytes: usize, sessions: usize, slice_bytes: usize) -> bool {
    bytes > slice_bytes || bytes.saturating_mul(sessions) > TOLD_AT_ONCE_BYTES_MAX
}

/// The sessions to which a delivery is not the same as to all others.
pub(super) trait Apart {
    /// Whether this is one of them.
    fn is_apart(&self, session: &mut Session) -> bool;

    /// Appends the document frames for it.
    fn frames(&self, id: ConnId, session: &Session, out: &mut Vec<u8>);

    /// What is known of it, should it have to wait for them.
    fn behind(&self, session: &Session) -> Behind;
}

/// What telling takes of the shard.
pub(super) struct Teller<'a> {
    pub(super) now: Instant,
    pub(super) connections: &'a mut [Option<Connection>],
    pub(super) wanting: &'a mut Vec<ConnId>,
    pub(super) own_copies_left: &'a mut usize,
    pub(super) stats: &'a mut Stats,
}

impl Teller<'_> {
    /// Sends a delivery to all of the sessions that are not behind. Returns how many fell behind by it.
    pub(super) fn tell(
        &mut self,
        sessions: &[ConnId],
        delivery: &Delivery,
        apart: &impl Apart,
        effects: &mut Effects,
    ) -> usize {
        let mut fell_behind = 0;
        for &id in sessions {
            let connection = self.connections[id.slot as usize]
                .as_mut()
                .expect("a room's sessions are connected");
            let Stage::Session(session) = &mut connection.stage else {
                unreachable!("a room's sessions are sessions")
            };
            if session.behind.is_some() {
                continue;
            }
            let control = connection.out_control;
            let is_apart = apart.is_apart(session);
            let Whole { all, documents } = match delivery {
                Delivery::Whole(whole) if !is_apart || *self.own_copies_left > 0 => whole,
                _ => {
                    session.behind = Some(Box::new(apart.behind(session)));
                    fell_behind += 1;
                    if !session.listed {
                        session.listed = true;
                        self.wanting.push(id);
                    }
                    continue;
                }
            };
            let range = if is_apart {
                *self.own_copies_left = self.own_copies_left.saturating_sub(all.len());
                let own = own_range(connection, effects).0;
                let session = connection.session().expect("looked at above");
                apart.frames(id, session, &mut effects.frames);
                effects.frames.extend_from_within(*documents..all.end);
                own.start..effects.frames.len()
            } else if connection.out.is_empty() {
                all.clone()
            } else {
                let own = own_range(connection, effects).0;
                effects.frames.extend_from_within(all.clone());
                own.start..effects.frames.len()
            };
            send(
                connection, id, range, control, self.now, effects, self.stats,
            );
        }
        fell_behind
    }
}
