//! The `collabblocks-bench` command.

use clap::{Args, Parser, Subcommand};
use collabblocks_bench::compare::{self, Plan};
use collabblocks_bench::dialect::Dialect;
use collabblocks_bench::floor::{Floor, Mode};
use collabblocks_bench::generator::Target;
use collabblocks_bench::machine::Machine;
use collabblocks_bench::process::{self, Server, Spawn};
use collabblocks_bench::run::{self, Watched};
use collabblocks_bench::scenario::{Scenario, ScenarioFile};
use collabblocks_bench::{Error, Result};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Drives a server that speaks the y-websocket protocol, and says what each edit cost it.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One room: every edit goes to all its clients.
    Fanout {
        /// Clients in the room.
        #[arg(long, default_value_t = 100)]
        clients: usize,
        /// How many of them write [default: 10, or all where there are fewer].
        #[arg(long)]
        writers: Option<usize>,
        /// Edits a second in the room, over all writers.
        #[arg(long, default_value_t = 200.0)]
        rate: f64,
        #[command(flatten)]
        load: LoadArgs,
    },
    /// Many rooms of a few clients, who all write.
    Rooms {
        /// Rooms.
        #[arg(long, default_value_t = 200)]
        rooms: usize,
        /// Clients in each room.
        #[arg(long, default_value_t = 2)]
        clients: usize,
        /// Edits a second in each room, over all its clients.
        #[arg(long, default_value_t = 5.0)]
        rate: f64,
        #[command(flatten)]
        load: LoadArgs,
    },
    /// As fast as the server delivers, with a bounded number of edits in flight.
    Saturate {
        /// Rooms.
        #[arg(long, default_value_t = 1)]
        rooms: usize,
        /// Clients in each room.
        #[arg(long, default_value_t = 100)]
        clients: usize,
        /// How many of them write [default: 10, or all where there are fewer].
        #[arg(long)]
        writers: Option<usize>,
        /// Edits in flight in each room.
        #[arg(long, default_value_t = 1_000)]
        in_flight: u64,
        #[command(flatten)]
        load: LoadArgs,
    },
    /// Connections that do nothing: the server's memory for each.
    Idle {
        /// Connections in all.
        #[arg(long, default_value_t = 5_000)]
        connections: usize,
        /// Rooms that they are spread over.
        #[arg(long, default_value_t = 500)]
        rooms: usize,
        #[command(flatten)]
        load: LoadArgs,
    },
    /// A scenario from a file.
    Run {
        /// The file; see bench/scenarios.
        scenario: PathBuf,
        #[command(flatten)]
        load: LoadArgs,
    },
    /// Serves as a floor: a bare relay that moves the same bytes and does nothing else.
    Floor {
        /// How it writes.
        #[arg(long, value_enum, default_value_t = Mode::Unbatched)]
        mode: Mode,
        /// Where it listens.
        #[arg(long, default_value = "127.0.0.1:9100")]
        listen: SocketAddr,
    },
    /// Runs servers against each other, interleaved and repeated, beside both floors.
    Compare(CompareArgs),
}

#[derive(Args)]
struct TimeArgs {
    /// Load before the measured window, in seconds.
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    /// The measured window, in seconds.
    #[arg(long, default_value_t = 5.0)]
    window: f64,
    /// How long stragglers are waited for after the window, in seconds.
    #[arg(long, default_value_t = 2.0)]
    drain: f64,
    /// The core that the generator is pinned to.
    #[arg(long)]
    client_core: Option<usize>,
    /// The core that a server started here is pinned to.
    #[arg(long)]
    server_core: Option<usize>,
    /// Poll without sleeping: the server then never pays for waking the generator.
    #[arg(long)]
    spin: bool,
}

#[derive(Args)]
struct LoadArgs {
    #[command(flatten)]
    times: TimeArgs,
    /// The server to drive.
    #[arg(long, default_value = "ws://127.0.0.1:9100")]
    target: String,
    /// The request path; `{room}` stands for the room's name.
    #[arg(long, default_value = "/{room}")]
    path_template: String,
    /// What the server speaks.
    #[arg(long, value_enum, default_value_t = Dialect::YWebsocket)]
    dialect: Dialect,
    /// The process whose CPU and memory are reported.
    #[arg(long, conflicts_with = "spawn")]
    server_pid: Option<u32>,
    /// A command that starts the server on the target's address; it is stopped afterwards.
    #[arg(long)]
    spawn: Option<String>,
    /// What the report calls the server.
    #[arg(long, default_value = "server")]
    name: String,
    /// Where the report goes as JSON; `-` for standard output.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct CompareArgs {
    #[command(flatten)]
    times: TimeArgs,
    /// A server as `name=command`; in the command `{port}` stands for a free port and `{data}` for
    /// an empty folder. May be given several times.
    #[arg(long, value_name = "NAME=COMMAND")]
    server: Vec<String>,
    /// A file of servers. May be given several times.
    #[arg(long)]
    servers: Vec<PathBuf>,
    /// The peers of bench/peers as well, as far as they are installed.
    #[arg(long)]
    peers: bool,
    /// Only servers whose names hold this; floors stay. May be given several times.
    #[arg(long)]
    only: Vec<String>,
    /// Scenario files [default: all of bench/scenarios but idle].
    #[arg(long, num_args = 1..)]
    scenarios: Vec<PathBuf>,
    /// How often each pair is run.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// The folder of this tool's scenarios and peers.
    #[arg(long, default_value = "bench")]
    bench_folder: PathBuf,
    /// Where all runs go as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

impl TimeArgs {
    fn apply(&self, scenario: &mut Scenario) -> Result<()> {
        if !(self.warmup >= 0.0 && self.window > 0.0 && self.drain >= 0.0) {
            return Err(Error::new(
                "times must not be negative, and the window must be above 0",
            ));
        }
        scenario.warmup_s = self.warmup;
        scenario.window_s = self.window;
        scenario.drain_s = self.drain;
        Ok(())
    }

    fn pin(&self) -> Result<()> {
        process::raise_file_limit();
        process::sharpen_timers();
        self.client_core.map_or(Ok(()), process::pin_current_thread)
    }
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("collabblocks-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Fanout {
            clients,
            writers,
            rate,
            load,
        } => {
            let file = ScenarioFile::Fanout {
                name: None,
                clients,
                writers,
                rate,
                jittered: None,
            };
            run_load(Scenario::from_file(file, "fanout")?, &load)
        }
        Command::Rooms {
            rooms,
            clients,
            rate,
            load,
        } => {
            let file = ScenarioFile::Rooms {
                name: None,
                rooms,
                clients: Some(clients),
                rate,
                jittered: None,
            };
            run_load(Scenario::from_file(file, "rooms")?, &load)
        }
        Command::Saturate {
            rooms,
            clients,
            writers,
            in_flight,
            load,
        } => {
            let rooms = Some(rooms);
            let file = ScenarioFile::Saturate {
                name: None,
                rooms,
                clients,
                writers,
                in_flight,
            };
            run_load(Scenario::from_file(file, "saturate")?, &load)
        }
        Command::Idle {
            connections,
            rooms,
            load,
        } => {
            let file = ScenarioFile::Idle {
                name: None,
                connections,
                rooms,
            };
            run_load(Scenario::from_file(file, "idle")?, &load)
        }
        Command::Run { scenario, load } => run_load(Scenario::load(&scenario)?, &load),
        Command::Floor { mode, listen } => {
            process::raise_file_limit();
            let floor = Floor::bind(mode, listen)?;
            eprintln!("{mode:?} floor on {}", floor.address()?);
            floor.run().map(|never| match never {})
        }
        Command::Compare(arguments) => run_compare(&arguments),
    }
}

fn run_load(mut scenario: Scenario, load: &LoadArgs) -> Result<()> {
    load.times.apply(&mut scenario)?;
    load.times.pin()?;
    let address = run::parse_target(&load.target)?;
    let folder = tempfile::tempdir()?;
    let server = match &load.spawn {
        Some(line) => {
            let spawn = Spawn {
                command: process::split_command(line)?,
                env: Default::default(),
                folder: None,
                core: load.times.server_core,
                log: folder.path().join("log"),
            };
            Some(Server::start(&spawn, address)?)
        }
        None => None,
    };
    let (room_prefix, client_base) = run::fresh_identity();
    let target = Target {
        address,
        path_template: load.path_template.clone(),
        dialect: load.dialect,
        room_prefix,
        client_base,
        spin: load.times.spin,
    };
    let pid = server.as_ref().map(Server::pid).or(load.server_pid);
    let watched = Watched {
        pid,
        core: load.times.server_core,
    };
    let machine = Machine::read();
    let report = run::measure(&load.name, &scenario, &target, watched)?;
    eprintln!(
        "{}\n{}: {}\n{}",
        machine.line(),
        report.server,
        scenario.name,
        report.text()
    );
    if let Some(path) = &load.json {
        write_json(
            path,
            &serde_json::json!({ "machine": machine, "report": report }),
        )?;
    }
    Ok(())
}

fn run_compare(arguments: &CompareArgs) -> Result<()> {
    arguments.times.pin()?;
    let mut servers = Vec::new();
    for server in &arguments.server {
        let (name, line) = server
            .split_once('=')
            .ok_or_else(|| Error::new(format!("--server {server}: expected name=command")))?;
        servers.push(compare::command_entry(name, process::split_command(line)?));
    }
    for path in &arguments.servers {
        servers.extend(compare::load_servers(path)?);
    }
    if arguments.peers {
        servers.extend(compare::load_servers(
            &arguments.bench_folder.join("peers/servers.toml"),
        )?);
    }
    if !arguments.only.is_empty() {
        servers.retain(|server| arguments.only.iter().any(|part| server.name.contains(part)));
    }
    servers.retain(|server| {
        let missing = server.missing();
        if let Some(missing) = &missing {
            eprintln!("{missing}");
        }
        missing.is_none()
    });
    let mut all = compare::floors();
    all.append(&mut servers);
    let mut scenarios = Vec::new();
    for path in scenario_paths(arguments)? {
        let mut scenario = Scenario::load(&path)?;
        arguments.times.apply(&mut scenario)?;
        scenarios.push(scenario);
    }
    let plan = Plan {
        servers: all,
        scenarios,
        repeats: arguments.repeats,
        server_core: arguments.times.server_core,
        spin: arguments.times.spin,
    };
    let comparison = plan.run(&mut |line| eprintln!("{line}"));
    println!("{}", comparison.text());
    if let Some(path) = &arguments.json {
        write_json(path, &comparison)?;
    }
    if comparison.failures.is_empty() {
        Ok(())
    } else {
        Err(Error::new(format!(
            "{} runs failed",
            comparison.failures.len()
        )))
    }
}

fn scenario_paths(arguments: &CompareArgs) -> Result<Vec<PathBuf>> {
    if !arguments.scenarios.is_empty() {
        return Ok(arguments.scenarios.clone());
    }
    let folder = arguments.bench_folder.join("scenarios");
    let list = std::fs::read_dir(&folder)
        .map_err(|error| Error::new(format!("{}: {error}", folder.display())))?;
    let mut paths = Vec::new();
    for entry in list {
        let path = entry?.path();
        let is_idle = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("idle"));
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
            && !is_idle
        {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let text =
        serde_json::to_string_pretty(value).map_err(|error| Error::new(error.to_string()))?;
    if path == Path::new("-") {
        println!("{text}");
        return Ok(());
    }
    std::fs::write(path, text + "\n")
        .map_err(|error| Error::new(format!("{}: {error}", path.display())))
}
