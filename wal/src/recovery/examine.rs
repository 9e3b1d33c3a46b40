//! What stands at one position of a segment.

use super::{Block, Facts};
use crate::format::{BATCH_HEADER_BYTES, BatchHeader, HeaderFault, is_zero, payload_crc};
use crate::{Lsn, SegmentId};

/// A position of the log, examined.
#[derive(Debug)]
pub(crate) enum Examined {
    Zero,
    Unreadable(&'static str),
    Newer {
        own_salt: bool,
    },
    Batch {
        header: BatchHeader,
        checksum: u32,
        own_salt: bool,
        in_place: bool,
        chained: bool,
        payload: bool,
    },
}

/// Examines what stands at `offset`, address `at`, of a segment's `bytes`.
pub(crate) fn examine(
    bytes: &[u8],
    offset: usize,
    salt: u64,
    at: Lsn,
    previous: Option<u32>,
) -> Examined {
    let rest = &bytes[offset..];
    if rest.is_empty() {
        return Examined::Zero;
    }
    match BatchHeader::decode(rest) {
        Err(HeaderFault::Zero) => Examined::Zero,
        Err(HeaderFault::Bad(what)) => Examined::Unreadable(what),
        Err(HeaderFault::Newer { salt: found, .. }) => Examined::Newer {
            own_salt: found == salt,
        },
        Ok((header, checksum)) => Examined::Batch {
            header,
            checksum,
            own_salt: header.salt == salt,
            in_place: header.lsn == at,
            chained: previous.is_none_or(|previous| previous == header.previous),
            payload: payload_fits(&header, rest),
        },
    }
}

/// Whether bounds, checksum and padding of the batch at the beginning of `rest` are right.
pub(crate) fn payload_fits(header: &BatchHeader, rest: &[u8]) -> bool {
    let end = BATCH_HEADER_BYTES + header.payload_bytes as usize;
    if header.records == 0 || header.batch_bytes() > rest.len() as u64 {
        return false;
    }
    payload_crc(header.salt, &rest[BATCH_HEADER_BYTES..end]) == header.payload_crc
        && is_zero(&rest[end..header.batch_bytes() as usize])
}

/// A batch header at the beginning of `block` that was written since the file became `segment`:
/// `Err` if its version is unknown. Where the segment's salt cannot be read, the place decides.
pub(crate) fn own_header(
    block: &[u8],
    salt: Option<u64>,
    segment: SegmentId,
    at: Lsn,
) -> Option<Result<BatchHeader, u16>> {
    match BatchHeader::decode(block) {
        Ok((header, _)) => {
            let own = match salt {
                Some(salt) => header.salt == salt,
                None => header.segment == segment && header.lsn == at,
            };
            own.then_some(Ok(header))
        }
        Err(HeaderFault::Newer {
            version,
            salt: found,
        }) => (salt == Some(found)).then_some(Err(version)),
        Err(HeaderFault::Zero | HeaderFault::Bad(_)) => None,
    }
}

impl Examined {
    /// For the table; `continued` and `vouched` are not known here.
    pub(crate) fn facts(&self) -> Facts {
        let facts = |block, own_salt, in_place, chained, payload| Facts {
            block,
            own_salt,
            in_place,
            chained,
            payload,
            continued: false,
            vouched: false,
        };
        match *self {
            Self::Zero => facts(Block::Zero, false, false, false, false),
            Self::Unreadable(_) => facts(Block::Unreadable, false, false, false, false),
            Self::Newer { own_salt } => facts(Block::NewerHeader, own_salt, false, false, false),
            Self::Batch {
                own_salt,
                in_place,
                chained,
                payload,
                ..
            } => facts(Block::Header, own_salt, in_place, chained, payload),
        }
    }

    /// What is wrong with it, if it is to be replayed and cannot.
    pub(crate) fn what(&self) -> &'static str {
        match *self {
            Self::Zero => {
                "a batch is gone here or at the beginning of the next segment (zero bytes stand here)"
            }
            Self::Unreadable(what) => what,
            Self::Newer { .. } => "a batch is of an unknown version",
            Self::Batch {
                own_salt: false, ..
            } => {
                "a batch is gone here or at the beginning of the next segment (what stands here was written long before)"
            }
            Self::Batch {
                in_place: false, ..
            } => "a batch stands where it was not written to",
            Self::Batch { chained: false, .. } => {
                "a batch was written after another one than stands before it"
            }
            Self::Batch { .. } => "the batch's checksum, bounds or padding do not fit",
        }
    }
}
