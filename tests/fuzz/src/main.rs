//! The fuzzer: `COLLABBLOCKS_FUZZ_TARGET` names a target, the arguments are libFuzzer's.

#![no_main]

use collabblocks_tests::fuzz::{Target, target};
use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;

fn chosen() -> &'static Target {
    static TARGET: OnceLock<&'static Target> = OnceLock::new();
    TARGET.get_or_init(|| {
        let name = std::env::var("COLLABBLOCKS_FUZZ_TARGET").unwrap_or_default();
        let target = target(&name).expect("COLLABBLOCKS_FUZZ_TARGET names a target");
        if let Ok(folder) = std::env::var("COLLABBLOCKS_FUZZ_SEEDS") {
            std::fs::create_dir_all(&folder).expect("the folder can be made");
            for (number, seed) in (target.seeds)().iter().enumerate() {
                let path = format!("{folder}/seed-{number}");
                std::fs::write(path, seed).expect("a seed can be written");
            }
        }
        target
    })
}

fuzz_target!(init: { chosen(); }, |input: &[u8]| (chosen().run)(input));
