//! The causal gate: an update goes to yrs only if all that it builds on is in the room.
//!
//! yrs takes out-of-order input, but then integrates behind holes, keeps what it cannot place in
//! memory for ever, and orders it differently from Yjs. So nothing out of order reaches it.

use super::ledger::{Depth, Ledger};
use super::plan::Plan;
use super::read::malformed;
use super::walk::{Content, Id, Kind, Parent, Struct, Visit, walk};
use super::{Limits, Refusal};

/// Above so many structs an update is applied in parts: yrs joins neighbours in one transaction at
/// quadratic cost, and recurses once per exhausted client section.
pub(crate) const STRUCTS_AT_ONCE: usize = 1_000;

/// Nesting notes of an update that the quick look keeps; beyond, the update is taken apart.
const NOTES_MAX: usize = 8;

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
    /// Client, start, end, depth: only of depths above 0.
    deep: Vec<(u64, u32, u32, Depth)>,
    /// Shared types, with the depth inside.
    types: Vec<(Id, Depth)>,
    /// Sub-documents.
    pub(crate) subdocs: Vec<Id>,
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
        for &(id, depth_inside) in &self.types {
            if living(ledger, id) {
                ledger.note_type(id, depth_inside);
            }
        }
        for &(client, start, end, depth) in &self.deep {
            ledger.note_depth(client, start, end, depth);
        }
        for &id in &self.subdocs {
            if living(ledger, id) {
                ledger.note_subdoc(id);
            }
        }
    }
}

/// The quick look, in one pass over the bytes.
struct Look<'l> {
    ledger: &'l Ledger,
    client: u64,
    /// The clock up to which the client's units are there, this update's included.
    have: u32,
    notes: Notes,
    structs: usize,
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

    fn depth(&self, id: Id) -> Depth {
        self.notes
            .deep
            .iter()
            .find(|&&(client, start, end, _)| {
                client == id.client && (start..end).contains(&id.clock)
            })
            .map_or_else(|| self.ledger.depth(id), |found| found.3)
    }
}

impl<'a> Visit<'a> for Look<'_> {
    #[inline]
    fn on_section(&mut self, client: u64) {
        self.client = client;
        self.have = self.ledger.clock(client);
    }

    #[inline]
    fn on_struct(&mut self, read: &Struct<'a>) -> Result<(), Refusal> {
        self.structs += 1;
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
        let depth = match read.parent {
            Parent::Root(_) => 0,
            Parent::Item(id) => match self.ledger.type_depth(id) {
                Some(depth) => depth,
                None => {
                    self.tangled = true;
                    return Ok(());
                }
            },
            Parent::Inherited if self.ledger.nested() => {
                let depth = |id: Option<Id>| id.map_or(0, |id| self.depth(id));
                depth(read.origin).max(depth(read.right_origin))
            }
            Parent::Inherited => 0,
        };
        if depth > 0 {
            if self.notes.deep.len() == NOTES_MAX {
                self.tangled = true;
                return Ok(());
            }
            self.notes.deep.push((
                self.client,
                read.id.clock.max(self.have),
                read.clock_end(),
                depth,
            ));
        }
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
        Ok(())
    }
}

/// Judges `update`. Errors: what is malformed or too large, and a [`Refusal::Gap`] unless
/// `cut_gaps`.
pub(crate) fn judge<'a>(
    update: &'a [u8],
    ledger: &Ledger,
    cut_gaps: bool,
    limits: &Limits,
) -> Result<Verdict<'a>, Refusal> {
    let mut look = Look {
        ledger,
        client: 0,
        have: 0,
        notes: Notes::default(),
        structs: 0,
        news: false,
        tangled: false,
    };
    walk(update, limits, &mut look)?;
    if !look.news {
        return Ok(Verdict::Known);
    }
    if !look.tangled && look.structs <= STRUCTS_AT_ONCE {
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

/// Notes what the plan's structs are, and refuses types nested too deeply and parents that are not
/// types.
fn census(plan: &Plan<'_>, ledger: &Ledger, limits: &Limits) -> Result<Notes, Refusal> {
    let mut fresh = Ledger::default();
    let mut notes = Notes::default();
    plan.each_struct(limits, |read| {
        notes.advance(read.id.client, read.clock_end());
        let at = |id: Option<Id>| id.map_or(0, |id| fresh.depth(id).max(ledger.depth(id)));
        let depth = match read.parent {
            Parent::Root(_) => 0,
            Parent::Inherited => at(read.origin).max(at(read.right_origin)),
            Parent::Item(id) => match fresh.type_depth(id).or_else(|| ledger.type_depth(id)) {
                Some(depth) => depth,
                // In a type that was deleted it will be collected.
                None if ledger.is_deleted(id.client, id.clock, id.clock + 1)
                    || plan.is_dead(id, limits) =>
                {
                    0
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
        let start = read.id.clock.max(ledger.clock(read.id.client));
        if depth > 0 {
            fresh.note_depth(read.id.client, start, read.clock_end(), depth);
            notes
                .deep
                .push((read.id.client, start, read.clock_end(), depth));
        }
        match read.kind {
            Kind::Item(Content::Type) => {
                if usize::from(depth) >= limits.type_depth_max.min(usize::from(Depth::MAX - 1)) {
                    return Err(Refusal::TooLarge {
                        what: "nesting of shared types",
                        size: usize::from(depth) + 1,
                        limit: limits.type_depth_max,
                    });
                }
                fresh.note_type(read.id, depth + 1);
                notes.types.push((read.id, depth + 1));
            }
            Kind::Item(Content::Doc) => notes.subdocs.push(read.id),
            _ => {}
        }
        Ok(())
    })?;
    Ok(notes)
}
