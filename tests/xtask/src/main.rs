//! Chores of the repository, run as `cargo xtask <command>`.

mod install;
mod instructions;
mod run;
mod steps;

use run::Outcome;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "\
Chores of the repository.

Usage: cargo xtask <COMMAND>

Commands:
  test [--only STEP]...  Runs all tests, installing first what they need; only some steps, if named
  test --list            Lists the steps
  instructions           Counts the shard's instructions for each delivered edit
  instructions --bless   The same, and makes the counts the baseline
  page                   Builds the page that the server carries
  bench [ARGUMENT]...    Runs the benchmark with these arguments
  fuzz TARGET [SECONDS]  Looks for inputs that make a decoder panic, for a minute if not said
  deny                   Checks licences and sources of all dependencies
  help                   Prints this
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["test", options @ ..] => test(options),
        ["instructions"] => one("instructions", |root| instructions::check(root, false)),
        ["instructions", "--bless"] => one("instructions", |root| instructions::check(root, true)),
        ["page"] => one("page", steps::page),
        ["bench", rest @ ..] => one("bench", |root| steps::bench(root, rest)),
        ["fuzz", target] => one("fuzz", |root| steps::fuzz(root, target, "60")),
        ["fuzz", target, time] => one("fuzz", |root| steps::fuzz(root, target, time)),
        ["deny"] => one("deny", steps::deny),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(true)
        }
        [] => Err("a command is missing".into()),
        other => Err(format!("`{}` is no command", other.join(" "))),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(what) => {
            eprint!("{what}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// What `test` was asked for.
#[derive(PartialEq, Debug)]
enum Asked {
    List,
    Steps(Vec<&'static str>),
}

fn asked(options: &[&str]) -> Result<Asked, String> {
    let names: Vec<&'static str> = steps::STEPS.iter().map(|step| step.name).collect();
    let mut chosen = Vec::new();
    let mut rest = options.iter();
    while let Some(option) = rest.next() {
        let name = match *option {
            "--list" => return Ok(Asked::List),
            "--only" => rest
                .next()
                .copied()
                .ok_or("--only wants the name of a step")?,
            other => other
                .strip_prefix("--only=")
                .ok_or_else(|| format!("`{other}` is no option of test"))?,
        };
        let known = names.iter().find(|known| **known == name);
        chosen.push(
            *known.ok_or_else(|| {
                format!("there is no step {name}; there are {}", names.join(", "))
            })?,
        );
    }
    Ok(Asked::Steps(if chosen.is_empty() { names } else { chosen }))
}

fn test(options: &[&str]) -> Result<bool, String> {
    let chosen = match asked(options)? {
        Asked::List => {
            for step in steps::STEPS {
                println!("{:12} {}", step.name, step.about);
            }
            return Ok(true);
        }
        Asked::Steps(chosen) => chosen,
    };
    let root = root();
    let mut ended = Vec::new();
    for step in steps::STEPS
        .iter()
        .filter(|step| chosen.contains(&step.name))
    {
        println!("\n==> {}: {}", step.name, step.about);
        let (outcome, taken) = run::timed(|| (step.run)(&root));
        println!(
            "<== {}: {} after {}",
            step.name,
            outcome.word(),
            seconds(taken)
        );
        ended.push((step.name, outcome, taken));
    }
    println!("\n{}", summary(&ended));
    Ok(ended.iter().all(|(_, outcome, _)| !outcome.failed()))
}

fn one(name: &str, chore: impl FnOnce(&Path) -> Outcome) -> Result<bool, String> {
    let (outcome, taken) = run::timed(|| chore(&root()));
    println!("{}", summary(&[(name, outcome.clone(), taken)]));
    Ok(!outcome.failed())
}

/// Each step with its time, how it ended, and what its runners said last.
fn summary(ended: &[(&str, Outcome, Duration)]) -> String {
    let mut out = String::new();
    for (name, outcome, taken) in ended {
        out += &format!("{name:12} {:>8}  {}\n", seconds(*taken), outcome.word());
        for line in outcome.lines() {
            out += &format!("                        {line}\n");
        }
    }
    let total: Duration = ended.iter().map(|(_, _, taken)| *taken).sum();
    let failed: Vec<&str> = ended
        .iter()
        .filter(|(_, outcome, _)| outcome.failed())
        .map(|(name, ..)| *name)
        .collect();
    out += &format!("{:12} {:>8}  ", "all", seconds(total));
    out += &if failed.is_empty() {
        "passed".into()
    } else {
        format!("FAILED: {}", failed.join(", "))
    };
    out
}

fn seconds(taken: Duration) -> String {
    format!("{:.1} s", taken.as_secs_f64())
}

/// The repository, two folders above this package.
fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package
        .ancestors()
        .nth(2)
        .expect("the package lies two folders deep")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_chosen_by_name() {
        let all: Vec<_> = steps::STEPS.iter().map(|step| step.name).collect();
        assert_eq!(asked(&[]), Ok(Asked::Steps(all)));
        assert_eq!(
            asked(&["--only", "fmt", "--only=e2e"]),
            Ok(Asked::Steps(vec!["fmt", "e2e"]))
        );
        assert_eq!(asked(&["--list"]), Ok(Asked::List));
        assert!(asked(&["--only"]).unwrap_err().contains("wants the name"));
        assert!(
            asked(&["--only", "nap"])
                .unwrap_err()
                .contains("there are install, fmt")
        );
        assert!(asked(&["--fast"]).unwrap_err().contains("no option"));
    }

    #[test]
    fn one_failure_fails_all_and_is_named() {
        let second = Duration::from_secs(1);
        let passed = Outcome::Passed(vec!["test result: ok".into()]);
        let failed = Outcome::Failed(vec!["exit status: 1".into()]);
        let text = summary(&[("fmt", passed.clone(), second), ("test", failed, second)]);
        assert!(
            text.contains("test result: ok") && text.ends_with("2.0 s  FAILED: test"),
            "{text}"
        );
        let text = summary(&[
            ("fmt", passed, second),
            ("deny", Outcome::Skipped("why".into()), second),
        ]);
        assert!(text.contains("why") && text.ends_with("passed"), "{text}");
    }

    #[test]
    fn the_root_is_the_repository() {
        assert!(root().join("Cargo.lock").is_file() && root().join("tests/xtask").is_dir());
    }
}
