//! Documents that clients come for: what putting one in costs, and how long a client takes to be in
//! sync when it joins, one after another or all at once, and after the server was started again.

use crate::generator::Target;
use crate::generator::join::{Crowd, Joined};
use crate::process::{CpuTime, Memory, Server};
use crate::run::Watched;
use crate::scenario::Scenario;
use crate::table::{Figure, UNBATCHED};
use crate::{Error, Result};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// A scenario of this kind.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Joining {
    /// `join`.
    kind: String,
    /// What reports call it; the file's name unless given.
    pub name: Option<String>,
    /// Rooms.
    pub rooms: usize,
    /// Characters in each room's document.
    pub document_chars: u32,
    /// Edits that put them in, pipelined.
    pub document_edits: u32,
    /// Clients who join, spread over the rooms.
    pub joins: usize,
    /// The seconds that they are offered in, evenly; all at once if 0.
    pub over: f64,
    /// How often the server is started again, to be joined by one client each time.
    #[serde(default)]
    pub restarts: usize,
}

impl Joining {
    /// What reports call it.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("join")
    }

    /// Whether what the file says can be run.
    pub fn check(&self) -> Result<()> {
        let whole = self.document_edits > 0
            && self.document_chars > 0
            && self.document_chars.is_multiple_of(self.document_edits);
        if self.rooms == 0 || self.joins == 0 || !whole || self.over < 0.0 {
            return Err(Error::new(
                "a join needs rooms, joins, and a document whose edits are all of one length",
            ));
        }
        Ok(())
    }

    /// Who connects where, for the generator: the rooms' holders first, then those who join.
    fn scenario(&self) -> Scenario {
        Scenario::idle(self.name(), self.rooms, 1)
    }

    /// Runs it, and says what came of it in figures.
    pub fn measure(
        &self,
        target: &Target,
        watched: Watched<'_>,
        mut server: Option<&mut Server>,
    ) -> Result<Vec<Figure>> {
        let cpu_s = |watched: Watched<'_>| -> Result<Option<f64>> {
            let time = watched.pid.map(CpuTime::of).transpose()?;
            Ok(time.map(|time| time.on_cpu_ns as f64 / 1e9))
        };
        let edits = f64::from(self.document_edits) * self.rooms as f64;
        let memory = |watched: Watched<'_>| watched.pid.map(Memory::of).transpose();
        let mut figures = Vec::new();
        let mut note = |figure: Option<Figure>| figures.extend(figure);

        let before = cpu_s(watched)?;
        let scenario = self.scenario();
        let mut crowd = Crowd::new(self, &scenario, target)?;
        let taken_s = crowd.upload()?;
        let cpu = cpu_s(watched)?.zip(before).map(|(now, then)| now - then);
        note(
            cpu.map(|cpu| {
                Figure::new("load: CPU µs per edit", cpu * 1e6 / edits, 2).over(UNBATCHED)
            }),
        );
        note(Some(Figure::new("load: edits/s", edits / taken_s, 0)));

        if let Some(pid) = watched.pid {
            // The peak from here on. Where it is refused, the peak is that of the load too.
            let _ = std::fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
        let before = cpu_s(watched)?;
        let joined = crowd.join(self.joins, self.over)?;
        let cpu = cpu_s(watched)?.zip(before).map(|(now, then)| now - then);
        drop(crowd);
        note(cpu.map(|cpu| {
            Figure::new("CPU µs per join", cpu * 1e6 / self.joins as f64, 1).over(UNBATCHED)
        }));
        for figure in latencies("join", &joined) {
            note(Some(figure));
        }
        note(Some(Figure::new(
            "all joined, ms",
            joined.taken_ns as f64 / 1e6,
            1,
        )));
        if let Some(memory) = memory(watched)? {
            note(Some(Figure::new(
                "peak RSS MB",
                memory.rss_bytes_peak as f64 / 1e6,
                1,
            )));
        }

        if let Some(server) = server.as_mut().filter(|_| self.restarts > 0) {
            let mut cold: Option<Joined> = None;
            for _ in 0..self.restarts {
                server.restart()?;
                // It has begun to listen; what else it does at its start is not the room's opening.
                std::thread::sleep(std::time::Duration::from_millis(500));
                let mut crowd = Crowd::new(self, &scenario, target)?;
                let Ok(opened) = crowd.join(1, 0.0) else {
                    // It kept nothing: there is no cold opening to time.
                    return Ok(figures);
                };
                match &mut cold {
                    Some(cold) => cold.add(&opened),
                    None => cold = Some(opened),
                }
            }
            figures.extend(cold.iter().flat_map(|cold| latencies("cold", cold)));
        }
        Ok(figures)
    }
}

fn latencies(what: &str, joined: &Joined) -> Vec<Figure> {
    let histogram: &Histogram<u64> = &joined.synced_ns;
    let ms = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e6;
    vec![
        Figure::new(format!("{what} p50 ms"), ms(0.5), 2).over(UNBATCHED),
        Figure::new(format!("{what} p99 ms"), ms(0.99), 2),
        Figure::new(format!("{what} max ms"), histogram.max() as f64 / 1e6, 2),
    ]
}
