//! Large work on one document, which would keep the core from all other rooms: a job takes the document
//! along, and the room waits until it is back.

use crate::config::{Nanos, Notice, RoomId};
use crate::engine::{Engine, NOT_READY};
use crate::guard::{Limits, Refusal};
use crate::job::Work;
use crate::large::LargeUpdate;
use crate::room_doc::{Applied, RoomDoc, in_parts};
use crate::rooms::DocState;
use crate::watch::{WatchJob, within};
use collabblocks_wal::Staged;

/// So many times as large as one that a job applies is an update of which the job makes a batch of the
/// log, too.
const STAGED: usize = 16;

/// A document on its way through a job.
pub(crate) struct Apart {
    pub(crate) room: RoomId,
    name: Box<str>,
    doc: Box<RoomDoc>,
    task: Task,
}

/// What is to be done with it.
enum Task {
    Apply {
        update: LargeUpdate,
        cut_gaps: bool,
        limits: Limits,
        /// From how many bytes on the log's batch is made of it here.
        stage_bytes_min: usize,
    },
    Diff {
        vector: Box<[u8]>,
        limits: Limits,
        part_bytes: usize,
    },
    State,
}

/// A document that comes back.
pub(crate) struct ApartDone {
    room: RoomId,
    doc: Box<RoomDoc>,
    result: Made,
}

/// What came of it.
enum Made {
    Applied(LargeUpdate, Result<(Applied, Option<Box<Staged>>), Refusal>),
    Diff(Result<Vec<Vec<u8>>, Refusal>),
    State(Result<Vec<u8>, Refusal>),
}

impl Apart {
    /// Carries it out, off the core.
    pub(crate) fn run(self, watch: &dyn WatchJob) -> ApartDone {
        let Self {
            room,
            name,
            mut doc,
            task,
        } = self;
        let result = within(watch, &name, || match task {
            Task::Apply {
                update,
                cut_gaps,
                limits,
                stage_bytes_min,
            } => {
                let applied = doc.apply_all(&update, cut_gaps, &limits).map(|applied| {
                    let logged = match &applied {
                        Applied::New => &*update,
                        Applied::Cut(part) => part,
                        Applied::Known | Applied::CutKnown => &[],
                    };
                    let stages = logged.len() >= stage_bytes_min;
                    let staged = stages.then(|| Box::new(Staged::new(logged)));
                    (applied, staged)
                });
                Made::Applied(update, applied)
            }
            Task::Diff {
                vector,
                limits,
                part_bytes,
            } => {
                let diff = doc.diff(&vector, &limits);
                Made::Diff(diff.map(|diff| in_parts(diff, part_bytes)))
            }
            Task::State => Made::State(doc.encode_state()),
        });
        ApartDone { room, doc, result }
    }
}

impl Engine {
    /// Whether an update of so many bytes is, whatever it holds, applied by [`Engine::apply_apart`].
    pub fn is_large(&self, update_bytes: usize) -> bool {
        update_bytes >= self.config.apart_bytes_min
    }

    /// Whether an update is applied by [`Engine::apply_apart`]: it is large, or may be much work for
    /// the room's document, or such updates were.
    pub fn takes_apart(&self, room: RoomId, update: &[u8]) -> bool {
        let (limits, work) = (&self.config.limits, &self.config.work);
        self.is_large(update.len())
            || self
                .ready(room)
                .is_ok_and(|(_, doc)| doc.is_for_job(update, limits, work))
    }

    /// Whether the room's document is so large that it is encoded by [`Engine::diff_apart`].
    pub fn encodes_apart(&self, room: RoomId) -> bool {
        self.state_bytes_max(room) >= self.config.apart_bytes_min.saturating_mul(4)
    }

    /// Whether a job has the room's document, or makes it again. [`Notice::RoomReady`] is told when it
    /// is back.
    pub fn is_apart(&self, room: RoomId) -> bool {
        let room = self.rooms.get(room);
        room.is_some_and(|room| {
            matches!(
                room.doc,
                DocState::Apart { .. } | DocState::Quarantined { rebuilding: true }
            )
        })
    }

    /// As [`Engine::apply`], by a job: [`Notice::Applied`] says how it went. Until then the room is
    /// not ready, and what others apply to it has to wait. What
    /// cannot begin comes back.
    pub fn apply_apart(
        &mut self,
        id: RoomId,
        update: LargeUpdate,
        cut_gaps: bool,
    ) -> Result<(), (Refusal, LargeUpdate)> {
        if let Err(refusal) = self.may_apply(id, update.len()) {
            return Err((refusal, update));
        }
        let task = Task::Apply {
            update,
            cut_gaps,
            limits: self.config.limits.clone(),
            stage_bytes_min: self.config.apart_bytes_min.saturating_mul(STAGED),
        };
        self.begin_apart(id, task)
            .expect("a room that may take an update is ready");
        Ok(())
    }

    /// As [`Engine::diff`], by a job: [`Notice::Diff`] has it, in parts of about so many bytes.
    pub fn diff_apart(
        &mut self,
        id: RoomId,
        vector: &[u8],
        part_bytes: usize,
    ) -> Result<(), Refusal> {
        let limits = self.config.limits.clone();
        let vector = vector.into();
        self.begin_apart(
            id,
            Task::Diff {
                vector,
                limits,
                part_bytes,
            },
        )
    }

    /// Encodes a room's state by a job, for a snapshot.
    pub(crate) fn state_apart(&mut self, id: RoomId) -> Result<(), Refusal> {
        self.begin_apart(id, Task::State)
    }

    fn begin_apart(&mut self, id: RoomId, task: Task) -> Result<(), Refusal> {
        let room = self.rooms.get_mut(id).ok_or(NOT_READY)?;
        let DocState::Ready(doc) = &mut room.doc else {
            return Err(NOT_READY);
        };
        doc.bound_work(&self.config.work);
        let mut vector = Vec::new();
        doc.state_vector(&mut vector);
        let (bytes, vector) = (doc.memory_estimate(), vector.into());
        let apart = DocState::Apart { bytes, vector };
        let DocState::Ready(doc) = std::mem::replace(&mut room.doc, apart) else {
            unreachable!("looked at above")
        };
        let doc = Box::new(doc);
        let name = room.name.clone();
        self.begin(Work::Apart(Apart {
            room: id,
            name,
            doc,
            task,
        }));
        Ok(())
    }

    /// A document is back.
    pub(crate) fn on_apart(&mut self, now: Nanos, done: ApartDone, notices: &mut Vec<Notice>) {
        let ApartDone {
            room: id,
            doc,
            result,
        } = done;
        let room = self
            .rooms
            .get_mut(id)
            .expect("a room stays in memory while its document is away");
        let DocState::Apart { bytes: before, .. } = room.doc else {
            unreachable!("nothing else brings a document back")
        };
        let (poisoned, after) = (doc.poisoned(), doc.memory_estimate());
        room.doc = DocState::Ready(*doc);
        if poisoned {
            self.quarantine(id, before);
        } else {
            self.document_bytes = (self.document_bytes + after).saturating_sub(before);
        }
        match result {
            Made::Applied(update, applied) => {
                let outcome = applied.and_then(|(applied, staged)| {
                    let DocState::Ready(doc) = &mut self.rooms.get_mut(id).expect("as above").doc
                    else {
                        unreachable!("what failed in the document is no success")
                    };
                    let wanted = doc.take_wanted();
                    self.log_applied(now, id, &update, staged, applied, wanted)
                });
                notices.push(Notice::Applied {
                    room: id,
                    update,
                    outcome,
                });
            }
            Made::Diff(diff) => notices.push(Notice::Diff { room: id, diff }),
            Made::State(state) => self.stage(now, id, state),
        }
        let room = self.rooms.get_mut(id).expect("as above");
        if let DocState::Ready(_) = room.doc {
            notices.push(Notice::RoomReady(id));
        }
        if room.holds == 0 {
            self.note_idle(now, id);
        }
    }
}
