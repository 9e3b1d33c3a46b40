//! An update taken apart: which of its structs can be applied, in an order in which each comes
//! after all that it builds on, and the writing of parts of it as updates of their own.

use super::read::Reader;
use super::walk::{Content, Id, Kind, Parent, Struct, Visit, read_struct};
use super::{Limits, Refusal};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// What an update lacks is noted up to so many units.
const WANTED_MAX: usize = 8;

/// Where a struct stands in the bytes and among the clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) at: u32,
    pub(crate) end: u32,
    pub(crate) clock: u32,
    pub(crate) clock_end: u32,
    pub(crate) skip: bool,
}

/// One client's structs.
#[derive(Debug)]
struct Section {
    client: u64,
    /// Its parts, as indices.
    next: usize,
    end: usize,
    /// The clock up to which the client's units are there.
    have: u32,
}

/// Parts of one section that follow one another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) client: u64,
    start: usize,
    end: usize,
}

/// See the module.
pub(crate) struct Plan<'a> {
    update: &'a [u8],
    parts: Vec<Part>,
    sections: Vec<Section>,
    by_client: HashMap<u64, usize, foldhash::fast::RandomState>,
    /// What can be applied and is not known yet, in causal order.
    pub(crate) runs: Vec<Run>,
    pub(crate) deletes: Vec<(u64, u32, u32)>,
    /// Some struct or deletion was left out, as it builds on what is not there.
    pub(crate) gap: bool,
    /// Units (client and clock) that what was left out waits for, and that the update does not hold
    /// itself: some of them.
    pub(crate) wanted: Vec<(u64, u32)>,
    /// There are formatting marks in it.
    pub(crate) formats: bool,
}

impl<'a> Visit<'a> for Plan<'a> {
    fn on_section(&mut self, client: u64) {
        self.by_client.insert(client, self.sections.len());
        let next = self.parts.len();
        self.sections.push(Section {
            client,
            next,
            end: next,
            have: 0,
        });
    }

    fn on_struct(&mut self, read: &Struct<'a>) -> Result<(), Refusal> {
        self.formats |= read.kind == Kind::Item(Content::Format);
        // Offsets fit: an update is far below 4 GiB (asserted in `new`).
        self.parts.push(Part {
            at: read.at as u32,
            end: read.end as u32,
            clock: read.id.clock,
            clock_end: read.clock_end(),
            skip: read.kind == Kind::Skip,
        });
        if let Some(section) = self.sections.last_mut() {
            section.end = self.parts.len();
        }
        Ok(())
    }

    fn on_delete(&mut self, client: u64, clock: u32, clock_end: u32) -> Result<(), Refusal> {
        self.deletes.push((client, clock, clock_end));
        Ok(())
    }
}

impl<'a> Plan<'a> {
    /// Takes `update` apart (it is walked, and refused if malformed). `known` says up to which clock
    /// a client's units are there already; it is given the first clock of the client's section, if
    /// the update has one.
    pub(crate) fn new(
        update: &'a [u8],
        limits: &Limits,
        known: impl Fn(u64, Option<u32>) -> u32,
    ) -> Result<Self, Refusal> {
        assert!(
            u32::try_from(update.len()).is_ok(),
            "updates are far below 4 GiB"
        );
        let mut plan = Plan {
            update,
            parts: Vec::new(),
            sections: Vec::new(),
            by_client: HashMap::default(),
            runs: Vec::new(),
            deletes: Vec::new(),
            gap: false,
            wanted: Vec::new(),
            formats: false,
        };
        super::walk::walk(update, limits, &mut plan)?;
        for section in &mut plan.sections {
            section.have = known(section.client, Some(plan.parts[section.next].clock));
        }
        plan.order(&known);
        plan.clip_deletes(&known);
        if plan.gap {
            plan.note_wanted(&known);
        }
        Ok(plan)
    }

    /// Whether the update holds a unit, be it that it could not be applied.
    fn holds(&self, client: u64, clock: u32) -> bool {
        self.by_client
            .get(&client)
            .map(|&index| &self.sections[index])
            .and_then(|section| self.parts[..section.end].last())
            .is_some_and(|last| clock < last.clock_end)
    }

    fn note_wanted(&mut self, known: &impl Fn(u64, Option<u32>) -> u32) {
        for section in self.sections.iter().filter(|s| s.next < s.end) {
            let part = self.parts[section.next];
            let wanted = if part.clock > section.have {
                Some((section.client, part.clock - 1))
            } else {
                self.missing(section.client, part, known)
                    .map(|id| (id.client, id.clock))
                    .filter(|&(client, clock)| !self.holds(client, clock))
            };
            self.wanted.extend(wanted);
        }
        self.wanted.truncate(WANTED_MAX);
    }

    /// The struct at a part, read again.
    fn read(&self, client: u64, part: Part, limits: &Limits) -> Struct<'a> {
        let mut reader = Reader {
            bytes: self.update,
            at: part.at as usize,
        };
        read_struct(
            &mut reader,
            Id {
                client,
                clock: part.clock,
            },
            limits,
        )
        .expect("it was read before")
    }

    /// Calls `each` with the structs to be applied, in causal order.
    pub(crate) fn each_struct(
        &self,
        limits: &Limits,
        mut each: impl FnMut(&Struct<'a>) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        for run in &self.runs {
            for &part in &self.parts[run.start..run.end] {
                each(&self.read(run.client, part, limits))?;
            }
        }
        Ok(())
    }

    /// Whether the unit `id`, which is in this update, was collected or is a tombstone.
    pub(crate) fn is_dead(&self, id: Id, limits: &Limits) -> bool {
        let Some(&index) = self.by_client.get(&id.client) else {
            return false;
        };
        let end = self.sections[index].end;
        let start = if index == 0 {
            0
        } else {
            self.sections[index - 1].end
        };
        let parts = &self.parts[start..end];
        let found = parts.partition_point(|part| part.clock_end <= id.clock);
        parts.get(found).is_some_and(|&part| {
            part.clock <= id.clock
                && matches!(
                    self.read(id.client, part, limits).kind,
                    Kind::Gc | Kind::Item(Content::Deleted)
                )
        })
    }

    /// Fills `runs`: each section goes on as far as it can; one that waits for another's clock is
    /// woken when that is there.
    fn order(&mut self, known: &impl Fn(u64, Option<u32>) -> u32) {
        let mut waiters: Vec<BinaryHeap<Reverse<(u32, usize)>>> = Vec::new();
        waiters.resize_with(self.sections.len(), BinaryHeap::new);
        // A stack, so that what was waited for goes on with those that waited.
        let mut ready: Vec<usize> = (0..self.sections.len()).rev().collect();
        while let Some(index) = ready.pop() {
            let start = self.sections[index].next;
            let mut run = Run {
                client: self.sections[index].client,
                start,
                end: start,
            };
            while self.sections[index].next < self.sections[index].end {
                let at = self.sections[index].next;
                let part = self.parts[at];
                let have = self.sections[index].have;
                if part.skip || part.clock_end <= have {
                    self.push(run);
                    self.sections[index].next += 1;
                    run = Run {
                        start: at + 1,
                        end: at + 1,
                        ..run
                    };
                    continue;
                }
                if part.clock > have {
                    break;
                }
                if let Some(missing) = self.missing(run.client, part, known) {
                    if let Some(&other) = self.by_client.get(&missing.client)
                        && other != index
                    {
                        waiters[other].push(Reverse((missing.clock, index)));
                    }
                    break;
                }
                self.sections[index].have = part.clock_end;
                self.sections[index].next += 1;
                run.end = at + 1;
            }
            self.push(run);
            let have = self.sections[index].have;
            while let Some(&Reverse((clock, waiting))) = waiters[index].peek() {
                if clock >= have {
                    break;
                }
                waiters[index].pop();
                ready.push(waiting);
            }
        }
        self.gap |= self
            .sections
            .iter()
            .any(|section| section.next < section.end);
    }

    fn push(&mut self, run: Run) {
        if run.start < run.end {
            self.runs.push(run);
        }
    }

    /// The first unit that a part builds on and that is not there yet.
    fn missing(
        &self,
        client: u64,
        part: Part,
        known: &impl Fn(u64, Option<u32>) -> u32,
    ) -> Option<Id> {
        let mut reader = Reader {
            bytes: self.update,
            at: part.at as usize,
        };
        let (origin, right_origin, parent) =
            super::walk::read_links(&mut reader).expect("it was read before");
        let parent = if let Parent::Item(id) = parent {
            Some(id)
        } else {
            None
        };
        [origin, right_origin, parent]
            .into_iter()
            .flatten()
            .find(|id| {
                let have = if id.client == client {
                    part.clock
                } else if let Some(&index) = self.by_client.get(&id.client) {
                    self.sections[index].have
                } else {
                    known(id.client, None)
                };
                id.clock >= have
            })
    }

    fn clip_deletes(&mut self, known: &impl Fn(u64, Option<u32>) -> u32) {
        let mut gap = false;
        let mut wanted = Vec::new();
        let (sections, by_client) = (&self.sections, &self.by_client);
        self.deletes.retain_mut(|(client, clock, clock_end)| {
            let have = match by_client.get(client) {
                Some(&index) => sections[index].have,
                None => known(*client, None),
            };
            if *clock_end > have {
                gap = true;
                if wanted.len() < WANTED_MAX {
                    wanted.push((*client, *clock_end - 1));
                }
                *clock_end = have;
            }
            *clock < *clock_end
        });
        self.gap |= gap;
        wanted.retain(|&(client, clock)| !self.holds(client, clock));
        self.wanted = wanted;
    }

    /// Writes the structs to be applied as updates of at most `structs_max` structs and about
    /// `bytes_max` bytes each, then the deletions, likewise. Applied in order they are the plan.
    pub(crate) fn encode(&self, structs_max: usize, bytes_max: usize) -> Vec<Vec<u8>> {
        let mut updates = self.encode_structs(|_| structs_max, bytes_max);
        // A range takes at most 10 bytes beside its client.
        let ranges_max = (bytes_max / 10).max(1);
        updates.extend(self.deletes.chunks(ranges_max).map(encode_deletes));
        updates
    }

    /// The structs to be applied.
    pub(crate) fn struct_count(&self) -> usize {
        self.runs.iter().map(|run| run.end - run.start).sum()
    }

    /// All structs of the update.
    pub(crate) fn part_count(&self) -> usize {
        self.parts.len()
    }

    /// The structs alone, at most `structs_max` of how many went before.
    pub(crate) fn encode_structs(
        &self,
        structs_max: impl Fn(usize) -> usize,
        bytes_max: usize,
    ) -> Vec<Vec<u8>> {
        let mut updates = Vec::new();
        let mut chunk: Vec<Run> = Vec::new();
        let (mut structs, mut bytes, mut before) = (0, 0, 0);
        for run in &self.runs {
            for at in run.start..run.end {
                let size = (self.parts[at].end - self.parts[at].at) as usize;
                if structs > 0 && (structs >= structs_max(before) || bytes + size > bytes_max) {
                    updates.push(self.encode_runs(&mut chunk, &[]));
                    before += structs;
                    (structs, bytes) = (0, 0);
                }
                match chunk.last_mut() {
                    Some(last) if last.client == run.client && last.end == at => last.end += 1,
                    _ => chunk.push(Run {
                        client: run.client,
                        start: at,
                        end: at + 1,
                    }),
                }
                structs += 1;
                bytes += size;
            }
        }
        if structs > 0 {
            updates.push(self.encode_runs(&mut chunk, &[]));
        }
        updates
    }

    /// All in one update.
    pub(crate) fn encode_whole(&self) -> Vec<u8> {
        self.encode_runs(&mut self.runs.clone(), &self.deletes)
    }

    fn encode_runs(&self, runs: &mut Vec<Run>, deletes: &[(u64, u32, u32)]) -> Vec<u8> {
        // By falling client, as all encoders do; stable, so a client's runs stay in order.
        runs.sort_by_key(|run| Reverse(run.client));
        let sections: Vec<EncodedSection<'_>> = runs
            .chunk_by(|one, other| one.client == other.client)
            .map(|runs| EncodedSection {
                client: runs[0].client,
                clock: self.parts[runs[0].start].clock,
                structs: runs.iter().map(|run| run.end - run.start).sum(),
                bytes: runs
                    .iter()
                    .map(|run| {
                        &self.update[self.parts[run.start].at as usize
                            ..self.parts[run.end - 1].end as usize]
                    })
                    .collect(),
            })
            .collect();
        runs.clear();
        encode_update(&sections, deletes)
    }
}

struct EncodedSection<'a> {
    client: u64,
    clock: u32,
    structs: usize,
    bytes: Vec<&'a [u8]>,
}

fn encode_update(sections: &[EncodedSection<'_>], deletes: &[(u64, u32, u32)]) -> Vec<u8> {
    let mut out = Vec::new();
    write_var(&mut out, sections.len() as u64);
    for section in sections {
        write_var(&mut out, section.structs as u64);
        write_var(&mut out, section.client);
        write_var(&mut out, u64::from(section.clock));
        for bytes in &section.bytes {
            out.extend_from_slice(bytes);
        }
    }
    write_deletes(&mut out, deletes);
    out
}

/// Writes deletions, a client's ranges together.
pub(crate) fn write_deletes(out: &mut Vec<u8>, deletes: &[(u64, u32, u32)]) {
    let clients = || deletes.chunk_by(|one, other| one.0 == other.0);
    write_var(out, clients().count() as u64);
    for ranges in clients() {
        write_var(out, ranges[0].0);
        write_var(out, ranges.len() as u64);
        for &(_, clock, clock_end) in ranges {
            write_var(out, u64::from(clock));
            write_var(out, u64::from(clock_end - clock));
        }
    }
}

/// An update of deletions alone.
pub(crate) fn encode_deletes(deletes: &[(u64, u32, u32)]) -> Vec<u8> {
    encode_update(&[], deletes)
}

/// LEB128.
pub(crate) fn write_var(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
