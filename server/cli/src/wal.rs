//! `collabblocks wal`: the logs and snapshots of a data directory, read without the server.

use crate::exit;
use clap::ArgMatches;
use collabblocks_storage_engine::{EngineConfig, ShardListing, ShardSurvey, list_rooms, survey};
use collabblocks_wal::inspect::{self, BatchListing, SegmentListing};
use collabblocks_wal::{Disk, FsDisk, Record, RecordKind, Recovered};
use std::fmt::Write;
use std::fs::{File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Runs the command; its exit code.
pub fn run(matches: &ArgMatches) -> u8 {
    let Some((what, matches)) = matches.subcommand() else {
        unreachable!("a subcommand is required");
    };
    let data: &PathBuf = matches.get_one("data").expect("it is required");
    if what == "salvage" {
        let out: &PathBuf = matches.get_one("out").expect("it is required");
        return salvage(data, out);
    }
    let disk = FsDisk::new();
    let shards = match shards(&disk, data) {
        Ok(shards) => shards,
        Err(what) => {
            eprintln!("collabblocks: {what}");
            return exit::FAILED;
        }
    };
    if in_use(data) {
        eprintln!(
            "warning: a server is running on {}; what it is writing just now may look torn",
            data.display()
        );
    }
    let detail = match what {
        "verify" => None,
        "inspect" if matches.get_flag("records") => Some(Detail::Records),
        "inspect" if matches.get_flag("batches") => Some(Detail::Batches),
        "inspect" => Some(Detail::Segments),
        other => unreachable!("wal {other} has no arm"),
    };
    let mut sound = true;
    for shard in &shards {
        sound &= match detail {
            Some(detail) => inspect_shard(&disk, shard, detail),
            None => verify_shard(&disk, shard),
        };
    }
    if detail.is_none() {
        sound &= verify_snapshots(&disk, data);
    }
    if sound { exit::OK } else { exit::FAILED }
}

fn shards(disk: &dyn Disk, data: &Path) -> Result<Vec<ShardSurvey>, String> {
    match survey(disk, data) {
        Ok(Some(survey)) => Ok(survey.shards),
        Ok(None) => Err(format!(
            "{} is no data directory: name the one that the server has as --data",
            data.display()
        )),
        Err(error) => Err(error.to_string()),
    }
}

fn in_use(data: &Path) -> bool {
    let lock = File::open(data.join("lock"));
    lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

fn verify_shard(disk: &dyn Disk, shard: &ShardSurvey) -> bool {
    let number = shard.shard;
    let Some(low) = shard.low else {
        println!("shard {number}: empty, its log has not been made yet");
        return true;
    };
    match inspect::verify(disk, &shard.wal, Some(low)) {
        Ok(found) => {
            println!("shard {number}: {}", verdict(&found));
            true
        }
        Err(error) => {
            println!("shard {number}: REFUSED: {error}");
            false
        }
    }
}

fn verdict(found: &Recovered) -> String {
    let Recovered {
        records,
        bytes,
        end,
        torn_at,
        clean,
    } = found;
    let state = match (torn_at, clean) {
        (Some(at), _) => format!("a torn tail at LSN {} would be cut off", at.0),
        (None, true) => "closed in order".into(),
        (None, false) => "whole, though not closed in order".into(),
    };
    format!(
        "ok, {} in {bytes} bytes, ends at LSN {}; {state}",
        counted(*records as usize, "record"),
        end.0
    )
}

/// Reads every snapshot.
fn verify_snapshots(disk: &dyn Disk, data: &Path) -> bool {
    let shards = match list_rooms(disk, data) {
        Ok(shards) => shards.unwrap_or_default(),
        Err(error) => {
            println!("the snapshots cannot be read: {error}");
            return false;
        }
    };
    let mut sound = true;
    for ShardListing {
        shard,
        rooms,
        faults,
    } in shards
    {
        for fault in &faults {
            println!("shard {shard}: REFUSED: {fault}");
        }
        let unreadable = rooms
            .iter()
            .filter_map(|room| Some((room, room.fault.as_ref()?)));
        for (room, fault) in unreadable.clone() {
            println!("shard {shard}: room {:?}: UNREADABLE: {fault}", room.name);
        }
        let snapshots = rooms
            .iter()
            .filter(|room| room.snapshot_seq.is_some())
            .count();
        let bad = unreadable.count();
        println!(
            "shard {shard}: {}, {}: {}",
            counted(rooms.len(), "room"),
            counted(snapshots, "snapshot"),
            match (snapshots, bad) {
                (0, 0) => "nothing to read".into(),
                (_, 0) => "all can be read".into(),
                _ => format!("{bad} CANNOT BE READ"),
            }
        );
        sound &= faults.is_empty() && bad == 0;
    }
    sound
}

/// So many of what is named in the singular.
fn counted(count: usize, name: &str) -> String {
    match count {
        1 => format!("1 {name}"),
        _ => format!("{count} {name}s"),
    }
}

fn entropy() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Makes a new data directory of what can be read of a damaged one.
fn salvage(data: &Path, out: &Path) -> u8 {
    if in_use(data) {
        eprintln!(
            "collabblocks: a server is running on {}: stop it first",
            data.display()
        );
        return exit::FAILED;
    }
    let disk: Arc<dyn Disk> = Arc::new(FsDisk::new());
    let config = EngineConfig {
        // The server that opens it brings its own limits; nothing that was taken once is left out.
        disk_reserve_bytes: 0,
        ..EngineConfig::default()
    };
    let entropy = match entropy() {
        Ok(entropy) => entropy,
        Err(error) => {
            eprintln!("collabblocks: /dev/urandom: {error}");
            return exit::FAILED;
        }
    };
    let salvaged = match collabblocks_storage_engine::salvage(&disk, data, out, &config, entropy) {
        Ok(salvaged) => salvaged,
        Err(error) => {
            eprintln!("collabblocks: {error}");
            return exit::FAILED;
        }
    };
    for fault in &salvaged.faults {
        println!("cannot be read: {fault}");
    }
    // A room that is named nowhere else may have stood in what cannot be read.
    let mut whole = salvaged.faults.is_empty();
    for room in &salvaged.rooms {
        whole &= room.lost.is_empty();
        let state = match room.lost.as_slice() {
            [] if salvaged.faults.is_empty() => "whole".to_owned(),
            [] => "nothing is known to be lost of it".to_owned(),
            lost => format!("LOST: {}", lost.join("; ")),
        };
        println!("room {:?}: to update {}, {state}", room.name, room.room_seq);
    }
    let kept = salvaged.rooms.iter().filter(|room| room.room_seq > 0);
    println!(
        "{} in {}: start the server with --data {1}",
        counted(kept.count(), "room"),
        out.display()
    );
    if whole { exit::OK } else { exit::FAILED }
}

/// How much is listed.
#[derive(Clone, Copy, PartialEq)]
enum Detail {
    Segments,
    Batches,
    Records,
}

fn inspect_shard(disk: &dyn Disk, shard: &ShardSurvey, detail: Detail) -> bool {
    println!("shard {}: {}", shard.shard, shard.wal.display());
    let listings = match inspect::inspect(disk, &shard.wal) {
        Ok(listings) => listings,
        Err(error) if error.kind() == io::ErrorKind::NotFound && shard.low.is_none() => {
            return true;
        }
        Err(error) => {
            println!("  cannot be read: {error}");
            return false;
        }
    };
    let mut sound = true;
    for listing in listings {
        let needed = shard.low.is_none_or(|low| listing.segment >= low);
        let (line, whole) = segment_line(&listing, needed);
        println!("  {line}");
        sound &= whole || !needed;
        let records = match detail {
            Detail::Segments => continue,
            Detail::Batches => Vec::new(),
            Detail::Records => record_lines(disk, shard, &listing),
        };
        let mut records = records.into_iter().peekable();
        for batch in &listing.batches {
            println!("    {}", batch_line(batch));
            let end = batch.lsn_written.0 + batch.bytes;
            while let Some((_, line)) = records.next_if(|(lsn, _)| *lsn < end) {
                println!("      {line}");
            }
        }
    }
    sound
}

/// A segment in a line, and whether all of it is as it was written.
fn segment_line(listing: &SegmentListing, needed: bool) -> (String, bool) {
    let batches = &listing.batches;
    let faults = batches.iter().filter(|batch| batch.fault.is_some()).count();
    let records: u64 = batches.iter().map(|batch| u64::from(batch.records)).sum();
    let mut line = format!(
        "segment {}: {} bytes, {} batches, {records} records",
        listing.segment.0,
        listing.file_bytes,
        batches.len()
    );
    if faults > 0 {
        put(&mut line, format_args!(", {faults} DAMAGED"));
    }
    if let Err(what) = &listing.header {
        put(&mut line, format_args!(", HEADER: {what}"));
    }
    for unreadable in &listing.unreadable {
        put(&mut line, format_args!(", {unreadable}"));
    }
    if !needed {
        line += ", not needed any more";
    }
    let whole = faults == 0 && listing.header.is_ok() && listing.unreadable.is_empty();
    (line, whole)
}

/// The records of a segment, each with its LSN, in the order of the file.
fn record_lines(
    disk: &dyn Disk,
    shard: &ShardSurvey,
    listing: &SegmentListing,
) -> Vec<(u64, String)> {
    let mut lines = Vec::new();
    let read = inspect::inspect_segment(disk, &shard.wal, listing.segment, &mut |record| {
        lines.push((record.lsn.0, record_line(&record)));
    });
    if let Err(error) = read {
        lines.push((u64::MAX, format!("cannot be read: {error}")));
    }
    lines
}

fn batch_line(batch: &BatchListing) -> String {
    let mut line = format!(
        "batch at LSN {}: {} bytes, {} records, epoch {}, written when LSN {} was durable",
        batch.lsn.0, batch.bytes, batch.records, batch.epoch, batch.durable_lsn.0
    );
    if let Some(fault) = &batch.fault {
        put(&mut line, format_args!(", DAMAGED: {fault}"));
    }
    line
}

fn record_line(record: &Record<'_>) -> String {
    let mut line = format!(
        "LSN {} {:?} room {} seq {}, {} bytes",
        record.lsn.0,
        record.kind,
        record.room.0,
        record.room_seq,
        record.payload.len()
    );
    if record.kind == RecordKind::RoomCreated {
        put(
            &mut line,
            format_args!(", {:?}", String::from_utf8_lossy(record.payload)),
        );
    }
    line
}

fn put(line: &mut String, arguments: std::fmt::Arguments<'_>) {
    line.write_fmt(arguments).expect("a String takes all");
}

#[cfg(test)]
mod tests {
    use super::*;
    use collabblocks_wal::Lsn;

    #[test]
    fn what_is_found_reads_as_a_sentence() {
        assert_eq!(counted(0, "room"), "0 rooms");
        assert_eq!(counted(1, "room"), "1 room");
        let found = Recovered {
            records: 2,
            bytes: 8192,
            end: Lsn(9),
            torn_at: None,
            clean: false,
        };
        assert_eq!(
            verdict(&found),
            "ok, 2 records in 8192 bytes, ends at LSN 9; whole, though not closed in order"
        );
    }
}
