//! Reading a log back: what is replayed, where it ends, and what is refused. Changes nothing; the
//! tail is repaired by [`repair`].

mod examine;
mod table;

use crate::format::{
    BATCH_HEADER_BYTES, HeaderFault, RecordFault, Records, SEGMENT_HEADER_BYTES, SegmentHeader,
    is_zero,
};
use crate::segment::{list_segments, segment_path};
use crate::{
    AlignedBuf, BLOCK_BYTES, Disk, Identity, Lsn, OpenError, Record, RecordKind, Recovered,
    RoomKey, SegmentId,
};
pub(crate) use examine::payload_fits;
use examine::{Examined, examine, own_header};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use table::{Block, Facts, Verdict, decide};

/// Bytes read at a time from segments that are only searched.
const SEARCH_CHUNK_BYTES: usize = 1 << 20;
/// Rooms named in an error.
const ROOMS_MAX: usize = 1000;

/// A later segment: prepared, and not begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Later {
    pub(crate) segment: SegmentId,
    /// `None` where its header cannot be read: it is to be prepared again.
    pub(crate) salt: Option<u64>,
}

/// What reading found.
#[derive(Debug)]
pub(crate) struct Scan {
    /// The segment in which the log ends, its salt, and the offset where it goes on.
    pub(crate) segment: SegmentId,
    pub(crate) salt: u64,
    pub(crate) offset: u64,
    /// Where the last batch of that segment begins; `offset` if it has none.
    last: u64,
    /// The end of the last batch: behind `offset` if the first write into a segment was cut short.
    pub(crate) durable: Lsn,
    /// The last batch's checksum; zero if there is none.
    pub(crate) previous: u32,
    pub(crate) epoch_max: u64,
    /// The last batch holds something that nothing vouches for.
    pub(crate) unsealed: bool,
    pub(crate) later: Vec<Later>,
    /// Segments that hold nothing needed.
    pub(crate) spare: Vec<SegmentId>,
    pub(crate) report: Recovered,
    /// The segment in which the log ends, as read.
    bytes: AlignedBuf,
}

/// Reads a log from segment `low` on.
pub(crate) fn scan(
    disk: &dyn Disk,
    dir: &Path,
    identity: Identity,
    segment_bytes: u64,
    low: SegmentId,
    replay: &mut dyn FnMut(Record<'_>) -> Result<(), String>,
) -> Result<Scan, OpenError> {
    let segments = list_segments(disk, dir).map_err(io_error(dir))?;
    let (spare, live): (Vec<_>, Vec<_>) = segments.into_iter().partition(|s| *s < low);
    let mut reader = Reader {
        disk,
        dir,
        identity,
        segment_bytes,
        live,
        salt: 0,
        bytes: AlignedBuf::zeroed(usize::try_from(segment_bytes).expect("a segment fits memory")),
    };
    reader.check_contiguous(low)?;
    reader.run(low, spare, replay)
}

/// Zeroes a torn tail and makes durable what was replayed: after it, what was read stays.
///
/// The sync of the last batch may have failed, and what a failed sync leaves behind can be read and
/// still never become durable by a later sync. So that batch is written again. Those before it were
/// synced before it was written.
pub(crate) fn repair(disk: &dyn Disk, dir: &Path, scan: &Scan) -> Result<(), OpenError> {
    let path = segment_path(dir, scan.segment);
    let write = || -> io::Result<()> {
        let last = scan.last as usize..scan.offset as usize;
        if !last.is_empty() {
            disk.write_at(&path, scan.last, &scan.bytes.as_slice()[last])?;
        }
        if scan.report.torn_at.is_some() {
            zero_from(disk, &path, scan.bytes.as_slice(), scan.offset as usize)?;
        }
        disk.sync(&path)?;
        disk.sync_dir(dir)
    };
    write().map_err(io_error(&path))
}

/// Zeroes the blocks from `offset` on that are not zero already.
fn zero_from(disk: &dyn Disk, path: &Path, bytes: &[u8], offset: usize) -> io::Result<()> {
    let zeros = AlignedBuf::zeroed(SEARCH_CHUNK_BYTES.min(bytes.len()));
    let mut at = offset;
    while at < bytes.len() {
        let chunk = &bytes[at..bytes.len().min(at + zeros.len())];
        if !is_zero(chunk) {
            disk.write_at(path, at as u64, &zeros.as_slice()[..chunk.len()])?;
        }
        at += chunk.len();
    }
    Ok(())
}

pub(crate) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |error| OpenError::Io { path, error }
}

struct Reader<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    identity: Identity,
    segment_bytes: u64,
    /// From the low-water mark on.
    live: Vec<SegmentId>,
    /// Of the segment in `bytes`.
    salt: u64,
    bytes: AlignedBuf,
}

/// How far reading has come.
struct Progress {
    segment: SegmentId,
    offset: u64,
    /// Where the last batch of the segment begins.
    last: u64,
    /// The end of the last batch.
    durable: Lsn,
    /// `None` before the first batch, which may carry any.
    previous: Option<u32>,
    epoch_max: u64,
    unsealed: bool,
    report: Recovered,
}

impl Reader<'_> {
    fn path(&self, segment: SegmentId) -> PathBuf {
        segment_path(self.dir, segment)
    }

    fn start(&self, segment: SegmentId) -> Lsn {
        // A forged manifest may name any segment.
        Lsn(segment.0.saturating_mul(self.segment_bytes))
    }

    /// A segment is prepared only once all before it are, so that a gap is always a loss.
    fn check_contiguous(&mut self, low: SegmentId) -> Result<(), OpenError> {
        let last = self.live.last().copied().unwrap_or(low);
        let expected = (low.0..=last.0).map(SegmentId);
        let Some(missing) = expected
            .zip(self.live.iter().copied().map(Some).chain([None]))
            .find_map(|(expected, found)| (found != Some(expected)).then_some(expected))
        else {
            return Ok(());
        };
        Err(self.damaged(
            missing,
            SEGMENT_HEADER_BYTES,
            "the segment's file is missing",
        ))
    }

    fn run(
        mut self,
        low: SegmentId,
        spare: Vec<SegmentId>,
        replay: &mut dyn FnMut(Record<'_>) -> Result<(), String>,
    ) -> Result<Scan, OpenError> {
        let mut progress = Progress {
            segment: low,
            offset: SEGMENT_HEADER_BYTES,
            last: SEGMENT_HEADER_BYTES,
            durable: Lsn(self.start(low).0 + SEGMENT_HEADER_BYTES),
            previous: None,
            epoch_max: 0,
            unsealed: false,
            report: Recovered::default(),
        };
        self.load(low)?;
        let later = loop {
            let at = Lsn(self.start(progress.segment).0 + progress.offset);
            let examined = examine(
                self.bytes.as_slice(),
                progress.offset as usize,
                self.salt,
                at,
                progress.previous,
            );
            let mut facts = examined.facts();
            let mut later = Vec::new();
            if decide(&facts) != Verdict::Replay {
                facts.continued = self.continues(&progress)?;
                if !facts.continued {
                    (facts.vouched, later) = self.search_later(&mut progress, at)?;
                }
            }
            let what = examined.what();
            match (decide(&facts), examined) {
                (
                    Verdict::Replay,
                    Examined::Batch {
                        header, checksum, ..
                    },
                ) => {
                    let end = Lsn(at.0 + header.batch_bytes());
                    self.replay_batch(
                        &mut progress,
                        at,
                        end,
                        header.payload_bytes as usize,
                        header.records,
                        replay,
                    )?;
                    progress.last = progress.offset;
                    progress.offset += header.batch_bytes();
                    progress.durable = end;
                    progress.previous = Some(checksum);
                    progress.epoch_max = progress.epoch_max.max(header.epoch);
                    progress.report.bytes += header.batch_bytes();
                }
                (Verdict::Replay, _) => unreachable!("only a batch is replayed"),
                (Verdict::NextSegment, _) => {
                    progress.segment.0 += 1;
                    progress.offset = SEGMENT_HEADER_BYTES;
                    progress.last = progress.offset;
                    self.load(progress.segment)?;
                }
                (Verdict::End, _) => break later,
                (Verdict::Torn, _) => {
                    progress.report.torn_at = Some(at);
                    progress.report.clean = false;
                    break later;
                }
                (Verdict::Damaged, _) if progress.offset == self.segment_bytes => {
                    let next = SegmentId(progress.segment.0 + 1);
                    return Err(self.damaged(next, SEGMENT_HEADER_BYTES, what));
                }
                (Verdict::Damaged, _) => {
                    return Err(self.damaged(progress.segment, progress.offset, what));
                }
                (Verdict::Misdirected, _) => {
                    let what = "a batch stands where it was not written to";
                    return Err(self.damaged(progress.segment, progress.offset, what));
                }
                (Verdict::Newer, _) => return Err(self.newer(progress.segment, "a batch")),
            }
        };
        progress.report.end = Lsn(self.start(progress.segment).0 + progress.offset);
        Ok(Scan {
            segment: progress.segment,
            salt: self.salt,
            offset: progress.offset,
            last: progress.last,
            durable: progress.durable,
            previous: progress.previous.unwrap_or(0),
            epoch_max: progress.epoch_max,
            unsealed: progress.unsealed,
            later,
            spare,
            report: progress.report,
            bytes: self.bytes,
        })
    }

    /// Gives a batch's records on. Its checksum is right, so a bad record was written that way.
    fn replay_batch(
        &self,
        progress: &mut Progress,
        at: Lsn,
        end: Lsn,
        payload_bytes: usize,
        count: u32,
        replay: &mut dyn FnMut(Record<'_>) -> Result<(), String>,
    ) -> Result<(), OpenError> {
        let begin = progress.offset as usize + BATCH_HEADER_BYTES;
        let payload = &self.bytes.as_slice()[begin..begin + payload_bytes];
        let mut records = Records::new(Lsn(at.0 + BATCH_HEADER_BYTES as u64), payload);
        let mut found = 0;
        progress.unsealed = false;
        loop {
            let lsn = records.lsn();
            let refused = |what: String| OpenError::Refused { lsn, what };
            let record = match records.next() {
                None => break,
                Some(Ok(record)) => record,
                Some(Err(RecordFault::Newer { kind })) => {
                    return Err(self.newer(
                        progress.segment,
                        &format!("record kind {kind} at LSN {}", lsn.0),
                    ));
                }
                Some(Err(RecordFault::Bad(what))) => {
                    return Err(refused(format!(
                        "{what} in an intact batch: the software that wrote it is at fault"
                    )));
                }
            };
            found += 1;
            progress.report.clean = record.kind == RecordKind::CleanShutdown;
            progress.unsealed |=
                !matches!(record.kind, RecordKind::Seal | RecordKind::CleanShutdown);
            replay(record.known_durable_at(end)).map_err(refused)?;
        }
        if found != count {
            return Err(OpenError::Refused {
                lsn: at,
                what: format!(
                    "a batch says it has {count} records and has {found}: the software that wrote it is at fault"
                ),
            });
        }
        progress.report.records += u64::from(found);
        Ok(())
    }

    fn check_header(
        &self,
        segment: SegmentId,
        block: &[u8],
    ) -> Result<Result<u64, &'static str>, OpenError> {
        let path = || self.path(segment);
        let header = match SegmentHeader::decode(block) {
            Ok(header) => header,
            Err(HeaderFault::Newer { version, .. }) => {
                return Err(self.newer(
                    segment,
                    &format!("format version {version}, or an unknown cipher,"),
                ));
            }
            Err(HeaderFault::Zero) => return Ok(Err("the segment header is zero")),
            Err(HeaderFault::Bad(what)) => return Ok(Err(what)),
        };
        if header.identity != self.identity {
            return Err(OpenError::Mismatch {
                path: path(),
                what: format!(
                    "the segment belongs to shard {} of store {:032x}, wanted was shard {} of store {:032x}",
                    header.identity.shard,
                    u128::from_be_bytes(header.identity.store),
                    self.identity.shard,
                    u128::from_be_bytes(self.identity.store),
                ),
            });
        }
        if header.segment_bytes != self.segment_bytes {
            return Err(OpenError::Mismatch {
                path: path(),
                what: format!(
                    "the store has segments of {} bytes, configured are {}: set segment_bytes back",
                    header.segment_bytes, self.segment_bytes
                ),
            });
        }
        if header.segment != segment {
            return Ok(Err("the file's name does not fit the segment number in it"));
        }
        Ok(Ok(header.salt))
    }

    fn read(&self, segment: SegmentId, offset: u64, buf: &mut [u8]) -> Result<bool, OpenError> {
        let path = self.path(segment);
        let read = self
            .disk
            .read_at(&path, offset, buf)
            .map_err(io_error(&path))?;
        Ok(read == buf.len())
    }

    fn load(&mut self, segment: SegmentId) -> Result<(), OpenError> {
        let mut bytes = std::mem::take(&mut self.bytes);
        let whole = self.read(segment, 0, bytes.as_mut_slice());
        self.bytes = bytes;
        let whole = whole?;
        match self.check_header(segment, &self.bytes.as_slice()[..BLOCK_BYTES])? {
            Ok(salt) if whole => self.salt = salt,
            Ok(_) => return Err(self.damaged(segment, 0, "the segment's file is cut short")),
            Err(what) => return Err(self.damaged(segment, 0, what)),
        }
        Ok(())
    }

    /// Whether the next segment's first batch was written directly after the last batch read.
    fn continues(&self, progress: &Progress) -> Result<bool, OpenError> {
        let next = SegmentId(progress.segment.0 + 1);
        let (Some(previous), true) = (progress.previous, self.live.contains(&next)) else {
            return Ok(false);
        };
        let mut blocks = AlignedBuf::zeroed(2 * BLOCK_BYTES);
        if !self.read(next, 0, blocks.as_mut_slice())? {
            return Ok(false);
        }
        let (header, batch) = blocks.as_slice().split_at(BLOCK_BYTES);
        let Ok(salt) = self.check_header(next, header)? else {
            return Ok(false);
        };
        let first = Lsn(self.start(next).0 + SEGMENT_HEADER_BYTES);
        Ok(match own_header(batch, Some(salt), next, first) {
            Some(Ok(batch)) => batch.lsn == first && batch.previous == previous,
            // Refused once it is read.
            Some(Err(_)) => true,
            None => false,
        })
    }

    /// Looks in all that is later for batches that vouch for the position, and for prepared segments.
    ///
    /// A later batch in the same segment vouches when bytes at the position were durable as it was
    /// built. A later segment is begun only when all before it is durable, so any batch of its own
    /// vouches.
    fn search_later(
        &mut self,
        progress: &mut Progress,
        at: Lsn,
    ) -> Result<(bool, Vec<Later>), OpenError> {
        let mut offset = progress.offset as usize + BLOCK_BYTES;
        while offset < self.bytes.len() {
            let here = Lsn(self.start(progress.segment).0 + offset as u64);
            match own_header(
                &self.bytes.as_slice()[offset..],
                Some(self.salt),
                progress.segment,
                here,
            ) {
                Some(Ok(batch)) if batch.durable_lsn > at => return Ok((true, Vec::new())),
                Some(Ok(batch)) => progress.epoch_max = progress.epoch_max.max(batch.epoch),
                Some(Err(_)) => return Err(self.newer(progress.segment, "a batch")),
                None => {}
            }
            offset += BLOCK_BYTES;
        }
        let mut later = Vec::new();
        let mut chunk = AlignedBuf::zeroed(SEARCH_CHUNK_BYTES.min(self.bytes.len()));
        for &segment in self.live.iter().filter(|s| **s > progress.segment) {
            let mut salt = None;
            let mut offset = 0;
            while offset < self.segment_bytes {
                let len = (self.segment_bytes - offset).min(chunk.len() as u64) as usize;
                let bytes = &mut chunk.as_mut_slice()[..len];
                if !self.read(segment, offset, bytes)? {
                    return Err(self.damaged(segment, 0, "the segment's file is cut short"));
                }
                for (index, block) in bytes.chunks_exact(BLOCK_BYTES).enumerate() {
                    let place = offset + (index * BLOCK_BYTES) as u64;
                    if place == 0 {
                        salt = self.check_header(segment, block)?.ok();
                        continue;
                    }
                    let here = Lsn(self.start(segment).0 + place);
                    match own_header(block, salt, segment, here) {
                        Some(Ok(_)) => return Ok((true, Vec::new())),
                        Some(Err(_)) => return Err(self.newer(segment, "a batch")),
                        None => {}
                    }
                }
                offset += len as u64;
            }
            later.push(Later { segment, salt });
        }
        Ok((false, later))
    }

    fn newer(&self, segment: SegmentId, what: &str) -> OpenError {
        OpenError::Newer {
            path: self.path(segment),
            what: what.to_owned(),
        }
    }

    /// Refuses, and names what is at stake.
    fn damaged(&mut self, segment: SegmentId, offset: u64, what: &str) -> OpenError {
        let mut rooms = BTreeSet::new();
        let mut first_bad = None;
        for later in self.live.clone().into_iter().filter(|s| *s >= segment) {
            // What cannot be read names no rooms; the damage itself is reported all the same.
            let mut bytes = std::mem::take(&mut self.bytes);
            let read = self.read(later, 0, bytes.as_mut_slice());
            self.bytes = bytes;
            if read.is_err() {
                continue;
            }
            let from = if later == segment { offset as usize } else { 0 };
            let bad = self.rooms_from(later, from, &mut rooms);
            if later == segment {
                first_bad = bad;
            }
        }
        OpenError::Damaged {
            path: self.path(segment),
            lsn: first_bad.unwrap_or(Lsn(self.start(segment).0.saturating_add(offset))),
            what: what.to_owned(),
            rooms: rooms.into_iter().collect(),
        }
    }

    /// Collects the rooms of readable records in the loaded segment; returns the first unreadable
    /// record's address if the batch at `from` can be read up to it.
    fn rooms_from(
        &self,
        segment: SegmentId,
        from: usize,
        rooms: &mut BTreeSet<RoomKey>,
    ) -> Option<Lsn> {
        let bytes = self.bytes.as_slice();
        let salt = self
            .check_header(segment, &bytes[..BLOCK_BYTES])
            .ok()
            .and_then(Result::ok);
        let mut first_bad = None;
        let mut offset = from.max(BLOCK_BYTES);
        while offset < bytes.len() {
            let here = Lsn(self.start(segment).0 + offset as u64);
            if let Some(Ok(header)) = own_header(&bytes[offset..], salt, segment, here) {
                let begin = offset + BATCH_HEADER_BYTES;
                let end = bytes.len().min(begin + header.payload_bytes as usize);
                let mut records =
                    Records::new(Lsn(here.0 + BATCH_HEADER_BYTES as u64), &bytes[begin..end]);
                loop {
                    let lsn = records.lsn();
                    match records.next() {
                        Some(Ok(record))
                            if record.room != RoomKey(0) && rooms.len() < ROOMS_MAX =>
                        {
                            rooms.insert(record.room);
                        }
                        Some(Ok(_)) => {}
                        Some(Err(_)) => {
                            if offset == from {
                                first_bad = Some(lsn);
                            }
                            break;
                        }
                        None => break,
                    }
                }
            }
            offset += BLOCK_BYTES;
        }
        first_bad
    }
}
