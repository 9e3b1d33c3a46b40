//! One room's Yjs document behind the guard.

use crate::deferred::Deferred;
use crate::guard::gate::{STRUCTS_AT_ONCE, Verdict, judge};
use crate::guard::ledger::Ledger;
use crate::guard::plan::{Plan, encode_deletes, write_var};
use crate::guard::subdoc::{hide, reveal};
use crate::guard::{self, Limits, Refusal};
use crate::work::{Count, Effort, WorkLimits};
use std::cmp::Reverse;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use yrs::block::ClientID;
use yrs::updates::decoder::Decode;
use yrs::{Doc, OffsetKind, Options, ReadTxn, StateVector, Transact, Update};

/// What applying an update did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// All of it was causal and something was new: log and relay the original bytes.
    New,
    /// It held nothing new (structs below the state vector, deletes known): neither log nor relay.
    Known,
    /// Only a causal part was taken (a step 2 with a gap); log and relay these bytes instead. The
    /// rest was dropped: ask for it with a SyncStep1.
    Cut(Vec<u8>),
    /// The part that could be taken held nothing new, the rest was dropped: ask with a SyncStep1.
    CutKnown,
}

/// A room's document: `yrs::Doc` with UTF-16 offsets, GC on, update v1 only. `Send`.
pub struct RoomDoc {
    doc: Doc,
    /// What the document does not hold yet; the ledger knows of it.
    deferred: Deferred,
    ledger: Ledger,
    poisoned: bool,
    /// Bytes of the state it was loaded from.
    loaded_bytes: usize,
    /// Bytes applied since.
    applied_bytes: usize,
    /// At most the size of the encoded state: what it was when last measured, and all since.
    state_bytes_bound: usize,
    /// Some of what the last update that was cut lacked.
    wanted: Vec<(u64, u32)>,
    /// Units deleted and bytes applied since the state was measured: what may have changed it.
    unmeasured: usize,
    effort: Effort,
}

impl RoomDoc {
    /// An empty document.
    pub fn new() -> Self {
        Self {
            doc: empty_doc(),
            deferred: Deferred::default(),
            ledger: Ledger::default(),
            poisoned: false,
            loaded_bytes: 0,
            applied_bytes: 0,
            state_bytes_bound: 0,
            wanted: Vec::new(),
            unmeasured: 0,
            effort: Effort::default(),
        }
    }

    /// From a full state (update v1) that this server encoded earlier. Slow for large documents:
    /// call it off the data core.
    pub fn from_state(state: &[u8]) -> Result<Self, Refusal> {
        let mut room = Self::new();
        match room.apply(state, false, &Limits::own_state())? {
            Applied::New | Applied::Known => {}
            Applied::Cut(_) | Applied::CutKnown => return Err(Refusal::Gap),
        }
        room.settle()?;
        room.effort
            .count(Count::of(state, &Limits::own_state())?.structs);
        room.loaded_bytes = state.len();
        room.applied_bytes = 0;
        room.state_bytes_bound = state.len();
        Ok(room)
    }

    /// Guard, then apply, now or with what comes next: what the document makes of an update that the
    /// guard knows all about can wait until somebody asks for the document. `cut_gaps`: true for a SyncStep2, whose causal part is taken; false for
    /// an Update, which is taken whole or answered [`Refusal::Gap`]. Never panics on any input; on
    /// `Err` the document is as it was, unless it is [`RoomDoc::poisoned`] after, by this update or
    /// one before it.
    pub fn apply(
        &mut self,
        update: &[u8],
        cut_gaps: bool,
        limits: &Limits,
    ) -> Result<Applied, Refusal> {
        if self.poisoned {
            return Err(Refusal::Unavailable(
                "the document failed and is to be loaded again",
            ));
        }
        let structs_max = self.effort.structs_at_once(0);
        match judge(update, &self.ledger, cut_gaps, limits, structs_max)? {
            Verdict::Known => Ok(Applied::Known),
            Verdict::Whole(notes) if notes.plain && Deferred::takes(update.len()) => {
                self.make_room(update.len(), limits)?;
                let placed = self.deferred.placed() + notes.placed;
                if self.deferred.is_full(update.len()) || self.effort.is_much(placed) {
                    self.settle()?;
                }
                self.deferred.push(update, notes.placed);
                self.unmeasured += notes.write_plain_deletes(&mut self.ledger);
                notes.write(&mut self.ledger);
                self.applied(update.len());
                Ok(Applied::New)
            }
            Verdict::Whole(notes) => {
                self.make_room(update.len(), limits)?;
                self.settle()?;
                let begun = self.effort.begin(notes.placed);
                self.integrate(&[update], false)?;
                self.effort.end(begun, notes.structs);
                (self.effort).grew(notes.structs, notes.placed, notes.cuts);
                notes.write(&mut self.ledger);
                self.applied(update.len());
                Ok(Applied::New)
            }
            Verdict::Planned(mut plan, notes) => {
                self.wanted = std::mem::take(&mut plan.wanted);
                if plan.runs.is_empty() && plan.deletes.is_empty() {
                    return Ok(if plan.gap {
                        Applied::CutKnown
                    } else {
                        Applied::Known
                    });
                }
                let subdocs = self.ledger.subdocs().len() + notes.subdocs.len();
                if subdocs > limits.subdocs_max {
                    return Err(Refusal::TooLarge {
                        what: "sub-documents",
                        size: subdocs,
                        limit: limits.subdocs_max,
                    });
                }
                self.make_room(update.len(), limits)?;
                self.settle()?;
                self.integrate_plan(&plan, !notes.subdocs.is_empty())?;
                notes.write(&mut self.ledger);
                self.applied(update.len());
                Ok(if plan.gap {
                    Applied::Cut(plan.encode_whole())
                } else {
                    Applied::New
                })
            }
        }
    }

    /// As [`RoomDoc::apply`], off the core, and with nothing left to be given to the document on it.
    pub(crate) fn apply_all(
        &mut self,
        update: &[u8],
        cut_gaps: bool,
        limits: &Limits,
    ) -> Result<Applied, Refusal> {
        let applied = self.apply(update, cut_gaps, limits)?;
        self.settle()?;
        self.effort.on_job();
        if self.effort.is_stale() {
            let state = self.encode(&StateVector::default())?;
            let count = Count::of(&state, &Limits::own_state())?;
            self.effort.count(count.structs);
        }
        Ok(applied)
    }

    /// From here on the work of an update is bounded.
    #[inline]
    pub(crate) fn bound_work(&mut self, limits: &WorkLimits) {
        self.effort.bound(limits);
    }

    #[cfg(test)]
    pub(crate) fn effort(&self) -> &Effort {
        &self.effort
    }

    /// Structs to be placed that wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.deferred.placed()
    }

    /// Whether an update is more work than the core takes.
    pub(crate) fn is_for_job(&self, update: &[u8], limits: &Limits, work: &WorkLimits) -> bool {
        self.effort.is_for_job(update, limits, work)
    }

    /// yrs failed on an update that the guard let through, or took too long over one, and the document
    /// can no longer be trusted: [`RoomDoc::apply`], [`RoomDoc::diff`] and [`RoomDoc::encode_state`] refuse from now
    /// on. Make a new one from the snapshot and the logged updates.
    pub fn poisoned(&self) -> bool {
        self.poisoned
    }

    /// Units, as client and clock, that what was cut off the last update waits for: some of them.
    pub fn take_wanted(&mut self) -> Vec<(u64, u32)> {
        std::mem::take(&mut self.wanted)
    }

    /// Whether a client's unit is there.
    pub fn has(&self, client: u64, clock: u32) -> bool {
        clock < self.ledger.clock(client)
    }

    /// Appends the encoded state vector.
    pub fn state_vector(&self, out: &mut Vec<u8>) {
        let clocks = self.ledger.clocks().filter(|&(_, clock)| clock > 0);
        write_state_vector(clocks.collect(), out);
    }

    /// What a client with state vector `sv` (as it came from the wire; checked here) lacks, as update
    /// v1: `00 00` when nothing.
    pub fn diff(&mut self, sv: &[u8], limits: &Limits) -> Result<Vec<u8>, Refusal> {
        let clocks = guard::state_vector(sv, limits)?;
        let vector: StateVector = clocks
            .into_iter()
            .map(|(client, clock)| (ClientID::new(client), clock))
            .collect();
        self.encode(&vector)
    }

    /// Appends a client's state vector (checked here) as far as the document has it: who shares it
    /// lacks the same.
    pub fn clamp(&self, sv: &[u8], limits: &Limits, out: &mut Vec<u8>) -> Result<(), Refusal> {
        let mut clocks = guard::state_vector(sv, limits)?;
        for (client, clock) in &mut clocks {
            *clock = self.ledger.clock(*client).min(*clock);
        }
        clocks.retain(|&(_, clock)| clock > 0);
        write_state_vector(clocks, out);
        Ok(())
    }

    /// Bytes of the encoded state, at most.
    pub fn state_bytes_max(&self) -> usize {
        self.state_bytes_bound
    }

    /// The full state as update v1, checked to decode again (walker).
    pub fn encode_state(&mut self) -> Result<Vec<u8>, Refusal> {
        let state = self.encode(&StateVector::default())?;
        let plan = Plan::new(&state, &Limits::own_state(), |_, _| 0)?;
        self.effort.count(plan.part_count());
        if plan.gap {
            return Err(Refusal::Rejected("its state does not stand on its own"));
        }
        Ok(state)
    }

    /// A cheap estimate of the heap the document holds, in bytes; grows with what was applied.
    pub fn memory_estimate(&self) -> usize {
        // Measured: about 7 bytes for each byte of state. Updates shrink when they are joined.
        1_200 + 7 * self.loaded_bytes + 2 * self.applied_bytes + 160 * self.ledger.client_count()
    }

    /// Gives the document what it does not hold yet.
    pub fn settle(&mut self) -> Result<(), Refusal> {
        if self.deferred.is_empty() {
            return Ok(());
        }
        let deferred = self.deferred.take();
        let placed = deferred.placed();
        let begun = self.effort.begin(placed);
        let (settled, cuts) = match deferred.joined() {
            Some((update, cuts)) => (self.integrate(&[&update], true), cuts),
            None => {
                let updates: Vec<_> = deferred.updates().collect();
                (self.integrate(&updates, true), updates.len())
            }
        };
        self.effort.end(begun, placed);
        self.effort.grew(placed, placed, cuts);
        if settled.is_err() && !self.poisoned {
            self.poison();
        }
        settled
    }

    /// What a client with `vector` lacks.
    fn encode(&mut self, vector: &StateVector) -> Result<Vec<u8>, Refusal> {
        self.settle()?;
        if self.poisoned {
            return Err(Refusal::Unavailable(
                "the document failed and is to be loaded again",
            ));
        }
        let encode = || self.doc.transact().encode_diff_v1(vector);
        let update = catch_unwind(AssertUnwindSafe(encode))
            .map_err(|_| Refusal::Rejected("the document library panicked while encoding"))?;
        if self.ledger.subdocs().is_empty() {
            return Ok(update);
        }
        reveal(&update, |id| self.ledger.subdocs().contains(&id))
    }

    /// Refuses what would make the state too large. The bound only grows, so at the limit the state
    /// is measured anew once enough has changed.
    fn make_room(&mut self, bytes: usize, limits: &Limits) -> Result<(), Refusal> {
        if self.state_bytes_bound + bytes <= limits.document_bytes_max {
            return Ok(());
        }
        if self.unmeasured >= limits.document_bytes_max / 64 {
            self.state_bytes_bound = self.encode(&StateVector::default())?.len();
            self.unmeasured = 0;
        }
        let size = self.state_bytes_bound + bytes;
        if size <= limits.document_bytes_max {
            return Ok(());
        }
        Err(Refusal::TooLarge {
            what: "bytes of the room's document",
            size,
            limit: limits.document_bytes_max,
        })
    }

    fn applied(&mut self, bytes: usize) {
        self.applied_bytes += bytes;
        self.state_bytes_bound += bytes;
        self.unmeasured += bytes;
    }

    /// Applies a plan in parts. Should one fail after another went in, the document is poisoned; so it
    /// is if it takes too long.
    fn integrate_plan(&mut self, plan: &Plan<'_>, subdocs: bool) -> Result<(), Refusal> {
        let begun = self.effort.begin_parts();
        let structs = plan.struct_count();
        let at_once = |before| self.effort.structs_at_once(before);
        let mut updates = plan.encode_structs(at_once, usize::MAX);
        if subdocs {
            updates = updates
                .iter()
                .map(|update| hide(update))
                .collect::<Result<_, _>>()?;
        }
        if plan.deletes.len() > STRUCTS_AT_ONCE {
            // Each deletion splits a text by copying it: with many, every so-many-th goes first,
            // which leaves short texts for the others.
            let coarse: Vec<_> = plan
                .deletes
                .iter()
                .copied()
                .step_by(plan.deletes.len().isqrt())
                .collect();
            updates.push(encode_deletes(&coarse));
        }
        if !plan.deletes.is_empty() {
            updates.push(encode_deletes(&plan.deletes));
        }
        for (done, update) in updates.iter().enumerate() {
            if done > 0 && self.effort.is_too_long(begun) {
                self.poisoned = true;
                self.doc = empty_doc();
                return Err(Refusal::TooSlow);
            }
            let result = self.integrate(&[update], false);
            if result.is_err() && done > 0 {
                self.poison();
            }
            result?;
        }
        self.effort.end(begun, structs);
        self.effort.grew(structs, structs, plan.deletes.len());
        Ok(())
    }

    /// Gives updates to yrs, all of which the gate has let through, and notes what they deleted;
    /// of plain ones the ledger knows it.
    fn integrate(&mut self, updates: &[&[u8]], plain: bool) -> Result<(), Refusal> {
        let decode = || updates.iter().map(|update| Update::decode_v1(update));
        let decoded = catch_unwind(|| decode().collect::<Result<Vec<_>, _>>());
        let Ok(Ok(decoded)) = decoded else {
            return Err(Refusal::Rejected(
                "the document library could not decode it",
            ));
        };
        let (doc, ledger) = (&self.doc, &mut self.ledger);
        let mut deleted_units = 0;
        let integrated = catch_unwind(AssertUnwindSafe(|| {
            // A panic must not run the transaction's drop, which commits and would panic again.
            let mut txn = ManuallyDrop::new(doc.transact_mut());
            for update in decoded {
                if txn.apply_update(update).is_err() {
                    return false;
                }
            }
            if txn.has_missing_updates() {
                return false;
            }
            txn.commit();
            for (client, ranges) in txn.delete_set().iter() {
                for range in ranges.iter() {
                    deleted_units += (range.end - range.start) as usize;
                    debug_assert!(
                        !plain || ledger.is_deleted(client.get(), range.start, range.end)
                    );
                    ledger.note_deleted(client.get(), range.start, range.end);
                }
            }
            drop(ManuallyDrop::into_inner(txn));
            true
        }));
        self.unmeasured += deleted_units;
        if let Ok(true) = integrated {
            return Ok(());
        }
        self.poison();
        Err(Refusal::Rejected("the document library failed to apply it"))
    }

    fn poison(&mut self) {
        self.poisoned = true;
        // An abandoned transaction holds its lock for ever, and its blocks may be linked wrongly: it
        // is leaked rather than dropped.
        std::mem::forget(std::mem::replace(&mut self.doc, empty_doc()));
    }
}

impl Default for RoomDoc {
    fn default() -> Self {
        Self::new()
    }
}

fn write_state_vector(mut clocks: Vec<(u64, u32)>, out: &mut Vec<u8>) {
    clocks.sort_unstable_by_key(|&(client, _)| Reverse(client));
    write_var(out, clocks.len() as u64);
    for (client, clock) in clocks {
        write_var(out, client);
        write_var(out, u64::from(clock));
    }
}

fn empty_doc() -> Doc {
    // The server never writes content, so its client id is never seen.
    let mut options = Options::with_client_id(ClientID::new(0));
    options.offset_kind = OffsetKind::Utf16;
    options.skip_gc = false;
    options.cleanup_formatting = false;
    Doc::with_options(options)
}

/// An update as it is, or, if it is larger than `bytes_max`, as [`split_update`] splits it.
pub fn in_parts(update: Vec<u8>, bytes_max: usize) -> Vec<Vec<u8>> {
    if update.len() > bytes_max {
        split_update(&update, bytes_max)
    } else {
        vec![update]
    }
}

/// Splits a valid update into causally ordered updates of about `bytes_max` each (one struct larger
/// than that gets its own); the delete set comes last. Applying all equals applying the whole.
///
/// An update with formatting marks is not split: after each update, Yjs deletes the marks that look
/// redundant, and of half a document it would delete marks that the other half needs.
pub fn split_update(update: &[u8], bytes_max: usize) -> Vec<Vec<u8>> {
    // What the update does not hold, its reader is taken to have.
    let known = |_, first: Option<u32>| first.unwrap_or(u32::MAX);
    match Plan::new(update, &Limits::own_state(), known) {
        Ok(plan) if !plan.gap && !plan.formats => plan.encode(usize::MAX, bytes_max),
        _ => vec![update.to_vec()],
    }
}
