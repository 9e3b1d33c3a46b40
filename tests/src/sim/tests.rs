use super::{SEEDS, run};

/// Seeds of a plain test run.
const COUNT: u64 = 200;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number")),
    )
}

fn fails(seed: u64, why: &str) -> ! {
    panic!(
        "seed {seed}: {why}\nrun it again: COLLABBLOCKS_SEED={seed} cargo test -p collabblocks-tests sim"
    );
}

#[test]
fn simulated_worlds_keep_every_promise() {
    if let Some(seed) = number("COLLABBLOCKS_SEED") {
        let outcome = run(seed, true).unwrap_or_else(|why| fails(seed, &why));
        return println!("{outcome:?}");
    }
    let mut acknowledged = 0;
    let mut starts = 0;
    for seed in SEEDS.iter().copied().chain(0..COUNT) {
        let outcome = run(seed, false).unwrap_or_else(|why| fails(seed, &why));
        acknowledged += outcome.acknowledged;
        starts += outcome.starts;
    }
    println!("{acknowledged} acknowledgements, {starts} restarts");
    assert!(
        acknowledged > 10 * COUNT,
        "the worlds are idle: {acknowledged}"
    );
    assert!(starts > COUNT / 4, "nothing befalls the worlds: {starts}");
}

#[test]
fn one_seed_run_twice_does_the_same() {
    let first = number("COLLABBLOCKS_SEED").unwrap_or(0);
    for seed in first..first + 10 {
        assert_eq!(run(seed, false), run(seed, false), "seed {seed}");
    }
}
