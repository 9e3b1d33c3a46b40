//! What the pure shard executes, counted by callgrind, and what it allocates, counted by its allocator,
//! against a baseline.
//!
//! A count hardly depends on the machine and not at all on how busy it is, so it shows a regression
//! that CPU times hide.

use crate::install;
use crate::run::{Outcome, command, run};
use crate::steps::{cargo, minutes, target};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The loads that `shard-instructions` knows.
const SHAPES: &[&str] = &["fanout-10", "fanout-100", "fanout-500", "rooms-200"];

const BASELINE: &str = "tests/instructions.txt";

const HEAD: &str = "\
# What the shard does in each load, in a release build: instructions for each delivered edit, as
# callgrind counts them, and allocations and allocated bytes for each edit, to however many it goes.
# Written by `cargo xtask instructions --bless`.
";

/// What is counted of each load, in the order of the baseline's lines.
const FIGURES: &[&str] = &["instructions", "allocations", "bytes"];

/// How much above the baseline fails.
const RISE_MAX: f64 = 1.05;

/// Counts, and compares with the baseline or makes it anew.
pub fn check(root: &Path, bless: bool) -> Outcome {
    let build = [
        "build",
        "--release",
        "--package",
        "collabblocks-tests",
        "--bin",
        "shard-instructions",
    ];
    let built = install::valgrind(root).then(|| cargo(root, 20, &build));
    if built.failed() {
        return built;
    }
    let mut counted = BTreeMap::new();
    for shape in SHAPES {
        match count(root, shape) {
            Ok(figures) => counted.extend(
                FIGURES
                    .iter()
                    .zip(figures)
                    .map(|(what, figure)| (format!("{shape} {what}"), figure)),
            ),
            Err(outcome) => return outcome,
        }
    }
    let path = root.join(BASELINE);
    if bless {
        return match fs::write(&path, written(&counted)) {
            Ok(()) => Outcome::Passed(lines(&counted, &counted)),
            Err(error) => Outcome::Failed(vec![format!("{BASELINE}: {error}")]),
        };
    }
    match fs::read_to_string(&path) {
        Ok(text) => judge(&counted, &read(&text)),
        Err(error) => Outcome::Failed(vec![format!("{BASELINE}: {error}")]),
    }
}

/// The figures of one load.
fn count(root: &Path, shape: &str) -> Result<[f64; 3], Outcome> {
    let folder = target(root);
    let (binary, counts) = (
        folder.join("release/shard-instructions"),
        folder.join(format!("callgrind.{shape}.out")),
    );
    let counts_to = format!("--callgrind-out-file={}", counts.display());
    let words = [
        "--quiet",
        "--tool=callgrind",
        "--toggle-collect=*Bench::measured*",
        &counts_to,
        &binary.to_string_lossy(),
        shape,
    ];
    let outcome = run(command(root, "valgrind", &words), minutes(5));
    if outcome.failed() {
        return Err(outcome);
    }
    let failed = |what: String| Outcome::Failed(vec![format!("{shape}: {what}")]);
    let text = fs::read_to_string(&counts).map_err(|error| failed(error.to_string()))?;
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    let collected = number("summary:").or_else(|| number("totals:"));
    let said = command(root, &binary.to_string_lossy(), &[shape])
        .output()
        .map_err(|error| failed(error.to_string()))?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let says = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse::<f64>().ok().filter(|count| *count > 0.0)
    };
    let figures = || {
        // No count means that the marked function went by another name.
        let collected = collected.filter(|count| *count > 0.0)?;
        let (delivered, edits) = (says("delivered ")?, says("edits ")?);
        let (allocations, bytes) = (says("allocations ")?, says("bytes ")?);
        Some([collected / delivered, allocations / edits, bytes / edits])
    };
    figures().ok_or_else(|| failed("nothing was counted".to_owned()))
}

fn written(counted: &BTreeMap<String, f64>) -> String {
    counted
        .iter()
        .fold(HEAD.to_owned(), |text, (name, figure)| {
            text + &format!("{name} {figure:.2}\n")
        })
}

fn read(text: &str) -> BTreeMap<String, f64> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(name, figure)| Some((name.to_owned(), figure.trim().parse().ok()?)))
        .collect()
}

fn lines(counted: &BTreeMap<String, f64>, baseline: &BTreeMap<String, f64>) -> Vec<String> {
    counted
        .iter()
        .map(|(name, figure)| {
            let change = baseline.get(name).map_or("no baseline".to_owned(), |was| {
                format!("{:+.1} %", (figure / was - 1.0) * 100.0)
            });
            format!("{name}: {figure:.2} ({change})")
        })
        .collect()
}

fn judge(counted: &BTreeMap<String, f64>, baseline: &BTreeMap<String, f64>) -> Outcome {
    let mut lines = lines(counted, baseline);
    let risen: Vec<&str> = counted
        .iter()
        .filter(|(name, figure)| {
            baseline
                .get(*name)
                .is_none_or(|was| **figure > was * RISE_MAX)
        })
        .map(|(name, _)| name.as_str())
        .collect();
    if risen.is_empty() {
        return Outcome::Passed(lines);
    }
    lines.push(format!(
        "{}: more than 5 % above {BASELINE}. If that is worth it, or the compiler is another, \
         `cargo xtask instructions --bless` makes it the new baseline",
        risen.join(", ")
    ));
    Outcome::Failed(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(values: [f64; 2]) -> BTreeMap<String, f64> {
        ["a instructions", "b allocations"]
            .map(str::to_owned)
            .into_iter()
            .zip(values)
            .collect()
    }

    #[test]
    fn five_percent_more_passes_and_six_fail_with_what_to_do() {
        let was = figures([1_000.0, 200.0]);
        assert!(!judge(&figures([1_049.0, 100.0]), &was).failed());
        let outcome = judge(&figures([1_000.0, 212.0]), &was);
        assert!(outcome.failed());
        let last = outcome.lines().last().expect("a reason");
        assert!(
            last.starts_with("b allocations: ") && last.contains("--bless"),
            "{last}"
        );
        assert!(judge(&was, &BTreeMap::new()).failed(), "no baseline");
    }

    #[test]
    fn what_is_written_is_read_again() {
        let was = figures([2_312.9, 0.25]);
        assert_eq!(read(&written(&was)), was);
    }

    #[test]
    fn the_baseline_holds_every_load() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let text = fs::read_to_string(root.join(BASELINE)).expect("it is committed");
        let names: Vec<String> = read(&text).into_keys().collect();
        let mut all: Vec<String> = SHAPES
            .iter()
            .flat_map(|shape| FIGURES.iter().map(move |what| format!("{shape} {what}")))
            .collect();
        all.sort();
        assert_eq!(names, all);
    }
}
