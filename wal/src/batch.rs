//! Building batches: records are copied once, into the aligned buffer that is then written.

use crate::format::{
    BATCH_HEADER_BYTES, BatchHeader, RECORD_HEADER_BYTES, padded, payload_crc, record_header,
    staged_header, staged_payload_crc,
};
use crate::{AlignedBuf, Lsn, RecordKind, RoomKey, SegmentId};
use crc32fast::Hasher;

/// Free buffers kept; more are made while the disk is behind, and dropped after.
const POOL_BUFFERS_MAX: usize = 4;

/// Bytes that a record with `payload` bytes takes.
pub(crate) fn record_bytes(payload: usize) -> usize {
    RECORD_HEADER_BYTES + payload
}

/// A large payload in the buffer of the batch that it will be written with, checksummed: so that whoever
/// appends it need not touch its bytes. To be made elsewhere.
#[derive(Debug)]
pub struct Staged {
    buf: AlignedBuf,
    crc: Hasher,
}

impl Staged {
    /// Copies a payload.
    pub fn new(payload: &[u8]) -> Self {
        let before = BATCH_HEADER_BYTES + RECORD_HEADER_BYTES;
        let mut buf = AlignedBuf::with_capacity(padded(before + payload.len()));
        buf.resize(before);
        buf.extend_from_slice(payload);
        let mut crc = Hasher::new();
        crc.update(payload);
        Self { buf, crc }
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        &self.buf.as_slice()[BATCH_HEADER_BYTES + RECORD_HEADER_BYTES..]
    }
}

/// A batch whose place is fixed, open or closed.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) segment: SegmentId,
    /// In the segment's file.
    pub(crate) offset: u64,
    pub(crate) lsn: Lsn,
    buf: AlignedBuf,
    records: u32,
    /// The checksum of its first record's payload, if that was staged, and where it ends.
    staged: Option<Box<(Hasher, usize)>>,
    /// Holds records that must not be lost, not merely Seal or CleanShutdown.
    pub(crate) wants_seal: bool,
}

/// What its header says that is known only when it is handed out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finish {
    pub(crate) salt: u64,
    pub(crate) epoch: u64,
    pub(crate) durable_lsn: Lsn,
    pub(crate) previous: u32,
}

impl Batch {
    pub(crate) fn new(segment: SegmentId, offset: u64, lsn: Lsn, mut buf: AlignedBuf) -> Self {
        buf.clear();
        buf.resize(BATCH_HEADER_BYTES);
        Self {
            segment,
            offset,
            lsn,
            buf,
            records: 0,
            staged: None,
            wants_seal: false,
        }
    }

    /// A batch that begins with a staged record.
    pub(crate) fn of_staged(
        (segment, offset): (SegmentId, u64),
        lsn: Lsn,
        kind: RecordKind,
        room: RoomKey,
        room_seq: u64,
        staged: Staged,
    ) -> Self {
        let bytes = staged.payload().len();
        let Staged { mut buf, crc } = staged;
        let first = Lsn(lsn.0 + BATCH_HEADER_BYTES as u64);
        let header = staged_header(first, kind, room, room_seq, bytes, &crc);
        buf.as_mut_slice()[BATCH_HEADER_BYTES..][..RECORD_HEADER_BYTES].copy_from_slice(&header);
        let end = buf.len();
        Self {
            segment,
            offset,
            lsn,
            buf,
            records: 1,
            staged: Some(Box::new((crc, end))),
            wants_seal: true,
        }
    }

    /// Bytes so far, without padding.
    pub(crate) fn bytes(&self) -> usize {
        self.buf.len()
    }

    /// Where the next record would stand.
    pub(crate) fn next_lsn(&self) -> Lsn {
        Lsn(self.lsn.0 + self.buf.len() as u64)
    }

    pub(crate) fn push(
        &mut self,
        kind: RecordKind,
        room: RoomKey,
        room_seq: u64,
        payload: &[&[u8]],
    ) -> Lsn {
        let lsn = self.next_lsn();
        let room = if kind == RecordKind::RoomCreated {
            RoomKey(lsn.0)
        } else {
            room
        };
        let header = record_header(lsn, kind, room, room_seq, payload);
        self.buf.extend_from_slice(&header);
        for part in payload {
            self.buf.extend_from_slice(part);
        }
        self.records += 1;
        self.wants_seal |= !matches!(kind, RecordKind::Seal | RecordKind::CleanShutdown);
        lsn
    }

    /// Fills in header and padding; returns the buffer and the batch's checksum.
    pub(crate) fn finish(mut self, finish: Finish) -> (AlignedBuf, u32) {
        assert!(self.records > 0, "an empty batch is never written");
        let payload = &self.buf.as_slice()[BATCH_HEADER_BYTES..];
        let header = BatchHeader {
            salt: finish.salt,
            lsn: self.lsn,
            segment: self.segment,
            epoch: finish.epoch,
            durable_lsn: finish.durable_lsn,
            payload_bytes: u32::try_from(payload.len()).expect("a batch fits a segment"),
            records: self.records,
            previous: finish.previous,
            payload_crc: match &self.staged {
                None => payload_crc(finish.salt, payload),
                Some(staged) => {
                    let (crc, end) = &**staged;
                    let after = &self.buf.as_slice()[*end..];
                    let header = &payload[..RECORD_HEADER_BYTES];
                    staged_payload_crc(finish.salt, header, crc, after)
                }
            },
        };
        let checksum = header.encode(&mut self.buf.as_mut_slice()[..BATCH_HEADER_BYTES]);
        self.buf.resize(padded(self.buf.len()));
        (self.buf, checksum)
    }
}

/// Buffers of the usual size, used again.
#[derive(Debug)]
pub(crate) struct BufferPool {
    free: Vec<AlignedBuf>,
    usual_bytes: usize,
}

impl BufferPool {
    pub(crate) fn new(usual_bytes: usize) -> Self {
        Self {
            free: Vec::new(),
            usual_bytes: padded(usual_bytes),
        }
    }

    /// A buffer with room for at least `bytes`.
    pub(crate) fn take(&mut self, bytes: usize) -> AlignedBuf {
        if bytes > self.usual_bytes {
            return AlignedBuf::with_capacity(padded(bytes));
        }
        self.free
            .pop()
            .unwrap_or_else(|| AlignedBuf::with_capacity(self.usual_bytes))
    }

    pub(crate) fn give(&mut self, buf: AlignedBuf) {
        if buf.capacity() == self.usual_bytes && self.free.len() < POOL_BUFFERS_MAX {
            self.free.push(buf);
        }
    }
}
