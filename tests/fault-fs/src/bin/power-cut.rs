//! Power cuts: the real server on ext4, on a loop device over a file whose every write and flush is
//! seen. At a cut some sectors that were not flushed are there and some are not. After each, the file
//! system is mounted again, the server started, and all that was ever acknowledged must be there.
//!
//! Wants root, `/dev/fuse` and loop devices.

use clap::Parser;
use collabblocks_fault_fs::{Client, FaultFs, Heard, Mounted, Server, binary, ext4_image, ledger};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const IMAGE_BYTES: u64 = 160 << 20;
const ROOMS: [&str; 3] = ["one", "two", "three"];

/// Cuts the power of a server again and again.
#[derive(Parser)]
struct Arguments {
    /// How many cuts.
    #[arg(long, default_value_t = 20)]
    rounds: u64,
    /// Where chance begins.
    #[arg(long, env = "COLLABBLOCKS_SEED", default_value_t = 1)]
    seed: u64,
    /// Arguments for the server, such as `--runtime=glommio`.
    #[arg(last = true)]
    server: Vec<String>,
}

/// Writes until the connection is over; what was acknowledged.
fn write(address: &str, room: &str) -> Result<BTreeSet<u64>, String> {
    let mut client = Client::connect(address, room)?;
    let mut acknowledged = BTreeSet::new();
    loop {
        if client.waiting() < 4 && client.write().is_none() {
            return Ok(acknowledged);
        }
        match client.hear(Duration::from_millis(200)) {
            Heard::Acknowledged(number) => drop(acknowledged.insert(number)),
            Heard::Closed => return Ok(acknowledged),
            _ => {}
        }
    }
}

fn rounds(arguments: &Arguments) -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let (fuse, disk) = (dir.path().join("fuse"), dir.path().join("disk"));
    for folder in [&fuse, &disk] {
        std::fs::create_dir(folder).map_err(|e| e.to_string())?;
    }
    let (binary, mut image) = (binary(), ext4_image(dir.path(), IMAGE_BYTES)?);
    let fs = FaultFs::mount(&fuse).map_err(|e| format!("FUSE cannot be mounted: {e}"))?;
    let mut rng = StdRng::seed_from_u64(arguments.seed);
    let mut promised: Vec<BTreeSet<u64>> = vec![BTreeSet::new(); ROOMS.len()];
    let mut options: Vec<&str> = arguments.server.iter().map(String::as_str).collect();
    // Rooms leave memory and segments are recycled while it runs.
    options.extend(["--wal-segments-max", "2", "--snapshots-evict-after-s", "1"]);
    for round in 0..=arguments.rounds {
        let name = format!("disk-{round}.img");
        fs.add_image(&name, std::mem::take(&mut image));
        let mounted = Mounted::new(&fs.root().join(&name), &disk)?;
        let mut server = Server::start(&binary, &disk.join("data"), &options)?;
        for (room, promised) in ROOMS.iter().zip(&promised) {
            let kept = ledger(&server.address, room)?;
            let lost: Vec<_> = promised.difference(&kept).collect();
            if !lost.is_empty() {
                return Err(format!("round {round}: {room} has lost {lost:?}"));
            }
        }
        if round == arguments.rounds {
            break;
        }
        let span = Duration::from_millis(rng.random_range(20..2000));
        fs.cut_after(rng.random_range(1..1000));
        let address = server.address.clone();
        let (unsynced, lost) = std::thread::scope(|scope| {
            let writers: Vec<_> = (ROOMS.iter())
                .map(|room| scope.spawn(|| write(&address, room)))
                .collect();
            // In the middle of a write, or at any time.
            let deadline = Instant::now() + span;
            while Instant::now() < deadline && !fs.is_off() {
                std::thread::sleep(Duration::from_millis(1));
            }
            let cut = fs.cut(&name, &mut rng).expect("the image is there");
            image = cut.left;
            server.kill();
            for (writer, promised) in writers.into_iter().zip(&mut promised) {
                match writer.join() {
                    Ok(Ok(more)) => promised.extend(more),
                    // The cut came before it had the room.
                    Ok(Err(_)) => {}
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            (cut.unsynced, cut.lost)
        });
        drop(mounted);
        fs.remove_image(&name);
        fs.power_on();
        let total: usize = promised.iter().map(BTreeSet::len).sum();
        println!(
            "round {round}: {lost} of {unsynced} unflushed sectors lost, {total} acknowledged so far"
        );
    }
    println!(
        "{} cuts, seed {}: nothing that was acknowledged is lost",
        arguments.rounds, arguments.seed
    );
    Ok(())
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    match rounds(&arguments) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("seed {}: {why}", arguments.seed);
            std::process::ExitCode::FAILURE
        }
    }
}
