//! The same core on the glommio executor: a pinned `LocalExecutor` a core.
//!
//! One task is the turn: it owns the core and all connections. Acceptors, readers, writers and the
//! timer are small tasks that put what they got into one queue and wake it. Sends are plain
//! non-blocking calls; what a socket does not take goes to a writer task. The log is written by a
//! thread of its own.
//!
//! glommio 0.9.0 can park an executor that has runnable tasks, until something else wakes it. No
//! setting removes that; a thread that wakes the turn every 10 ms bounds it (see [`ticker`]).

mod conn;
mod front;
mod tasks;
mod ticker;
mod turn;

use super::{Core, Ports};
use ::glommio::{LocalExecutorBuilder, Placement};
use rustix::process::{Resource, getrlimit};
use ticker::Ticker;
use turn::Turn;

/// Bytes that each executor registers with the kernel, for files; the log does not use them.
const IO_MEMORY_BYTES: usize = 1 << 20;
/// The least memlock limit that glommio starts with.
const MEMLOCK_BYTES_MIN: u64 = 512 << 10;

/// Runs a core on the calling thread until it is told to stop ([`crate::mailbox::Wake::stop`]) or
/// fails; the error is a sentence. `ready` is called once it accepts connections.
pub fn run<C: Core + 'static>(core: C, ports: Ports, ready: impl FnOnce()) -> Result<(), String> {
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(IO_MEMORY_BYTES)
        .make()
        .map_err(|error| format!("the glommio executor cannot be started: {error}"))?;
    executor.run(async move {
        let wake = ports.wake.clone();
        let ticker = Ticker::start(wake.clone())
            .map_err(|error| format!("the ticker cannot be started: {error}"))?;
        let turn = Turn::new(core, ports, ticker.asked())
            .map_err(|error| format!("the log's thread cannot be started: {error}"))?;
        ready();
        let ended = turn.run().await;
        drop(ticker);
        // The waker is of this executor and goes before it.
        wake.set_waker(None);
        ended
    })
}

/// Tells in one sentence what this runtime lacks on this machine and what to do, if anything:
/// glommio itself panics with a misleading message.
pub fn probe() -> Result<(), String> {
    io_uring::IoUring::new(8).map_err(|error| {
        format!("io_uring cannot be set up ({error}): lift the restriction (sysctl kernel.io_uring_disabled=0, the container's seccomp profile)")
    })?;
    match getrlimit(Resource::Memlock).current {
        Some(limit) if limit < MEMLOCK_BYTES_MIN => Err(format!(
            "the memlock limit of {limit} bytes is too low for glommio: raise it (ulimit -l 65536, systemd LimitMEMLOCK=64M)"
        )),
        _ => Ok(()),
    }
}
