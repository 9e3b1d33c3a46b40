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
    let bytes = read_whole(disk, &path, file_bytes)?;
    let bytes = bytes.as_slice();
    let mut listing = SegmentListing {
        segment,
        path,
        file_bytes,
        header: decode_header(bytes),
        batches: Vec::new(),
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

fn read_whole(disk: &dyn Disk, path: &Path, file_bytes: u64) -> io::Result<AlignedBuf> {
    let len =
        usize::try_from(file_bytes).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let mut bytes = AlignedBuf::zeroed(len.next_multiple_of(BLOCK_BYTES));
    let read = disk.read_at(path, 0, bytes.as_mut_slice())?;
    bytes.resize(read / BLOCK_BYTES * BLOCK_BYTES);
    Ok(bytes)
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
    let segments = list_segments(disk, dir).map_err(io_error(dir))?;
    let readable = |segment: &SegmentId| {
        let path = segment_path(dir, *segment);
        let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
        let read = disk.read_at(&path, 0, block.as_mut_slice()).ok()?;
        let info = decode_header(&block.as_slice()[..read]).ok()?;
        (info.segment == *segment).then_some(info)
    };
    let Some(info) = segments.iter().find_map(readable) else {
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
