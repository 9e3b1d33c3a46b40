//! Reading a shard's log without opening it: nothing is changed, nothing is refused, all that can be
//! read is listed.

use crate::format::{
    BATCH_HEADER_BYTES, BatchHeader, FORMAT_VERSION, HeaderFault, RecordFault, Records,
    SEGMENT_HEADER_BYTES, SegmentHeader,
};
use crate::recovery::{io_error, payload_fits, scan};
use crate::segment::{list_segments, segment_path};
use crate::{
    AlignedBuf, BLOCK_BYTES, Disk, Identity, Lsn, OpenError, Record, Recovered, SegmentId,
};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A segment's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentInfo {
    /// The format version.
    pub version: u16,
    /// Whose it is.
    pub identity: Identity,
    /// The number in the header.
    pub segment: SegmentId,
    /// Its size.
    pub segment_bytes: u64,
    /// Tells its batches from those of an earlier use of the file.
    pub salt: u64,
}

/// One segment file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentListing {
    /// By its name.
    pub segment: SegmentId,
    /// The file.
    pub path: PathBuf,
    /// Its length.
    pub file_bytes: u64,
    /// Its header, or what is wrong with it.
    pub header: Result<SegmentInfo, String>,
    /// What looks like a batch of this segment, in the order of the file. Leftovers of earlier uses
    /// of the file are not listed.
    pub batches: Vec<BatchListing>,
    /// What of the file the disk does not give; what stands there is not listed.
    pub unreadable: Vec<Unreadable>,
}

/// A part of a file that the operating system does not read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unreadable {
    /// Its bytes, whole blocks.
    pub bytes: Range<u64>,
    /// What the operating system said.
    pub error: String,
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Range { start, end } = self.bytes;
        write!(f, "bytes {start} to {end} cannot be read: {}", self.error)
    }
}

/// One batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BatchListing {
    /// Where it stands.
    pub lsn: Lsn,
    /// Where it says that it stands.
    pub lsn_written: Lsn,
    /// Bytes on disk, padding included.
    pub bytes: u64,
    /// Records in it, by its header.
    pub records: u32,
    /// The recovery epoch that wrote it.
    pub epoch: u64,
    /// What was durable when it was built.
    pub durable_lsn: Lsn,
    /// Its checksum, which the next batch names.
    pub checksum: u32,
    /// The checksum of the batch before it.
    pub previous: u32,
    /// What is wrong with it by itself; recovery judges more, see [`verify`].
    pub fault: Option<String>,
}

/// Lists every segment file in a shard's log directory, ascending. One segment at a time is read
/// into memory.
pub fn inspect(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<SegmentListing>> {
    list_segments(disk, dir)?
        .into_iter()
        .map(|segment| inspect_segment(disk, dir, segment, &mut |_| {}))
        .collect()
}

/// Lists one segment file, and gives every record that can be read in it to `on_record`.
pub fn inspect_segment(
    disk: &dyn Disk,
    dir: &Path,
    segment: SegmentId,
    on_record: &mut dyn FnMut(Record<'_>),
) -> io::Result<SegmentListing> {
    let path = segment_path(dir, segment);
    let file_bytes = disk.len(&path)?;
    let (bytes, unreadable) = read_whole(disk, &path, file_bytes)?;
    let bytes = bytes.as_slice();
    let header = match unreadable.first() {
        Some(first) if first.bytes.start < SEGMENT_HEADER_BYTES => {
            Err(format!("it cannot be read: {}", first.error))
        }
        _ => decode_header(bytes),
    };
    let mut listing = SegmentListing {
        segment,
        path,
        file_bytes,
        header,
        batches: Vec::new(),
        unreadable,
    };
    // Without a header the batches' own word has to do for where they stand.
    let (salt, start) = match &listing.header {
        Ok(header) => (
            Some(header.salt),
            header.segment.0.saturating_mul(header.segment_bytes),
        ),
        Err(_) => (None, segment.0.saturating_mul(file_bytes)),
    };
    let mut offset = SEGMENT_HEADER_BYTES as usize;
    while offset + BLOCK_BYTES <= bytes.len() {
        let lsn = Lsn(start.saturating_add(offset as u64));
        let found =
            BatchHeader::may_begin(&bytes[offset..]).then(|| BatchHeader::decode(&bytes[offset..]));
        let step = match found {
            Some(Ok((header, checksum))) if salt.is_none_or(|salt| salt == header.salt) => {
                let batch = list_batch(&header, checksum, lsn, &bytes[offset..], on_record);
                let step = if batch.fault.is_none() {
                    batch.bytes as usize
                } else {
                    BLOCK_BYTES
                };
                listing.batches.push(batch);
                step
            }
            _ => BLOCK_BYTES,
        };
        offset += step;
    }
    Ok(listing)
}

fn read_whole(
    disk: &dyn Disk,
    path: &Path,
    file_bytes: u64,
) -> io::Result<(AlignedBuf, Vec<Unreadable>)> {
    let len =
        usize::try_from(file_bytes).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let mut bytes = AlignedBuf::zeroed(len.next_multiple_of(BLOCK_BYTES));
    let mut unreadable = Vec::new();
    let read = read_around(disk, path, 0, bytes.as_mut_slice(), &mut unreadable)?;
    bytes.resize(read / BLOCK_BYTES * BLOCK_BYTES);
    Ok((bytes, unreadable))
}

/// As [`Disk::read_at`], but where the disk does not give a block the buffer gets zeros, and
/// `unreadable` says so: what stands around a bad place can still be read. An error is one of the
/// whole file.
pub fn read_around(
    disk: &dyn Disk,
    path: &Path,
    offset: u64,
    buf: &mut [u8],
    unreadable: &mut Vec<Unreadable>,
) -> io::Result<usize> {
    let error = match disk.read_at(path, offset, buf) {
        Ok(read) => return Ok(read),
        Err(error) => error,
    };
    use io::ErrorKind::{NotFound, PermissionDenied};
    if matches!(error.kind(), NotFound | PermissionDenied) {
        return Err(error);
    }
    if buf.len() <= BLOCK_BYTES {
        buf.fill(0);
        let end = offset + buf.len() as u64;
        let known = |part: &&mut Unreadable| (part.bytes.start..=part.bytes.end).contains(&offset);
        match unreadable.iter_mut().find(known) {
            Some(part) => part.bytes.end = part.bytes.end.max(end),
            None => unreadable.push(Unreadable {
                bytes: offset..end,
                error: error.to_string(),
            }),
        }
        return Ok(buf.len());
    }
    // By halves, so that a bad place costs few reads more than itself.
    let half = (buf.len() / 2).next_multiple_of(BLOCK_BYTES);
    let (first, second) = buf.split_at_mut(half);
    let read = read_around(disk, path, offset, first, unreadable)?;
    if read < half {
        return Ok(read);
    }
    Ok(read + read_around(disk, path, offset + half as u64, second, unreadable)?)
}

fn decode_header(bytes: &[u8]) -> Result<SegmentInfo, String> {
    let Some(block) = bytes.get(..BLOCK_BYTES) else {
        return Err("the file is shorter than a header".to_owned());
    };
    match SegmentHeader::decode(block) {
        Ok(header) => Ok(SegmentInfo {
            version: FORMAT_VERSION,
            identity: header.identity,
            segment: header.segment,
            segment_bytes: header.segment_bytes,
            salt: header.salt,
        }),
        Err(HeaderFault::Zero) => Err("zero bytes".to_owned()),
        Err(HeaderFault::Bad(what)) => Err(what.to_owned()),
        Err(HeaderFault::Newer { version, .. }) => Err(format!(
            "of format version {version} or encrypted: newer than this program"
        )),
    }
}

fn list_batch(
    header: &BatchHeader,
    checksum: u32,
    lsn: Lsn,
    rest: &[u8],
    on_record: &mut dyn FnMut(Record<'_>),
) -> BatchListing {
    let mut fault = None;
    if header.lsn != lsn {
        fault = Some(format!("it was written for LSN {}", header.lsn.0));
    } else if !payload_fits(header, rest) {
        fault = Some("its checksum, bounds or padding do not fit".to_owned());
    }
    let end = rest
        .len()
        .min(BATCH_HEADER_BYTES + header.payload_bytes as usize);
    let first = Lsn(header.lsn.0 + BATCH_HEADER_BYTES as u64);
    let durable_at = Lsn(header.lsn.0 + header.batch_bytes());
    for record in Records::new(first, &rest[BATCH_HEADER_BYTES..end]) {
        match record {
            Ok(record) => on_record(record.known_durable_at(durable_at)),
            Err(RecordFault::Newer { kind }) => {
                fault.get_or_insert(format!("record kind {kind} is newer than this program"));
            }
            Err(RecordFault::Bad(what)) => {
                fault.get_or_insert(what.to_owned());
            }
        }
    }
    BatchListing {
        lsn,
        lsn_written: header.lsn,
        bytes: header.batch_bytes(),
        records: header.records,
        epoch: header.epoch,
        durable_lsn: header.durable_lsn,
        checksum,
        previous: header.previous,
        fault,
    }
}

/// What opening would say, without changing anything: `Ok` with what it would replay (and where it
/// would cut off a torn tail), or the error that it would refuse with. Starts at segment `low`, or
/// without one at the oldest file; a manifest knows better.
pub fn verify(disk: &dyn Disk, dir: &Path, low: Option<SegmentId>) -> Result<Recovered, OpenError> {
    let mut found = None;
    for segment in list_segments(disk, dir).map_err(io_error(dir))? {
        if low.is_some_and(|low| segment < low) {
            continue;
        }
        let path = segment_path(dir, segment);
        let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
        let read = disk
            .read_at(&path, 0, block.as_mut_slice())
            .map_err(io_error(&path))?;
        if let Ok(info) = decode_header(&block.as_slice()[..read])
            && info.segment == segment
        {
            found = Some(info);
            break;
        }
    }
    let Some(info) = found else {
        return Err(OpenError::Mismatch {
            path: dir.to_owned(),
            what: "there is no segment with a readable header here".to_owned(),
        });
    };
    let low = low.unwrap_or(info.segment);
    let scan = scan(
        disk,
        dir,
        info.identity,
        info.segment_bytes,
        low,
        &mut |_| Ok(()),
    )?;
    Ok(scan.report)
}
