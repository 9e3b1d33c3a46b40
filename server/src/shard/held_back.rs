//! What sockets hold back, of all connections together: past a bound, those that hold back most are
//! let go.

use super::Shard;
use super::types::{ConnId, Instant};

/// A pass frees this part of the bound, so that passes are rare.
const FREED_PART: usize = 8;

impl Shard {
    /// Counts anew what waits for a connection's socket.
    pub(super) fn count_held_back(&mut self, id: ConnId) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        let bytes = match connection.blocked_since {
            Some(_) => connection.waiting_bytes(),
            None => 0,
        };
        let before = std::mem::replace(&mut connection.held_back, bytes);
        self.held_back_bytes = self.held_back_bytes + bytes - before;
    }

    /// Lets those go that hold back most, if all together hold back too much.
    pub(super) fn bound_held_back(&mut self, now: Instant) {
        let max = self.config.limits.queue_core_bytes_max;
        if self.held_back_bytes <= max {
            return;
        }
        let holding = |c: &&super::Connection| c.held_back > 0;
        let connections = self.connections.iter().flatten();
        let count = connections.filter(holding).count();
        let mean = self.held_back_bytes / count.max(1);
        for slot in 0..self.connections.len() {
            if self.held_back_bytes <= max - max / FREED_PART {
                break;
            }
            let Some(connection) = &mut self.connections[slot] else {
                continue;
            };
            if connection.held_back >= mean.max(1) {
                self.held_back_bytes -= std::mem::take(&mut connection.held_back);
                let id = self.id_at(slot).expect("just seen");
                self.give_up(now, id);
            }
        }
    }
}
