//! The buffers that the kernel receives into, shared by all connections of a core.
#![allow(unsafe_code)] // The kernel takes buffers from, and this core puts them back to, shared memory.

use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// The group that receives name.
pub(super) const GROUP: u16 = 0;
/// Bytes of a buffer.
pub(super) const BUFFER_BYTES: usize = 16384;
/// Distance between buffers: not a multiple of the page, or all their beginnings would share the
/// same few cache sets.
const STRIDE: usize = BUFFER_BYTES + 64;
/// Buffers of a core, a power of two: 4 MiB. When all are taken, receives end with ENOBUFS and are
/// started again after the turn, which gives all back.
const COUNT: u16 = 256;
const RING_BYTES: usize = COUNT as usize * size_of::<BufRingEntry>();
const MAP_BYTES: usize = RING_BYTES + COUNT as usize * STRIDE;

/// A provided buffer ring and its buffers, in one mapping: first the ring, as it must be page
/// aligned, then the buffers.
pub(super) struct Buffers {
    map: NonNull<u8>,
    tail: u16,
}

impl Buffers {
    /// Makes the buffers; [`Buffers::register`] gives them to a ring.
    pub fn new() -> io::Result<Self> {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a fresh mapping of no file at no given address affects no memory in use.
        let map = unsafe { mmap_anonymous(std::ptr::null_mut(), MAP_BYTES, protection, flags) }?;
        Ok(Self {
            map: NonNull::new(map.cast()).expect("a mapping is never at zero"),
            tail: 0,
        })
    }

    /// Gives all buffers to a ring. The ring must be quiet, and [`Buffers::unregister`] called,
    /// before this is dropped.
    pub fn register(&mut self, submitter: &Submitter<'_>) -> io::Result<()> {
        let ring = self.map.as_ptr() as u64;
        // SAFETY: the mapping is page aligned, large enough for COUNT entries, and lives until after
        // `unregister`.
        unsafe { submitter.register_buf_ring_with_flags(ring, COUNT, GROUP, 0) }?;
        for buffer in 0..COUNT {
            self.put_back(buffer);
        }
        Ok(())
    }

    pub fn unregister(&mut self, submitter: &Submitter<'_>) -> io::Result<()> {
        submitter.unregister_buf_ring(GROUP)
    }

    fn start_of(&self, buffer: u16) -> NonNull<u8> {
        assert!(
            buffer < COUNT,
            "the kernel named a buffer that it was not given"
        );
        // SAFETY: inside the mapping, as `buffer < COUNT`.
        unsafe { self.map.add(RING_BYTES + usize::from(buffer) * STRIDE) }
    }

    /// The filled part of a buffer that the kernel handed over in a completion, and that was not put
    /// back since.
    pub fn filled(&mut self, buffer: u16, len: usize) -> &mut [u8] {
        assert!(
            len <= BUFFER_BYTES,
            "the kernel filled more than a buffer holds"
        );
        // SAFETY: the buffer is ours until it is put back, which needs `&mut self` too; it is inside
        // the mapping, and the mapping was zeroed by the kernel, so all bytes are initialised.
        unsafe { std::slice::from_raw_parts_mut(self.start_of(buffer).as_ptr(), len) }
    }

    /// Gives a buffer back to the kernel.
    pub fn put_back(&mut self, buffer: u16) {
        let start = self.start_of(buffer).as_ptr() as u64;
        let ring = self.map.as_ptr().cast::<BufRingEntry>();
        // SAFETY: the masked index is inside the ring. The entry is not read by the kernel before the
        // tail moves past it: at most COUNT buffers are ever out. Only address, length and id are
        // written: the first entry's remaining field is the tail.
        let entry = unsafe { &mut *ring.add(usize::from(self.tail & (COUNT - 1))) };
        entry.set_addr(start);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies in the mapping, is aligned to two bytes, and is written by this
        // thread only; the kernel reads it, hence the atomic with release order.
        unsafe {
            let tail = BufRingEntry::tail(ring).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing points into it: slices borrow `self`, and the owner
        // quiets the ring before.
        if let Err(error) = unsafe { munmap(self.map.as_ptr().cast(), MAP_BYTES) } {
            tracing::error!(%error, "the receive buffers could not be unmapped");
        }
    }
}
