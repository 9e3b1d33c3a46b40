//! Documents that clients come for: what putting one in costs, and how long a client takes to be in
//! sync when it joins, one after another or all at once, and after the server was started again.

use crate::generator::Target;
use crate::generator::join::{Crowd, Joined};
use crate::process::{CpuTime, Memory, Server, core_busy_s, forget_peak};
use crate::run::{Measured, Watched};
use crate::scenario::Scenario;
use crate::table::{Figure, UNBATCHED};
use crate::{Error, Result};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::time::Duration;

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
    /// Seconds that it is left alone before the first of those: some write only now and then.
    #[serde(default)]
    pub rest: f64,
}

impl Joining {
    /// Documents of that many characters, each typed one by one; nobody joins.
    pub(crate) fn documents(rooms: usize, chars: u32) -> Self {
        Self {
            kind: "join".to_owned(),
            name: None,
            rooms,
            document_chars: chars,
            document_edits: chars,
            joins: 0,
            over: 0.0,
            restarts: 0,
            rest: 0.0,
        }
    }

    /// What reports call it.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("join")
    }

    /// Whether what the file says can be run.
    pub fn check(&self) -> Result<()> {
        let whole = self.document_edits > 0
            && self.document_chars > 0
            && self.document_chars.is_multiple_of(self.document_edits);
        if self.rooms == 0
            || self.joins == 0
            || !whole
            || self.over < 0.0
            || !(0.0..600.0).contains(&self.rest)
        {
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
        server: Option<&mut Server>,
    ) -> Result<Measured> {
        let mut measured = Measured::default();
        let edits = f64::from(self.document_edits) * self.rooms as f64;
        let scenario = self.scenario();
        let mut crowd = Crowd::new(self, &scenario, target)?;

        let before = Use::of(watched)?;
        let taken_s = crowd.upload()?;
        let used = Use::of(watched)?.since(&before);
        measured.figures.extend(
            used.server_s.map(|cpu| {
                Figure::new("load: CPU µs per edit", cpu * 1e6 / edits, 2).over(UNBATCHED)
            }),
        );
        let rate = Figure::new("load: edits/s", edits / taken_s, 0);
        measured.figures.push(rate);

        watched.pid.into_iter().for_each(forget_peak);
        let before = Use::of(watched)?;
        let joined = crowd.join(self.joins, self.over)?;
        let used = Use::of(watched)?.since(&before);
        let memory = watched.pid.map(Memory::of).transpose()?;
        drop(crowd);
        let each = self.joins as f64;
        measured.figures.extend(
            used.server_s
                .map(|cpu| Figure::new("CPU µs per join", cpu * 1e6 / each, 1).over(UNBATCHED)),
        );
        measured.figures.extend(latencies("join", &joined));
        let taken_ms = joined.taken_ns as f64 / 1e6;
        let all = Figure::new("all joined, ms", taken_ms, 1);
        measured.figures.push(all);
        measured.figures.extend(
            memory.map(|memory| Figure::new("peak RSS MB", memory.rss_bytes_peak as f64 / 1e6, 1)),
        );
        measured.warnings.extend(used.warnings(taken_ms / 1e3));

        if let Some(server) = server.filter(|_| self.restarts > 0) {
            self.open_cold(&scenario, target, server, &mut measured)?;
        }
        Ok(measured)
    }

    /// Starts the server again and lets one client join, as often as asked.
    fn open_cold(
        &self,
        scenario: &Scenario,
        target: &Target,
        server: &mut Server,
        measured: &mut Measured,
    ) -> Result<()> {
        std::thread::sleep(Duration::from_secs_f64(self.rest));
        let mut cold: Option<Joined> = None;
        for _ in 0..self.restarts {
            server.restart()?;
            let mut crowd = Crowd::new(self, scenario, target)?;
            match (crowd.join(1, 0.0), &mut cold) {
                (Ok(opened), Some(cold)) => cold.add(&opened),
                (Ok(opened), None) => cold = Some(opened),
                (Err(error), _) => {
                    let warning = format!("after the server was started again: {error}");
                    measured.warnings.push(warning);
                    return Ok(());
                }
            }
        }
        let figures = cold.iter().flat_map(|cold| latencies("cold", cold));
        measured.figures.extend(figures);
        Ok(())
    }
}

/// CPU that was used so far, in seconds.
struct Use {
    server_s: Option<f64>,
    /// By anybody, on the server's core.
    core_s: Option<f64>,
    generator_s: f64,
}

impl Use {
    fn of(watched: Watched<'_>) -> Result<Self> {
        let seconds = |time: CpuTime| time.on_cpu_ns as f64 / 1e9;
        Ok(Self {
            server_s: watched.pid.map(CpuTime::of).transpose()?.map(seconds),
            core_s: watched.core.and_then(core_busy_s),
            generator_s: seconds(CpuTime::of(std::process::id())?),
        })
    }

    fn since(&self, before: &Self) -> Self {
        let difference = |now: Option<f64>, then: Option<f64>| Some(now? - then?);
        Self {
            server_s: difference(self.server_s, before.server_s),
            core_s: difference(self.core_s, before.core_s),
            generator_s: self.generator_s - before.generator_s,
        }
    }

    fn warnings(&self, taken_s: f64) -> Vec<String> {
        let mut warnings = Vec::new();
        let others = self.core_s.zip(self.server_s);
        let others = others.map_or(0.0, |(core, server)| (core - server) / taken_s * 100.0);
        // Ticks are coarse: of a short time nothing can be said.
        if others > 5.0 && taken_s > 0.5 {
            warnings.push(format!("others used {others:.0} % of the server's core"));
        }
        let generator = self.generator_s / taken_s * 100.0;
        if generator > 90.0 {
            warnings.push(format!(
                "the generator's core was {generator:.0} % busy: figures may be its limit, not the server's"
            ));
        }
        warnings
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
