//! Running programs: their output passed on, their closing lines kept, their time limited.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// How a step ended.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// Well; what its runners said last.
    Passed(Vec<String>),
    /// Not; what its runners said last, why, and its last lines.
    Failed(Vec<String>),
    /// It was not run, and why.
    Skipped(String),
}

impl Outcome {
    /// Whether it has to be mended.
    pub fn failed(&self) -> bool {
        matches!(self, Outcome::Failed(_))
    }

    /// In a word.
    pub fn word(&self) -> &'static str {
        match self {
            Outcome::Passed(_) => "passed",
            Outcome::Failed(_) => "FAILED",
            Outcome::Skipped(_) => "skipped",
        }
    }

    /// What there is to say about it.
    pub fn lines(&self) -> &[String] {
        match self {
            Outcome::Passed(lines) | Outcome::Failed(lines) => lines,
            Outcome::Skipped(why) => std::slice::from_ref(why),
        }
    }

    /// This, then another if this did not fail.
    pub fn then(self, next: impl FnOnce() -> Outcome) -> Outcome {
        let Outcome::Passed(mut lines) = self else {
            return self;
        };
        match next() {
            Outcome::Passed(more) => {
                lines.extend(more);
                Outcome::Passed(lines)
            }
            Outcome::Failed(more) => {
                lines.extend(more);
                Outcome::Failed(lines)
            }
            Outcome::Skipped(_) => Outcome::Passed(lines),
        }
    }
}

/// Runs something and takes its time.
pub fn timed<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let result = what();
    (result, begun.elapsed())
}

/// A command in a folder.
pub fn command(folder: &Path, program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(folder).stdin(Stdio::null());
    command
}

/// Whether a program runs and ends well, in silence.
pub fn works(folder: &Path, program: &str, args: &[&str]) -> bool {
    let mut command = command(folder, program, args);
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs a command, passes its output on, and keeps its closing lines. Past the limit it is ended.
pub fn run(mut command: Command, limit: Duration) -> Outcome {
    let shown = shown(&command);
    println!("$ {shown}");
    // With nobody at a terminal who would interrupt the whole group, it gets one of its own, so
    // that all that it started can be ended with it.
    let own_group = !std::io::stdin().is_terminal();
    if own_group {
        command.process_group(0);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Outcome::Failed(vec![format!("{shown}: {error}")]),
    };
    let (sender, lines) = channel();
    pass_on(child.stdout.take(), std::io::stdout(), sender.clone());
    pass_on(child.stderr.take(), std::io::stderr(), sender);
    let deadline = Instant::now() + limit;
    let mut closing = Closing::default();
    // The channel ends when both ends of output are closed.
    while let Some(left) = deadline.checked_duration_since(Instant::now()) {
        match lines.recv_timeout(left) {
            Ok(line) => closing.take(&line),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
                return match child.wait() {
                    Ok(status) if status.success() => Outcome::Passed(closing.lines),
                    Ok(status) => closing.failed(format!("{shown}: {status}")),
                    Err(error) => closing.failed(format!("{shown}: {error}")),
                };
            }
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => break,
        }
    }
    end(&mut child, own_group);
    closing.failed(format!(
        "{shown}: ended after the limit of {} s",
        limit.as_secs()
    ))
}

fn shown(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .collect();
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

fn end(child: &mut Child, own_group: bool) {
    if own_group {
        let group = format!("-{}", child.id());
        // It may have ended by itself meanwhile.
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn pass_on(
    from: Option<impl Read + Send + 'static>,
    mut to: impl Write + Send + 'static,
    sender: Sender<String>,
) {
    let Some(from) = from else { return };
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut bytes = Vec::new();
        while matches!(from.read_until(b'\n', &mut bytes), Ok(count) if count > 0) {
            // A closed standard output is no reason to stop the tests.
            let _ = to.write_all(&bytes);
            let _ = to.flush();
            if sender
                .send(String::from_utf8_lossy(&bytes).trim_end().to_string())
                .is_err()
            {
                return;
            }
            bytes.clear();
        }
    });
}

/// Lines at the end of a failed program's output that are shown again: where runners tell of the
/// tests that failed.
const LAST_LINES: usize = 40;
/// Of each of them.
const LAST_CHARS: usize = 300;

/// Picks what test runners say at their end.
#[derive(Default)]
struct Closing {
    lines: Vec<String>,
    running: String,
    last: VecDeque<String>,
}

impl Closing {
    fn take(&mut self, line: &str) {
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line.chars().take(LAST_CHARS).collect());
        let bare = line.trim();
        if let Some(what) = bare
            .strip_prefix("Running ")
            .or_else(|| bare.strip_prefix("Doc-tests "))
        {
            self.running = what.split(" (").next().unwrap_or(what).to_string();
        } else if let Some(result) = bare.strip_prefix("test result: ") {
            if !result.contains(" 0 passed; 0 failed; 0 ignored;") {
                self.lines.push(format!("{result} [{}]", self.running));
            }
        } else if let Some(count) = bare.strip_prefix("# ").or_else(|| bare.strip_prefix("ℹ ")) {
            let mut words = count.split(' ');
            let name = words.next().unwrap_or_default();
            let number = words.next().is_some_and(|word| word.parse::<f64>().is_ok());
            if number && matches!(name, "tests" | "pass" | "fail" | "cancelled" | "skipped") {
                self.lines.push(count.to_string());
            }
        }
    }

    fn failed(mut self, why: String) -> Outcome {
        self.lines.push(why);
        self.lines.extend(self.last);
        Outcome::Failed(self.lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn sh(script: &str, limit: Duration) -> Outcome {
        run(command(Path::new("/"), "sh", &["-c", script]), limit)
    }

    #[test]
    fn closing_lines_of_the_runners_are_kept() {
        let mut closing = Closing::default();
        for line in [
            "     Running unittests src/lib.rs (target/debug/deps/a-1)",
            "test a ... ok",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s",
            "   Doc-tests a",
            "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.0s",
            "# Subtest: pass 4",
            "# pass 4",
            "ℹ fail 0",
            "# duration_ms 5",
        ] {
            closing.take(line);
        }
        assert_eq!(closing.lines.len(), 3, "{:?}", closing.lines);
        assert!(
            closing.lines[0].starts_with("ok. 3 passed")
                && closing.lines[0].ends_with("[unittests src/lib.rs]")
        );
        assert_eq!(closing.lines[1..], ["pass 4", "fail 0"]);
    }

    #[test]
    fn a_command_passes_or_fails_by_its_status() {
        assert_eq!(
            sh("echo '# pass 1'", LIMIT),
            Outcome::Passed(vec!["pass 1".into()])
        );
        let failed = sh("echo '# fail 1' >&2; exit 3", LIMIT);
        assert!(
            failed.failed() && failed.lines()[0] == "fail 1" && failed.lines()[1].contains('3'),
            "{failed:?}"
        );
        assert!(run(command(Path::new("/"), "no-such-program", &[]), LIMIT).failed());
        let failed = sh("seq 1000; exit 1", LIMIT);
        let lines = failed.lines();
        assert_eq!(lines.len(), 1 + LAST_LINES, "{failed:?}");
        assert_eq!((&*lines[1], &*lines[LAST_LINES]), ("961", "1000"));
    }

    #[test]
    fn a_command_is_ended_at_its_limit() {
        let (outcome, taken) =
            timed(|| sh("echo '# pass 1'; sleep 60", Duration::from_millis(300)));
        assert!(
            taken < Duration::from_secs(20) && outcome.failed(),
            "{taken:?} {outcome:?}"
        );
        assert!(outcome.lines()[1].contains("limit"), "{outcome:?}");
    }

    #[test]
    fn what_follows_a_failure_is_not_run() {
        let passed = || Outcome::Passed(vec!["a".into()]);
        assert_eq!(passed().then(passed).lines().len(), 2);
        assert!(passed().then(|| Outcome::Failed(Vec::new())).failed());
        let after_failure = Outcome::Failed(Vec::new()).then(|| unreachable!("it was run"));
        assert!(after_failure.failed());
    }
}
