//! The ring itself: set-up, submission, reaping, and what a completion belongs to.
#![allow(unsafe_code)] // Entries carry raw pointers to memory that the kernel reads and writes.

use crate::runtime::slots::SLOTS_MAX;
use crate::shard::{ConnId, Instant};
use io_uring::types::{TimeoutFlags, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Submission and completion entries of a core's ring: a larger turn is submitted in pieces, and
/// beyond the latter the kernel queues in its own memory and says so.
pub(super) const MAIN_ENTRIES: (u32, u32) = (2048, 16384);
/// Those of a ring for one batch of the log at a time.
pub(super) const LOG_ENTRIES: (u32, u32) = (4, 8);

/// What an operation is for; with a connection or an index it makes up the entry's user data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Op {
    /// Multishot accept; the slot is the listener's index.
    Accept = 1,
    /// Receive, single or multishot.
    Recv = 2,
    /// A send that does not wait; completes only if it failed or was short.
    SendNow = 3,
    /// A send of what was left, that waits for the socket.
    SendRest = 4,
    /// A read of the wake's eventfd.
    Poked = 5,
    /// Another ring woke this one.
    Messaged = 6,
    /// The message to another ring failed; the slot is the shard.
    MessageFailed = 7,
    /// A cancellation found nothing; never of interest.
    Cancel = 8,
    /// The write of a log batch.
    LogWrite = 9,
    /// The fdatasync linked to it.
    LogSync = 10,
    /// The ring's one timer.
    Timer = 11,
    /// That timer was not there to be moved: it has just fired.
    TimerGone = 12,
}

const OPS: [Op; 12] = [
    Op::Accept,
    Op::Recv,
    Op::SendNow,
    Op::SendRest,
    Op::Poked,
    Op::Messaged,
    Op::MessageFailed,
    Op::Cancel,
    Op::LogWrite,
    Op::LogSync,
    Op::Timer,
    Op::TimerGone,
];

impl Op {
    /// User data for an operation on a connection.
    pub fn on(self, conn: ConnId) -> u64 {
        debug_assert!(conn.slot < SLOTS_MAX);
        (self as u64) << 56 | u64::from(conn.slot) << 32 | u64::from(conn.generation)
    }

    /// User data for an operation on something with a plain number.
    pub fn at(self, index: u32) -> u64 {
        self.on(ConnId {
            slot: index,
            generation: 0,
        })
    }

    /// Whether each of these ends with a completion that must be waited for before memory is freed.
    fn is_tracked(self) -> bool {
        matches!(
            self,
            Op::Accept | Op::Recv | Op::SendRest | Op::Poked | Op::LogWrite | Op::LogSync
        )
    }
}

/// One completion.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub op: Op,
    pub conn: ConnId,
    pub result: i32,
    flags: u32,
}

impl Done {
    /// The operation goes on: more completions will come.
    pub fn more(&self) -> bool {
        cqueue::more(self.flags)
    }

    /// The provided buffer that was filled.
    pub fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }
}

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct Registration {
    number: u32,
    reserved: u32,
    data: u64,
}

const REGISTER_RING: u32 = 20;
const UNREGISTER_RING: u32 = 21;

/// Registers a ring with this thread, or the other way round; whether that was done.
fn register(ring: &IoUring, what: u32, registration: &mut Registration) -> bool {
    // SAFETY: one registration is read, and its number written.
    let done = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring.as_raw_fd(),
            what,
            std::ptr::from_mut(registration),
            1,
        )
    };
    done == 1
}

fn op_of(user_data: u64) -> Op {
    OPS[(user_data >> 56) as usize - 1]
}

/// `struct io_uring_getevents_arg`.
#[repr(C)]
struct WaitArg {
    signals: u64,
    signals_bytes: u32,
    min_wait: u32,
    timeout: u64,
}

/// One ring. Made, used and dropped on its core's thread.
pub(super) struct Uring {
    ring: IoUring,
    /// The ring's number with this thread's registered rings, which spares each call the look-up of
    /// its descriptor, and counting references to it.
    number: Option<u32>,
    /// Operations under way that will complete.
    tracked: usize,
    /// Completions reaped and not yet looked at.
    reaped: Vec<Done>,
    /// What the timer is set to.
    time: Box<Timespec>,
}

impl Uring {
    pub fn new((submissions, completions): (u32, u32)) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(completions)
            .build(submissions)?;
        let mut registration = Registration {
            number: u32::MAX,
            reserved: 0,
            data: ring.as_raw_fd() as u64,
        };
        let registered = register(&ring, REGISTER_RING, &mut registration);
        Ok(Self {
            ring,
            number: registered.then_some(registration.number),
            tracked: 0,
            reaped: Vec::new(),
            time: Box::default(),
        })
    }

    /// A second descriptor of the ring, for others to message it.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        // SAFETY: the ring owns the descriptor and outlives this borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) };
        fd.try_clone_to_owned()
    }

    pub fn submitter(&self) -> io_uring::Submitter<'_> {
        self.ring.submitter()
    }

    /// Queues entries that belong together (linked) for the next submission, submitting before if
    /// there is no room for all of them.
    ///
    /// # Safety
    /// Memory and descriptors that the entries point to stay valid: for a tracked operation until its
    /// last completion, for [`Op::SendNow`] until the next [`Uring::enter`] has returned.
    pub unsafe fn push(&mut self, entries: &[squeue::Entry]) -> io::Result<()> {
        let room = |ring: &mut IoUring| {
            let queue = ring.submission();
            queue.capacity() - queue.len() >= entries.len()
        };
        if !room(&mut self.ring) {
            self.submit(0, None)?;
        }
        for entry in entries {
            self.tracked += usize::from(op_of(entry.get_user_data()).is_tracked());
        }
        // SAFETY: the caller keeps memory and descriptors valid; there is room, as `submit` leaves
        // the queue empty.
        unsafe { self.ring.submission().push_multiple(entries) }
            .map_err(|_| io::Error::other("the submission queue has no room after a submission"))
    }

    /// Whether something has ended since it was last looked at.
    pub fn has_ended(&mut self) -> bool {
        let queue = self.ring.submission();
        let due = queue.taskrun() || queue.cq_overflow();
        drop(queue);
        due || !self.ring.completion().is_empty()
    }

    /// Sets the timer, or moves it. It completes with [`Op::Timer`] and is then to be set anew.
    pub fn set_timer(&mut self, at: Instant, moves: bool) -> io::Result<()> {
        let (seconds, nanos) = (at.0 / 1_000_000_000, at.0 % 1_000_000_000);
        *self.time = Timespec::new().sec(seconds).nsec(nanos as u32);
        let time = std::ptr::from_ref(&*self.time);
        let timer = Op::Timer.at(0);
        let entry = if moves {
            opcode::TimeoutUpdate::new(timer, time)
                .flags(TimeoutFlags::ABS)
                .build()
                .user_data(Op::TimerGone.at(0))
                .flags(squeue::Flags::SKIP_SUCCESS)
        } else {
            opcode::Timeout::new(time)
                .flags(TimeoutFlags::ABS)
                .build()
                .user_data(timer)
        };
        // SAFETY: the kernel reads the time as it takes the entry, and until then nothing else sets it:
        // it is set once before each call of `enter` or `wait`, which leave no entry behind.
        unsafe { self.push(&[entry]) }
    }

    /// Submits what is queued and waits for a completion, however long. With the timer set this spares
    /// the kernel a timer for each wait.
    pub fn wait(&mut self) -> io::Result<()> {
        self.submit(1, None)
    }

    /// Submits what is queued; waits for a completion, if `wait` says how long.
    pub fn enter(&mut self, wait: Option<Duration>) -> io::Result<()> {
        self.submit(usize::from(wait.is_some()), wait)
    }

    fn submit(&mut self, want: usize, wait: Option<Duration>) -> io::Result<()> {
        let timeout = wait.map(Timespec::from);
        let mut want = want;
        loop {
            let entered = self.call(want, timeout.as_ref());
            self.reap();
            match entered {
                Ok(()) => {}
                Err(error) => match error.raw_os_error() {
                    // Time is up, a signal came, or completions had to be reaped first.
                    Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => {}
                    _ => return Err(error),
                },
            }
            let queue = self.ring.submission();
            if queue.is_empty() && !queue.cq_overflow() {
                return Ok(());
            }
            want = 0;
        }
    }

    fn call(&mut self, want: usize, timeout: Option<&Timespec>) -> io::Result<()> {
        let queue = self.ring.submission();
        let (entries, due) = (queue.len(), queue.taskrun() || queue.cq_overflow());
        drop(queue);
        let mut flags = EnterFlags::EXT_ARG;
        flags.set(EnterFlags::GETEVENTS, want > 0 || due);
        flags.set(EnterFlags::REGISTERED_RING, self.number.is_some());
        let ring = match self.number {
            Some(number) => number as i32,
            None => self.ring.as_raw_fd(),
        };
        let arg = WaitArg {
            signals: 0,
            signals_bytes: 0,
            min_wait: 0,
            timeout: timeout.map_or(0, |timeout| std::ptr::from_ref(timeout) as u64),
        };
        // SAFETY: what entries point to is valid, as `push` demands; the argument and the time are read
        // during the call.
        let entered = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                ring,
                entries as u32,
                want as u32,
                flags.bits(),
                &raw const arg,
                size_of::<WaitArg>(),
            )
        };
        if entered < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    fn reap(&mut self) {
        for entry in self.ring.completion() {
            let (data, flags) = (entry.user_data(), entry.flags());
            let op = op_of(data);
            if op.is_tracked() && !cqueue::more(flags) {
                self.tracked -= 1;
            }
            let conn = ConnId {
                slot: (data >> 32) as u32 & (SLOTS_MAX - 1),
                generation: data as u32,
            };
            self.reaped.push(Done {
                op,
                conn,
                result: entry.result(),
                flags,
            });
        }
    }

    /// Whether completions are waiting to be looked at.
    pub fn has_reaped(&self) -> bool {
        !self.reaped.is_empty()
    }

    /// Swaps what was reaped with an empty list.
    pub fn take_reaped(&mut self, list: &mut Vec<Done>) {
        debug_assert!(list.is_empty());
        std::mem::swap(&mut self.reaped, list);
    }

    /// Cancels all that is under way and waits for its end, so that memory it uses may be freed.
    pub fn quiesce(&mut self) {
        let cancel = || io_uring::types::CancelBuilder::any().all();
        for _ in 0..300 {
            // Fails when there is nothing to cancel: `tracked` tells.
            let _ = self
                .ring
                .submitter()
                .register_sync_cancel(Some(Timespec::new().sec(1)), cancel());
            if self.tracked == 0 {
                return;
            }
            if let Err(error) = self.enter(Some(Duration::from_millis(100))) {
                tracing::error!(%error, "io_uring failed while it was shut down");
            }
        }
        // The kernel still holds pointers into our memory: freeing it would corrupt the process.
        tracing::error!(
            operations = self.tracked,
            "io_uring operations did not end; aborting"
        );
        std::process::abort();
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let mut registration = Registration {
                number,
                reserved: 0,
                data: 0,
            };
            register(&self.ring, UNREGISTER_RING, &mut registration);
        }
    }
}
