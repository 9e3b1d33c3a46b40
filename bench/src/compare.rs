//! Several servers, several scenarios, interleaved and repeated; each beside the floor of its run.

use crate::dialect::Dialect;
use crate::generator::Target;
use crate::machine::Machine;
use crate::process::{Server, Spawn, free_port};
use crate::report::{Report, group};
use crate::run::{Watched, fresh_identity, measure};
use crate::scenario::{Pace, Scenario};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The floors' names in every table.
pub const UNBATCHED: &str = "floor-unbatched";
/// The other floor's.
pub const BATCHED: &str = "floor-batched";

/// A server that a comparison can start. In the command and the environment `{port}` stands for a
/// free port, `{data}` for an empty folder and `{self}` for this program.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerEntry {
    /// What tables call it.
    pub name: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Additions to the environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The request path.
    #[serde(default = "default_path")]
    pub path_template: String,
    /// What it speaks.
    #[serde(default)]
    pub dialect: Dialect,
    /// A file that must be there, from the folder of the file that names it.
    #[serde(default)]
    pub needs: Option<PathBuf>,
    /// How to come by the server where it is not there.
    #[serde(default)]
    pub install: Option<String>,
    /// Where the command runs: the folder of the file that names it.
    #[serde(skip)]
    pub folder: Option<PathBuf>,
}

fn default_path() -> String {
    "/{room}".to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServersFile {
    server: Vec<ServerEntry>,
}

/// Reads a list of servers.
pub fn load_servers(path: &Path) -> Result<Vec<ServerEntry>> {
    let describe =
        |error: &dyn std::fmt::Display| Error::new(format!("{}: {error}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| describe(&error))?;
    let file: ServersFile = toml::from_str(&text).map_err(|error| describe(&error))?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let mut servers = file.server;
    for server in &mut servers {
        server.folder = folder.map(Path::to_owned);
    }
    Ok(servers)
}

/// Both floors, run by this program.
pub fn floors() -> Vec<ServerEntry> {
    [(UNBATCHED, "unbatched"), (BATCHED, "batched")]
        .map(|(name, mode)| {
            let words = [
                "{self}",
                "floor",
                "--mode",
                mode,
                "--listen",
                "127.0.0.1:{port}",
            ];
            command_entry(name, words.map(str::to_owned).to_vec())
        })
        .into()
}

/// A y-websocket server with rooms at the root of its paths.
pub fn command_entry(name: &str, command: Vec<String>) -> ServerEntry {
    ServerEntry {
        name: name.to_owned(),
        command,
        env: BTreeMap::new(),
        path_template: default_path(),
        dialect: Dialect::default(),
        needs: None,
        install: None,
        folder: None,
    }
}

impl ServerEntry {
    /// Why it cannot be started on this machine, and what to do about it.
    pub fn missing(&self) -> Option<String> {
        let folder = self.folder.clone().unwrap_or_default();
        let lacking = match &self.needs {
            Some(needs) if !folder.join(needs).exists() => folder.join(needs).display().to_string(),
            _ => {
                let program = self.command.first()?;
                if program.starts_with('{') || is_program(&folder, program) {
                    return None;
                }
                program.clone()
            }
        };
        let install = self
            .install
            .as_ref()
            .map_or_else(String::new, |how| format!(": {how}"));
        Some(format!("{} is skipped, as {lacking} is not there{install}", self.name))
    }
}

/// Whether `program` is a file, or one of that name is on the PATH.
fn is_program(folder: &Path, program: &str) -> bool {
    if program.contains('/') {
        return Path::new(program).is_file() || folder.join(program).is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// How a comparison is run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The servers, floors included.
    pub servers: Vec<ServerEntry>,
    /// The scenarios.
    pub scenarios: Vec<Scenario>,
    /// How often each pair is run.
    pub repeats: usize,
    /// The core that servers are pinned to.
    pub server_core: Option<usize>,
    /// Whether the generator polls without sleeping.
    pub spin: bool,
}

/// All runs, in order.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// Where.
    pub machine: Machine,
    /// Each run, with the repeat that it belongs to.
    pub runs: Vec<Run>,
    /// Runs that failed, in words.
    pub failures: Vec<String>,
}

/// One run of a comparison.
#[derive(Debug, Serialize)]
pub struct Run {
    /// The repeat, from 0.
    pub repeat: usize,
    /// What it measured.
    pub report: Report,
}

/// Starts `entry` afresh and runs `scenario` against it.
pub fn run_once(
    entry: &ServerEntry,
    scenario: &Scenario,
    core: Option<usize>,
    spin: bool,
) -> Result<Report> {
    let folder = tempfile::Builder::new()
        .prefix("collabblocks-bench-")
        .tempdir()?;
    let data = folder.path().join("data");
    std::fs::create_dir(&data)?;
    let port = free_port()?;
    let this = std::env::current_exe()?;
    let fill = |text: &String| {
        text.replace("{port}", &port.to_string())
            .replace("{data}", &data.to_string_lossy())
            .replace("{self}", &this.to_string_lossy())
    };
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let spawn = Spawn {
        command: entry.command.iter().map(fill).collect(),
        env: entry
            .env
            .iter()
            .map(|(name, value)| (name.clone(), fill(value)))
            .collect(),
        folder: entry.folder.clone(),
        core,
        log: folder.path().join("log"),
    };
    let server = Server::start(&spawn, address)?;
    let (room_prefix, client_base) = fresh_identity();
    let target = Target {
        address,
        path_template: entry.path_template.clone(),
        dialect: entry.dialect,
        room_prefix,
        client_base,
        spin,
    };
    measure(
        &entry.name,
        scenario,
        &target,
        Watched {
            pid: Some(server.pid()),
            core,
        },
    )
    .map_err(|error| Error::new(format!("{error}\n{}", server.log_end())))
}

impl Plan {
    /// Runs everything; `progress` hears of each run as it ends.
    pub fn run(&self, progress: &mut dyn FnMut(&str)) -> Comparison {
        let mut comparison = Comparison {
            machine: Machine::read(),
            runs: Vec::new(),
            failures: Vec::new(),
        };
        for repeat in 0..self.repeats {
            for scenario in &self.scenarios {
                for position in 0..self.servers.len() {
                    // The order rotates, so that no server always runs behind the same one.
                    let entry = &self.servers[(position + repeat) % self.servers.len()];
                    match run_once(entry, scenario, self.server_core, self.spin) {
                        Ok(report) => {
                            progress(&format!(
                                "{}/{} {} {}: {} delivered/s, {} µs CPU each",
                                repeat + 1,
                                self.repeats,
                                scenario.name,
                                entry.name,
                                group(report.delivered_edits_per_s),
                                report
                                    .cpu_us_per_delivered_edit()
                                    .map_or("–".into(), |c| format!("{c:.2}"))
                            ));
                            comparison.runs.push(Run { repeat, report });
                        }
                        Err(error) => {
                            progress(&error.to_string());
                            comparison.failures.push(error.to_string());
                        }
                    }
                }
            }
        }
        comparison
    }
}

/// The middle of some values, and their ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Median.
    pub median: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
}

impl Spread {
    /// Of `values`; none of none.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Some(Self { median, min, max })
    }

    fn text(this: Option<Self>, decimals: usize) -> String {
        this.map_or_else(
            || "–".to_owned(),
            |s| {
                format!(
                    "{:.decimals$} ({:.decimals$}–{:.decimals$})",
                    s.median, s.min, s.max
                )
            },
        )
    }
}

impl Comparison {
    fn of<'a>(&'a self, scenario: &'a str, server: &'a str) -> impl Iterator<Item = &'a Run> {
        self.runs
            .iter()
            .filter(move |run| run.report.scenario.name == scenario && run.report.server == server)
    }

    /// A figure of `server` over that of `floor` in the same repeat.
    fn ratios(
        &self,
        scenario: &str,
        server: &str,
        floor: &str,
        figure: impl Fn(&Report) -> Option<f64>,
    ) -> Option<Spread> {
        let ratio = |run: &Run| {
            let base = self
                .of(scenario, floor)
                .find(|other| other.repeat == run.repeat)?;
            Some(figure(&run.report)? / figure(&base.report)?)
        };
        Spread::of(self.of(scenario, server).filter_map(ratio).collect())
    }

    /// A Markdown table for each scenario.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.machine.line());
        let mut scenarios: Vec<&Scenario> = Vec::new();
        let mut servers: Vec<&str> = Vec::new();
        for run in &self.runs {
            if !scenarios
                .iter()
                .any(|known| known.name == run.report.scenario.name)
            {
                scenarios.push(&run.report.scenario);
            }
            if !servers.contains(&run.report.server.as_str()) {
                servers.push(&run.report.server);
            }
        }
        for scenario in scenarios {
            let _ = writeln!(text, "\n### {}\n", scenario.name);
            let _ = writeln!(
                text,
                "| server | CPU µs per delivered edit | × unbatched floor | delivered edits/s | \
                 × batched floor | delivery p50 / p99 / p99.9 µs | ack p50 / p99 µs | RSS MB | \
                 bytes per connection |\n|---|---|---|---|---|---|---|---|---|"
            );
            for server in &servers {
                let runs: Vec<_> = self
                    .of(&scenario.name, server)
                    .map(|run| &run.report)
                    .collect();
                if runs.is_empty() {
                    continue;
                }
                let median = |figure: &dyn Fn(&Report) -> Option<f64>| {
                    Spread::of(runs.iter().filter_map(|report| figure(report)).collect())
                };
                let short = |figure: &dyn Fn(&Report) -> Option<f64>| {
                    median(figure).map_or_else(|| "–".to_owned(), |s| format!("{:.0}", s.median))
                };
                let cost = Report::cpu_us_per_delivered_edit;
                let rate = |report: &Report| Some(report.delivered_edits_per_s);
                let delivered = median(&rate).map_or_else(String::new, |s| {
                    format!("{} ({}–{})", group(s.median), group(s.min), group(s.max))
                });
                let saturated = matches!(scenario.pace, Pace::Closed { .. });
                let over_batched = self.ratios(&scenario.name, server, BATCHED, rate);
                let _ = writeln!(
                    text,
                    "| {server} | {} | {} | {delivered} | {} | {} / {} / {} | {} / {} | {} | {} |",
                    Spread::text(median(&cost), 2),
                    Spread::text(self.ratios(&scenario.name, server, UNBATCHED, cost), 2),
                    if saturated {
                        Spread::text(over_batched, 2)
                    } else {
                        "–".to_owned()
                    },
                    short(&|report| Some(report.delivery.us_p50)),
                    short(&|report| Some(report.delivery.us_p99)),
                    short(&|report| Some(report.delivery.us_p999)),
                    short(&|report| Some(report.ack.us_p50)),
                    short(&|report| Some(report.ack.us_p99)),
                    short(&|report| Some(report.server_use?.memory.rss_bytes as f64 / 1e6)),
                    short(&|report| Some(report.server_use?.rss_bytes_per_connection)),
                );
            }
            for server in &servers {
                for run in self.of(&scenario.name, server) {
                    for warning in run.report.warnings() {
                        let _ = writeln!(text, "\n{server}, repeat {}: {warning}", run.repeat + 1);
                    }
                }
            }
        }
        for failure in &self.failures {
            let _ = writeln!(text, "\nFAILED: {failure}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ends() {
        assert_eq!(Spread::of(vec![]), None);
        let odd = Spread::of(vec![3.0, 1.0, 2.0]).unwrap();
        assert_eq!((odd.median, odd.min, odd.max), (2.0, 1.0, 3.0));
        assert_eq!(Spread::of(vec![4.0, 1.0]).unwrap().median, 2.5);
    }

    #[test]
    fn the_peers_file_is_readable() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/servers.toml");
        let servers = load_servers(&path).unwrap();
        assert!(servers.iter().any(|server| server.name == "y-websocket"));
        assert!(servers.iter().all(|server| server.folder.is_some()));
        assert!(servers.iter().all(|server| server.install.is_some()));
    }

    #[test]
    fn what_is_not_installed_is_named_with_what_to_do() {
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        let mut entry = command_entry("peer", words(&["no-such-program", "--port"]));
        entry.install = Some("`npm ci` in bench/peers".to_owned());
        assert_eq!(
            entry.missing().unwrap(),
            "peer is skipped, as no-such-program is not there: `npm ci` in bench/peers"
        );
        entry.command = words(&["sh"]);
        assert_eq!(entry.missing(), None);
        entry.needs = Some("no/such/file".into());
        assert!(entry.missing().unwrap().contains("no/such/file"));
        assert!(floors().iter().all(|floor| floor.missing().is_none()));
    }
}
