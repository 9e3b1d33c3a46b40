//! Which room's document the engine is in, for whoever watches the core from outside.

use crate::config::RoomId;
use std::sync::Arc;

/// Told as the engine goes into a room's document, and as it comes out again: there alone can what
/// a room holds keep its core. Nothing comes back from it.
pub trait Watch: Send + Sync {
    /// What follows is work on this room.
    fn enters_room(&self, room: RoomId, name: &str);
    /// It has ended.
    fn leaves_room(&self);
}

/// As [`Watch`], of a job, on the thread that carries it out.
pub trait WatchJob {
    /// What follows is work on this room's document, and waits for nothing else: no disk.
    fn enters_room(&self, name: &str);
    /// It has ended.
    fn leaves_room(&self);
}

/// Nobody watches.
impl WatchJob for () {
    fn enters_room(&self, _: &str) {}

    fn leaves_room(&self) {}
}

/// A job's work on a room's document.
pub(crate) fn within<R>(watch: &dyn WatchJob, name: &str, work: impl FnOnce() -> R) -> R {
    watch.enters_room(name);
    let done = work();
    watch.leaves_room();
    done
}

/// Who is told, if anybody.
#[derive(Default)]
pub(crate) struct Watched(Option<Arc<dyn Watch>>);

impl Watched {
    pub(crate) fn by(watch: Arc<dyn Watch>) -> Self {
        Self(Some(watch))
    }

    /// Works on a room's document.
    pub(crate) fn within<R>(&self, room: RoomId, name: &str, work: impl FnOnce() -> R) -> R {
        let Some(watch) = &self.0 else { return work() };
        watch.enters_room(room, name);
        let done = work();
        watch.leaves_room();
        done
    }
}
