//! The bytes of a snapshot segment: one header block, then batches of entries, each batch padded
//! with zeros to whole blocks.

use crate::frame::{self, FrameError};
use crate::paths::ShardDir;
use collabblocks_wal::{BLOCK_BYTES, Lsn, RoomKey};

const SEGMENT_MAGIC: [u8; 8] = *b"CBSNAPSG";
const SEGMENT_VERSION: u32 = 1;
const ENTRY_MAGIC: u32 = u32::from_le_bytes(*b"CBsn");
const ENTRY_VERSION: u16 = 1;

/// Bytes of an entry before its room's name.
pub(crate) const ENTRY_HEADER_BYTES: usize = 64;
/// Entries begin at multiples of this.
pub(crate) const ENTRY_ALIGN: usize = 8;
/// A body is never larger: what a header says beyond that is not believed.
pub(crate) const RAW_BYTES_MAX: u32 = 1 << 30;

/// The first block of a segment, which says whose it is.
pub(crate) fn segment_header(dir: &ShardDir, id: u32) -> Vec<u8> {
    let mut payload = Vec::with_capacity(22);
    payload.extend_from_slice(&dir.identity.store);
    payload.extend_from_slice(&dir.identity.shard.to_le_bytes());
    payload.extend_from_slice(&id.to_le_bytes());
    frame::seal(SEGMENT_MAGIC, SEGMENT_VERSION, &payload)
}

/// Checks a segment's first block.
pub(crate) fn check_segment_header(
    dir: &ShardDir,
    id: u32,
    block: &[u8],
) -> Result<(), FrameError> {
    frame::unseal(SEGMENT_MAGIC, SEGMENT_VERSION, block)?;
    if block != segment_header(dir, id) {
        return Err(FrameError::Damaged(
            "it belongs to another store, shard or segment",
        ));
    }
    Ok(())
}

/// What stands before an entry's name and payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct EntryHeader {
    pub(crate) key: RoomKey,
    pub(crate) seq: u64,
    pub(crate) covers: Lsn,
    /// Compressed.
    pub(crate) payload_bytes: u32,
    /// Uncompressed.
    pub(crate) raw_bytes: u32,
    pub(crate) payload_crc: u32,
    pub(crate) name_bytes: u16,
    /// Where it stands in its segment's file: it names its own place.
    pub(crate) offset: u64,
}

impl EntryHeader {
    /// Bytes of the entry: header, name and payload.
    pub(crate) fn entry_bytes(&self) -> u64 {
        ENTRY_HEADER_BYTES as u64 + u64::from(self.name_bytes) + u64::from(self.payload_bytes)
    }

    /// The header's bytes; its checksum covers `name` and the segment's identity too.
    pub(crate) fn encode(
        &self,
        dir: &ShardDir,
        segment: u32,
        name: &str,
    ) -> [u8; ENTRY_HEADER_BYTES] {
        assert_eq!(
            usize::from(self.name_bytes),
            name.len(),
            "the header is this room's"
        );
        let mut out = [0; ENTRY_HEADER_BYTES];
        out[0..4].copy_from_slice(&ENTRY_MAGIC.to_le_bytes());
        out[4..6].copy_from_slice(&ENTRY_VERSION.to_le_bytes());
        out[6..8].copy_from_slice(&self.name_bytes.to_le_bytes());
        out[12..16].copy_from_slice(&self.payload_crc.to_le_bytes());
        out[16..24].copy_from_slice(&self.key.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.seq.to_le_bytes());
        out[32..40].copy_from_slice(&self.covers.0.to_le_bytes());
        out[40..44].copy_from_slice(&self.payload_bytes.to_le_bytes());
        out[44..48].copy_from_slice(&self.raw_bytes.to_le_bytes());
        out[48..56].copy_from_slice(&self.offset.to_le_bytes());
        let crc = header_crc(dir, segment, &out, name.as_bytes());
        out[8..12].copy_from_slice(&crc.to_le_bytes());
        out
    }
}

fn header_crc(dir: &ShardDir, segment: u32, header: &[u8; ENTRY_HEADER_BYTES], name: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&dir.identity.store);
    crc.update(&dir.identity.shard.to_le_bytes());
    crc.update(&segment.to_le_bytes());
    crc.update(&header[..8]);
    crc.update(&header[12..]);
    crc.update(name);
    crc.finalize()
}

/// What stands where an entry may begin.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Found<'a> {
    /// An entry of this room.
    Entry(EntryHeader, &'a str),
    /// Zeros: the rest of the block is padding.
    Padding,
}

/// Why an entry's header cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum EntryError {
    Newer(u16),
    Damaged(&'static str),
}

/// Reads an entry's header and name. `bytes` begin where the entry does, at `offset` of the file.
pub(crate) fn decode_entry<'a>(
    dir: &ShardDir,
    segment: u32,
    offset: u64,
    bytes: &'a [u8],
) -> Result<Found<'a>, EntryError> {
    if bytes.len() < ENTRY_ALIGN || bytes[..4] == [0; 4] {
        let block_end = bytes
            .len()
            .min(BLOCK_BYTES - (offset % BLOCK_BYTES as u64) as usize);
        return match bytes[..block_end].iter().all(|&b| b == 0) {
            true => Ok(Found::Padding),
            false => Err(EntryError::Damaged(
                "the padding after the last entry is not zero",
            )),
        };
    }
    let header: &[u8; ENTRY_HEADER_BYTES] = bytes
        .first_chunk()
        .ok_or(EntryError::Damaged("an entry's header is cut short"))?;
    let u16_at = |at: usize| u16::from_le_bytes(header[at..at + 2].try_into().expect("two bytes"));
    let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let u64_at =
        |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    if u32_at(0) != ENTRY_MAGIC {
        return Err(EntryError::Damaged(
            "an entry does not begin with its magic number",
        ));
    }
    let name_bytes = u16_at(6);
    let name = bytes[ENTRY_HEADER_BYTES..]
        .get(..usize::from(name_bytes))
        .ok_or(EntryError::Damaged("an entry's name is cut short"))?;
    if header_crc(dir, segment, header, name) != u32_at(8) {
        return Err(EntryError::Damaged(
            "an entry's header does not match its checksum",
        ));
    }
    if u16_at(4) != ENTRY_VERSION {
        return Err(EntryError::Newer(u16_at(4)));
    }
    let found = EntryHeader {
        key: RoomKey(u64_at(16)),
        seq: u64_at(24),
        covers: Lsn(u64_at(32)),
        payload_bytes: u32_at(40),
        raw_bytes: u32_at(44),
        payload_crc: u32_at(12),
        name_bytes,
        offset: u64_at(48),
    };
    if found.offset != offset {
        return Err(EntryError::Damaged(
            "an entry was written to another place than it names",
        ));
    }
    if found.raw_bytes > RAW_BYTES_MAX {
        return Err(EntryError::Damaged(
            "an entry claims to be larger than any may be",
        ));
    }
    let name =
        str::from_utf8(name).map_err(|_| EntryError::Damaged("a room's name is not UTF-8"))?;
    Ok(Found::Entry(found, name))
}

/// What an entry's payload holds, before compression.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Body {
    /// The document's state vector, encoded.
    pub(crate) state_vector: Vec<u8>,
    /// The document's full state, update v1.
    pub(crate) state: Vec<u8>,
}

impl Body {
    /// Archived and compressed: `(raw bytes, payload)`.
    pub(crate) fn encode(&self) -> Result<(u32, Vec<u8>), String> {
        let raw = rkyv::to_bytes::<rkyv::rancor::Error>(self)
            .map_err(|e| format!("it cannot be archived: {e}"))?;
        let raw_bytes = u32::try_from(raw.len())
            .ok()
            .filter(|&len| len <= RAW_BYTES_MAX);
        let raw_bytes = raw_bytes.ok_or("it is larger than a snapshot may be")?;
        let payload =
            zstd::bulk::compress(&raw, 3).map_err(|e| format!("it cannot be compressed: {e}"))?;
        Ok((raw_bytes, payload))
    }

    /// The reverse of `encode`.
    pub(crate) fn decode(raw_bytes: u32, payload: &[u8]) -> Result<Self, String> {
        let mut raw = rkyv::util::AlignedVec::<16>::new();
        raw.resize(raw_bytes as usize, 0);
        let got = zstd::bulk::decompress_to_buffer(payload, &mut raw[..])
            .map_err(|e| format!("it cannot be decompressed: {e}"))?;
        if got != raw_bytes as usize {
            return Err(format!("it holds {got} bytes instead of {raw_bytes}"));
        }
        rkyv::from_bytes::<Self, rkyv::rancor::Error>(&raw)
            .map_err(|e| format!("its content does not validate: {e}"))
    }
}
