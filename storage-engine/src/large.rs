//! A large update, in the buffer in which it came.

use std::ops::Deref;

/// A large update that is handed on without being copied. What stands before it in its buffer is the
/// business of whoever handed it in.
#[derive(Debug, PartialEq, Eq)]
pub struct LargeUpdate {
    bytes: Vec<u8>,
    start: usize,
}

impl LargeUpdate {
    /// The update is what `bytes` holds from `start` on.
    pub fn new(bytes: Vec<u8>, start: usize) -> Self {
        assert!(start <= bytes.len(), "an update lies in its buffer");
        Self { bytes, start }
    }

    /// Gives back memory that its buffer does not need.
    pub fn shrink_to_fit(&mut self) {
        self.bytes.shrink_to_fit();
    }

    /// Bytes of memory that it takes.
    pub fn memory_bytes(&self) -> usize {
        self.bytes.capacity()
    }
}

impl Deref for LargeUpdate {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl From<Vec<u8>> for LargeUpdate {
    fn from(update: Vec<u8>) -> Self {
        Self::new(update, 0)
    }
}

impl From<&[u8]> for LargeUpdate {
    fn from(update: &[u8]) -> Self {
        update.to_vec().into()
    }
}
