//! The server's process: starting it on its core, its CPU time and memory, stopping it.

use crate::{Error, Result};
use rustix::process::{Pid, Resource, Rlimit, Signal};
use rustix::thread::CpuSet;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Kernel clock ticks a second in `/proc/<pid>/stat`; fixed by the kernel's interface.
const TICKS_PER_S: f64 = 100.0;

/// How long a server may take until it accepts connections.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a server that has begun to accept connections is left alone, to end what else it does at
/// its start.
const SETTLE: Duration = Duration::from_millis(300);

/// How long a server may take to end after SIGTERM before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// CPU time that a process has used, all its live threads together. Work that the kernel does for
/// it on threads of its own (such as io_uring's worker pool, unless it shows up as the process's
/// threads) is not in it.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuTime {
    /// Time on a CPU in nanoseconds, from the scheduler's own count.
    pub on_cpu_ns: u64,
    /// The part of it in user mode, by timer ticks: coarse, for the split only.
    pub user_s: f64,
    /// The part of it in kernel mode, by timer ticks.
    pub system_s: f64,
}

impl CpuTime {
    /// What process `pid` has used so far.
    pub fn of(pid: u32) -> Result<Self> {
        let describe = |error: std::io::Error| Error::new(format!("process {pid}: {error}"));
        let mut time = Self::default();
        for task in fs::read_dir(format!("/proc/{pid}/task")).map_err(describe)? {
            let path = task.map_err(describe)?.path().join("schedstat");
            // A thread may end between the listing and the read.
            if let Ok(text) = fs::read_to_string(path) {
                let first = text
                    .split_whitespace()
                    .next()
                    .and_then(|field| field.parse::<u64>().ok());
                time.on_cpu_ns += first.unwrap_or(0);
            }
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(describe)?;
        // The second field is the name in parentheses and may hold anything.
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .map_or("", |(_, rest)| rest)
            .split_whitespace()
            .collect();
        let ticks = |index: usize| {
            fields
                .get(index)
                .and_then(|f| f.parse::<f64>().ok())
                .unwrap_or(0.0)
        };
        time.user_s = ticks(11) / TICKS_PER_S;
        time.system_s = ticks(12) / TICKS_PER_S;
        if time.on_cpu_ns == 0 {
            time.on_cpu_ns = ((time.user_s + time.system_s) * 1e9) as u64;
        }
        Ok(time)
    }
}

/// Memory of a process in bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Memory {
    /// Resident now.
    pub rss_bytes: u64,
    /// Resident at most so far.
    pub rss_bytes_peak: u64,
    /// The anonymous part of what is resident now.
    pub rss_bytes_anonymous: u64,
}

impl Memory {
    /// What process `pid` holds.
    pub fn of(pid: u32) -> Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/status"))
            .map_err(|error| Error::new(format!("process {pid}: {error}")))?;
        let field = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace()
                .nth(1)?
                .parse::<u64>()
                .ok()
                .map(|kib| kib * 1024)
        };
        Ok(Self {
            rss_bytes: field("VmRSS:").unwrap_or(0),
            rss_bytes_peak: field("VmHWM:").unwrap_or(0),
            rss_bytes_anonymous: field("RssAnon:").unwrap_or(0),
        })
    }
}

/// Forgets how much process `pid` held at most so far. Where that is refused, the peak is that of its
/// whole life.
pub fn forget_peak(pid: u32) {
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

/// Time that `core` was not idle since boot, whoever used it, in seconds.
pub fn core_busy_s(core: usize) -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let name = format!("cpu{core}");
    let line = text
        .lines()
        .find(|line| line.split_whitespace().next() == Some(&name))?;
    let ticks: Vec<f64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|f| f.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; guest time is inside user.
    let busy: f64 = ticks.iter().take(8).sum::<f64>() - ticks.get(3)? - ticks.get(4)?;
    Some(busy / TICKS_PER_S)
}

/// Pins the calling thread, and what it starts from now on, to `core`.
pub fn pin_current_thread(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    if core >= CpuSet::MAX_CPU {
        return Err(Error::new(format!(
            "core {core} is beyond what can be pinned to"
        )));
    }
    set.set(core);
    rustix::thread::sched_setaffinity(None, &set)
        .map_err(|error| Error::new(format!("cannot pin to core {core}: {error}")))
}

/// Lets the calling thread's sleeps end when they are due: by default the kernel may stretch each by
/// 50 µs, which would stand in every latency as the generator's own.
pub fn sharpen_timers() {
    // Where it is refused, the report's generator lag shows it.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
}

/// Raises the soft limit of open files to the hard one.
pub fn raise_file_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    // Where it is refused, connecting will say that files ran out.
    let _ = rustix::process::setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
}

/// How a server is started.
#[derive(Clone, Debug)]
pub struct Spawn {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Additions to the environment.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub folder: Option<PathBuf>,
    /// The core it is pinned to.
    pub core: Option<usize>,
    /// Where its output goes.
    pub log: PathBuf,
}

/// A server of ours; dropping it stops it.
#[derive(Debug)]
pub struct Server {
    child: Child,
    spawn: Spawn,
    address: SocketAddr,
}

impl Server {
    /// Starts a server and waits until `address` accepts connections.
    pub fn start(spawn: &Spawn, address: SocketAddr) -> Result<Self> {
        let (program, arguments) = spawn
            .command
            .split_first()
            .ok_or_else(|| Error::new("the server's command is empty"))?;
        if TcpStream::connect(address).is_ok() {
            return Err(Error::new(format!(
                "something listens on {address} already"
            )));
        }
        let output = File::create(&spawn.log)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(&spawn.env)
            .stdin(Stdio::null());
        command.stdout(output.try_clone()?).stderr(output);
        if let Some(folder) = &spawn.folder {
            command.current_dir(folder);
        }
        let core = spawn.core;
        // A child inherits the affinity of the thread that starts it, so that thread is pinned.
        let started = std::thread::scope(|scope| {
            scope
                .spawn(move || {
                    core.map_or(Ok(()), pin_current_thread)?;
                    command.spawn().map_err(Error::from)
                })
                .join()
                .unwrap_or_else(|_| Err(Error::new("the starting thread failed")))
        });
        let child =
            started.map_err(|error| Error::new(format!("cannot start {program}: {error}")))?;
        let mut server = Self {
            child,
            spawn: spawn.clone(),
            address,
        };
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(address).is_err() {
            if let Some(status) = server.child.try_wait()? {
                return Err(Error::new(format!(
                    "{program} ended with {status}: {}",
                    server.log_end()
                )));
            }
            if Instant::now() > deadline {
                return Err(Error::new(format!(
                    "{program} does not accept connections on {address}: {}",
                    server.log_end()
                )));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(SETTLE);
        Ok(server)
    }

    /// Ends it in order, and starts it again over what it kept.
    pub fn restart(&mut self) -> Result<()> {
        self.stop();
        *self = Self::start(&self.spawn, self.address)?;
        Ok(())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The end of what it printed.
    pub fn log_end(&self) -> String {
        let text = fs::read(&self.spawn.log).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(2_000)..])
            .trim()
            .to_owned()
    }

    fn stop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id())
            && let Some(pid) = Pid::from_raw(pid)
            && matches!(self.child.try_wait(), Ok(None))
        {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
            let deadline = Instant::now() + STOP_TIMEOUT;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Splits a command line at blanks; single and double quotes keep blanks.
pub fn split_command(line: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for character in line.chars() {
        match quote {
            Some(open) if character == open => quote = None,
            Some(_) => word.get_or_insert_default().push(character),
            None if character == '\'' || character == '"' => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            None if character.is_whitespace() => words.extend(word.take()),
            None => word.get_or_insert_default().push(character),
        }
    }
    if quote.is_some() {
        return Err(Error::new(format!("unclosed quote in: {line}")));
    }
    words.extend(word);
    Ok(words)
}

/// A loopback port that is free at this moment.
pub fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_split_like_words() {
        let words = split_command("serve --data '/a b' \"\" x\"y z\"").unwrap();
        assert_eq!(words, ["serve", "--data", "/a b", "", "xy z"]);
        assert!(split_command("a 'b").is_err());
    }

    #[test]
    fn cpu_time_of_this_process_rises_with_work() {
        let pid = std::process::id();
        let before = CpuTime::of(pid).unwrap();
        let until = Instant::now() + Duration::from_millis(80);
        let mut x = 1u64;
        while Instant::now() < until {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        let after = CpuTime::of(pid).unwrap();
        assert!(
            after.on_cpu_ns > before.on_cpu_ns + 5_000_000,
            "{before:?} {after:?}"
        );
        assert!(Memory::of(pid).unwrap().rss_bytes > 100_000);
    }

    #[test]
    fn a_server_that_ends_at_once_is_reported_with_its_words() {
        let folder = tempfile::tempdir().unwrap();
        let spawn = Spawn {
            command: vec!["sh".into(), "-c".into(), "echo out of luck; exit 3".into()],
            env: BTreeMap::new(),
            folder: None,
            core: None,
            log: folder.path().join("log"),
        };
        let address = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
        let error = Server::start(&spawn, address).unwrap_err().to_string();
        assert!(error.contains("out of luck"), "{error}");
    }
}
