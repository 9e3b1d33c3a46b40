//! A checked frame around the small files (the store file, manifest slots): magic, version, length
//! and CRC before the payload, zeros to the end of the last block after it. The frame itself never
//! changes; what the payload is depends on the version.

use collabblocks_wal::BLOCK_BYTES;

/// Bytes before the payload.
pub(crate) const HEADER_BYTES: usize = 32;

/// Why a frame cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum FrameError {
    /// It is whole, of a version that this program does not know.
    Newer(u32),
    /// It is not whole.
    Damaged(&'static str),
}

/// Puts a payload into a frame, a multiple of a block long.
pub(crate) fn seal(magic: [u8; 8], version: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("a framed file is small");
    let total = (HEADER_BYTES + payload.len()).next_multiple_of(BLOCK_BYTES);
    let mut out = Vec::with_capacity(total);
    out.extend_from_slice(&magic);
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&[0; 12]);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&out);
    crc.update(payload);
    out.extend_from_slice(&crc.finalize().to_le_bytes());
    out.extend_from_slice(payload);
    out.resize(total, 0);
    out
}

/// Takes the payload out of a frame.
pub(crate) fn unseal(magic: [u8; 8], version: u32, bytes: &[u8]) -> Result<&[u8], FrameError> {
    let Some((header, rest)) = bytes.split_at_checked(HEADER_BYTES) else {
        return Err(FrameError::Damaged("it is too short"));
    };
    if header[..8] != magic {
        return Err(FrameError::Damaged(
            "it does not begin with its magic number",
        ));
    }
    let field = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let (found, len, wanted) = (field(8), field(12) as usize, field(28));
    let Some((payload, padding)) = rest.split_at_checked(len) else {
        return Err(FrameError::Damaged("it is cut short"));
    };
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[..28]);
    crc.update(payload);
    if crc.finalize() != wanted {
        return Err(FrameError::Damaged("its checksum does not match"));
    }
    if found > version {
        return Err(FrameError::Newer(found));
    }
    if found < version {
        return Err(FrameError::Damaged("its version was never written"));
    }
    if padding.iter().any(|&b| b != 0) {
        return Err(FrameError::Damaged("bytes stand after its end"));
    }
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: [u8; 8] = *b"CBTEST01";

    #[test]
    fn what_was_sealed_is_read_again() {
        for len in [0, 1, BLOCK_BYTES - HEADER_BYTES, BLOCK_BYTES] {
            let payload = vec![7; len];
            let frame = seal(MAGIC, 3, &payload);
            assert_eq!(frame.len() % BLOCK_BYTES, 0);
            assert_eq!(unseal(MAGIC, 3, &frame), Ok(&payload[..]));
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let frame = seal(MAGIC, 3, b"what the payload is");
        for bit in 0..frame.len() * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(
                matches!(unseal(MAGIC, 3, &bad), Err(FrameError::Damaged(_))),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        assert_eq!(
            unseal(MAGIC, 3, &seal(MAGIC, 4, b"x")),
            Err(FrameError::Newer(4))
        );
        assert!(matches!(
            unseal(MAGIC, 3, &seal(MAGIC, 2, b"x")),
            Err(FrameError::Damaged(_))
        ));
        assert!(matches!(
            unseal(MAGIC, 3, &seal(*b"CBOTHER1", 3, b"x")),
            Err(FrameError::Damaged(_))
        ));
        assert!(matches!(unseal(MAGIC, 3, &[]), Err(FrameError::Damaged(_))));
    }
}
