//! A data directory to which anything was done, checksums made good again: logs, snapshots, manifests
//! and the store file. It opens or is refused.

use crate::sim::{QuietStore, quiet_store};
use collabblocks_wal::sim_disk::SimDisk;
use collabblocks_wal::{BLOCK_BYTES, Disk};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Bytes of one thing that is done.
const DOING_BYTES: usize = 6;
/// More are not done.
const DOINGS_MAX: usize = 24;

fn base() -> &'static QuietStore {
    static BASE: OnceLock<QuietStore> = OnceLock::new();
    BASE.get_or_init(|| quiet_store(3))
}

fn put(disk: &SimDisk, path: &Path, offset: u64, bytes: &[u8]) {
    disk.write_at(path, offset, bytes)
        .expect("a simulated disk without faults");
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..at + 4).map_or(0, |four| {
        u32::from_le_bytes(four.try_into().expect("four")) as usize
    })
}

fn crc(parts: &[&[u8]]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().to_le_bytes()
}

/// Makes the checksum of a small file right.
fn seal_frame(bytes: &mut [u8]) {
    let len = u32_at(bytes, 12);
    if let Some(payload) = bytes.get(32..).and_then(|rest| rest.get(..len)) {
        let sum = crc(&[&bytes[..28], payload]);
        bytes[28..32].copy_from_slice(&sum);
    }
}

/// Makes the checksums of a batch and its records right.
fn seal_batch(bytes: &mut [u8]) {
    if bytes.len() < 128 {
        return;
    }
    let len = u32_at(bytes, 56).min(bytes.len() - 128);
    let lsn = u64::from_le_bytes(bytes[24..32].try_into().expect("eight"));
    let mut at = 0;
    while at + 28 <= len {
        let start = 128 + at;
        let end = (start + 28 + u32_at(bytes, start + 4)).min(128 + len);
        let own = (lsn + start as u64).to_le_bytes();
        let sum = crc(&[&own, &bytes[start + 4..end]]);
        bytes[start..start + 4].copy_from_slice(&sum);
        at = end - 128;
    }
    let sum = crc(&[&bytes[16..24], &bytes[128..128 + len]]);
    bytes[68..72].copy_from_slice(&sum);
    let sum = crc(&[&bytes[8..128]]);
    bytes[4..8].copy_from_slice(&sum);
}

fn do_to(disk: &SimDisk, files: &[PathBuf], doing: &[u8]) {
    let kind = doing[0];
    let path = &files[usize::from(doing[1]) % files.len()];
    let (a, b) = (
        u64::from(u16::from_le_bytes([doing[2], doing[3]])),
        u64::from(u16::from_le_bytes([doing[4], doing[5]])),
    );
    let Some(mut bytes) = disk.bytes(path) else {
        return;
    };
    let len = bytes.len() as u64;
    if len == 0 {
        return;
    }
    let blocks = len.div_ceil(BLOCK_BYTES as u64);
    let block = |n: u64| {
        let start = (n % blocks) as usize * BLOCK_BYTES;
        start..(start + BLOCK_BYTES).min(bytes.len())
    };
    match kind % 9 {
        0 => disk.corrupt(path, a % len, 1 << (b % 8)),
        1 => put(disk, path, a % len, &(b as u8).to_le_bytes()),
        2 => put(disk, path, a % len, &b.to_le_bytes()[..2]),
        3 => put(disk, path, block(a).start as u64, &[0; BLOCK_BYTES]),
        4 => {
            let from = bytes[block(b)].to_vec();
            put(disk, path, block(a).start as u64, &from);
        }
        5 => {
            let other = disk.bytes(&files[b as usize % files.len()]);
            let from = other.and_then(|o| o.get(..BLOCK_BYTES).map(<[u8]>::to_vec));
            put(disk, path, block(a).start as u64, &from.unwrap_or_default());
        }
        6 => disk.truncate(path, a % len).expect("it is there"),
        7 => {
            seal_frame(&mut bytes);
            put(disk, path, 0, &bytes);
        }
        _ => {
            let start = block(a).start;
            seal_batch(&mut bytes[start..]);
            put(disk, path, 0, &bytes);
        }
    }
}

/// Does what the input says to a good store, and opens it.
pub(super) fn store(input: &[u8]) {
    let base = base();
    let disk = base.disk.fork();
    let files: Vec<PathBuf> = (disk.files().into_iter())
        .filter(|(_, bytes)| !bytes.is_empty())
        .map(|(path, _)| path)
        .collect();
    for doing in input.chunks_exact(DOING_BYTES).take(DOINGS_MAX) {
        do_to(&disk, &files, doing);
    }
    base.open(disk);
}

pub(super) fn store_seeds() -> Vec<Vec<u8>> {
    let files = base().disk.files().len() as u8;
    let mut seeds = vec![Vec::new()];
    for file in 0..files {
        for (kind, a, b) in [
            (0, 40, 1),
            (2, 70, 9),
            (3, 1, 0),
            (3, 2, 0),
            (4, 1, 2),
            (6, 5000, 0),
        ] {
            let doing = [kind, file, a as u8, (a >> 8) as u8, b, 0];
            let frame = [7, file, 0, 0, 0, 0];
            let batch = [8, file, 1, 0, 0, 0];
            seeds.push(doing.to_vec());
            seeds.push([doing, frame].concat());
            seeds.push([doing, batch].concat());
        }
    }
    seeds
}
