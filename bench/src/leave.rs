//! Rooms that are written to and left: what a server keeps of each when nobody is there any more.

use crate::generator::Target;
use crate::generator::join::Crowd;
use crate::join::Joining;
use crate::process::{Memory, forget_peak};
use crate::run::{Measured, Watched, counted};
use crate::scenario::Scenario;
use crate::table::Figure;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// A scenario of this kind.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Leaving {
    /// `leave`.
    kind: String,
    /// What reports call it; the file's name unless given.
    pub name: Option<String>,
    /// Rooms that are measured.
    pub rooms: usize,
    /// Rooms before those, which pay for what the server takes once.
    #[serde(default)]
    pub before: usize,
    /// Rooms that are in use at the same time.
    pub at_once: usize,
    /// Characters that the one client of each room types, one an edit.
    pub document_chars: u32,
    /// Seconds that the server is left alone when all have left.
    pub rest: f64,
}

impl Leaving {
    /// What reports call it.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("leave")
    }

    /// Whether what the file says can be run.
    pub fn check(&self) -> Result<()> {
        let whole = |rooms: usize| rooms.is_multiple_of(self.at_once);
        if self.rooms == 0
            || self.at_once == 0
            || !whole(self.rooms)
            || !whole(self.before)
            || self.document_chars == 0
            || !(0.0..600.0).contains(&self.rest)
        {
            return Err(Error::new(
                "rooms that are left need characters, and at_once must divide rooms and before",
            ));
        }
        Ok(())
    }

    /// Runs it, and says what came of it in figures.
    pub fn measure(&self, target: &Target, watched: Watched<'_>) -> Result<Measured> {
        let memory = || watched.pid.map(Memory::of).transpose();
        let rest = || std::thread::sleep(Duration::from_secs_f64(self.rest));
        let mut measured = Measured::default();
        let begun = memory()?;
        self.visit(target, 0, self.before)?;
        if self.before > 0 {
            rest();
        }
        watched.pid.into_iter().for_each(forget_peak);
        let before = memory()?;
        let started = Instant::now();
        self.visit(target, self.before, self.rooms)?;
        let taken_s = started.elapsed().as_secs_f64();
        let left = memory()?;
        rest();
        let after = memory()?;
        let rooms = self.rooms as f64;
        if let (Some(begun), Some(before), Some(left), Some(after)) = (begun, before, left, after) {
            let grown = |now: Memory| now.rss_bytes as f64 - before.rss_bytes as f64;
            let of_heap = after.rss_bytes_anonymous as f64 - before.rss_bytes_anonymous as f64;
            let all = (self.before + self.rooms) as f64;
            let most = (after.rss_bytes as f64 - begun.rss_bytes as f64) / all;
            let mb = |bytes: u64| bytes as f64 / 1e6;
            measured.figures.extend([
                Figure::new("bytes per room", grown(after) / rooms, 0),
                Figure::new("of that anonymous", of_heap / rooms, 0),
                // With what the allocator keeps of the rooms that were in memory at the same time.
                Figure::new("of all rooms, since the start", most, 0),
                Figure::new("bytes per room when the last left", grown(left) / rooms, 0),
                Figure::new("RSS MB at the start", mb(begun.rss_bytes), 1),
                Figure::new("RSS MB", mb(after.rss_bytes), 1),
                Figure::new("peak RSS MB", mb(after.rss_bytes_peak), 1),
            ]);
        }
        measured
            .figures
            .push(Figure::new("rooms/s", rooms / taken_s, 0));
        let counts = counted(watched.counters, target);
        for (counter, count) in watched.counters.iter().zip(counts) {
            let figure = count.map(|count| Figure::new(&counter.name, count, 0));
            measured.figures.extend(figure);
        }
        Ok(measured)
    }

    /// Opens `rooms` rooms with one client each, who types and leaves; so many at once.
    fn visit(&self, target: &Target, first: usize, rooms: usize) -> Result<()> {
        let documents = Joining::documents(self.at_once, self.document_chars);
        let scenario = Scenario::idle(self.name(), self.at_once, 1);
        for room in (first..first + rooms).step_by(self.at_once) {
            let mut target = target.clone();
            target.room_prefix = format!("{}{room}-", target.room_prefix);
            Crowd::new(&documents, &scenario, &target)?.upload()?;
        }
        Ok(())
    }
}
