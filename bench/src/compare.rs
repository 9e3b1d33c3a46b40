//! Several servers, several scenarios, interleaved and repeated; each beside the floor of its run.

use crate::dialect::Dialect;
use crate::generator::Target;
use crate::machine::Machine;
use crate::process::{Server, Spawn, free_port};
use crate::run::{Counter, Measured, Watched, fresh_identity, measure};
use crate::table::{BATCHED, Row, UNBATCHED, table};
use crate::work::{Task, Work};
use crate::{Error, Result, tls};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A server that a comparison can start. In the command and the environment `{port}` stands for a
/// free port, `{data}` for an empty folder, `{self}` for this program, and `{cert}` and `{key}` for
/// files of a certificate and its key: a server that is given them is spoken to through TLS.
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
    fn is_floor(&self) -> bool {
        [UNBATCHED, BATCHED].contains(&self.name.as_str())
    }

    /// Whether it is given a certificate, and so spoken to through TLS.
    fn speaks_tls(&self) -> bool {
        self.command.iter().any(|word| word.contains("{cert}"))
    }

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
        Some(format!(
            "{} is skipped, as {lacking} is not there{install}",
            self.name
        ))
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
    /// What is run against each.
    pub works: Vec<Work>,
    /// How often each pair is run.
    pub repeats: usize,
    /// The core that servers are pinned to.
    pub server_core: Option<usize>,
    /// Whether the generator polls without sleeping.
    pub spin: bool,
    /// What is read off the servers' pages of metrics.
    pub counters: Vec<Counter>,
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
    /// What was run.
    pub scenario: String,
    /// Against whom.
    pub server: String,
    /// What it measured.
    #[serde(flatten)]
    pub measured: Measured,
}

impl Plan {
    /// Starts `entry` afresh and runs `work` against it.
    pub fn run_once(&self, entry: &ServerEntry, work: &Work) -> Result<Measured> {
        let core = self.server_core;
        let folder = tempfile::Builder::new()
            .prefix("collabblocks-bench-")
            .tempdir()?;
        let data = folder.path().join("data");
        std::fs::create_dir(&data)?;
        let encrypted = entry.speaks_tls();
        let (certificate, key) = (
            folder.path().join("cert.pem"),
            folder.path().join("key.pem"),
        );
        if encrypted {
            tls::write_certificate(&certificate, &key)?;
        }
        let port = free_port()?;
        let this = std::env::current_exe()?;
        let fill = |text: &String| {
            text.replace("{port}", &port.to_string())
                .replace("{data}", &data.to_string_lossy())
                .replace("{cert}", &certificate.to_string_lossy())
                .replace("{key}", &key.to_string_lossy())
                .replace("{self}", &this.to_string_lossy())
        };
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut command: Vec<String> = entry.command.iter().map(fill).collect();
        if entry.is_floor() && matches!(work.task, Task::Join(_)) {
            command.push("--remember".to_owned());
        }
        let spawn = Spawn {
            command,
            env: entry
                .env
                .iter()
                .map(|(name, value)| (name.clone(), fill(value)))
                .collect(),
            folder: entry.folder.clone(),
            core,
            log: folder.path().join("log"),
        };
        let mut server = Server::start(&spawn, address)?;
        let (room_prefix, client_base) = fresh_identity();
        let target = Target {
            address,
            tls: encrypted.then(tls::Connector::new).transpose()?,
            path_template: entry.path_template.clone(),
            dialect: entry.dialect,
            room_prefix,
            client_base,
            spin: self.spin,
        };
        let watched = Watched {
            pid: Some(server.pid()),
            core,
            counters: &self.counters,
        };
        // A floor keeps nothing that it could be started again over.
        let again = (!entry.is_floor()).then_some(&mut server);
        measure(&entry.name, work, &target, watched, again)
            .map_err(|error| Error::new(format!("{error}\n{}", server.log_end())))
    }

    /// Runs everything; `progress` hears of each run as it ends.
    pub fn run(&self, progress: &mut dyn FnMut(&str)) -> Comparison {
        let mut comparison = Comparison {
            machine: Machine::read(),
            runs: Vec::new(),
            failures: Vec::new(),
        };
        for repeat in 0..self.repeats {
            for work in &self.works {
                for position in 0..self.servers.len() {
                    // The order rotates, so that no server always runs behind the same one.
                    let entry = &self.servers[(position + repeat) % self.servers.len()];
                    if work.tls && !entry.speaks_tls() {
                        continue;
                    }
                    let began = Instant::now();
                    match self.run_once(entry, work) {
                        Ok(measured) => {
                            let first = measured.figures.first();
                            progress(&format!(
                                "{}/{} {} {}: {} [{:.1} s]",
                                repeat + 1,
                                self.repeats,
                                work.name(),
                                entry.name,
                                first.map_or_else(String::new, |figure| format!(
                                    "{} {}",
                                    figure.text(),
                                    figure.name
                                )),
                                began.elapsed().as_secs_f64()
                            ));
                            comparison.runs.push(Run {
                                repeat,
                                scenario: work.name().to_owned(),
                                server: entry.name.clone(),
                                measured,
                            });
                        }
                        Err(error) => {
                            let error = format!("{}, {}: {error}", entry.name, work.name());
                            progress(&error);
                            comparison.failures.push(error);
                        }
                    }
                }
            }
        }
        comparison
    }
}

impl Comparison {
    /// A Markdown table for each scenario.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.machine.line());
        let mut scenarios: Vec<&str> = Vec::new();
        for run in &self.runs {
            if !scenarios.contains(&run.scenario.as_str()) {
                scenarios.push(&run.scenario);
            }
        }
        for scenario in scenarios {
            let runs = || self.runs.iter().filter(|run| run.scenario == scenario);
            let rows: Vec<Row<'_>> = runs()
                .map(|run| Row {
                    server: &run.server,
                    repeat: run.repeat,
                    figures: &run.measured.figures,
                })
                .collect();
            let _ = writeln!(text, "\n### {scenario}\n\n{}", table(&rows));
            for run in runs() {
                for warning in &run.measured.warnings {
                    let _ = writeln!(
                        text,
                        "{}, repeat {}: {warning}\n",
                        run.server,
                        run.repeat + 1
                    );
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

    #[test]
    fn a_scenario_of_tls_is_run_against_those_who_speak_it_alone() {
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        let plan = Plan {
            servers: [
                floors(),
                vec![command_entry("tls", words(&["no-such-program", "{cert}"]))],
            ]
            .concat(),
            works: vec![Work {
                task: Task::Load(crate::scenario::Scenario::idle("still", 1, 1)),
                tls: true,
            }],
            repeats: 1,
            server_core: None,
            spin: false,
            counters: Vec::new(),
        };
        let comparison = plan.run(&mut |_| {});
        assert!(comparison.runs.is_empty(), "a floor speaks no TLS");
        assert_eq!(comparison.failures.len(), 1);
        assert!(comparison.failures[0].starts_with("tls, still: "));
    }
}
