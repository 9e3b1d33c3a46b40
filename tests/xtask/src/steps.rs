//! The steps of the test command, and the other chores.

use crate::install;
use crate::instructions;
use crate::run::{Outcome, command, run, works};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One step of `cargo xtask test`.
pub struct Step {
    /// What `--only` calls it.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
    /// Runs it, given the repository's folder.
    pub run: fn(&Path) -> Outcome,
}

/// All steps, in the order they are run.
pub const STEPS: &[Step] = &[
    Step {
        name: "install",
        about: "installs Chromium, Node packages, valgrind and Rust components that are not there",
        run: install::all,
    },
    Step {
        name: "fmt",
        about: "checks the formatting of all Rust files",
        run: |root| {
            cargo(root, 2, &["fmt", "--all", "--check"])
                .then(|| cargo(&root.join(FUZZ), 2, &["fmt", "--check"]))
        },
    },
    Step {
        name: "clippy",
        about: "lints all Rust code, tests included",
        run: |root| {
            let lint = ["clippy", "--all-targets"];
            let strictly = ["--", "-D", "warnings"];
            cargo(
                root,
                20,
                &[&lint, ["--workspace"].as_slice(), &strictly].concat(),
            )
            .then(|| {
                // What it depends on was just checked there.
                let target = target(root).display().to_string();
                let place = ["--target-dir", &target];
                cargo(
                    &root.join(FUZZ),
                    10,
                    &[&lint, &place, &strictly[..]].concat(),
                )
            })
        },
    },
    Step {
        name: "deny",
        about: "checks licences and sources of all dependencies",
        run: deny_if_installed,
    },
    Step {
        name: "test",
        about: "runs all Rust tests in a debug build",
        run: |root| cargo(root, 30, &["test", "--workspace", "--no-fail-fast"]),
    },
    Step {
        name: "build",
        about: "builds the server as it is released, and the program that embeds it",
        run: |root| cargo(root, 20, &["build", "--release"]).then(|| cargo(root, 20, EMBEDDER)),
    },
    Step {
        name: "instructions",
        about: "counts the shard's instructions for each delivered edit against the baseline",
        run: |root| instructions::check(root, false),
    },
    Step {
        name: "js",
        about: "runs the tests of the page and other Node packages",
        run: js,
    },
    Step {
        name: "e2e",
        about: "runs real clients and browsers against the released server",
        run: |root| e2e(root, &released(root), "ring"),
    },
    Step {
        name: "e2e-glommio",
        about: "runs the same against the server on its glommio runtime",
        run: |root| e2e(root, &released(root), "glommio"),
    },
];

/// No member of the workspace.
const FUZZ: &str = "tests/fuzz";
const EMBEDDER: &[&str] = &[
    "build",
    "--release",
    "--package",
    "collabblocks-server",
    "--example",
    "authenticated",
];
const E2E: &str = "tests/e2e";
const PAGE: &str = "sdk/page";

/// So many minutes.
pub fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

/// Runs cargo.
pub fn cargo(root: &Path, limit_minutes: u64, args: &[&str]) -> Outcome {
    run(command(root, "cargo", args), minutes(limit_minutes))
}

fn js(root: &Path) -> Outcome {
    let folders: Vec<PathBuf> = install::node_folders(root)
        .into_iter()
        .filter(|folder| *folder != root.join(E2E))
        .collect();
    if folders.is_empty() {
        return Outcome::Skipped("there are no Node packages besides the end-to-end tests".into());
    }
    folders
        .iter()
        .fold(Outcome::Passed(Vec::new()), |outcome, folder| {
            outcome.then(|| {
                run(
                    command(folder, "npm", &["run", "test", "--if-present"]),
                    minutes(10),
                )
            })
        })
}

fn released(root: &Path) -> PathBuf {
    target(root).join("release/collabblocks")
}

fn e2e(root: &Path, binary: &Path, runtime: &str) -> Outcome {
    if !binary.is_file() {
        return Outcome::Failed(vec![format!(
            "{} is not there: run the step build first",
            binary.display()
        )]);
    }
    // One file at a time: each drives a server hard, and they would measure each other.
    let mut node = command(
        &root.join(E2E),
        "node",
        &["--test", "--test-concurrency=1", "--test-reporter=spec"],
    );
    node.env("COLLABBLOCKS_BIN", binary)
        .env("COLLABBLOCKS_RUNTIME", runtime);
    run(node, minutes(20))
}

/// Where cargo builds to.
pub fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root.join("target"), |folder| root.join(folder))
}

fn deny_if_installed(root: &Path) -> Outcome {
    if works(root, "cargo", &["deny", "--version"]) {
        deny(root)
    } else {
        Outcome::Skipped(
            "cargo-deny is not installed; `cargo install --locked cargo-deny` does".into(),
        )
    }
}

/// Checks licences, sources and bans of all dependencies.
pub fn deny(root: &Path) -> Outcome {
    if !works(root, "cargo", &["deny", "--version"]) {
        return Outcome::Failed(vec![
            "cargo-deny is not installed: `cargo install --locked cargo-deny`".into(),
        ]);
    }
    cargo(root, 10, &["deny", "check", "bans", "licenses", "sources"])
}

/// Builds the page that the server carries.
pub fn page(root: &Path) -> Outcome {
    let folder = root.join(PAGE);
    install::node_packages(&folder)
        .then(|| run(command(&folder, "npm", &["run", "build"]), minutes(5)))
}

/// Runs the benchmark.
pub fn bench(root: &Path, args: &[&str]) -> Outcome {
    let cargo_args = ["run", "--release", "--package", "collabblocks-bench", "--"];
    cargo(root, 24 * 60, &[&cargo_args, args].concat())
}

/// What makes the compiler count which code an input reaches; no nightly compiler is needed for that.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Fuzzes one target, from its committed corpus on. What is found goes to the target directory.
pub fn fuzz(root: &Path, name: &str, seconds: &str) -> Outcome {
    let Ok(limit) = seconds.parse() else {
        return Outcome::Failed(vec![format!("`{seconds}` is no number of seconds")]);
    };
    let (folder, out) = (root.join(FUZZ), target(root).join("fuzz"));
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut build = command(&folder, "cargo", &["build", "--release", "--target", &host]);
    build
        .env("RUSTFLAGS", COVERAGE)
        .env("CARGO_TARGET_DIR", &out);
    run(build, minutes(20)).then(|| {
        let (found, corpus) = (
            out.join("found").join(name),
            folder.join("corpus").join(name),
        );
        if let Err(error) = std::fs::create_dir_all(&found) {
            return Outcome::Failed(vec![format!("{}: {error}", found.display())]);
        }
        let binary = out.join(host).join("release/collabblocks-fuzz");
        let text = |path: &Path| path.display().to_string();
        let arguments = [
            format!("-max_total_time={limit}"),
            format!("-artifact_prefix={}/", text(&found)),
            "-timeout=10".into(),
            "-print_final_stats=1".into(),
            text(&found),
            text(&corpus),
        ];
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut fuzz = command(&folder, &text(&binary), &arguments);
        fuzz.env("COLLABBLOCKS_FUZZ_TARGET", name)
            .env("COLLABBLOCKS_FUZZ_SEEDS", &found);
        run(fuzz, Duration::from_secs(limit) + minutes(5))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_say_what_they_do() {
        for (at, step) in STEPS.iter().enumerate() {
            assert!(
                !STEPS[..at].iter().any(|other| other.name == step.name),
                "{}",
                step.name
            );
            assert!(step.about.len() > 10);
        }
    }

    #[test]
    fn the_end_to_end_tests_want_the_released_server() {
        let nowhere = Path::new("/nowhere");
        let outcome = e2e(nowhere, &nowhere.join("collabblocks"), "ring");
        assert!(outcome.failed() && outcome.lines()[0].contains("run the step build first"));
    }
}
