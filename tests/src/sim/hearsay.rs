//! Content that comes to clients past the server, as between the tabs of a browser: its writer never
//! meets the server, and who has which part of it is chance.

use super::client::Phase;
use super::document::Document;
use super::frames;
use super::plan::MILLISECOND;
use super::rng::Rng;
use super::world::{Action, World};

/// Ids of such writers, past those of clients and newcomers.
const WRITERS: u64 = 2000;

impl World {
    /// Somebody writes. One client, without a connection then, hears of all but the beginning: its
    /// answer to the server is cut, until another client has told the beginning.
    pub fn hearsay(&mut self, chances: u64) {
        let mut rng = Rng::new(chances);
        let room = rng.index(self.plan.rooms.len());
        let honest = |index: &usize| {
            let client = &self.clients[*index];
            client.room == room && client.role.writes()
        };
        let mut listeners: Vec<usize> = (0..self.clients.len()).filter(honest).collect();
        if self.calm || listeners.len() < 2 {
            return;
        }
        let first = listeners.swap_remove(rng.index(listeners.len()));
        let second = *rng.pick(&listeners);
        self.writers += 1;
        let id = WRITERS + self.writers;
        let mut writer = Document::new(id);
        let begin = writer.write(&mut rng);
        let (known, begun) = (writer.state_vector(), writer.clock(id));
        for _ in 0..rng.range(1..4) {
            writer.write(&mut rng);
        }
        let rest = writer.diff(&known);
        self.abandon(second, &mut rng);
        self.log.note(
            self.now,
            format_args!(
                "client {} hears what client {} is to tell the beginning of",
                self.clients[second].id, self.clients[first].id
            ),
        );
        self.clients[second].document.apply_after(id, begun, rest);
        self.untold += 1;
        let at = self.now + rng.range(0..2000 * MILLISECOND);
        self.at(at, Action::Tell(first, begin, rng.next()));
        self.saw("hearsay");
    }

    /// A client hears the beginning.
    pub fn tell(&mut self, index: usize, update: &[u8], chances: u64) {
        self.untold -= 1;
        self.clients[index].hear(update, &mut Rng::new(chances));
        self.send_of_client(index);
    }
}

impl super::client::Client {
    /// Content comes past the server, as from another tab. A provider passes on what it can make use
    /// of.
    fn hear(&mut self, update: &[u8], rng: &mut Rng) {
        self.document
            .apply(update)
            .expect("what a document wrote applies");
        if self.phase == Phase::Open {
            self.message(&frames::sync(2, update), rng);
            self.expect(update.to_vec(), false);
        }
    }
}
