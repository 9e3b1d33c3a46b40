//! A client's document and the edits made to it.

use super::rng::Rng;
use yrs::block::ClientID;
use yrs::types::{Attrs, ToJson};
use yrs::updates::decoder::Decode;
use yrs::updates::encoder::Encode;
use yrs::{
    Any, Array, Doc, GetString, Map, MapPrelim, OffsetKind, Options, ReadTxn, Snapshot,
    StateVector, Text, TextPrelim, Transact, Update, merge_updates_v1,
};

const WORDS: &[&str] = &[
    "a",
    "be",
    "sea ",
    "\n",
    "😀",
    "x😀y",
    "𝒳𝒴",
    "éà",
    "a longer run of words ",
];
const KEYS: &[&str] = &["k", "l", "m"];

/// A Yjs document in a client's hands.
pub(crate) struct Document {
    doc: Doc,
    /// Updates that came before what they build on: a client and how far it has to have come. Yjs has
    /// them in the document; of yrs nothing is promised there.
    waiting: Vec<(u64, u32, Vec<u8>)>,
}

impl Document {
    /// An empty one.
    pub fn new(client: u64) -> Self {
        let mut options = Options::with_client_id(ClientID::new(client));
        options.offset_kind = OffsetKind::Utf16;
        // Deletions that tidy up after others would be updates of their own in Yjs; yrs keeps them to itself.
        options.cleanup_formatting = false;
        let doc = Doc::with_options(options);
        doc.get_or_insert_text("text");
        doc.get_or_insert_map("map");
        doc.get_or_insert_array("array");
        let waiting = Vec::new();
        Self { doc, waiting }
    }

    /// A random edit; the update it made, if it made one.
    pub fn edit(&mut self, rng: &mut Rng) -> Option<Vec<u8>> {
        let text = self.doc.get_or_insert_text("text");
        let map = self.doc.get_or_insert_map("map");
        let array = self.doc.get_or_insert_array("array");
        let mut txn = self.doc.transact_mut();
        let kind = rng.range(0..20);
        match kind {
            0..=9 => {
                let at = place(&text.get_string(&txn), rng);
                text.insert(&mut txn, at, rng.pick::<&str>(WORDS));
            }
            10..=12 => {
                let now = text.get_string(&txn);
                let (a, b) = (place(&now, rng), place(&now, rng));
                let (from, to) = (a.min(b), a.max(b).min(a.min(b) + 8));
                let to = boundary(&now, to);
                if to > from {
                    text.remove_range(&mut txn, from, to - from);
                }
            }
            13 => {
                let now = text.get_string(&txn);
                let (a, b) = (place(&now, rng), place(&now, rng));
                if a != b {
                    let value = Any::from(rng.one_in(2));
                    let attributes = Attrs::from([("bold".into(), value)]);
                    text.format(&mut txn, a.min(b), a.abs_diff(b), attributes);
                }
            }
            14 => {
                map.insert(&mut txn, *rng.pick(KEYS), rng.range(0..1000) as i64);
            }
            15 => {
                map.remove(&mut txn, rng.pick::<&str>(KEYS));
            }
            16 => {
                let nested = map.insert(&mut txn, "nested", TextPrelim::new("in "));
                nested.insert(&mut txn, 1, rng.pick::<&str>(WORDS));
            }
            17..=18 => {
                let at = rng.range(0..u64::from(array.len(&txn)) + 1) as u32;
                if rng.one_in(3) {
                    let entry = array.insert(&mut txn, at, MapPrelim::default());
                    entry.insert(&mut txn, "in", *rng.pick::<&str>(WORDS));
                } else {
                    array.insert(&mut txn, at, rng.range(0..100) as i64);
                }
            }
            _ => {
                let len = array.len(&txn);
                if len > 0 {
                    array.remove(&mut txn, rng.range(0..u64::from(len)) as u32);
                }
            }
        }
        let update = txn.encode_update_v1();
        (update != [0, 0]).then_some(update)
    }

    /// Random edits until one made an update.
    pub fn write(&mut self, rng: &mut Rng) -> Vec<u8> {
        loop {
            if let Some(update) = self.edit(rng) {
                return update;
            }
        }
    }

    /// Applies an update of the server's.
    pub fn apply(&mut self, update: &[u8]) -> Result<(), String> {
        let update =
            Update::decode_v1(update).map_err(|e| format!("the server sent no update: {e}"))?;
        let mut txn = self.doc.transact_mut();
        txn.apply_update(update)
            .map_err(|e| format!("the server's update does not apply: {e}"))?;
        drop(txn);
        let ready =
            |this: &Self, (client, clock, _): &(u64, u32, Vec<u8>)| this.clock(*client) >= *clock;
        match self.waiting.iter().position(|one| ready(self, one)) {
            Some(index) => {
                let (.., update) = self.waiting.swap_remove(index);
                self.apply(&update)
            }
            None => Ok(()),
        }
    }

    /// Takes an update for which a client has to have come so far first.
    pub fn apply_after(&mut self, client: u64, clock: u32, update: Vec<u8>) {
        assert!(self.clock(client) < clock, "it need not wait");
        self.waiting.push((client, clock, update));
    }

    /// Whether it holds updates that build on what it does not have.
    pub fn waits(&self) -> bool {
        !self.waiting.is_empty() || self.doc.transact().has_missing_updates()
    }

    /// How far a client's content goes in an update.
    pub fn reach(update: &[u8], client: u64) -> u32 {
        Update::decode_v1(update).map_or(0, |update| {
            update.state_vector().get(&ClientID::new(client))
        })
    }

    /// How far a client's content goes in the document.
    pub fn clock(&self, client: u64) -> u32 {
        self.doc
            .transact()
            .state_vector()
            .get(&ClientID::new(client))
    }

    /// Whether nobody but this client can have made an update: it holds content, and only of its own.
    pub fn is_own(update: &[u8], client: u64) -> bool {
        let Ok(update) = Update::decode_v1(update) else {
            return false;
        };
        let vector = update.state_vector();
        !vector.is_empty() && vector.iter().all(|(of, _)| *of == ClientID::new(client))
    }

    /// What a document with this state vector lacks, with what waits for more here, as Yjs has it.
    pub fn diff(&self, vector: &[u8]) -> Vec<u8> {
        let vector =
            StateVector::decode_v1(vector).expect("a state vector of the server's is whole");
        let diff = self.doc.transact().encode_diff_v1(&vector);
        if self.waiting.is_empty() {
            return diff;
        }
        let waiting = self.waiting.iter().map(|(.., update)| update.as_slice());
        merge_updates_v1(waiting.chain([diff.as_slice()])).expect("what documents wrote merges")
    }

    /// The encoded state vector.
    pub fn state_vector(&self) -> Vec<u8> {
        self.doc.transact().state_vector().encode_v1()
    }

    /// The whole state.
    pub fn state(&self) -> Vec<u8> {
        self.diff(&[0])
    }

    /// What it has seen and what of it is deleted.
    pub fn snapshot(&self) -> Snapshot {
        self.doc.transact().snapshot()
    }

    /// Its content.
    pub fn json(&self) -> Any {
        self.doc.to_json(&self.doc.transact())
    }

    /// Whether these updates hold nothing that is new to it.
    pub fn contains_all(&self, updates: &[Vec<u8>]) -> bool {
        let mut copy = Self::new(1);
        let held = copy.apply(&self.state());
        held.is_ok()
            && updates.iter().all(|update| copy.apply(update).is_ok())
            && !copy.waits()
            && copy.snapshot() == self.snapshot()
    }

    /// Whether an update holds nothing that is new to it.
    pub fn contains(&mut self, update: &[u8]) -> bool {
        let before = self.snapshot();
        self.apply(update).is_ok() && !self.waits() && self.snapshot() == before
    }
}

/// A place between two characters, in UTF-16 units.
fn place(text: &str, rng: &mut Rng) -> u32 {
    let units = text.encode_utf16().count() as u64;
    boundary(text, rng.range(0..units + 1) as u32)
}

/// The last place between two characters at or before `at`.
fn boundary(text: &str, at: u32) -> u32 {
    let mut end = 0;
    for c in text.chars() {
        let next = end + c.len_utf16() as u32;
        if next > at {
            break;
        }
        end = next;
    }
    end
}
