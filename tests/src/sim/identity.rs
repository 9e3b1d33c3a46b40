//! Whoever authenticates clients: late, in any order, and never for some. It knows them by the token
//! in their path, which is their number.

use super::plan::{MILLISECOND, Plan, Role};
use super::rng::Rng;
use super::world::{Action, World};
use collabblocks_server::shard::{Access, Claims, ConnId, Denied, Instant, Request, Verdict};
use std::ops::Range;
use std::time::Duration;

/// How late a shard may be to close whose time is over: a second, and the lateness of the turns in it.
const LATE_NS_MAX: u64 = 1100 * MILLISECOND;

/// How clients are authenticated in a run.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    /// Time for an answer.
    pub delay: Range<u64>,
    /// How long a brief access lasts.
    pub lasts: Range<u64>,
}

impl Door {
    /// In a third of the runs; with clients that may not do all.
    pub fn draw(rng: &mut Rng, plan: &mut Plan) -> Option<Self> {
        if !rng.one_in(3) {
            return None;
        }
        for _ in 0..rng.range(1..5) {
            let role = *rng.pick(&[Role::ReadOnly, Role::ReadOnly, Role::Denied, Role::Brief]);
            plan.clients.push((role, rng.index(plan.rooms.len())));
        }
        plan.limits.authenticate_timeout = Duration::from_millis(300);
        plan.limits.authenticating_max = *rng.pick(&[1, 3, 4096]);
        let slowest = *rng.pick(&[1, 20, 400, 3000]) * MILLISECOND;
        Some(Self {
            delay: 0..slowest,
            lasts: 100 * MILLISECOND..2000 * MILLISECOND,
        })
    }
}

/// What a client asks for: with its number as the token, where tokens are asked for.
pub(crate) fn target(plan: &Plan, room: &str, client: u64) -> String {
    match plan.door {
        Some(_) => format!("{room}?token={client}"),
        None => room.to_owned(),
    }
}

impl World {
    /// A shard asks who a client is.
    pub fn ask(&mut self, shard: usize, conn: ConnId, request: &Request) {
        let door = self.plan.door.clone();
        let door = door.expect("a shard asks if it is told to");
        let delay = match self.calm {
            true => 0..20 * MILLISECOND,
            false => door.delay,
        };
        if let Some(state) = self.nodes[shard].live(conn) {
            let link = self.links.get_mut(&state.link);
            link.expect("a link stays while its server end lives")
                .asked_at = Some(self.now);
        }
        let client = request.token().and_then(|token| token.parse().ok());
        let at = self.now + self.rng.range(delay);
        self.at(at, Action::Answer(self.process, shard, conn, client));
    }

    /// What is answered.
    pub fn verdict(&mut self, client: Option<u64>) -> Verdict {
        let known = self.clients.iter().find(|known| Some(known.id) == client);
        let role = known.map(|known| known.role);
        let claims = Claims {
            subject: client.map(|client| client.to_string().into()),
            ..Claims::default()
        };
        match role {
            None => Err(Denied::Unauthenticated("nobody knows you".into())),
            Some(Role::Denied) => {
                self.saw("denied");
                Err(Denied::Forbidden("not you".into()))
            }
            Some(Role::ReadOnly) => Ok(Claims {
                access: Access::ReadOnly,
                ..claims
            }),
            Some(Role::Brief) if !self.calm => {
                let lasts = self.plan.door.as_ref().map(|door| door.lasts.clone());
                let lasts = self.rng.range(lasts.expect("somebody asked"));
                Ok(Claims {
                    expires_at: Some(Instant(self.clock().saturating_add(lasts))),
                    ..claims
                })
            }
            Some(_) => Ok(claims),
        }
    }

    /// An answer comes to a shard; the connection is known from now on by what it is.
    pub fn let_in(&mut self, shard: usize, conn: ConnId, verdict: &Verdict) {
        let Some(state) = self.nodes[shard].live(conn) else {
            return self.saw("asked and gone");
        };
        let link = self.links.get_mut(&state.link);
        let link = link.expect("a link stays while its server end lives");
        link.asked_at = None;
        if let Ok(claims) = verdict {
            link.access_ends = claims.expires_at.map(|at| at.0);
        }
    }

    /// Neither whose access has ended nor who waits for an answer is there for long.
    pub fn check_access(&mut self, shard: usize) {
        let (clock, now) = (self.clock(), self.now);
        let patience = self.plan.limits.authenticate_timeout.as_nanos() as u64 + LATE_NS_MAX;
        for (id, conn) in self.nodes[shard].conns().filter(|(_, conn)| conn.live) {
            let link = self.links.get_mut(&conn.link);
            let link = link.expect("a link stays while its server end lives");
            assert!(
                link.asked_at.is_none() || !conn.read_on,
                "{id:?} on shard {shard} is read while it waits to be let in"
            );
            let waits = link.asked_at.map_or(0, |at| now - at);
            assert!(
                waits <= patience,
                "{id:?} on shard {shard} waits to be let in for {waits} ns"
            );
            if link.access_ends.is_some_and(|ends| ends <= clock) {
                let over = now - *link.expired_at.get_or_insert(now);
                assert!(
                    over <= LATE_NS_MAX,
                    "the access of {id:?} on shard {shard} ended {over} ns ago"
                );
            }
        }
    }

    /// Whether a client was let in for a while only, and is still there.
    pub fn stays_briefly(&self, link: Option<u64>) -> bool {
        let link = link.and_then(|link| self.links.get(&link));
        link.is_some_and(|link| link.access_ends.is_some())
    }
}
