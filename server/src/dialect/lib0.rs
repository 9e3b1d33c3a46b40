//! lib0's variable-length integers and byte strings, as far as frames use them.

/// Largest integer JavaScript holds exactly.
const SAFE_INTEGER_MAX: u64 = (1 << 53) - 1;

/// Takes a varUint off the front.
pub fn read_uint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    let mut shift = 0;
    loop {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return (value <= SAFE_INTEGER_MAX).then_some(value);
        }
        shift += 7;
        if shift > 49 {
            return None;
        }
    }
}

/// Takes a byte string (varUint length, bytes) off the front.
pub fn read_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(read_uint(bytes)?).ok()?;
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

/// Appends a varUint.
pub fn write_uint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Bytes that [`write_uint`] takes.
pub fn uint_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_round_trip() {
        for value in [
            0,
            1,
            127,
            128,
            16383,
            16384,
            u64::from(u32::MAX),
            SAFE_INTEGER_MAX,
        ] {
            let mut out = Vec::new();
            write_uint(value, &mut out);
            assert_eq!(out.len(), uint_bytes(value), "{value}");
            assert_eq!(read_uint(&mut out.as_slice()), Some(value));
        }
    }

    #[test]
    fn what_is_refused() {
        assert_eq!(read_uint(&mut &[][..]), None);
        assert_eq!(read_uint(&mut &[0x80, 0x80][..]), None);
        assert_eq!(read_uint(&mut &[0xff; 12][..]), None, "endless");
        assert_eq!(
            read_uint(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f][..]),
            None,
            "above 2^53 - 1"
        );
        assert_eq!(read_bytes(&mut &[3, 1, 2][..]), None);
        assert_eq!(
            read_bytes(&mut &[0xff, 0xff, 0xff, 0xff, 0x7f, 1][..]),
            None
        );
    }
}
