//! Functions that take any bytes, one for each decoder of what others wrote: clients, disks, operators.
//! A fuzzer looks for inputs that make them panic (`tests/fuzz/`); the test here replays its corpus.

mod guard;
mod store;
mod wire;

/// What takes any bytes, and never panics.
pub struct Target {
    /// Its name, and its corpus's.
    pub name: &'static str,
    /// Runs it.
    pub run: fn(&[u8]),
    /// Inputs that a fuzzer begins with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "websocket",
        run: wire::websocket,
        seeds: wire::websocket_seeds,
    },
    Target {
        name: "http",
        run: wire::http,
        seeds: wire::http_seeds,
    },
    Target {
        name: "messages",
        run: wire::messages,
        seeds: wire::messages_seeds,
    },
    Target {
        name: "config",
        run: wire::config,
        seeds: wire::config_seeds,
    },
    Target {
        name: "update",
        run: guard::update,
        seeds: guard::update_seeds,
    },
    Target {
        name: "updates",
        run: guard::updates,
        seeds: guard::updates_seeds,
    },
    Target {
        name: "store",
        run: store::store,
        seeds: store::store_seeds,
    },
];

/// The target of that name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_corpus_of_the_fuzzer_still_passes() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        for target in TARGETS {
            let folder = corpus.join(target.name);
            let mut inputs = (target.seeds)();
            for entry in std::fs::read_dir(&folder).expect("each target has a corpus") {
                inputs.push(std::fs::read(entry.unwrap().path()).unwrap());
            }
            assert!(inputs.len() > 5, "{} has no corpus", target.name);
            for input in inputs {
                let run = std::panic::catch_unwind(|| (target.run)(&input));
                assert!(run.is_ok(), "{} panics on {input:?}", target.name);
            }
        }
    }
}
