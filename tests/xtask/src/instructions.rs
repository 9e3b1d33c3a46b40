//! Instructions of the pure shard for each delivered edit, counted by callgrind, against a baseline.
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
# Instructions of the shard for each delivered edit, as callgrind counts them in a release build.
# Written by `cargo xtask instructions --bless`.
";

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
            Ok(figure) => counted.insert((*shape).to_owned(), figure),
            Err(outcome) => return outcome,
        };
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

/// Instructions for each delivered edit in one load.
fn count(root: &Path, shape: &str) -> Result<f64, Outcome> {
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
    let delivered = String::from_utf8_lossy(&said.stdout)
        .split(' ')
        .next()
        .and_then(|count| count.parse::<f64>().ok());
    match collected.zip(delivered) {
        // No count means that the marked function went by another name.
        Some((collected, delivered)) if collected > 0.0 && delivered > 0.0 => {
            Ok(collected / delivered)
        }
        _ => Err(failed("callgrind counted nothing".to_owned())),
    }
}

fn written(counted: &BTreeMap<String, f64>) -> String {
    counted
        .iter()
        .fold(HEAD.to_owned(), |text, (shape, figure)| {
            text + &format!("{shape} {figure:.1}\n")
        })
}

fn read(text: &str) -> BTreeMap<String, f64> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(shape, figure)| Some((shape.to_owned(), figure.trim().parse().ok()?)))
        .collect()
}

fn lines(counted: &BTreeMap<String, f64>, baseline: &BTreeMap<String, f64>) -> Vec<String> {
    counted
        .iter()
        .map(|(shape, figure)| {
            let change = baseline.get(shape).map_or("no baseline".to_owned(), |was| {
                format!("{:+.1} %", (figure / was - 1.0) * 100.0)
            });
            format!("{shape}: {figure:.1} instructions for each delivered edit ({change})")
        })
        .collect()
}

fn judge(counted: &BTreeMap<String, f64>, baseline: &BTreeMap<String, f64>) -> Outcome {
    let mut lines = lines(counted, baseline);
    let risen: Vec<&str> = counted
        .iter()
        .filter(|(shape, figure)| {
            baseline
                .get(*shape)
                .is_none_or(|was| **figure > was * RISE_MAX)
        })
        .map(|(shape, _)| shape.as_str())
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
        ["a", "b"]
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
            last.starts_with("b: ") && last.contains("--bless"),
            "{last}"
        );
        assert!(judge(&was, &BTreeMap::new()).failed(), "no baseline");
    }

    #[test]
    fn what_is_written_is_read_again() {
        let was = figures([2_312.9, 172.4]);
        assert_eq!(read(&written(&was)), was);
    }

    #[test]
    fn the_baseline_holds_every_load() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let text = fs::read_to_string(root.join(BASELINE)).expect("it is committed");
        let shapes: Vec<String> = read(&text).into_keys().collect();
        assert_eq!(shapes, SHAPES);
    }
}
