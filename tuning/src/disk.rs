//! How long a small write takes to be durable in the data directory.

use crate::facts::DiskProbe;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::path::Path;
use std::time::Instant;

const BLOCK_BYTES: usize = 4096;
const WRITES: usize = 64;

#[repr(C, align(4096))]
struct Block([u8; BLOCK_BYTES]);

/// Writes and syncs [`WRITES`] blocks, one after the other, over a file that was zero-filled, as
/// the write-ahead log does.
pub(crate) fn probe(place: &Path) -> DiskProbe {
    let path = place.join(format!(".collabblocks-check-{}", std::process::id()));
    let result = measure(&path);
    // It may never have come into being.
    let _ = std::fs::remove_file(&path);
    match result {
        Ok(mut taken_us) => {
            taken_us.sort_unstable();
            DiskProbe::Synced {
                p50_us: percentile(&taken_us, 50),
                p99_us: percentile(&taken_us, 99),
            }
        }
        Err(Errno::INVAL | Errno::OPNOTSUPP) => DiskProbe::NotDirect,
        Err(errno) => DiskProbe::Fails(std::io::Error::from(errno).to_string()),
    }
}

fn measure(path: &Path) -> Result<Vec<u64>, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::DIRECT | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
    let mut block = Box::new(Block([0; BLOCK_BYTES]));
    let write = |block: &Block, at: usize| match rustix::io::pwrite(
        &file,
        &block.0,
        (at * BLOCK_BYTES) as u64,
    )? {
        BLOCK_BYTES => Ok(()),
        _ => Err(Errno::NOSPC),
    };
    for at in 0..WRITES {
        write(&block, at)?;
    }
    rustix::fs::fsync(&file)?;
    block.0.fill(0xCB);
    let mut taken_us = Vec::with_capacity(WRITES);
    for at in 0..WRITES {
        let begun = Instant::now();
        write(&block, at)?;
        rustix::fs::fdatasync(&file)?;
        taken_us.push(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    Ok(taken_us)
}

/// The smallest value that so many percent of the sorted values do not exceed.
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let values: Vec<u64> = (1..=64).collect();
        assert_eq!(percentile(&values, 50), 32);
        assert_eq!(percentile(&values, 99), 64);
        assert_eq!(percentile(&[7], 50), 7);
    }

    #[test]
    fn a_place_that_cannot_be_written_says_why() {
        assert!(
            matches!(probe(Path::new("/nowhere/at/all")), DiskProbe::Fails(why) if why.contains("No such"))
        );
    }
}
