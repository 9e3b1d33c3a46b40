//! What the tests need and a machine may not have: Chromium, haproxy, openssl, Node packages,
//! valgrind, rustfmt and clippy.

use crate::run::{Outcome, command, run, works};
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(15 * 60);

/// A copy of the lock file that `node_modules` was made from.
const STAMP: &str = "node_modules/.installed-lock.json";

/// Installs what is not there.
pub fn all(root: &Path) -> Outcome {
    let mut outcome = toolchain(root)
        .then(|| chromium(root))
        .then(|| balancer(root))
        .then(|| valgrind(root));
    for folder in node_folders(root) {
        outcome = outcome.then(|| node_packages(&folder));
    }
    outcome
}

fn toolchain(root: &Path) -> Outcome {
    let mut missing = Vec::new();
    for component in ["fmt", "clippy"] {
        if !works(root, "cargo", &[component, "--version"]) {
            missing.push(if component == "fmt" {
                "rustfmt"
            } else {
                "clippy"
            });
        }
    }
    if missing.is_empty() {
        return Outcome::Passed(Vec::new());
    }
    run(
        command(
            root,
            "rustup",
            &[&["component", "add"], missing.as_slice()].concat(),
        ),
        LIMIT,
    )
}

fn chromium(root: &Path) -> Outcome {
    if std::env::var_os("COLLABBLOCKS_CHROMIUM").is_some()
        || Path::new("/usr/bin/chromium").exists()
    {
        return Outcome::Passed(Vec::new());
    }
    apt(root, "chromium")
}

/// The balancer that the server is tried behind, and what makes certificates.
fn balancer(root: &Path) -> Outcome {
    let haproxy = ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy"];
    let mut outcome = Outcome::Passed(Vec::new());
    if !haproxy.iter().any(|path| Path::new(path).exists()) {
        outcome = outcome.then(|| apt(root, "haproxy"));
    }
    if !works(root, "openssl", &["version"]) {
        outcome = outcome.then(|| apt(root, "openssl"));
    }
    outcome
}

/// What counts instructions.
pub fn valgrind(root: &Path) -> Outcome {
    if works(root, "valgrind", &["--version"]) {
        return Outcome::Passed(Vec::new());
    }
    // It needs the C library's debug symbols to know the functions that it replaces.
    apt(root, "valgrind").then(|| apt(root, "libc6-dbg"))
}

fn apt(root: &Path, package: &str) -> Outcome {
    let sudo = !works(root, "sh", &["-c", "test $(id -u) = 0"]);
    let apt = |args: &[&str]| {
        let words = [
            if sudo {
                &["sudo", "apt-get"][..]
            } else {
                &["apt-get"]
            },
            args,
        ]
        .concat();
        let mut command = command(root, words[0], &words[1..]);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        run(command, LIMIT)
    };
    apt(&["update"]).then(|| apt(&["install", "--yes", "--no-install-recommends", package]))
}

/// Installs a folder's locked packages, unless those installed are of the same lock file.
pub fn node_packages(folder: &Path) -> Outcome {
    let lock = std::fs::read(folder.join("package-lock.json"));
    let installed = std::fs::read(folder.join(STAMP));
    if matches!((&lock, &installed), (Ok(lock), Ok(installed)) if lock == installed) {
        return Outcome::Passed(Vec::new());
    }
    println!("in {}:", folder.display());
    let npm = run(
        command(folder, "npm", &["ci", "--no-audit", "--no-fund"]),
        LIMIT,
    );
    npm.then(
        || match std::fs::copy(folder.join("package-lock.json"), folder.join(STAMP)) {
            Ok(_) => Outcome::Passed(Vec::new()),
            Err(error) => Outcome::Failed(vec![format!("{}: {error}", folder.display())]),
        },
    )
}

/// The folders with Node packages that tests use. Those below `bench/` belong to the benchmark,
/// which installs them itself.
pub fn node_folders(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for top in ["sdk", "tests"] {
        search(&root.join(top), &mut found);
    }
    found.sort();
    found
}

fn search(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        if name == "package-lock.json" {
            found.push(folder.into());
        } else if name != "node_modules"
            && name != "target"
            && entry.file_type().is_ok_and(|kind| kind.is_dir())
        {
            search(&entry.path(), found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_found_by_their_lock_file() {
        let root = std::env::temp_dir().join(format!("xtask-{}", std::process::id()));
        for file in [
            "sdk/a/package-lock.json",
            "tests/e/node_modules/b/package-lock.json",
            "bench/p/package-lock.json",
        ] {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "{}").unwrap();
        }
        let found = node_folders(&root);
        // Where the lock that is installed is the one that is wanted, npm is not asked.
        std::fs::create_dir_all(root.join("sdk/a/node_modules")).unwrap();
        std::fs::write(root.join("sdk/a").join(STAMP), "{}").unwrap();
        let (outcome, _) = crate::run::timed(|| node_packages(&root.join("sdk/a")));
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(found, [root.join("sdk/a")]);
        assert_eq!(outcome, Outcome::Passed(Vec::new()));
    }
}
