//! Writes whose end nobody waits for, by the kernel's older asynchronous interface: its completions
//! are found in shared memory without a call, and changing between it and the ring costs nothing,
//! where the kernel looks a second ring up anew with each change.
#![allow(unsafe_code)] // System calls without a wrapper; the kernel reads what is written and fills a shared ring.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// `aio_context_t`: the address of the shared ring.
type Context = libc::c_ulong;

const PWRITE: u16 = 1;
/// What the head of a ring holds that may be read from user space.
const MAGIC: u32 = 0xa10a_10a1;
/// How long a write may take at the end before the process is aborted, which keeps its memory.
const QUIESCE_MS_MAX: u32 = 300_000;

/// `struct iocb`.
#[repr(C)]
#[derive(Default)]
struct Control {
    data: u64,
    #[cfg(target_endian = "little")]
    key: u32,
    rw_flags: u32,
    #[cfg(target_endian = "big")]
    key: u32,
    opcode: u16,
    priority: i16,
    file: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event_file: u32,
}

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ended {
    data: u64,
    control: u64,
    result: i64,
    result2: i64,
}

/// `struct aio_ring`, which its entries follow.
#[repr(C)]
struct Head {
    id: u32,
    entries: u32,
    head: AtomicU32,
    tail: AtomicU32,
    magic: u32,
    compatible: u32,
    incompatible: u32,
    bytes: u32,
}

/// One write at a time. Made, used and dropped on its core's thread.
pub(super) struct Aio {
    context: Context,
    head: NonNull<Head>,
    under_way: bool,
}

impl Aio {
    /// `None` where the kernel has no such interface, or not for us.
    pub fn new() -> Option<Self> {
        let mut context: Context = 0;
        // SAFETY: the kernel writes one context to where it is told.
        let made = unsafe { libc::syscall(libc::SYS_io_setup, 1, &raw mut context) };
        let head = NonNull::new(context as *mut Head).filter(|_| made == 0)?;
        let aio = Self {
            context,
            head,
            under_way: false,
        };
        let head = aio.head();
        let known = head.magic == MAGIC
            && head.incompatible == 0
            && head.bytes as usize == size_of::<Head>()
            && head.entries > 1;
        known.then_some(aio)
    }

    fn head(&self) -> &Head {
        // SAFETY: the context is the address of the ring, which stays mapped until the context is
        // destroyed; what the kernel changes in it are atomics.
        unsafe { self.head.as_ref() }
    }

    /// Starts a write that is durable when it ends, or fails without having begun it. Where it would
    /// have to wait it ends with EAGAIN.
    ///
    /// # Safety
    /// The bytes and the file stay as they are until [`Aio::take`] has told of the end.
    pub unsafe fn write(&mut self, file: BorrowedFd<'_>, bytes: &[u8], at: u64) -> io::Result<()> {
        assert!(!self.under_way, "one write is under way at a time");
        let mut control = Control {
            rw_flags: (libc::RWF_DSYNC | libc::RWF_NOWAIT) as u32,
            opcode: PWRITE,
            file: file.as_raw_fd() as u32,
            buffer: bytes.as_ptr() as u64,
            bytes: bytes.len() as u64,
            offset: i64::try_from(at).map_err(io::Error::other)?,
            ..Control::default()
        };
        let mut list = [&raw mut control];
        // SAFETY: the list and the control block are read (and the latter's key written) during the
        // call only; the caller keeps the bytes.
        let taken =
            unsafe { libc::syscall(libc::SYS_io_submit, self.context, 1, list.as_mut_ptr()) };
        match taken {
            1 => {
                self.under_way = true;
                Ok(())
            }
            -1 => Err(io::Error::last_os_error()),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// How the write under way ended, if it did.
    pub fn take(&mut self) -> Option<io::Result<usize>> {
        if !self.under_way {
            return None;
        }
        let head = self.head();
        let at = head.head.load(Ordering::Relaxed);
        if at == head.tail.load(Ordering::Acquire) {
            return None;
        }
        assert!(at < head.entries, "the kernel keeps to its ring");
        // SAFETY: entries follow the head, and this one was filled before the tail moved past it.
        let ended = unsafe { self.head.add(1).cast::<Ended>().add(at as usize).read() };
        head.head.store((at + 1) % head.entries, Ordering::Release);
        self.under_way = false;
        let error = || io::Error::from_raw_os_error(-ended.result as i32);
        Some(usize::try_from(ended.result).map_err(|_| error()))
    }

    /// Waits for the end of what is under way, so that memory it uses may be freed.
    pub fn quiesce(&mut self) {
        for _ in 0..QUIESCE_MS_MAX {
            if !self.under_way || self.take().is_some() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        tracing::error!("a write of the log did not end; aborting");
        std::process::abort();
    }
}

impl Drop for Aio {
    fn drop(&mut self) {
        self.quiesce();
        // SAFETY: the context is ours and used by nobody after this.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn end(aio: &mut Aio) -> io::Result<usize> {
        loop {
            if let Some(ended) = aio.take() {
                return ended;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn writes_end_one_after_the_other_for_longer_than_the_ring_is() {
        let Some(mut aio) = Aio::new() else {
            return;
        };
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        assert!(aio.take().is_none());
        for at in 0..1000u64 {
            let bytes = [at as u8; 8];
            // SAFETY: both outlive the write's end, below.
            let started = unsafe { aio.write(file.as_fd(), &bytes, at * 8) };
            started.unwrap();
            match end(&mut aio) {
                Ok(written) => assert_eq!(written, 8),
                // A file system that cannot promise not to wait.
                Err(error) => assert!(
                    matches!(
                        error.raw_os_error(),
                        Some(libc::EAGAIN | libc::EOPNOTSUPP | libc::EINVAL)
                    ),
                    "{error}"
                ),
            }
        }
        assert!(aio.take().is_none());
    }

    #[test]
    fn a_write_that_fails_says_why() {
        let Some(mut aio) = Aio::new() else {
            return;
        };
        let folder = std::fs::File::open("/").unwrap();
        // SAFETY: nothing is written to a folder.
        let refused = unsafe { aio.write(folder.as_fd(), b"x", 0) };
        let error = refused.and_then(|()| end(&mut aio).map(drop)).unwrap_err();
        // Not open for writing, or nothing that writes without waiting.
        assert!(
            matches!(error.raw_os_error(), Some(libc::EBADF | libc::EOPNOTSUPP)),
            "{error}"
        );
    }
}
