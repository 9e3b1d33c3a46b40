//! A cursor over bytes from the wire. Nothing here allocates.

use super::Refusal;

/// The largest integer that a JavaScript peer reads.
pub(crate) const SAFE_INTEGER_MAX: u64 = (1 << 53) - 1;

/// The largest clock: yrs subtracts clocks as `i32`.
pub(crate) const CLOCK_MAX: u64 = i32::MAX as u64;

#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) at: usize,
}

#[cold]
pub(crate) fn malformed(reason: &'static str, detail: &'static str, at: usize) -> Refusal {
    Refusal::Malformed { reason, detail, at }
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    #[inline]
    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, Refusal> {
        match self.bytes.get(self.at) {
            Some(&byte) => {
                self.at += 1;
                Ok(byte)
            }
            None => Err(self.truncated()),
        }
    }

    #[cold]
    fn truncated(&self) -> Refusal {
        malformed("truncated", "the bytes end too early", self.at)
    }

    /// An unsigned LEB128 of at most 2^53 - 1.
    #[inline]
    pub(crate) fn var(&mut self) -> Result<u64, Refusal> {
        let first = self.u8()?;
        if first < 0x80 {
            return Ok(u64::from(first));
        }
        self.var_rest(first)
    }

    fn var_rest(&mut self, first: u8) -> Result<u64, Refusal> {
        let start = self.at - 1;
        let mut value = u64::from(first & 0x7f);
        let mut shift = 7;
        loop {
            let byte = self.u8()?;
            if shift > 49 {
                return Err(malformed(
                    "integer_range",
                    "an integer of more than eight bytes",
                    start,
                ));
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
            shift += 7;
        }
        if value > SAFE_INTEGER_MAX {
            return Err(malformed(
                "integer_range",
                "an integer above 2^53 - 1",
                start,
            ));
        }
        Ok(value)
    }

    /// A signed integer as lib0 writes it: sign in bit 6 of the first byte.
    pub(crate) fn skip_var_signed(&mut self) -> Result<(), Refusal> {
        let start = self.at;
        let mut byte = self.u8()?;
        let mut value = u64::from(byte & 0x3f);
        let mut shift = 6;
        while byte >= 0x80 {
            byte = self.u8()?;
            if shift > 48 {
                return Err(malformed(
                    "integer_range",
                    "a signed integer of more than eight bytes",
                    start,
                ));
            }
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
        }
        if value > SAFE_INTEGER_MAX {
            return Err(malformed(
                "integer_range",
                "a signed integer beyond 2^53 - 1",
                start,
            ));
        }
        Ok(())
    }

    /// A clock or a length in clocks.
    #[inline]
    pub(crate) fn clock(&mut self) -> Result<u32, Refusal> {
        let start = self.at;
        let value = self.var()?;
        if value > CLOCK_MAX {
            return Err(malformed("clock_range", "a clock above 2^31 - 1", start));
        }
        Ok(value as u32)
    }

    /// A count of items of which each takes at least `item_bytes_min` bytes.
    #[inline]
    pub(crate) fn count(&mut self, item_bytes_min: usize) -> Result<usize, Refusal> {
        let start = self.at;
        let value = self.var()?;
        if value > (self.remaining() / item_bytes_min) as u64 {
            return Err(malformed(
                "count_range",
                "a count of more items than bytes follow",
                start,
            ));
        }
        Ok(value as usize)
    }

    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Refusal> {
        if len > self.remaining() {
            return Err(self.truncated());
        }
        let taken = &self.bytes[self.at..self.at + len];
        self.at += len;
        Ok(taken)
    }

    /// Bytes with their length before them.
    #[inline]
    pub(crate) fn buffer(&mut self) -> Result<&'a [u8], Refusal> {
        let len = self.count(1)?;
        self.take(len)
    }

    /// UTF-8 with its length in bytes before it.
    #[inline]
    pub(crate) fn string(&mut self) -> Result<&'a str, Refusal> {
        let bytes = self.buffer()?;
        let start = self.at - bytes.len();
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text),
            Err(error) => Err(malformed(
                "utf8",
                "a string that is not UTF-8",
                start + error.valid_up_to(),
            )),
        }
    }
}
