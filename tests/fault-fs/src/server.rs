//! The server, as an operator runs it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The server's binary: `COLLABBLOCKS_BIN`, or built now.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("COLLABBLOCKS_BIN") {
        return path.into();
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args([
            "build",
            "--package",
            "collabblocks",
            "--bin",
            "collabblocks",
        ])
        .args(["--message-format", "json"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(built.status.success(), "the server does not build");
    let messages = String::from_utf8(built.stdout).expect("cargo speaks UTF-8");
    let executable = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "collabblocks")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    executable.expect("cargo names what it built")
}

/// A running server; dropping it kills it.
pub struct Server {
    child: Child,
    lines: mpsc::Receiver<String>,
    /// Where it listens.
    pub address: String,
}

impl Server {
    /// Starts one on a data directory, with small segments and these further arguments.
    pub fn start(binary: &Path, data: &Path, arguments: &[&str]) -> Result<Self, String> {
        let mut command = Command::new(binary);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("COLLABBLOCKS_") {
                command.env_remove(name);
            }
        }
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--cores", "1"])
            .args(["--limits-update-bytes-max", "262144"])
            .args(["--wal-segment-bytes", "1048576"])
            .args(["--snapshots-disk-reserve-bytes", "1048576"])
            .args(arguments);
        command.arg("--data").arg(data).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let log = BufReader::new(child.stderr.take().expect("it is piped"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut server = Self {
            child,
            lines,
            address: String::new(),
        };
        let mut said = String::new();
        while server.address.is_empty() {
            match server.lines.recv_timeout(Duration::from_secs(30)) {
                Ok(line) => {
                    let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
                    server.address = event["address"].as_str().unwrap_or_default().into();
                    said += &line;
                    said.push('\n');
                }
                Err(_) => return Err(format!("the server does not start: {said}")),
            }
        }
        Ok(server)
    }

    /// Its exit code, once it ends by itself.
    pub fn exit_code(&mut self, within: Duration) -> Option<i32> {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("it is a child") {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }

    /// Kills it, and waits until it is gone.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// What its threads wait for in the kernel.
    pub fn where_it_stands(&self) -> String {
        let tasks = format!("/proc/{}/task", self.child.id());
        let tasks = std::fs::read_dir(tasks).into_iter().flatten().flatten();
        let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        tasks
            .map(|task| {
                let (name, stack) = (task.path().join("comm"), task.path().join("stack"));
                format!("{}{}", read(name), read(stack))
            })
            .collect()
    }

    /// What it has logged since the last call.
    pub fn log(&self) -> String {
        self.lines.try_iter().map(|line| line + "\n").collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
