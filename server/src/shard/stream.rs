//! A large answer on its way in slices, so that no turn is held by it and the socket's pace, not
//! memory, bounds it. Many joiners of the same state share the slices, on whatever core they are.

use std::sync::Arc;

/// Slices of whole frames, and how far one connection has come in them.
#[derive(Clone, Debug)]
pub struct Stream {
    slices: Arc<[Box<[u8]>]>,
    next: usize,
}

impl Stream {
    /// From the first slice on.
    pub fn new(slices: Arc<[Box<[u8]>]>) -> Self {
        Self { slices, next: 0 }
    }

    /// The next slice; `None` at the end.
    pub fn next_slice(&mut self) -> Option<&[u8]> {
        let slice = self.slices.get(self.next)?;
        self.next += 1;
        Some(slice)
    }

    /// Whether nothing is left.
    pub fn is_done(&self) -> bool {
        self.next >= self.slices.len()
    }
}
