//! The invariants of `docs/architecture.md` that can be read off the sources: who may name what,
//! which crate depends on which, where shared state and unsafe code stand, and that the documents'
//! links and paths lead somewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Lines of a source file before it has to be on [`LONG_FILES`].
const LINES_MAX: usize = 700;

/// Files that are longer, each for a reason.
const LONG_FILES: &[&str] = &[
    // A table: one row for each refused input.
    "storage-engine/tests/guard_refusals.rs",
];

/// Words that code may hold only in some places.
struct Rule {
    /// The invariant, as the document has it.
    says: &'static str,
    /// What is looked for.
    words: &'static [&'static str],
    /// Where it is looked for: the beginnings of paths.
    inside: &'static [&'static str],
    /// Where it may stand: the beginnings of paths.
    except: &'static [&'static str],
}

const RULES: &[Rule] = &[
    Rule {
        says: "the shard, the edge and the dialects do no I/O, read no clock, draw no random numbers, start no threads",
        words: &[
            "std::fs",
            "std::net",
            "std::env",
            "std::thread",
            "std::process",
            "Instant::now",
            "SystemTime",
            "clock_gettime",
            "rustix",
            "libc",
            "socket2",
            "tokio",
            "getrandom",
            "rand::",
            "RandomState",
            "async fn",
            ".await",
        ],
        inside: &[
            "server/src/shard/",
            "server/src/edge/",
            "server/src/dialect/",
        ],
        except: &[],
    },
    Rule {
        says: "the shard, the edge and the dialects know no TLS",
        words: &["rustls"],
        inside: &[
            "server/src/shard/",
            "server/src/edge/",
            "server/src/dialect/",
        ],
        except: &[],
    },
    Rule {
        says: "the edge and the dialects touch no document",
        words: &["collabblocks_storage_engine", "collabblocks_wal", "yrs::"],
        inside: &["server/src/edge/", "server/src/dialect/"],
        except: &[],
    },
    Rule {
        says: "the storage engine reads no clock, starts no threads and opens no sockets; its files go through the Disk trait",
        words: &[
            "std::fs",
            "std::net",
            "std::env",
            "std::thread",
            "Instant::now",
            "SystemTime",
            "clock_gettime",
            "rustix",
            "tokio",
        ],
        inside: &["storage-engine/src/"],
        except: &[],
    },
    Rule {
        says: "only wal/src/disk/fs.rs touches the operating system's files below the engine",
        words: &[
            "std::fs",
            "std::net",
            "std::thread",
            "Instant::now",
            "SystemTime",
            "rustix",
        ],
        inside: &["wal/src/"],
        except: &["wal/src/disk/fs.rs", "wal/src/tests/"],
    },
    Rule {
        says: "the log knows no Yjs",
        words: &["yrs", "Yjs", "state_vector", "awareness"],
        inside: &["wal/src/"],
        except: &[],
    },
    Rule {
        says: "the storage engine knows no wire protocol",
        words: &[
            "tungstenite",
            "httparse",
            "y_websocket",
            "WebSocket",
            "Hocuspocus",
        ],
        inside: &["storage-engine/src/"],
        except: &[],
    },
    Rule {
        says: "yrs is named in the storage engine alone",
        words: &["yrs::"],
        inside: &["wal/", "server/", "tuning/"],
        except: &["server/tests/shard/rig.rs"],
    },
    Rule {
        says: "io_uring is named in runtime/ring, and by who probes for it",
        words: &["io_uring::"],
        inside: &["wal/", "storage-engine/", "server/", "tuning/", "tests/"],
        except: &[
            "server/src/runtime/ring/",
            // Probes: glommio panics where there is no ring, so its runtime asks first.
            "server/src/runtime/glommio/mod.rs",
            "server/src/preflight/ring.rs",
            "tuning/src/gather.rs",
            "tests/tests/architecture.rs",
        ],
    },
    Rule {
        says: "glommio is named in runtime/glommio alone",
        words: &["use glommio", "use ::glommio", " ::glommio", "(::glommio"],
        inside: &["wal/", "storage-engine/", "server/", "tuning/", "tests/"],
        except: &[
            "server/src/runtime/glommio/",
            // Shows what glommio does on its own.
            "server/tests/glommio_park.rs",
            "tests/tests/architecture.rs",
        ],
    },
    Rule {
        says: "tokio is the control plane's; a runtime and the start-up hold ends of its channels",
        words: &["tokio::"],
        inside: &["wal/", "storage-engine/", "server/src/", "tuning/"],
        except: &[
            "server/src/control/",
            "server/src/runtime/mod.rs",
            "server/src/server.rs",
            "server/src/serve.rs",
        ],
    },
    Rule {
        says: "WebSocket framing is tungstenite's, at the edge alone",
        words: &["tungstenite"],
        inside: &["server/src/"],
        except: &["server/src/edge/"],
    },
    Rule {
        says: "rtrb is named by the mailboxes alone",
        words: &["rtrb"],
        inside: &["server/src/", "storage-engine/", "wal/"],
        except: &["server/src/mailbox.rs"],
    },
    Rule {
        says: "threads are started in a few known places",
        words: &["thread::Builder", "thread::spawn"],
        inside: &[
            "wal/src/",
            "storage-engine/src/",
            "server/src/",
            "server/cli/src/",
        ],
        except: &[
            "server/src/server.rs",                 // a shard's
            "server/src/runtime/files.rs",          // file workers
            "server/src/runtime/log.rs",            // the log's, where it has one
            "server/src/identity.rs",               // whoever asks the authenticator
            "server/src/runtime/watchdog.rs",       // the watchdog
            "server/src/runtime/glommio/ticker.rs", // the ticker
            "server/cli/src/logs.rs",               // the writer of log lines
        ],
    },
    Rule {
        says: "shared state stands on the allow-list of docs/architecture.md",
        words: &[
            "Atomic", "Mutex", "RwLock", "Condvar", "OnceLock", "LazyLock",
        ],
        inside: &[
            "wal/src/",
            "storage-engine/src/",
            "server/src/",
            "server/cli/src/",
            "tuning/src/",
        ],
        except: &[
            "server/src/mailbox.rs",
            "server/src/runtime/heartbeat.rs",
            "server/src/runtime/files.rs",
            "server/src/runtime/ring/buffers.rs",
            "server/src/runtime/glommio/ticker.rs",
            "server/src/runtime/glommio/turn.rs",
            "server/src/control/mod.rs",
            "server/cli/src/logs.rs",
            "wal/src/disk/fs.rs",
            "wal/src/sim_disk.rs",
        ],
    },
    Rule {
        says: "a lock is shared between threads by the file workers' queue and the simulated disk alone",
        words: &[
            "Arc<Mutex",
            "Arc<RwLock",
            "Arc::new(Mutex",
            "Arc::new(RwLock",
        ],
        inside: &[
            "wal/src/",
            "storage-engine/src/",
            "server/src/",
            "server/cli/src/",
            "tuning/src/",
        ],
        except: &["server/src/runtime/files.rs", "wal/src/sim_disk.rs"],
    },
    Rule {
        says: "unsafe code stands in the runtimes, and in the tests' counting allocator",
        words: &["unsafe {", "unsafe fn", "unsafe impl", "allow(unsafe_code)"],
        inside: &[
            "wal/",
            "storage-engine/",
            "server/",
            "bench/",
            "tuning/",
            "tests/",
        ],
        except: &[
            "server/src/runtime/ring/accept.rs",
            "server/src/runtime/ring/buffers.rs",
            "server/src/runtime/ring/effects.rs",
            "server/src/runtime/ring/log.rs",
            "server/src/runtime/ring/socket.rs",
            "server/src/runtime/ring/uring.rs",
            "server/src/runtime/glommio/conn.rs",
            "server/src/runtime/glommio/tasks.rs",
            "tests/src/allocations.rs",
            "tests/tests/architecture.rs",
        ],
    },
    Rule {
        says: "nothing is left to be done later",
        words: &["todo!(", "unimplemented!("],
        inside: &[
            "wal/",
            "storage-engine/",
            "server/",
            "bench/",
            "tuning/",
            "tests/",
        ],
        except: &["tests/tests/architecture.rs"],
    },
];

/// What each package may depend on of ours, and nothing else of ours.
const ARROWS: &[(&str, &[&str])] = &[
    ("wal", &[]),
    ("storage-engine", &["collabblocks-wal"]),
    (
        "server",
        &["collabblocks-storage-engine", "collabblocks-wal"],
    ),
    (
        "server/cli",
        &[
            "collabblocks-server",
            "collabblocks-storage-engine",
            "collabblocks-tuning",
            "collabblocks-wal",
        ],
    ),
    ("bench", &[]),
    ("tuning", &[]),
    ("tests/fault-fs", &[]),
    ("tests/xtask", &[]),
];

/// Dependencies that only some packages may have.
const OWNED: &[(&str, &[&str])] = &[
    // The server: in its tests, as a client.
    // The peer of the benchmark is another's server.
    (
        "yrs",
        &[
            "storage-engine",
            "server",
            "bench",
            "bench/peers/yrs-warp",
            "tests",
            "tests/fault-fs",
        ],
    ),
    ("glommio", &["server"]),
    ("io-uring", &["server", "tuning"]),
    ("rustls", &["server", "server/cli", "bench"]),
    ("tokio", &["server", "bench/peers/yrs-warp"]),
    ("hyper", &["server"]),
    (
        "tungstenite",
        &["server", "bench", "tests", "tests/fault-fs"],
    ),
    ("rtrb", &["server"]),
    ("clap", &["server/cli", "bench", "tests", "tests/fault-fs"]),
    ("fuser", &["tests/fault-fs"]),
    ("libfuzzer-sys", &["tests/fuzz"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a package lies in the repository")
        .into()
}

/// All files with one of these endings, as paths from the root, in order.
fn files(endings: &[&str]) -> Vec<String> {
    fn walk(root: &Path, folder: &Path, endings: &[&str], found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).expect("a folder of the repository") {
            let entry = entry.expect("an entry of it");
            let name = entry.file_name().into_string().expect("names are UTF-8");
            let path = entry.path();
            if entry.file_type().expect("its kind").is_dir() {
                let foreign = name.starts_with('.')
                    || ["target", "node_modules", "collabblocks-data"].contains(&name.as_str());
                if !foreign {
                    walk(root, &path, endings, found);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                let inner = path.strip_prefix(root).expect("below the root");
                found.push(inner.to_str().expect("UTF-8").to_owned());
            }
        }
    }
    let (root, mut found) = (root(), Vec::new());
    walk(&root, &root, endings, &mut found);
    found.sort();
    assert!(!found.is_empty(), "no files end in {endings:?}");
    found
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The code of a file: without comments, and without the tests at its end.
fn code(text: &str) -> Vec<(usize, &str)> {
    let mut lines = Vec::new();
    let mut rest = text.lines().zip(1..).peekable();
    while let Some((line, number)) = rest.next() {
        let tests = |(next, _): &&(&str, usize)| next.trim_start().starts_with("mod tests {");
        if line.trim() == "#[cfg(test)]" && rest.peek().as_ref().is_some_and(tests) {
            break;
        }
        let end = line
            .match_indices("//")
            .map(|(at, _)| at)
            .find(|at| !line[..*at].ends_with(':'))
            .unwrap_or(line.len());
        lines.push((number, &line[..end]));
    }
    lines
}

fn begins(path: &str, beginnings: &[&str]) -> bool {
    beginnings
        .iter()
        .any(|beginning| path.starts_with(beginning))
}

#[test]
fn names_stand_only_where_they_belong() {
    let sources = files(&[".rs"]);
    let mut broken = Vec::new();
    for rule in RULES {
        let mut looked = 0;
        let of_tests = |path: &str| path.ends_with("_tests.rs");
        for path in sources
            .iter()
            .filter(|path| begins(path, rule.inside) && !of_tests(path))
        {
            looked += 1;
            if begins(path, rule.except) {
                continue;
            }
            let text = read(path);
            for (number, line) in code(&text) {
                for word in rule.words.iter().filter(|word| line.contains(*word)) {
                    broken.push(format!("{path}:{number}: {word}\n    but {}", rule.says));
                }
            }
        }
        assert!(looked > 0, "nothing to look at: {}", rule.says);
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn exceptions_are_still_needed() {
    let sources = files(&[".rs"]);
    for rule in RULES {
        for exception in rule
            .except
            .iter()
            .filter(|path| **path != "tests/tests/architecture.rs")
        {
            let needed = sources
                .iter()
                .filter(|path| path.starts_with(exception))
                .any(|path| {
                    let text = read(path);
                    rule.words.iter().any(|word| text.contains(word))
                });
            assert!(needed, "{exception} needs no exception: {}", rule.says);
        }
    }
}

#[test]
fn shared_state_is_explained() {
    let map = read("docs/architecture.md");
    let (_, list) = map
        .split_once("## Shared state: the allow-list")
        .expect("its section");
    let rule = RULES
        .iter()
        .find(|rule| rule.words.contains(&"Atomic"))
        .expect("its rule");
    for path in rule.except {
        assert!(
            list.contains(&format!("`{path}`")),
            "docs/architecture.md does not explain {path}"
        );
    }
}

/// The keys of a table of a manifest.
fn keys(manifest: &str, table: &str) -> BTreeSet<String> {
    manifest
        .lines()
        .skip_while(|line| line.trim() != table)
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['=', '.']).next())
        .map(|key| key.trim().to_owned())
        .filter(|key| !key.is_empty() && !key.starts_with('#'))
        .collect()
}

#[test]
fn the_arrows_run_one_way() {
    for (package, allowed) in ARROWS {
        let manifest = read(&format!("{package}/Cargo.toml"));
        let ours: Vec<String> = keys(&manifest, "[dependencies]")
            .into_iter()
            .filter(|key| key.starts_with("collabblocks"))
            .collect();
        assert_eq!(ours, *allowed, "{package}");
    }
}

#[test]
fn dependencies_stay_with_their_owners() {
    let manifests = files(&["Cargo.toml"]);
    for (dependency, owners) in OWNED {
        for manifest in manifests.iter().filter(|path| *path != "Cargo.toml") {
            let package = manifest.strip_suffix("/Cargo.toml").expect("in a folder");
            let text = read(manifest);
            let has = ["[dependencies]", "[dev-dependencies]"]
                .iter()
                .any(|table| keys(&text, table).contains(*dependency));
            assert!(
                !has || owners.contains(&package),
                "{package} depends on {dependency}"
            );
        }
    }
}

#[test]
fn files_have_one_subject() {
    let mut long = BTreeSet::new();
    for path in files(&[".rs", ".mjs", ".ts"]) {
        if read(&path).lines().count() > LINES_MAX {
            long.insert(path);
        }
    }
    let listed: BTreeSet<String> = LONG_FILES.iter().map(ToString::to_string).collect();
    assert_eq!(
        long, listed,
        "files of more than {LINES_MAX} lines, and those that are listed"
    );
}

/// A document outside code blocks, with its line numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().zip(1..).filter_map(move |(line, number)| {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            return None;
        }
        (!fenced).then_some((number, line))
    })
}

/// What a heading is called in a link.
fn anchor(heading: &str) -> String {
    heading
        .trim()
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    prose(text)
        .filter(|(_, line)| line.starts_with('#'))
        .map(|(_, line)| anchor(line.trim_start_matches('#')))
        .collect()
}

/// Where a link of a document leads, as a path from the root.
fn resolved(document: &str, link: &str) -> PathBuf {
    let mut path = PathBuf::new();
    for part in Path::new(document)
        .parent()
        .expect("a file")
        .join(link)
        .components()
    {
        match part {
            Component::ParentDir => assert!(path.pop(), "{document}: {link} leaves the repository"),
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    path
}

#[test]
fn links_of_documents_lead_somewhere() {
    let mut seen = 0;
    for document in files(&[".md"]) {
        let text = read(&document);
        for (number, line) in prose(&text) {
            for (at, _) in line.match_indices("](") {
                let link = line[at + 2..].split(')').next().expect("an end");
                if link.contains("://") {
                    continue;
                }
                seen += 1;
                let (file, section) = link.split_once('#').unwrap_or((link, ""));
                let target = match file {
                    "" => PathBuf::from(&document),
                    file => resolved(&document, file),
                };
                assert!(
                    root().join(&target).exists(),
                    "{document}:{number}: {link} leads nowhere"
                );
                if !section.is_empty() {
                    let there = read(target.to_str().expect("UTF-8"));
                    assert!(
                        anchors(&there).contains(section),
                        "{document}:{number}: no section {link}"
                    );
                }
            }
        }
    }
    assert!(seen > 20, "only {seen} links were found");
}

#[test]
fn paths_in_documents_are_there() {
    let top: Vec<String> = fs::read_dir(root())
        .expect("the root")
        .filter_map(Result::ok)
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().expect("UTF-8") + "/")
        .filter(|name| name != "target/")
        .collect();
    let mut seen = 0;
    for document in files(&[".md"]) {
        let text = read(&document);
        for (number, line) in prose(&text) {
            // What stands between backticks is every second piece.
            for token in line.split('`').skip(1).step_by(2) {
                let plain = !token.contains([' ', '*', '{', '<', '…', '$']);
                if plain && top.iter().any(|name| token.starts_with(name.as_str())) {
                    seen += 1;
                    assert!(
                        root().join(token).exists(),
                        "{document}:{number}: {token} is not there"
                    );
                }
            }
        }
    }
    assert!(seen > 20, "only {seen} paths were found");
}

#[test]
fn every_document_is_in_the_index() {
    let index = read("docs/README.md");
    for document in files(&[".md"]) {
        if let Some(inner) = document
            .strip_prefix("docs/")
            .filter(|name| *name != "README.md")
        {
            assert!(
                index.contains(&format!("]({inner})")),
                "docs/README.md does not link {inner}"
            );
        }
    }
}

#[test]
fn every_folder_of_code_is_on_the_map() {
    let map = read("docs/architecture.md");
    let folders: BTreeSet<String> = files(&[".rs"])
        .iter()
        .filter_map(|path| {
            Path::new(path)
                .parent()
                .and_then(Path::to_str)
                .map(str::to_owned)
        })
        .filter(|folder| folder.contains("/src"))
        .collect();
    for folder in folders {
        assert!(
            map.contains(&format!("`{folder}/`")),
            "docs/architecture.md does not tell of {folder}/"
        );
    }
}

#[test]
fn code_is_told_from_comments_and_tests() {
    let text = "let a = 1; // unsafe {\nlet b = \"http://x\";\n#[cfg(test)]\nmod tests {\n    unsafe {}\n}\n";
    let lines: Vec<&str> = code(text).into_iter().map(|(_, line)| line).collect();
    assert_eq!(lines, ["let a = 1; ", "let b = \"http://x\";"]);
    assert_eq!(
        keys("[a]\nx = 1\n[b]\ny.z = 2\n# no\n\n[c]\nw = 1", "[b]"),
        BTreeSet::from(["y".to_owned()])
    );
    assert_eq!(
        anchor(" The path of an edit, in `files`"),
        "the-path-of-an-edit-in-files"
    );
}
