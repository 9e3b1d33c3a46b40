//! A log against a list, over many crashes in a row.

use super::rig::*;
use crate::sim_disk::SimFault;

fn run(seed: u64, generations: u32) -> u64 {
    let mut rig = Rig::create(seed);
    let mut torn = 0;
    for _ in 0..generations {
        let steps = 5 + rig.rng.below(60);
        // The power fails at some operation, in the middle of a job as well as between two.
        let off = rig.disk.ops_count() + 1 + rig.rng.below(steps * 2);
        rig.disk.fail(off, SimFault::PowerOff);
        for _ in 0..steps {
            if rig.step().is_err() {
                break;
            }
        }
        let crash = rig.rng.next_u64();
        rig.disk.crash(crash);
        let recovered = rig
            .reopen()
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        torn += u64::from(recovered.torn_at.is_some());
    }
    torn
}

#[test]
fn a_log_is_a_list_that_crashes_cannot_shorten_below_what_was_acknowledged() {
    let first = seed(1);
    let torn: u64 = (first..first + 40).map(|seed| run(seed, 25)).sum();
    assert!(torn > 0, "no tail was torn");
}

#[test]
#[ignore = "long campaign: run with --release -- --ignored"]
fn a_log_is_a_list_over_many_seeds() {
    let first = seed(1);
    for seed in first..first + 20_000 {
        run(seed, 40);
    }
}

#[test]
fn the_same_seed_writes_the_same_bytes() {
    let files = |seed| {
        let mut rig = Rig::create(seed);
        for _ in 0..200 {
            rig.step().unwrap();
        }
        rig.disk.files()
    };
    assert_eq!(files(5), files(5));
    assert_ne!(files(5), files(6));
}
