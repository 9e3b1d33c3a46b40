//! The causal gate: an update goes to yrs only if all that it builds on is in the room.
//!
//! yrs takes out-of-order input, but then integrates behind holes, keeps what it cannot place in
//! memory for ever, and orders it differently from Yjs. So nothing out of order reaches it.

use super::ledger::{Depth, Ledger, Place};
use super::plan::Plan;
use super::read::malformed;
use super::walk::{Content, Id, Kind, Parent, Struct, Visit, walk};
use super::{Limits, Refusal};
use crate::work::is_placed;

/// Above so many structs an update is applied in parts: yrs joins neighbours in one transaction at
/// quadratic cost, and recurses once per exhausted client section.
pub(crate) const STRUCTS_AT_ONCE: usize = 1_000;

/// Nesting notes of an update that the quick look keeps; beyond, the update is taken apart.
const NOTES_MAX: usize = 8;
/// Deletions that an update may hold and still be [`Notes::plain`].
const PLAIN_DELETES_MAX: usize = 8;

/// What the gate says.
pub(crate) enum Verdict<'a> {
    /// All of it is known.
    Known,
    /// All of it can be applied as it is.
    Whole(Notes),
    /// It is to be applied from its plan: all of it in parts, or the causal part of it.
    Planned(Box<Plan<'a>>, Notes),
}

/// What is to be written into the ledger once the update was applied.
#[derive(Default, Debug)]
pub(crate) struct Notes {
    /// Client and the clock after its last unit.
    clocks: Vec<(u64, u32)>,
    /// Client, clock, and where its units stand from there on; only where that changes.
    places: Vec<(u64, u32, Place)>,
    /// Depths of new containers, whose numbers go on from the ledger's.
    containers: Vec<Depth>,
    /// New root types, with their containers.
    roots: Vec<(Box<str>, u32)>,
    /// New shared types, with their containers.
    types: Vec<(Id, u32)>,
    /// Sub-documents.
    pub(crate) subdocs: Vec<Id>,
    /// What a plain update deletes: client, clock, and the clock after.
    deletes: Vec<(u64, u32, u32)>,
    /// Its effect on the ledger is all known without the document: it inserts text in sequences that
    /// are there, and deletes what nothing stands in.
    pub(crate) plain: bool,
    /// The update's structs, if the quick look was enough.
    pub(crate) structs: usize,
    /// Those of them that do not go on right behind their client's last one.
    pub(crate) placed: usize,
    /// Its ranges of deletions that are new.
    pub(crate) cuts: usize,
}

impl Notes {
    fn advance(&mut self, client: u64, clock: u32) {
        match self.clocks.last_mut() {
            Some(last) if last.0 == client => last.1 = last.1.max(clock),
            _ => self.clocks.push((client, clock)),
        }
    }

    /// To be called after what the update deletes was noted.
    pub(crate) fn write(&self, ledger: &mut Ledger) {
        let living =
            |ledger: &Ledger, id: Id| !ledger.is_deleted(id.client, id.clock, id.clock + 1);
        for &(client, clock) in &self.clocks {
            ledger.advance(client, clock);
        }
        for &depth in &self.containers {
            ledger.note_container(depth);
        }
        for (name, container) in &self.roots {
            ledger.note_root(name, *container);
        }
        for &(id, container) in &self.types {
            if living(ledger, id) {
                ledger.note_type(id, container);
            } else {
                ledger.note_dead(container);
            }
        }
        for &(client, start, place) in &self.places {
            ledger.note_place(client, start, place);
        }
        for &id in &self.subdocs {
            if living(ledger, id) {
                ledger.note_subdoc(id);
            }
        }
    }

    /// Notes what a plain update deletes; returns how many units.
    pub(crate) fn write_plain_deletes(&self, ledger: &mut Ledger) -> usize {
        let mut units = 0;
        for &(client, clock, clock_end) in &self.deletes {
            ledger.note_deleted(client, clock, clock_end);
            units += (clock_end - clock) as usize;
        }
        units
    }
}

/// The quick look, in one pass over the bytes.
struct Look<'l> {
    ledger: &'l Ledger,
    client: u64,
    /// The clock up to which the client's units are there, this update's included.
    have: u32,
    /// The clock before this update.
    known: u32,
    /// Where the client's last unit stands.
    place: Place,
    notes: Notes,
    /// Something is new.
    news: bool,
    /// The quick look does not settle it.
    tangled: bool,
}

impl Look<'_> {
    /// Whether unit `id` is there for a struct of this section at `clock`.
    #[inline]
    fn has(&self, id: Id, clock: u32) -> bool {
        id.clock
            < if id.client == self.client {
                clock
            } else {
                self.ledger.clock(id.client)
            }
    }

    /// Where unit `id` stands.
    #[inline]
    fn place(&self, id: Id) -> Place {
        if id.client != self.client || id.clock < self.known {
            return self.ledger.place(id);
        }
        let noted = self
            .notes
            .places
            .iter()
            .rev()
            .find(|noted| noted.0 == id.client && noted.1 <= id.clock);
        let last = || self.ledger.last_place(id.client);
        self.ledger
            .while_alive(noted.map_or_else(last, |noted| noted.2))
    }
}

/// What an item is put to the right of: its origin, or if it is known in part, up to `have`, what is
/// known of it.
#[inline]
fn left(read: &Struct<'_>, have: u32) -> Option<Id> {
    match read.kind {
        Kind::Item(_) if read.id.clock < have => Some(Id {
            clock: have - 1,
            ..read.id
        }),
        _ => read.origin,
    }
}

/// Where an item stands, by its explicit parent and its neighbours. No editor makes an item between
/// two types, or between a list and a map entry; yrs would lose track of one of them, and later
/// follow pointers to what it has freed.
#[inline]
fn agreed(parent: Place, left: Place, right: Place, at: usize) -> Result<Place, Refusal> {
    let mut place = parent;
    for other in [left, right] {
        if place == Place::NONE {
            place = other;
        } else if other != place && other != Place::NONE {
            return Err(malformed(
                "origins_apart",
                "an item whose neighbours are in different types",
                at,
            ));
        }
    }
    Ok(place)
}

impl<'a> Visit<'a> for Look<'_> {
    #[inline]
    fn on_section(&mut self, client: u64) {
        self.client = client;
        self.have = self.ledger.clock(client);
        self.known = self.have;
        self.place = self.ledger.last_place(client);
    }

    #[inline]
    fn on_struct(&mut self, read: &Struct<'a>) -> Result<(), Refusal> {
        self.notes.structs += 1;
        self.notes.placed += usize::from(is_placed(read));
        // No sub-document goes to yrs as it is, be it known.
        self.tangled |= read.kind == Kind::Item(Content::Doc);
        if read.clock_end() <= self.have && read.kind != Kind::Skip {
            return Ok(());
        }
        self.news = true;
        let there = |id: Option<Id>| id.is_none_or(|id| self.has(id, read.id.clock));
        if self.tangled
            || read.id.clock > self.have
            || matches!(
                read.kind,
                Kind::Skip | Kind::Item(Content::Type | Content::Doc)
            )
            || !there(read.origin)
            || !there(read.right_origin)
        {
            self.tangled = true;
            return Ok(());
        }
        let container = match read.parent {
            Parent::Root(name) => self.ledger.root(name),
            Parent::Item(id) => self.ledger.container(id),
            Parent::Inherited => None,
        };
        if container.is_none() && read.parent != Parent::Inherited {
            self.tangled = true;
            return Ok(());
        }
        let place_of = |id: Option<Id>| id.map_or(Place::NONE, |id| self.place(id));
        let place = agreed(
            container.map_or(Place::NONE, |container| {
                Place::new(container, read.key.is_some())
            }),
            place_of(left(read, self.have)),
            place_of(read.right_origin),
            read.at,
        )?;
        if place != self.place {
            if self.notes.places.len() == NOTES_MAX {
                self.tangled = true;
                return Ok(());
            }
            self.notes
                .places
                .push((self.client, read.id.clock.max(self.have), place));
            self.place = place;
        }
        let text = read.kind == Kind::Item(Content::String);
        self.notes.plain &= text && place.is_in_sequence();
        self.have = read.clock_end();
        self.notes.advance(self.client, self.have);
        Ok(())
    }

    #[inline]
    fn on_delete(&mut self, client: u64, clock: u32, clock_end: u32) -> Result<(), Refusal> {
        if self.tangled || self.ledger.is_deleted(client, clock, clock_end) {
            return Ok(());
        }
        self.news = true;
        let have = self.notes.clocks.iter().find(|noted| noted.0 == client);
        let have = have.map_or_else(|| self.ledger.clock(client), |noted| noted.1);
        self.tangled |= clock_end > have;
        let notes = &mut self.notes;
        notes.cuts += 1;
        notes.plain &= notes.deletes.len() < PLAIN_DELETES_MAX
            && !self.ledger.holds_types(client, clock, clock_end);
        if notes.plain {
            notes.deletes.push((client, clock, clock_end));
        }
        Ok(())
    }
}

/// Judges `update`. Errors: what is malformed or too large, and a [`Refusal::Gap`] unless
/// `cut_gaps`. More than `structs_max` structs are to be applied in parts.
pub(crate) fn judge<'a>(
    update: &'a [u8],
    ledger: &Ledger,
    cut_gaps: bool,
    limits: &Limits,
    structs_max: usize,
) -> Result<Verdict<'a>, Refusal> {
    let mut look = Look {
        ledger,
        client: 0,
        have: 0,
        known: 0,
        place: Place::NONE,
        notes: Notes {
            plain: true,
            ..Notes::default()
        },
        news: false,
        tangled: false,
    };
    walk(update, limits, &mut look)?;
    if !look.news {
        return Ok(Verdict::Known);
    }
    if !look.tangled && look.notes.structs <= structs_max {
        return Ok(Verdict::Whole(look.notes));
    }
    let mut plan = Plan::new(update, limits, |client, _| ledger.clock(client))?;
    if plan.gap && !cut_gaps {
        return Err(Refusal::Gap);
    }
    plan.deletes
        .retain(|&(client, clock, clock_end)| !ledger.is_deleted(client, clock, clock_end));
    let notes = census(&plan, ledger, limits)?;
    Ok(Verdict::Planned(Box::new(plan), notes))
}

/// Notes what the plan's structs are, and refuses types nested too deeply, parents that are not
/// types, and items between two types.
fn census(plan: &Plan<'_>, ledger: &Ledger, limits: &Limits) -> Result<Notes, Refusal> {
    // What is new; its containers' numbers go on from the ledger's.
    let mut fresh = Ledger::default();
    let first = ledger.container_count();
    let mut notes = Notes::default();
    plan.each_struct(limits, |read| {
        notes.advance(read.id.client, read.clock_end());
        let container = match read.parent {
            Parent::Inherited => None,
            Parent::Root(name) => match ledger.root(name).or_else(|| fresh.root(name)) {
                Some(container) => Some(container),
                None => {
                    let container = first + fresh.note_container(0);
                    fresh.note_root(name, container);
                    notes.containers.push(0);
                    notes.roots.push((name.into(), container));
                    Some(container)
                }
            },
            Parent::Item(id) => match fresh.container(id).or_else(|| ledger.container(id)) {
                Some(container) => Some(container),
                // In a type that was deleted it will be collected. What an update says of an item that is
                // known already counts for nothing: it may be another one here.
                None if ledger.is_deleted(id.client, id.clock, id.clock + 1)
                    || plan.is_dead(id, limits)
                        && (id.clock >= ledger.clock(id.client)
                            || ledger.place(id).container().is_none()) =>
                {
                    None
                }
                None => {
                    return Err(malformed(
                        "parent_not_type",
                        "a parent that is not a shared type",
                        read.at,
                    ));
                }
            },
        };
        let place_of = |id: Option<Id>| match id {
            Some(id) if id.clock < ledger.clock(id.client) => ledger.place(id),
            Some(id) => ledger.while_alive(fresh.place(id)),
            None => Place::NONE,
        };
        let start = read.id.clock.max(ledger.clock(read.id.client));
        let place = match (read.parent, container) {
            // It will be collected.
            (Parent::Item(_), None) => Place::NONE,
            _ => agreed(
                container.map_or(Place::NONE, |container| {
                    Place::new(container, read.key.is_some())
                }),
                place_of(left(read, start)),
                place_of(read.right_origin),
                read.at,
            )?,
        };
        fresh.note_place(read.id.client, start, place);
        notes.places.push((read.id.client, start, place));
        match read.kind {
            Kind::Item(Content::Type) => {
                let depth = |container| {
                    ledger
                        .depth(container)
                        .or_else(|| fresh.depth(container - first))
                };
                let inside = place
                    .container()
                    .and_then(depth)
                    .map_or(1, |depth| depth + 1);
                if usize::from(inside) > limits.type_depth_max.min(usize::from(Depth::MAX - 1)) {
                    return Err(Refusal::TooLarge {
                        what: "nesting of shared types",
                        size: usize::from(inside),
                        limit: limits.type_depth_max,
                    });
                }
                let container = first + fresh.note_container(inside);
                fresh.note_type(read.id, container);
                notes.containers.push(inside);
                notes.types.push((read.id, container));
            }
            Kind::Item(Content::Doc) => notes.subdocs.push(read.id),
            _ => {}
        }
        Ok(())
    })?;
    Ok(notes)
}
