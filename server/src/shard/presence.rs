//! Presence of a room: the latest awareness state of each client, who owns it, and what changed.

use super::types::ConnId;
use crate::dialect::lib0::{read_bytes, read_uint, write_uint};
use foldhash::fast::FixedState;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

/// Clients that are gone are remembered, so that a late old state does not bring them back; past
/// this many at the end of a turn the oldest half is forgotten.
const GONE_MAX: usize = 4096;

#[derive(Debug)]
struct Entry {
    clock: u32,
    /// JSON; `None` when the client is gone.
    state: Option<Box<[u8]>>,
    /// The connection that last raised the clock, while it lives.
    owner: Option<ConnId>,
    /// The room's presence version at its last change.
    version: u64,
}

/// What became of one entry of an awareness update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the latest state now; the client is owned by the sender from here on.
    Taken,
    /// An older state, a repetition, or somebody else's removal of a client that lives.
    Stale,
    /// The client was removed at this very clock, and its owner is back: tell it so, and it will
    /// announce itself anew.
    Removed,
}

/// The presence of one room. Lives on the room's home shard.
#[derive(Debug)]
pub struct Presence {
    /// Clients choose their numbers: the hash is seeded.
    entries: HashMap<u64, Entry, FixedState>,
    /// What a newcomer is told, and the version that it is of.
    everyone: Option<(u64, Rc<[u8]>)>,
    version: u64,
    /// The version that was told last.
    told: u64,
    changed: Vec<u64>,
    /// Who changed lately, and the version with which that was told; where some are told later.
    told_late: Option<VecDeque<(u64, u64)>>,
    gone: usize,
}

impl Presence {
    /// Of nobody yet.
    pub fn new(hash_seed: u64) -> Self {
        Self {
            entries: HashMap::with_hasher(FixedState::with_seed(hash_seed)),
            everyone: None,
            version: 0,
            told: 0,
            changed: Vec::new(),
            told_late: None,
            gone: 0,
        }
    }

    /// Forgets everybody, and those who are gone.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.everyone = None;
        self.changed.clear();
        self.told_late = None;
        self.gone = 0;
    }

    /// An awareness update with all who are present; made once for all who ask while nothing changes.
    pub fn everyone(&mut self) -> Rc<[u8]> {
        match &self.everyone {
            Some((version, bytes)) if *version == self.version => bytes.clone(),
            _ => {
                let mut bytes = Vec::new();
                self.since(None, &mut bytes);
                let bytes: Rc<[u8]> = bytes.into();
                self.everyone = Some((self.version, bytes.clone()));
                bytes
            }
        }
    }

    /// Takes one client's state, `None` for its removal, from a connection.
    pub fn apply(
        &mut self,
        from: ConnId,
        client: u64,
        clock: u32,
        state: Option<&[u8]>,
    ) -> Verdict {
        let version = self.version + 1;
        match self.entries.get_mut(&client) {
            None => {
                // Nobody was told of it, so nobody needs to be told that it is gone.
                let Some(state) = state else {
                    return Verdict::Stale;
                };
                let entry = Entry {
                    clock,
                    state: Some(state.into()),
                    owner: Some(from),
                    version,
                };
                self.entries.insert(client, entry);
            }
            Some(entry) => {
                let foreign = entry.owner.is_some_and(|owner| owner != from);
                let removes = state.is_none() && entry.state.is_some();
                if state.is_none() && foreign {
                    return Verdict::Stale;
                }
                if clock == entry.clock && state.is_some() && entry.state.is_none() {
                    return Verdict::Removed;
                }
                if clock < entry.clock || (clock == entry.clock && !removes) {
                    return Verdict::Stale;
                }
                match (entry.state.is_some(), state.is_some()) {
                    (true, false) => self.gone += 1,
                    (false, true) => self.gone -= 1,
                    _ => {}
                }
                entry.clock = clock;
                entry.owner = state.is_some().then_some(from);
                match (&mut entry.state, state) {
                    (Some(old), Some(new)) if old.len() == new.len() => old.copy_from_slice(new),
                    (old, new) => *old = new.map(Into::into),
                }
                entry.version = version;
            }
        }
        self.version = version;
        self.everyone = None;
        self.changed.push(client);
        Verdict::Taken
    }

    /// Whether what a session says of a client may change anything; `own` if it announced the client.
    /// Clients repeat what they hear of others: that goes no further, and does not count.
    pub fn may_change(&self, client: u64, clock: u32, present: bool, own: bool) -> bool {
        match self.entries.get(&client) {
            None => present || own,
            Some(entry) if clock != entry.clock => clock > entry.clock,
            Some(entry) => match (present, entry.state.is_some()) {
                // The home tells it that it was removed.
                (true, false) => true,
                (false, true) => own,
                _ => false,
            },
        }
    }

    /// Takes what the home told of a client, in the copy that a core with away sessions keeps.
    pub fn copy(&mut self, client: u64, clock: u32, state: Option<&[u8]>) {
        let known = self.entries.get(&client);
        let was_gone = known.is_some_and(|entry| entry.state.is_none());
        if known.is_none() && state.is_none() {
            return;
        }
        self.everyone = None;
        self.gone = self.gone + usize::from(state.is_none()) - usize::from(was_gone);
        self.version += 1;
        let entry = Entry {
            clock,
            state: state.map(Into::into),
            owner: None,
            version: self.version,
        };
        self.entries.insert(client, entry);
        self.changed.push(client);
    }

    /// Whether one of these clients, which were a connection's, is another one's by now.
    pub fn is_elsewhere(&self, owner: ConnId, clients: &[u64]) -> bool {
        let owned = |client: &u64| self.entries.get(client).and_then(|entry| entry.owner);
        clients.iter().filter_map(owned).any(|now| now != owner)
    }

    /// A connection is gone: the clients it owned are removed, at their last clock.
    pub fn leave(&mut self, owner: ConnId, clients: &[u64]) {
        for &client in clients {
            let Some(entry) = self.entries.get_mut(&client) else {
                continue;
            };
            if entry.owner != Some(owner) {
                continue;
            }
            entry.owner = None;
            if entry.state.take().is_some() {
                self.version += 1;
                self.everyone = None;
                entry.version = self.version;
                self.gone += 1;
                self.changed.push(client);
            }
        }
    }

    /// Whether anything changed since the last [`Presence::take_changes`].
    pub fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Appends an awareness update with the latest state of every client that changed.
    pub fn take_changes(&mut self, out: &mut Vec<u8>) {
        let mut changed = std::mem::take(&mut self.changed);
        changed.sort_unstable();
        changed.dedup();
        write_uint(changed.len() as u64, out);
        for client in &changed {
            write_entry(*client, &self.entries[client], out);
        }
        self.told = self.version;
        if let Some(late) = &mut self.told_late {
            late.extend(changed.iter().map(|client| (self.told, *client)));
        }
        changed.clear();
        self.changed = changed;
        if self.gone > GONE_MAX {
            self.forget_oldest();
        }
    }

    /// From now on it is kept who changed, for those who are told later.
    pub fn keep_changes(&mut self) {
        self.told_late.get_or_insert_default();
    }

    /// Appends an awareness update with the latest state of every client that changed after a version
    /// that [`Presence::told`] gave. Returns whether there is anything in it.
    pub fn changes_since(&self, version: u64, out: &mut Vec<u8>) -> bool {
        let late = self.told_late.iter().flatten().rev();
        let late = late.take_while(|(told, _)| *told > version);
        let mut clients: Vec<u64> = late.map(|(_, client)| *client).collect();
        clients.sort_unstable();
        clients.dedup();
        clients.retain(|client| self.entries.contains_key(client));
        write_uint(clients.len() as u64, out);
        for client in &clients {
            write_entry(*client, &self.entries[client], out);
        }
        !clients.is_empty()
    }

    /// All were told what changed up to a version.
    pub fn forget_changes(&mut self, version: u64) {
        if let Some(late) = &mut self.told_late {
            let known = late.partition_point(|(told, _)| *told <= version);
            late.drain(..known);
        }
    }

    /// The number of the latest change that [`Presence::take_changes`] gave out.
    pub fn told(&self) -> u64 {
        self.told
    }

    /// Appends an awareness update with all that changed after a version, removals included; for a
    /// newcomer (`None`) with all who are present. Returns whether there is anything in it.
    pub fn since(&self, version: Option<u64>, out: &mut Vec<u8>) -> bool {
        let wanted = |e: &&Entry| version.map_or(e.state.is_some(), |version| e.version > version);
        let count = self.entries.values().filter(wanted).count();
        write_uint(count as u64, out);
        for (client, entry) in self.entries.iter().filter(|(_, e)| wanted(e)) {
            write_entry(*client, entry, out);
        }
        count > 0
    }

    /// Clients present.
    pub fn present(&self) -> usize {
        self.entries.len() - self.gone
    }

    fn forget_oldest(&mut self) {
        let mut versions: Vec<u64> = self
            .entries
            .values()
            .filter(|e| e.state.is_none())
            .map(|e| e.version)
            .collect();
        let middle = versions.len() / 2;
        let (_, &mut median, _) = versions.select_nth_unstable(middle);
        self.entries
            .retain(|_, e| e.state.is_some() || e.version >= median);
        self.gone = self.entries.values().filter(|e| e.state.is_none()).count();
    }
}

/// Appends an awareness update that says that one client was removed.
pub fn removal(client: u64, clock: u32, out: &mut Vec<u8>) {
    write_uint(1, out);
    write_parts(client, clock, None, out);
}

fn write_entry(client: u64, entry: &Entry, out: &mut Vec<u8>) {
    write_parts(client, entry.clock, entry.state.as_deref(), out);
}

/// The entries of an awareness update that another core's [`Presence`] wrote.
pub fn entries(mut states: &[u8]) -> impl Iterator<Item = (u64, u32, Option<&[u8]>)> {
    let count = read_uint(&mut states).expect("a shard writes what a shard can read");
    (0..count).map(move |_| {
        let rest = &mut states;
        let mut entry = || {
            let client = read_uint(rest)?;
            let clock = u32::try_from(read_uint(rest)?).ok()?;
            let state = read_bytes(rest)?;
            Some((client, clock, (state != b"null").then_some(state)))
        };
        entry().expect("a shard writes what a shard can read")
    })
}

/// Appends one entry of an awareness update.
pub fn write_parts(client: u64, clock: u32, state: Option<&[u8]>, out: &mut Vec<u8>) {
    let state = state.unwrap_or(b"null");
    write_uint(client, out);
    write_uint(u64::from(clock), out);
    write_uint(state.len() as u64, out);
    out.extend_from_slice(state);
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ConnId = ConnId {
        slot: 1,
        generation: 1,
    };
    const B: ConnId = ConnId {
        slot: 2,
        generation: 1,
    };

    fn changes(presence: &mut Presence) -> Vec<u8> {
        let mut out = Vec::new();
        presence.take_changes(&mut out);
        out
    }

    #[test]
    fn only_the_latest_state_goes_out() {
        let mut p = Presence::new(1);
        assert_eq!(
            p.apply(A, 7, 0, Some(b"{}")),
            Verdict::Taken,
            "the first clock may be 0"
        );
        assert_eq!(p.apply(A, 7, 2, Some(b"2")), Verdict::Taken);
        assert_eq!(p.apply(A, 7, 1, Some(b"1")), Verdict::Stale);
        assert_eq!(changes(&mut p), [1, 7, 2, 1, b'2']);
        assert!(!p.has_changes());
    }

    #[test]
    fn presence_of_the_gone_disappears_and_does_not_come_back() {
        let mut p = Presence::new(1);
        p.apply(A, 7, 5, Some(b"{}"));
        changes(&mut p);
        p.leave(A, &[7]);
        assert_eq!(changes(&mut p), [&[1, 7, 5, 4][..], b"null"].concat());
        assert_eq!(p.present(), 0);
        assert_eq!(
            p.apply(B, 7, 4, Some(b"{}")),
            Verdict::Stale,
            "a late old state"
        );
        assert_eq!(
            p.apply(B, 7, 5, Some(b"{}")),
            Verdict::Removed,
            "the client is back at the same clock"
        );
        assert_eq!(p.apply(B, 7, 6, Some(b"{}")), Verdict::Taken);
        assert_eq!(p.present(), 1);
    }

    #[test]
    fn others_do_not_remove_who_lives() {
        let mut p = Presence::new(1);
        p.apply(A, 7, 5, Some(b"{}"));
        assert_eq!(
            p.apply(B, 7, 5, None),
            Verdict::Stale,
            "expiry seen by another client"
        );
        assert_eq!(p.apply(B, 7, 6, None), Verdict::Stale);
        assert_eq!(p.apply(A, 7, 5, None), Verdict::Taken, "its own");
        assert_eq!(p.present(), 0);
    }

    #[test]
    fn the_old_connection_of_a_client_that_moved_takes_nothing_along() {
        let mut p = Presence::new(1);
        p.apply(A, 7, 5, Some(b"{}"));
        p.apply(B, 7, 6, Some(b"{}"));
        p.leave(A, &[7]);
        assert_eq!(p.present(), 1);
        p.leave(B, &[7]);
        assert_eq!(p.present(), 0);
    }

    #[test]
    fn catching_up_includes_removals_but_newcomers_see_none() {
        let mut p = Presence::new(1);
        p.apply(A, 1, 1, Some(b"1"));
        changes(&mut p);
        let seen = p.told();
        p.apply(B, 2, 1, Some(b"2"));
        p.leave(A, &[1]);
        let mut late = Vec::new();
        assert!(p.since(Some(seen), &mut late));
        assert_eq!(late[0], 2);
        let mut new = Vec::new();
        assert!(p.since(None, &mut new));
        assert_eq!(new, [1, 2, 1, 1, b'2']);
        changes(&mut p);
        assert!(!p.since(Some(p.told()), &mut Vec::new()));
    }

    #[test]
    fn what_is_remembered_of_the_gone_is_bounded() {
        let mut p = Presence::new(1);
        for client in 0..3 * GONE_MAX as u64 {
            p.apply(A, client, 1, Some(b"{}"));
            p.leave(A, &[client]);
            changes(&mut p);
        }
        assert!(p.entries.len() <= GONE_MAX + 1, "{}", p.entries.len());
    }
}
