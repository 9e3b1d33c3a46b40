//! The `collabblocks-bench` command.

use clap::{Args, Parser, Subcommand};
use collabblocks_bench::compare::{self, Plan, ServerEntry};
use collabblocks_bench::dialect::Dialect;
use collabblocks_bench::floor::{Floor, Mode};
use collabblocks_bench::generator::Target;
use collabblocks_bench::machine::Machine;
use collabblocks_bench::process::{self, Server, Spawn};
use collabblocks_bench::run::{self, Counter, Measured, Watched};
use collabblocks_bench::scenario::{Scenario, ScenarioFile};
use collabblocks_bench::table::{Row, table};
use collabblocks_bench::tls::{self, Connector};
use collabblocks_bench::work::{Task, Work};
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
        /// Give who joins all updates so far, as they came.
        #[arg(long)]
        remember: bool,
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
    /// A counter on the server's page of metrics, whose rise a second is reported under a name. May
    /// be given several times.
    #[arg(long, value_name = "NAME=METRIC")]
    count: Vec<String>,
}

#[derive(Args)]
struct LoadArgs {
    #[command(flatten)]
    times: TimeArgs,
    /// The server to drive: `ws://` or, through TLS, `wss://`; certificates are not checked.
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
    /// A command that starts the server on the target's address, for each repeat anew; it is stopped
    /// afterwards. `{data}` stands for an empty folder, `{cert}` and `{key}` for files of a certificate
    /// and its key.
    #[arg(long)]
    spawn: Option<String>,
    /// How often it is run; the table has medians, with their ends.
    #[arg(long, default_value_t = 1)]
    repeats: usize,
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
    /// A server as `name=command`; in the command `{port}` stands for a free port, `{data}` for an
    /// empty folder, `{cert}` and `{key}` for files of a certificate and its key: with them it is
    /// spoken to through TLS. May be given several times.
    #[arg(long, value_name = "NAME=COMMAND")]
    server: Vec<String>,
    /// Runs each `--server` whose command has `{NAME}` once for each of the values.
    #[arg(long, value_name = "NAME=VALUE,VALUE")]
    vary: Option<String>,
    /// A file of servers. May be given several times.
    #[arg(long)]
    servers: Vec<PathBuf>,
    /// The peers of bench/peers as well, as far as they are installed.
    #[arg(long)]
    peers: bool,
    /// Only servers whose names hold this; floors stay. May be given several times.
    #[arg(long)]
    only: Vec<String>,
    /// Scenario files [default: fanout, rooms and saturate of bench/scenarios].
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
        scenario.set_times(self.warmup, self.window, self.drain);
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
                chars: None,
                stalled: None,
                drain: None,
            };
            run_work(from_flags(file, "fanout")?, &load)
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
            run_work(from_flags(file, "rooms")?, &load)
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
            run_work(from_flags(file, "saturate")?, &load)
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
                spoken: None,
            };
            run_work(from_flags(file, "idle")?, &load)
        }
        Command::Run { scenario, load } => run_work(Work::load(&scenario)?, &load),
        Command::Floor {
            mode,
            listen,
            remember,
        } => {
            process::raise_file_limit();
            let mut floor = Floor::bind(mode, listen)?;
            if remember {
                floor = floor.that_remembers();
            }
            eprintln!("{mode:?} floor on {}", floor.address()?);
            floor.run().map(|never| match never {})
        }
        Command::Compare(arguments) => run_compare(&arguments),
    }
}

fn from_flags(file: ScenarioFile, name: &str) -> Result<Work> {
    let task = Task::Load(Scenario::from_file(file, name)?);
    Ok(Work { task, tls: false })
}

fn run_work(mut work: Work, load: &LoadArgs) -> Result<()> {
    if let Task::Load(scenario) = &mut work.task {
        load.times.apply(scenario)?;
    }
    load.times.pin()?;
    let (address, encrypted) = run::parse_target(&load.target)?;
    if work.tls && !encrypted {
        return Err(Error::new(format!(
            "{} is spoken through TLS: its --target begins with wss://",
            work.name()
        )));
    }
    if load.repeats == 0 {
        return Err(Error::new("--repeats must be above 0"));
    }
    let counters = counters(&load.times.count)?;
    let machine = Machine::read();
    eprintln!("{}", machine.line());
    let mut runs = Vec::new();
    for repeat in 0..load.repeats {
        let measured = run_once(&work, load, address, encrypted, &counters)?;
        eprintln!("{}: {}, {}", load.name, work.name(), repeat + 1);
        match &measured.report {
            Some(report) => eprintln!("{}", report.text()),
            None => {
                for figure in &measured.figures {
                    eprintln!("  {:<28}{}", figure.name, figure.text());
                }
            }
        }
        runs.push(measured);
    }
    let rows: Vec<Row<'_>> = runs
        .iter()
        .enumerate()
        .map(|(repeat, run)| Row {
            server: &load.name,
            repeat,
            figures: &run.figures,
        })
        .collect();
    eprintln!("{}", table(&rows));
    if let Some(path) = &load.json {
        write_json(
            path,
            &serde_json::json!({ "machine": machine, "scenario": work.name(), "runs": runs }),
        )?;
    }
    Ok(())
}

/// One repeat: rooms are new, and so is the server's process where it is started here.
fn run_once(
    work: &Work,
    load: &LoadArgs,
    address: SocketAddr,
    encrypted: bool,
    counters: &[Counter],
) -> Result<Measured> {
    let folder = tempfile::tempdir()?;
    let file = |name: &str| folder.path().join(name);
    let mut server = None;
    if let Some(line) = &load.spawn {
        let (certificate, key, data) = (file("cert.pem"), file("key.pem"), file("data"));
        tls::write_certificate(&certificate, &key)?;
        std::fs::create_dir(&data)?;
        let fill = |word: String| {
            word.replace("{data}", &data.to_string_lossy())
                .replace("{cert}", &certificate.to_string_lossy())
                .replace("{key}", &key.to_string_lossy())
        };
        let words = process::split_command(line)?;
        let spawn = Spawn {
            command: words.into_iter().map(fill).collect(),
            env: Default::default(),
            folder: None,
            core: load.times.server_core,
            log: file("log"),
        };
        server = Some(Server::start(&spawn, address)?);
    }
    let (room_prefix, client_base) = run::fresh_identity();
    let target = Target {
        address,
        tls: encrypted.then(Connector::new).transpose()?,
        path_template: load.path_template.clone(),
        dialect: load.dialect,
        room_prefix,
        client_base,
        spin: load.times.spin,
    };
    let watched = Watched {
        pid: server.as_ref().map(Server::pid).or(load.server_pid),
        core: load.times.server_core,
        counters,
    };
    run::measure(&load.name, work, &target, watched, server.as_mut())
}

/// Reads `name=metric`.
fn counters(words: &[String]) -> Result<Vec<Counter>> {
    let counter = |word: &String| {
        let (name, metric) = word
            .split_once('=')
            .ok_or_else(|| Error::new(format!("--count {word}: expected name=metric")))?;
        Ok(Counter {
            name: name.to_owned(),
            metric: metric.to_owned(),
        })
    };
    words.iter().map(counter).collect()
}

/// The servers that `name=command` stands for: one for each of the values of `--vary`, if any.
fn entries(server: &str, vary: Option<&str>) -> Result<Vec<ServerEntry>> {
    let (name, line) = server
        .split_once('=')
        .ok_or_else(|| Error::new(format!("--server {server}: expected name=command")))?;
    let words = process::split_command(line)?;
    let Some((what, values)) = vary.and_then(|vary| vary.split_once('=')) else {
        return Ok(vec![compare::command_entry(name, words)]);
    };
    let place = format!("{{{what}}}");
    if !line.contains(&place) {
        return Ok(vec![compare::command_entry(name, words)]);
    }
    let entry = |value: &str| {
        let words = words.iter().map(|word| word.replace(&place, value));
        compare::command_entry(&format!("{name}, {what} {value}"), words.collect())
    };
    Ok(values.split(',').map(entry).collect())
}

fn run_compare(arguments: &CompareArgs) -> Result<()> {
    arguments.times.pin()?;
    let mut servers = Vec::new();
    for server in &arguments.server {
        servers.extend(entries(server, arguments.vary.as_deref())?);
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
    let mut works = Vec::new();
    for path in scenario_paths(arguments)? {
        let mut work = Work::load(&path)?;
        if let Task::Load(scenario) = &mut work.task {
            arguments.times.apply(scenario)?;
        }
        works.push(work);
    }
    let plan = Plan {
        servers: all,
        works,
        counters: counters(&arguments.times.count)?,
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
        let name = path
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let usual = ["fanout-", "rooms-", "saturate-"];
        if name.ends_with(".toml") && usual.iter().any(|start| name.starts_with(start)) {
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
