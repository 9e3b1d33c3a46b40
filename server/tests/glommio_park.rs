//! Shows why glommio is not the default runtime: 0.9.0 parks an executor that has runnable tasks.
//!
//! A completion that nobody waits for comes after the executor has polled its rings and before it
//! runs the first task. The executor takes it for a reason to stop running tasks, finds that it has
//! run none, and parks. All tasks then stay where they are until something else wakes the executor.
//!
//! The completion is that of its own preemption timer here: with a timer of 50 µs instead of
//! the default 100 ms it comes in that moment soon, and the fault shows at once. With the
//! default it takes a thread that is held up in that moment, or another completion of that kind.

use glommio::{LocalExecutorBuilder, Placement};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// Whether a thread sleeps, and how often it went to sleep so far. A thread that is starved of CPU is
/// runnable instead.
fn sleeps(thread: rustix::thread::Pid) -> Option<u64> {
    let path = format!("/proc/self/task/{}/status", thread.as_raw_nonzero());
    let status = std::fs::read_to_string(path).unwrap();
    let of = |name: &str| {
        let mut lines = status.lines();
        lines
            .find_map(|line| line.strip_prefix(name))
            .unwrap()
            .trim()
    };
    let switches = of("voluntary_ctxt_switches:").parse().unwrap();
    of("State:").starts_with('S').then_some(switches)
}

#[test]
fn an_executor_parks_with_a_runnable_task() {
    const PARKED: Duration = Duration::from_millis(500);
    let runs = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let (of_task, stopped) = (runs.clone(), stop.clone());
    let (sender, started) = std::sync::mpsc::channel();
    let executor = std::thread::spawn(move || {
        let executor = LocalExecutorBuilder::new(Placement::Unbound)
            .io_memory(1 << 20)
            .preempt_timer(Duration::from_micros(50))
            .make()
            .unwrap();
        executor.run(poll_fn(move |context| {
            if of_task.fetch_add(1, Ordering::SeqCst) == 0 {
                let waker: Waker = context.waker().clone();
                sender.send((rustix::thread::gettid(), waker)).unwrap();
            }
            // Runnable at all times until the end.
            context.waker().wake_by_ref();
            if stopped.load(Ordering::SeqCst) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        }));
    });
    let (thread, waker) = started.recv_timeout(Duration::from_secs(20)).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    let mut parked = false;
    let (mut seen, mut since) = ((0, None), Instant::now());
    while !parked && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
        let now = (runs.load(Ordering::SeqCst), sleeps(thread));
        if now != seen || now.1.is_none() {
            (seen, since) = (now, Instant::now());
        }
        parked = since.elapsed() >= PARKED;
    }
    let ran = runs.load(Ordering::SeqCst);
    stop.store(true, Ordering::SeqCst);
    // It may park again before it runs the task.
    while !executor.is_finished() {
        waker.wake_by_ref();
        std::thread::sleep(Duration::from_millis(1));
        assert!(
            Instant::now() < end + Duration::from_secs(10),
            "the executor does not end"
        );
    }
    drop(waker);
    executor.join().unwrap();
    println!("parked: {parked}, after its task ran {ran} times");
    assert!(
        parked,
        "a task that is always runnable was run {ran} times without a park: if glommio has mended this, the choice of runtime is to be measured again"
    );
}
