//! The bytes on disk, as `docs/formats/wal.md` has them: encoding and decoding of the segment
//! header, the batch header and the record. Little-endian throughout.

use crate::{BLOCK_BYTES, Identity, Lsn, Record, RecordKind, RoomKey, SegmentId};
use crc32fast::Hasher;

/// The format version written into segment and batch headers.
pub(crate) const FORMAT_VERSION: u16 = 1;
/// Bytes of a batch header.
pub(crate) const BATCH_HEADER_BYTES: usize = 128;
/// Bytes of a record before its payload.
pub(crate) const RECORD_HEADER_BYTES: usize = 28;
/// The first batch of a segment begins here; the block before it is the segment header's.
pub(crate) const SEGMENT_HEADER_BYTES: u64 = BLOCK_BYTES as u64;

const SEGMENT_MAGIC: [u8; 8] = *b"CBLKSEG\n";
const BATCH_MAGIC: [u8; 4] = *b"CBB\n";

/// Why a header was not understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HeaderFault {
    /// Nothing but zero bytes.
    Zero,
    /// Not a header, or a damaged one.
    Bad(&'static str),
    /// Intact, of a version this program does not know.
    Newer {
        version: u16,
        /// The salt, whose place is the same in every version.
        salt: u64,
    },
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // Compared in blocks: fast in every build, and recovery does it for whole segments.
    const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
    bytes
        .chunks(BLOCK_BYTES)
        .all(|chunk| *chunk == ZEROS[..chunk.len()])
}

/// The first block of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SegmentHeader {
    pub(crate) identity: Identity,
    pub(crate) segment: SegmentId,
    pub(crate) segment_bytes: u64,
    pub(crate) salt: u64,
}

impl SegmentHeader {
    /// Fills a whole block.
    pub(crate) fn encode(&self, block: &mut [u8]) {
        assert_eq!(block.len(), BLOCK_BYTES);
        block.fill(0);
        put(block, 0, SEGMENT_MAGIC);
        put(block, 12, FORMAT_VERSION.to_le_bytes());
        put(block, 14, self.identity.shard.to_le_bytes());
        put(block, 16, self.salt.to_le_bytes());
        put(block, 24, self.identity.store);
        put(block, 40, self.segment.0.to_le_bytes());
        put(
            block,
            48,
            (self.segment.0 * self.segment_bytes).to_le_bytes(),
        );
        put(block, 56, self.segment_bytes.to_le_bytes());
        // 64..80: cipher and key id, zero while nothing is encrypted.
        let crc = crc32fast::hash(&block[12..]);
        put(block, 8, crc.to_le_bytes());
    }

    /// Reads a whole block.
    pub(crate) fn decode(block: &[u8]) -> Result<Self, HeaderFault> {
        assert_eq!(block.len(), BLOCK_BYTES);
        if is_zero(block) {
            return Err(HeaderFault::Zero);
        }
        if block[..8] != SEGMENT_MAGIC {
            return Err(HeaderFault::Bad("not a segment header"));
        }
        if u32_at(block, 8) != crc32fast::hash(&block[12..]) {
            return Err(HeaderFault::Bad(
                "the segment header's checksum does not fit",
            ));
        }
        let (version, salt) = (u16_at(block, 12), u64_at(block, 16));
        if version != FORMAT_VERSION || !is_zero(&block[64..]) {
            // The bytes after the known fields are part of the version: a cipher is such a change.
            return Err(HeaderFault::Newer { version, salt });
        }
        let header = Self {
            identity: Identity {
                store: block[24..40].try_into().expect("sixteen bytes"),
                shard: u16_at(block, 14),
            },
            segment: SegmentId(u64_at(block, 40)),
            segment_bytes: u64_at(block, 56),
            salt,
        };
        if header.segment.0.checked_mul(header.segment_bytes) != Some(u64_at(block, 48)) {
            return Err(HeaderFault::Bad(
                "the segment header's start does not fit its number",
            ));
        }
        Ok(header)
    }
}

/// The first bytes of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BatchHeader {
    pub(crate) salt: u64,
    pub(crate) lsn: Lsn,
    pub(crate) segment: SegmentId,
    pub(crate) epoch: u64,
    pub(crate) durable_lsn: Lsn,
    /// Bytes of records after the header, without padding.
    pub(crate) payload_bytes: u32,
    pub(crate) records: u32,
    /// The checksum of the batch before this one.
    pub(crate) previous: u32,
    pub(crate) payload_crc: u32,
}

impl BatchHeader {
    /// Fills the header's bytes and returns its checksum, which the next batch carries.
    pub(crate) fn encode(&self, bytes: &mut [u8]) -> u32 {
        assert_eq!(bytes.len(), BATCH_HEADER_BYTES);
        bytes.fill(0);
        put(bytes, 0, BATCH_MAGIC);
        put(bytes, 8, FORMAT_VERSION.to_le_bytes());
        put(bytes, 16, self.salt.to_le_bytes());
        put(bytes, 24, self.lsn.0.to_le_bytes());
        put(bytes, 32, self.segment.0.to_le_bytes());
        put(bytes, 40, self.epoch.to_le_bytes());
        put(bytes, 48, self.durable_lsn.0.to_le_bytes());
        put(bytes, 56, self.payload_bytes.to_le_bytes());
        put(bytes, 60, self.records.to_le_bytes());
        put(bytes, 64, self.previous.to_le_bytes());
        put(bytes, 68, self.payload_crc.to_le_bytes());
        let crc = crc32fast::hash(&bytes[8..]);
        put(bytes, 4, crc.to_le_bytes());
        crc
    }

    /// Reads the header at the beginning of `block`, and its checksum. Says nothing about whether
    /// it belongs where it stands.
    pub(crate) fn decode(block: &[u8]) -> Result<(Self, u32), HeaderFault> {
        let bytes = &block[..BATCH_HEADER_BYTES];
        if bytes[..4] != BATCH_MAGIC {
            return Err(if is_zero(&block[..BLOCK_BYTES]) {
                HeaderFault::Zero
            } else {
                HeaderFault::Bad("not a batch header")
            });
        }
        let crc = u32_at(bytes, 4);
        if crc != crc32fast::hash(&bytes[8..]) {
            return Err(HeaderFault::Bad("the batch header's checksum does not fit"));
        }
        let (version, salt) = (u16_at(bytes, 8), u64_at(bytes, 16));
        if version != FORMAT_VERSION || !is_zero(&bytes[10..16]) || !is_zero(&bytes[72..]) {
            return Err(HeaderFault::Newer { version, salt });
        }
        let header = Self {
            salt,
            lsn: Lsn(u64_at(bytes, 24)),
            segment: SegmentId(u64_at(bytes, 32)),
            epoch: u64_at(bytes, 40),
            durable_lsn: Lsn(u64_at(bytes, 48)),
            payload_bytes: u32_at(bytes, 56),
            records: u32_at(bytes, 60),
            previous: u32_at(bytes, 64),
            payload_crc: u32_at(bytes, 68),
        };
        Ok((header, crc))
    }

    /// Whether `block` begins as every batch does: most blocks that are searched do not.
    pub(crate) fn may_begin(block: &[u8]) -> bool {
        block[..BATCH_MAGIC.len()] == BATCH_MAGIC
    }

    /// Bytes of the whole batch on disk, padding included.
    pub(crate) fn batch_bytes(&self) -> u64 {
        padded(BATCH_HEADER_BYTES + self.payload_bytes as usize) as u64
    }
}

/// Rounds up to whole blocks.
pub(crate) fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(BLOCK_BYTES)
}

/// The checksum over a batch's records.
pub(crate) fn payload_crc(salt: u64, payload: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// A record's bytes before its payload. The checksum includes the address, so that a record which
/// was copied elsewhere does not pass.
pub(crate) fn record_header(
    lsn: Lsn,
    kind: RecordKind,
    room: RoomKey,
    room_seq: u64,
    payload: &[&[u8]],
) -> [u8; RECORD_HEADER_BYTES] {
    let bytes: usize = payload.iter().map(|part| part.len()).sum();
    let mut header = header_without_crc(kind, room, room_seq, bytes);
    let crc = record_crc(lsn, &header[4..], payload);
    put(&mut header, 0, crc.to_le_bytes());
    header
}

/// The same, of a payload whose checksum is known.
pub(crate) fn staged_header(
    lsn: Lsn,
    kind: RecordKind,
    room: RoomKey,
    room_seq: u64,
    bytes: usize,
    payload: &Hasher,
) -> [u8; RECORD_HEADER_BYTES] {
    let mut header = header_without_crc(kind, room, room_seq, bytes);
    let mut crc = Hasher::new();
    crc.update(&lsn.0.to_le_bytes());
    crc.update(&header[4..]);
    crc.combine(payload);
    put(&mut header, 0, crc.finalize().to_le_bytes());
    header
}

/// As [`payload_crc`], of a record's header, its payload, whose checksum is known, and what comes after.
pub(crate) fn staged_payload_crc(salt: u64, header: &[u8], payload: &Hasher, after: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(header);
    hasher.combine(payload);
    hasher.update(after);
    hasher.finalize()
}

fn header_without_crc(
    kind: RecordKind,
    room: RoomKey,
    room_seq: u64,
    bytes: usize,
) -> [u8; RECORD_HEADER_BYTES] {
    let mut header = [0; RECORD_HEADER_BYTES];
    let len = u32::try_from(bytes).expect("a record fits a segment, a segment's size fits 32 bits");
    put(&mut header, 4, len.to_le_bytes());
    header[8] = kind as u8;
    put(&mut header, 12, room.0.to_le_bytes());
    put(&mut header, 20, room_seq.to_le_bytes());
    header
}

fn record_crc(lsn: Lsn, header: &[u8], payload: &[&[u8]]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&lsn.0.to_le_bytes());
    hasher.update(header);
    for part in payload {
        hasher.update(part);
    }
    hasher.finalize()
}

/// A record as it stands on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RawRecord<'a> {
    pub(crate) lsn: Lsn,
    pub(crate) kind: RecordKind,
    pub(crate) room: RoomKey,
    pub(crate) room_seq: u64,
    pub(crate) payload: &'a [u8],
}

impl<'a> RawRecord<'a> {
    /// As it is handed out.
    pub(crate) fn known_durable_at(self, durable_at: Lsn) -> Record<'a> {
        Record {
            lsn: self.lsn,
            durable_at,
            kind: self.kind,
            room: self.room,
            room_seq: self.room_seq,
            payload: self.payload,
        }
    }
}

/// Why a record was not understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RecordFault {
    /// Damaged, or never a record.
    Bad(&'static str),
    /// Intact, of a kind this program does not know.
    Newer { kind: u8 },
}

/// The records of a batch, in order. After a fault there is no next.
#[derive(Debug)]
pub(crate) struct Records<'a> {
    lsn: Lsn,
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// `payload` begins at address `lsn`.
    pub(crate) fn new(lsn: Lsn, payload: &'a [u8]) -> Self {
        Self { lsn, rest: payload }
    }

    /// Where the next record begins.
    pub(crate) fn lsn(&self) -> Lsn {
        self.lsn
    }

    fn take(&mut self) -> Result<RawRecord<'a>, RecordFault> {
        let rest = self.rest;
        if rest.len() < RECORD_HEADER_BYTES {
            return Err(RecordFault::Bad("a record's header is cut off"));
        }
        let (header, rest) = rest.split_at(RECORD_HEADER_BYTES);
        let len = u32_at(header, 4) as usize;
        if len > rest.len() {
            return Err(RecordFault::Bad("a record is longer than its batch"));
        }
        let (payload, rest) = rest.split_at(len);
        if u32_at(header, 0) != record_crc(self.lsn, &header[4..], &[payload]) {
            return Err(RecordFault::Bad("a record's checksum does not fit"));
        }
        let kind = match RecordKind::from_byte(header[8]) {
            Some(kind) if is_zero(&header[9..12]) => kind,
            _ => return Err(RecordFault::Newer { kind: header[8] }),
        };
        let record = RawRecord {
            lsn: self.lsn,
            kind,
            room: RoomKey(u64_at(header, 12)),
            room_seq: u64_at(header, 20),
            payload,
        };
        self.lsn.0 += (RECORD_HEADER_BYTES + len) as u64;
        self.rest = rest;
        Ok(record)
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RawRecord<'a>, RecordFault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let record = self.take();
        if record.is_err() {
            self.rest = &[];
        }
        Some(record)
    }
}

#[cfg(test)]
mod tests;
