//! Runs the simulator over many seeds.

use clap::Parser;
use collabblocks_tests::sim;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Simulates many worlds and reports the seeds that break a promise.
#[derive(Parser)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 5000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Stop after so many minutes.
    #[arg(long)]
    minutes: Option<u64>,
    /// Threads, at most two.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=2))]
    threads: u64,
    /// Look for the smallest plan that fails as this seed does.
    #[arg(long)]
    shrink: Option<u64>,
    /// Tell all that happens.
    #[arg(long)]
    print: bool,
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    let (next, failed, acknowledged) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let seen = Mutex::new(BTreeMap::<&str, u64>::new());
    let began = Instant::now();
    let limit = arguments
        .minutes
        .map(|minutes| Duration::from_secs(60 * minutes));
    // What a failing seed panics with is reported by this program.
    std::panic::set_hook(Box::new(|_| {}));
    if let Some(seed) = arguments.shrink {
        return match sim::shrink(seed, arguments.print) {
            true => std::process::ExitCode::FAILURE,
            false => {
                println!("seed {seed} does not fail");
                std::process::ExitCode::SUCCESS
            }
        };
    }
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(|| {
                while limit.is_none_or(|limit| began.elapsed() < limit) {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= arguments.seeds {
                        break;
                    }
                    let seed = arguments.from + n;
                    match sim::run(seed, arguments.print) {
                        Ok(outcome) => {
                            acknowledged.fetch_add(outcome.acknowledged, Ordering::Relaxed);
                            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                            for (what, times) in outcome.seen {
                                *seen.entry(what).or_insert(0) += times;
                            }
                        }
                        Err(why) => {
                            failed.fetch_add(1, Ordering::Relaxed);
                            println!(
                                "seed {seed}: {why}\n  COLLABBLOCKS_SEED={seed} cargo test -p collabblocks-tests sim"
                            );
                        }
                    }
                }
            });
        }
    });
    let (ran, failed) = (next.into_inner().min(arguments.seeds), failed.into_inner());
    println!(
        "{ran} seeds in {:.1} s, {} acknowledgements, {failed} failed",
        began.elapsed().as_secs_f64(),
        acknowledged.into_inner()
    );
    println!(
        "{:?}",
        seen.into_inner().unwrap_or_else(PoisonError::into_inner)
    );
    match failed {
        0 => std::process::ExitCode::SUCCESS,
        _ => std::process::ExitCode::FAILURE,
    }
}
