//! What happens on the connections between clients and shards.

use super::network::ServerEnd;
use super::node::Input;
use super::world::{Action, World};

impl World {
    /// A connection request reaches the server.
    pub fn connected(&mut self, id: u64) {
        let open: Vec<usize> = (0..self.nodes.len())
            .filter(|n| self.nodes[*n].accepting)
            .collect();
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        if link.silent || link.reset {
            link.server = ServerEnd::Gone;
            return self.drop_link(id);
        }
        if open.is_empty() {
            link.server = ServerEnd::Gone;
            return self.reset_by_server(id);
        }
        let shard = *self.rng.pick(&open);
        self.input(shard, Input::Accept(id));
    }

    /// Bytes, or the end, arrived at the server.
    pub fn arrive_up(&mut self, id: u64) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        if link.silent || link.reset {
            return;
        }
        link.up.arrive(self.now);
        match link.server {
            ServerEnd::Shard(shard, conn) => self.input(shard, Input::Readable(conn)),
            // It is looked at when a shard takes the connection in.
            ServerEnd::Nobody => {}
            ServerEnd::Gone => {
                link.up.read(usize::MAX);
            }
        }
    }

    /// A client's reset arrived at the server.
    pub fn reset_up(&mut self, id: u64) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        match link.server {
            ServerEnd::Shard(shard, conn) => self.input(shard, Input::Reset(conn)),
            // Whoever takes it in finds that it has ended.
            ServerEnd::Nobody => {
                link.up.read(usize::MAX);
                link.up.ended = true;
            }
            ServerEnd::Gone => self.drop_link(id),
        }
    }

    /// The server's end of a connection is gone without a farewell.
    pub fn reset_by_server(&mut self, id: u64) {
        let link = self
            .links
            .get_mut(&id)
            .expect("a link stays while its server end lives");
        if link.silent || link.client.is_none() {
            return self.drop_link(id);
        }
        link.reset = true;
        let at = self.now + self.rng.range(link.latency.clone());
        self.at(at, Action::ResetDown(id));
    }

    /// The server's reset arrived at a client.
    pub fn reset_down(&mut self, id: u64) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        if let Some(index) = link.client.take() {
            let client = &mut self.clients[index];
            self.log.note(
                self.now,
                format_args!("client {} sees the reset of link {id}", client.id),
            );
            client.lost(self.now, &mut self.rng);
        }
        self.drop_link(id);
    }

    /// The server has closed its end; what it sent before still arrives.
    pub fn end_down(&mut self, id: u64) {
        let link = self
            .links
            .get_mut(&id)
            .expect("a link stays while its server end lives");
        let mut arrivals = Vec::new();
        link.down
            .end(self.now, &link.latency, &mut self.rng, &mut arrivals);
        for at in arrivals {
            self.at(at, Action::ArriveDown(id));
        }
        self.drop_link(id);
    }

    /// The server sends; returns how many bytes the socket took.
    pub fn write_down(&mut self, id: u64, bytes: &[u8]) -> usize {
        let link = self
            .links
            .get_mut(&id)
            .expect("a link stays while its server end lives");
        if link.reset || (link.client.is_none() && !link.silent) {
            // They meet nobody.
            return bytes.len();
        }
        let mut arrivals = Vec::new();
        let taken = link
            .down
            .write(self.now, bytes, &link.latency, &mut self.rng, &mut arrivals);
        for at in arrivals {
            self.at(at, Action::ArriveDown(id));
        }
        taken
    }

    /// A client has taken bytes: the socket takes more of what the runtime holds for it.
    pub fn take_rest(&mut self, id: u64) {
        let Some(ServerEnd::Shard(shard, conn)) = self.links.get(&id).map(|link| link.server)
        else {
            return;
        };
        let Some(state) = self.nodes[shard].get(conn) else {
            return;
        };
        if state.rest.is_empty() {
            return;
        }
        let rest: Vec<u8> = state.rest.iter().copied().collect();
        let taken = self.write_down(id, &rest);
        let Some(state) = self.nodes[shard].get(conn) else {
            return;
        };
        state.rest.drain(..taken);
        if !state.rest.is_empty() {
            let unsent = state.rest.len();
            if state.live && state.told - unsent > state.held_back / 16 {
                state.told = unsent;
                self.input(shard, Input::Progress(conn, unsent));
            }
            return;
        }
        if state.live {
            return self.input(shard, Input::Drained(conn));
        }
        self.nodes[shard].remove(conn);
        self.links.get_mut(&id).expect("just there").server = ServerEnd::Gone;
        self.end_down(id);
        self.look_at_process();
    }

    /// Forgets a connection that nobody holds.
    pub fn drop_link(&mut self, id: u64) {
        if self
            .links
            .get(&id)
            .is_some_and(|link| link.server == ServerEnd::Gone && link.client.is_none())
        {
            self.links.remove(&id);
        }
    }
}
