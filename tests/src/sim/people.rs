//! What clients do, and how their bytes leave and reach them.

use super::client::Phase;
use super::frames;
use super::hostile;
use super::identity;
use super::network::{Link, Pipe, ServerEnd};
use super::plan::Role;
use super::rng::Rng;
use super::world::{Action, World};

impl World {
    /// A client does something, and will do more.
    pub fn tick(&mut self, index: usize) {
        let mut rng = self.rng.fork();
        let next = self.now + rng.range(self.plan.pace.clone());
        self.at(next, Action::Tick(index));
        let now = self.now;
        let client = &mut self.clients[index];
        match client.phase {
            Phase::Left => {}
            Phase::Offline { retry_at } => {
                if now >= retry_at {
                    self.connect(index, &mut rng);
                } else if !self.calm && client.role != Role::Hostile && rng.one_in(3) {
                    client.edit(&mut rng);
                }
            }
            Phase::Head | Phase::Open if client.role == Role::Hostile => {
                if rng.one_in(4) {
                    self.abandon(index, &mut rng);
                } else if client.reading && rng.one_in(3) {
                    client.reading = false;
                }
            }
            Phase::Head | Phase::Open if self.calm => client.renew(now, &mut rng),
            Phase::Head | Phase::Open => match rng.range(0..40) {
                0..=27 => client.edit(&mut rng),
                28..=32 => client.announce(now, &mut rng),
                33 => self.abandon(index, &mut rng),
                34..=36 if client.role == Role::Slow => client.reading = false,
                37..=39 => self.resume(index),
                _ => client.renew(now, &mut rng),
            },
        }
        self.send_of_client(index);
    }

    /// A client reads again what its socket holds.
    pub fn resume(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.reading = true;
        if let Some(link) = client.link {
            self.arrive_down(link);
        }
    }

    fn connect(&mut self, index: usize, rng: &mut Rng) {
        let id = self.next_link;
        self.next_link += 1;
        let bytes = self.plan.socket_bytes;
        self.links.insert(
            id,
            Link {
                up: Pipe::new(bytes),
                down: Pipe::new(bytes),
                server: ServerEnd::Nobody,
                client: Some(index),
                silent: false,
                reset: false,
                latency: self.plan.latency.clone(),
                asked_at: None,
                access_ends: None,
                expired_at: None,
            },
        );
        let client = &mut self.clients[index];
        let target = identity::target(&self.plan, &self.plan.rooms[client.room], client.id);
        client.connect(self.now, id, &target, rng);
        if client.role == Role::Hostile {
            client.out = hostile::attack(&target, rng);
        }
        self.log.note(
            self.now,
            format_args!("client {} connects, link {id}", client.id),
        );
        let at = self.now + self.rng.range(self.plan.latency.clone());
        self.at(at, Action::Connect(id));
    }

    /// A client lets go of its connection, in one of the ways there are.
    pub fn abandon(&mut self, index: usize, rng: &mut Rng) {
        let client = &mut self.clients[index];
        let Some(id) = client.link else {
            return;
        };
        let way = rng.range(0..3);
        self.log.note(
            self.now,
            format_args!("client {} leaves link {id} in way {way}", client.id),
        );
        client.lost(self.now, rng);
        let link = self.links.get_mut(&id).expect("a client's link is there");
        link.client = None;
        match way {
            0 => {
                let mut frame = Vec::new();
                frames::masked(frames::CLOSE, &1000u16.to_be_bytes(), rng, &mut frame);
                if link.up.space() < frame.len() {
                    return self.reset_by_client(id);
                }
                let mut arrivals = Vec::new();
                link.up
                    .write(self.now, &frame, &link.latency, rng, &mut arrivals);
                link.up.end(self.now, &link.latency, rng, &mut arrivals);
                for at in arrivals {
                    self.at(at, Action::ArriveUp(id));
                }
            }
            1 => self.reset_by_client(id),
            _ => link.silent = true,
        }
    }

    pub fn reset_by_client(&mut self, id: u64) {
        let link = self.links.get_mut(&id).expect("a client's link is there");
        link.reset = true;
        let at = self.now + self.rng.range(link.latency.clone());
        self.at(at, Action::ResetUp(id));
    }

    /// Passes on what a client has to send, as far as the socket takes it.
    pub fn send_of_client(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let Some(id) = client.link else {
            return;
        };
        let link = self.links.get_mut(&id).expect("a client's link is there");
        let mut arrivals = Vec::new();
        let taken = link.up.write(
            self.now,
            &client.out,
            &link.latency,
            &mut self.rng,
            &mut arrivals,
        );
        client.out.drain(..taken);
        for at in arrivals {
            self.at(at, Action::ArriveUp(id));
        }
    }

    /// Bytes, or the end, arrived at a client.
    pub fn arrive_down(&mut self, id: u64) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        if link.silent {
            return;
        }
        link.down.arrive(self.now);
        let Some(index) = link.client else {
            link.down.read(usize::MAX);
            return self.take_rest(id);
        };
        let client = &mut self.clients[index];
        if !client.reading || link.reset {
            return;
        }
        let bytes = link.down.read(usize::MAX);
        let ended = link.down.ended;
        let mut acknowledged = Vec::new();
        if client.role != Role::Hostile && !bytes.is_empty() {
            self.log.note(
                self.now,
                format_args!("client {} gets {} bytes", client.id, bytes.len()),
            );
            let result = client.on_bytes(self.now, &bytes, &mut self.rng, &mut acknowledged);
            if let Err(violation) = result {
                panic!("client {}: {violation}", client.id);
            }
        }
        let seen = std::mem::take(&mut client.seen);
        let room = client.room;
        self.oracle.came_back(room, client.id, client.returned);
        if ended {
            self.log.note(
                self.now,
                format_args!("client {} sees the end of link {id}", client.id),
            );
            client.lost(self.now, &mut self.rng);
            link.client = None;
        }
        for what in seen {
            self.saw(what);
        }
        let told = !acknowledged.is_empty();
        for update in acknowledged {
            self.oracle.acknowledge(room, &update);
        }
        self.send_of_client(index);
        self.take_rest(id);
        self.drop_link(id);
        if told && self.rng.one_in(16) {
            self.check_crash_now();
        }
    }
}
