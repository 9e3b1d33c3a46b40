//! Making and opening a log.

use super::job::Preparation;
use super::{Log, Prepared};
use crate::batch::BufferPool;
use crate::format::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::recovery::{io_error, repair, scan};
use crate::segment::{
    TEMPORARY_NAME, list_segments, prepare_new, prepare_recycled, salt, segment_path, write_header,
};
use crate::{BLOCK_BYTES, Disk, Identity, LogConfig, Lsn, OpenError, Record, Recovered, SegmentId};
use std::collections::VecDeque;
use std::path::Path;

/// The first segment of a log; zero stands for none.
const FIRST_SEGMENT: SegmentId = SegmentId(1);

impl Log {
    /// Makes a new log in an empty directory (blocking): one segment, ready to be written.
    pub fn create(
        disk: &dyn Disk,
        dir: &Path,
        identity: Identity,
        config: LogConfig,
    ) -> Result<Log, OpenError> {
        check_config(dir, &config)?;
        disk.create_dir(dir).map_err(io_error(dir))?;
        if !list_segments(disk, dir).map_err(io_error(dir))?.is_empty() {
            return Err(OpenError::Mismatch {
                path: dir.to_owned(),
                what: "a log stands here already; a new one needs an empty directory".to_owned(),
            });
        }
        let epoch = 1;
        let header = SegmentHeader {
            identity,
            segment: FIRST_SEGMENT,
            segment_bytes: config.segment_bytes,
            salt: salt(config.salt_seed, epoch, FIRST_SEGMENT),
        };
        prepare_new(disk, dir, &header).map_err(io_error(dir))?;
        let start = Start {
            epoch,
            low: FIRST_SEGMENT,
            writing: Prepared {
                segment: FIRST_SEGMENT,
                salt: header.salt,
            },
            offset: SEGMENT_HEADER_BYTES,
            durable: Lsn(FIRST_SEGMENT.0 * config.segment_bytes + SEGMENT_HEADER_BYTES),
            ready: VecDeque::new(),
            spare: VecDeque::new(),
            previous: 0,
            unsealed: false,
        };
        Ok(Log::start(dir, identity, config, start))
    }

    /// Opens a log (blocking): reads it from segment `low` on, which must exist, gives every record
    /// to `replay` in order, repairs a torn tail, and is ready to append after it. Segments below
    /// `low` are spare. An `Err` from `replay` becomes [`OpenError::Refused`].
    pub fn open(
        disk: &dyn Disk,
        dir: &Path,
        identity: Identity,
        config: LogConfig,
        low: SegmentId,
        replay: &mut dyn FnMut(Record<'_>) -> Result<(), String>,
    ) -> Result<(Log, Recovered), OpenError> {
        check_config(dir, &config)?;
        let scan = scan(disk, dir, identity, config.segment_bytes, low, replay)?;
        repair(disk, dir, &scan)?;
        let names = disk.list(dir).map_err(io_error(dir))?;
        if names.iter().any(|name| name == TEMPORARY_NAME) {
            disk.remove(&dir.join(TEMPORARY_NAME))
                .map_err(io_error(dir))?;
        }
        let epoch = scan.epoch_max + 1;
        let fresh = |segment| SegmentHeader {
            identity,
            segment,
            segment_bytes: config.segment_bytes,
            salt: salt(config.salt_seed, epoch, segment),
        };
        let mut ready = VecDeque::new();
        for later in &scan.later {
            let salt = match later.salt {
                Some(salt) => salt,
                None => {
                    let header = fresh(later.segment);
                    let path = segment_path(dir, later.segment);
                    write_header(disk, &path, &header).map_err(io_error(&path))?;
                    header.salt
                }
            };
            ready.push_back(Prepared {
                segment: later.segment,
                salt,
            });
        }
        let mut spare = VecDeque::from(scan.spare);
        if ready.is_empty() && scan.offset + BLOCK_BYTES as u64 > config.segment_bytes {
            let header = fresh(SegmentId(scan.segment.0 + 1));
            match spare.pop_front() {
                Some(old) => prepare_recycled(disk, dir, old, &header),
                None => prepare_new(disk, dir, &header),
            }
            .map_err(io_error(dir))?;
            ready.push_back(Prepared {
                segment: header.segment,
                salt: header.salt,
            });
        }
        let start = Start {
            epoch,
            low,
            writing: Prepared {
                segment: scan.segment,
                salt: scan.salt,
            },
            offset: scan.offset,
            durable: scan.durable,
            ready,
            spare,
            previous: scan.previous,
            unsealed: scan.unsealed,
        };
        Ok((Log::start(dir, identity, config, start), scan.report))
    }

    fn start(dir: &Path, identity: Identity, config: LogConfig, start: Start) -> Log {
        let tail = (start.writing.segment, start.offset);
        Log {
            dir: dir.to_owned(),
            identity,
            epoch: start.epoch,
            low: start.low,
            path: segment_path(dir, start.writing.segment).into(),
            writing: start.writing,
            ready: start.ready,
            preparation: Preparation::new(start.spare),
            tail,
            open: None,
            closed: VecDeque::new(),
            pending_bytes: 0,
            in_flight: None,
            durable: start.durable,
            previous: start.previous,
            unsealed: start.unsealed,
            poisoned: false,
            pool: BufferPool::new(config.batch_bytes),
            config,
        }
    }
}

/// Where a log begins to serve.
struct Start {
    epoch: u64,
    low: SegmentId,
    writing: Prepared,
    offset: u64,
    durable: Lsn,
    ready: VecDeque<Prepared>,
    spare: VecDeque<SegmentId>,
    previous: u32,
    unsealed: bool,
}

fn check_config(dir: &Path, config: &LogConfig) -> Result<(), OpenError> {
    let block = BLOCK_BYTES as u64;
    let what = if !config.segment_bytes.is_multiple_of(block) || config.segment_bytes < 2 * block {
        "segment_bytes must be a multiple of 4096 and at least 8192"
    } else if config.segment_bytes > 1 << 30 {
        "segment_bytes may be at most 1 GiB"
    } else if config.segments_ready == 0 {
        "segments_ready must be at least 1"
    } else {
        return Ok(());
    };
    Err(OpenError::Mismatch {
        path: dir.to_owned(),
        what: what.to_owned(),
    })
}

/// Reads a log from segment `low` on (blocking), and changes nothing: it may be in use by a
/// [`Log`], and then all that was durable when reading began is given to `replay`.
pub fn read(
    disk: &dyn Disk,
    dir: &Path,
    identity: Identity,
    segment_bytes: u64,
    low: SegmentId,
    replay: &mut dyn FnMut(Record<'_>) -> Result<(), String>,
) -> Result<Recovered, OpenError> {
    scan(disk, dir, identity, segment_bytes, low, replay).map(|scan| scan.report)
}
