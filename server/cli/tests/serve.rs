//! A server as an operator runs it: started, asked, stopped, and its logs read.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};

/// Small segments, so that a store is made quickly.
const SMALL: [&str; 6] = [
    "--cores",
    "1",
    "--limits-update-bytes-max",
    "262144",
    "--wal-segment-bytes",
    "1048576",
];

fn collabblocks() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_collabblocks"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("COLLABBLOCKS_") {
            command.env_remove(name);
        }
    }
    command
}

fn run(args: &[&str], data: &Path) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = collabblocks().args(args).arg(data).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

struct Server {
    child: Child,
    log: BufReader<ChildStderr>,
    address: String,
    /// What was logged up to that.
    begun: String,
}

impl Server {
    fn start(data: &Path) -> Server {
        Self::start_with(data, &[])
    }

    fn start_with(data: &Path, more: &[&str]) -> Server {
        let mut command = collabblocks();
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(SMALL)
            .args(more);
        command.arg("--data").arg(data).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut server = Server {
            child,
            log,
            address: String::new(),
            begun: String::new(),
        };
        while server.address.is_empty() {
            let mut line = String::new();
            let read = server.log.read_line(&mut line).unwrap();
            assert!(read > 0, "the server ended");
            let event: serde_json::Value = serde_json::from_str(&line).expect("logs are JSON");
            server.address = event["address"].as_str().unwrap_or_default().into();
            server.begun += &line;
        }
        server
    }

    /// Reads the log up to such a line.
    fn logs_until(&mut self, mut wanted: impl FnMut(&str) -> bool) {
        let mut line = String::new();
        while !wanted(&line) {
            line.clear();
            let read = self.log.read_line(&mut line).unwrap();
            assert!(read > 0, "the server ended");
        }
    }

    fn stop(self) -> Option<i32> {
        self.stop_and_log().0
    }

    /// Its exit code, and what it logged from here on.
    fn stop_and_log(mut self) -> (Option<i32>, String) {
        let pid = self.child.id().to_string();
        let kill = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        assert!(kill.success());
        let mut rest = String::new();
        while self.log.read_line(&mut rest).unwrap() > 0 {}
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_server_is_started_asked_and_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = Server::start(&data);

    let health = collabblocks()
        .args(["health", "--listen", &server.address])
        .output()
        .unwrap();
    assert_eq!(health.status.code(), Some(0), "{health:?}");

    let second = ["serve", "--listen", "127.0.0.1:0", "--data"];
    let (code, _, errors) = run(&second, &data);
    assert_eq!(code, Some(69), "{errors}");
    let holder = format!("in use by process {}", server.child.id());
    assert!(errors.contains(&holder), "{errors}");

    let (code, verdict, warning) = run(&["wal", "verify"], &data);
    assert_eq!(code, Some(0), "{verdict}");
    assert!(warning.contains("a server is running"), "{warning}");

    assert_eq!(server.stop(), Some(0));
    let (code, verdict, warning) = run(&["wal", "verify"], &data);
    assert_eq!((code, warning.as_str()), (Some(0), ""));
    assert!(
        verdict.starts_with("shard 0: ok, 1 record in ")
            && verdict.contains("closed in order\nshard 0: 0 rooms, 0 snapshots: nothing to read"),
        "{verdict}"
    );
}

#[test]
fn what_is_logged_reads_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &["--access", "open"]);
    let told = "everyone who reaches the port may read and write all rooms";
    assert_eq!(server.begun.matches(told).count(), 1, "{}", server.begun);
    // What is new did not end badly.
    assert!(server.begun.contains("shard opened"), "{}", server.begun);
    assert!(server.begun.contains("\"clean\":true"), "{}", server.begun);
    let (code, log) = server.stop_and_log();
    assert_eq!(code, Some(0));
    let last = log.lines().last().unwrap();
    assert!(last.contains("stopped"), "{log}");

    let server = Server::start(dir.path());
    assert!(!server.begun.contains(told), "{}", server.begun);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_page_that_may_not_connect_is_logged_but_not_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start_with(&dir.path().join("data"), &[]);
    for n in 0..3 {
        let mut stream = std::net::TcpStream::connect(&server.address).unwrap();
        let head = format!(
            "GET /room HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Origin: https://{n}.example{}\r\n\r\n",
            "x".repeat(300)
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    }
    let mut logged = Vec::new();
    server.logs_until(|line| {
        let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else {
            return false;
        };
        logged.extend(event["origin"].as_str().map(str::to_owned));
        !logged.is_empty()
    });
    assert_eq!(logged[0].len(), 200, "cut, as a stranger chose it");
    assert!(logged[0].starts_with("https://0.example"), "{logged:?}");
    let (code, rest) = server.stop_and_log();
    assert_eq!(code, Some(0));
    assert!(!rest.contains(".example"), "once in a while: {rest}");
}

/// A certificate for `name`, its key, and the root that signed it, as files in `dir`.
struct Files {
    pem: String,
    key: String,
    root: String,
}

fn certificate(dir: &Path, name: &str) -> Files {
    certificate_until(dir, name, 4000)
}

/// One that expires with the beginning of a year.
fn certificate_until(dir: &Path, name: &str, year: i32) -> Files {
    let mut root = rcgen::CertificateParams::new([]).unwrap();
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let of = format!("root of {name}");
    root.distinguished_name.push(rcgen::DnType::CommonName, of);
    let root_key = rcgen::KeyPair::generate().unwrap();
    let root = rcgen::CertifiedIssuer::self_signed(root, root_key).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut own = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    own.not_after = rcgen::date_time_ymd(year, 1, 1);
    let own = own.signed_by(&key, &root).unwrap();
    let write = |end: &str, text: String| {
        let path = dir.join(format!("{name}.{end}"));
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    Files {
        pem: write("pem", own.pem()),
        key: write("key", key.serialize_pem()),
        root: write("root", root.pem()),
    }
}

#[test]
fn health_asks_over_tls_and_trusts_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    // No name in it is the address that is asked.
    let own = certificate(dir.path(), "app.example");
    let other = certificate(dir.path(), "other.example");
    let tls = ["--tls-certificate", &own.pem, "--tls-key", &own.key];
    let server = Server::start_with(&dir.path().join("data"), &tls);
    let health = |more: &[&str]| {
        let mut command = collabblocks();
        command.args(["health", "--listen", &server.address]);
        let output = command.args(more).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), text)
    };
    let (code, errors) = health(&tls);
    assert_eq!(code, Some(0), "{errors}");
    // The key is the server's own.
    let (code, errors) = health(&tls[..2]);
    assert_eq!(code, Some(0), "{errors}");
    let (code, errors) = health(&[&tls[..], &["--ca-file", &own.root]].concat());
    assert_eq!(code, Some(0), "{errors}");

    let (code, errors) = health(&["--tls-certificate", &other.pem, "--tls-key", &other.key]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("shows another certificate"), "{errors}");
    let (code, errors) = health(&[&tls[..], &["--ca-file", &other.root]].concat());
    assert_eq!(code, Some(1));
    assert!(errors.contains("UnknownIssuer"), "{errors}");
    let (code, errors) = health(&[]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("this port speaks TLS"), "{errors}");
    assert_eq!(server.stop(), Some(0));

    // The other way round: TLS to a server that speaks none.
    let server = Server::start(&dir.path().join("clear"));
    let output = collabblocks()
        .args(["health", "--listen", &server.address])
        .args(tls)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("speaks no TLS"), "{errors}");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let output = collabblocks()
        .args(["health", "--timeout-ms", "100", "--listen", &address])
        .args(tls)
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("timed out"), "{errors}");
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn an_expired_certificate_is_told_and_stops_no_start() {
    let dir = tempfile::tempdir().unwrap();
    let old = certificate_until(dir.path(), "old.example", 2020);
    let new = certificate_until(dir.path(), "new.example", 3000);
    let tls = ["--tls-certificate", &old.pem, "--tls-key", &old.key];
    let data = dir.path().join("data");
    // The file of a configuration is good if its certificate's files are.
    let missing = ["--tls-certificate", &old.pem, "--tls-key", "/nowhere.pem"];
    for (files, code) in [(tls, 0), (missing, 78)] {
        let mut command = collabblocks();
        let output = command.args(["config", "check"]).args(files).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let told = String::from_utf8_lossy(&output.stderr).contains("tls.key: /nowhere.pem");
        assert_eq!(told, code != 0, "{output:?}");
    }
    let check = || {
        let mut command = collabblocks();
        command.args(["check", "--json", "--data"]).arg(&data);
        let output = command.args(tls).output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let found = report["checks"].as_array().unwrap().iter();
        let found = found.clone().find(|check| check["id"] == "certificate");
        let found = found.unwrap();
        (found["status"].clone(), found["current"].clone())
    };
    let expired = ("fail".into(), "expired at 2020-01-01T00:00:00Z".into());
    assert_eq!(check(), expired);
    let mut server = Server::start_with(&data, &tls);
    let health = |more: &[&str]| {
        let mut command = collabblocks();
        command.args(["health", "--listen", &server.address]);
        command.args(tls).args(more).output().unwrap()
    };
    assert_eq!(health(&[]).status.code(), Some(0));
    let output = health(&["--ca-file", &old.root]);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("expired"), "{errors}");
    server.logs_until(|line| line.contains("expired at 2020-01-01T00:00:00Z"));

    // Half of a renewal is no renewal; the whole of it is.
    std::fs::copy(&new.key, &old.key).unwrap();
    server.logs_until(|line| line.contains("cannot be used"));
    std::fs::copy(&new.pem, &old.pem).unwrap();
    server.logs_until(|line| line.contains("the new one"));
    let good = ("ok".into(), "expires at 3000-01-01T00:00:00Z".into());
    assert_eq!(check(), good);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn damage_in_a_log_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path();
    assert_eq!(Server::start(data).stop(), Some(0));
    let (code, listing, _) = run(&["wal", "inspect", "--records"], data);
    assert_eq!(code, Some(0), "{listing}");
    assert!(listing.contains("1 batches, 1 records"), "{listing}");
    assert!(listing.contains("CleanShutdown"), "{listing}");

    let segment = data.join("gen-0001/shard-000/wal/0000000000000001.wal");
    let file = std::fs::File::options().write(true).open(segment).unwrap();
    // Past the batch's header, whose own checksum then still says that there is a batch.
    file.write_all_at(&[0xFF; 4], 4096 + 128).unwrap();
    let (code, listing, _) = run(&["wal", "inspect", "--batches"], data);
    assert_eq!(code, Some(1), "{listing}");
    assert!(listing.contains("1 DAMAGED"), "{listing}");
    assert!(listing.contains("batch at LSN"), "{listing}");
    let (code, verdict, _) = run(&["wal", "verify"], data);
    assert_eq!(code, Some(0), "{verdict}");
    assert!(verdict.contains("a torn tail at LSN"), "{verdict}");

    file.write_all_at(&[0xFF; 4], 16).unwrap();
    let (code, verdict, _) = run(&["wal", "verify"], data);
    assert_eq!(code, Some(1), "{verdict}");
    assert!(verdict.contains("shard 0: REFUSED"), "{verdict}");

    let elsewhere = tempfile::tempdir().unwrap();
    let out = elsewhere.path().join("salvaged");
    let salvage = ["wal", "salvage", "--out", out.to_str().unwrap()];
    let (code, report, errors) = run(&salvage, data);
    assert_eq!(
        code,
        Some(1),
        "what cannot be read may have been all of a room: {report}{errors}"
    );
    assert!(
        report.contains("cannot be read: ") && report.contains("0 rooms in"),
        "{report}"
    );
    assert_eq!(Server::start(&out).stop(), Some(0));
    let (code, _, errors) = run(&salvage, data);
    assert_eq!(code, Some(1), "what is there already is not written over");
    assert!(errors.contains("something is there already"), "{errors}");
}

#[test]
fn a_directory_without_a_store_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = std::fs::File::create(dir.path().join("notes.txt")).unwrap();
    file.write_all(b"not a store").unwrap();
    for command in ["verify", "inspect"] {
        let (code, _, errors) = run(&["wal", command], dir.path());
        assert_eq!(code, Some(1));
        assert!(errors.contains("is no data directory"), "{errors}");
    }
}
