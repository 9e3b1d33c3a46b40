//! Whoever authenticates clients: late, in any order, and never for some. It knows them by the token
//! in their path, which is their number.

use super::plan::{MILLISECOND, Plan, Role};
use super::rng::Rng;
use super::world::{Action, World};
use collabblocks_server::shard::{Access, Claims, ConnId, Denied, Instant, Request, Verdict};
use std::ops::Range;
use std::time::Duration;

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
}
