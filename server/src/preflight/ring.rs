//! Whether the kernel's io_uring does what the runtimes ask of it.

use super::Refusal;
use crate::config::Runtime;
use io_uring::{IoUring, Probe, opcode};
use std::io;

/// Entries of the ring that is tried, as many as a core's ring has at least.
const ENTRIES: u32 = 256;

/// The oldest kernel with all that a runtime uses. The ring's DEFER_TASKRUN came with 6.1.
fn kernel_min(runtime: Runtime) -> (u32, u32) {
    match runtime {
        Runtime::Ring => (6, 1),
        Runtime::Glommio => (5, 8),
    }
}

/// Operations that both runtimes submit.
const OPERATIONS: &[(u8, &str)] = &[
    (opcode::Accept::CODE, "accept"),
    (opcode::AsyncCancel::CODE, "async cancel"),
    (opcode::Fsync::CODE, "fsync"),
    (opcode::PollAdd::CODE, "poll"),
    (opcode::Read::CODE, "read"),
    (opcode::Recv::CODE, "receive"),
    (opcode::Send::CODE, "send"),
    (opcode::Timeout::CODE, "timeout"),
    (opcode::TimeoutRemove::CODE, "timeout update"),
    (opcode::Write::CODE, "write"),
];

/// Operations that only the ring runtime submits.
const OPERATIONS_RING: &[(u8, &str)] = &[(opcode::MsgRingData::CODE, "message to another ring")];

/// Tries a ring as the runtime makes it.
pub(super) fn probe(runtime: Runtime, memlock_bytes: u64) -> Result<(), Refusal> {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    judge_kernel(&release, runtime)?;
    let disabled =
        std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let refused = |error: io::Error| refusal(&error, disabled.trim(), memlock_bytes);
    let mut builder = IoUring::<io_uring::squeue::Entry, io_uring::cqueue::Entry>::builder();
    let mut operations = OPERATIONS.to_vec();
    if runtime == Runtime::Ring {
        builder.setup_single_issuer().setup_defer_taskrun();
        operations.extend(OPERATIONS_RING);
    }
    let ring = builder.build(ENTRIES).map_err(refused)?;
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(refused)?;
    operations.retain(|(code, _)| !probe.is_supported(*code));
    if operations.is_empty() {
        return Ok(());
    }
    let missing: Vec<&str> = operations.iter().map(|(_, name)| *name).collect();
    Err(Refusal::unavailable(format!(
        "io_uring of kernel {release} refuses: {}; lift its io_uring restriction (see io_uring_register(2)) or use \
         another kernel",
        missing.join(", "),
    )))
}

fn judge_kernel(release: &str, runtime: Runtime) -> Result<(), Refusal> {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let (major, minor) = kernel_min(runtime);
    if version >= (major, minor) {
        return Ok(());
    }
    Err(Refusal::unavailable(format!(
        "the kernel is {release} and the {} runtime needs Linux {major}.{minor} or newer: update the kernel",
        runtime.word()
    )))
}

fn refusal(error: &io::Error, disabled: &str, memlock_bytes: u64) -> Refusal {
    let errno = rustix::io::Errno::from_io_error(error);
    Refusal::unavailable(match errno {
        Some(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS)
            if disabled != "0" && !disabled.is_empty() =>
        {
            format!(
                "io_uring is switched off on this machine (kernel.io_uring_disabled = {disabled}): set it to 0 with \
             `sysctl -w kernel.io_uring_disabled=0`, or to 1 and run the server in the group named by \
             kernel.io_uring_group"
            )
        }
        Some(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS | rustix::io::Errno::NOSYS) => {
            String::from(
                "io_uring is not allowed here, most likely by a container's seccomp profile: allow io_uring_setup, \
             io_uring_enter and io_uring_register in it (Docker: `--security-opt seccomp=unconfined` or a profile of \
             your own)",
            )
        }
        Some(rustix::io::Errno::NOMEM) => format!(
            "io_uring got no memory with locked memory limited to {memlock_bytes} bytes: raise it with `ulimit -l \
             65536` or LimitMEMLOCK=64M"
        ),
        _ => format!(
            "io_uring cannot be set up ({error}): use Linux 6.1 or newer with io_uring enabled"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_passes() {
        probe(Runtime::Ring, 0).unwrap();
        probe(Runtime::Glommio, 0).unwrap();
    }

    #[test]
    fn kernels_are_judged_by_version() {
        for (release, ok) in [
            ("6.1.0-18-amd64", true),
            ("6.18.44", true),
            ("7.0-rc1", true),
            ("10.2", true),
            ("6.0.19", false),
            ("5.15.0-generic", false),
            ("4.4.0", false),
            ("", false),
        ] {
            let judged = judge_kernel(release, Runtime::Ring);
            assert_eq!(judged.is_ok(), ok, "{release}");
        }
    }

    #[test]
    fn glommio_takes_older_kernels() {
        assert!(judge_kernel("5.8.0", Runtime::Glommio).is_ok());
        let refusal = judge_kernel("5.7.19", Runtime::Glommio).unwrap_err();
        assert!(refusal.sentence.contains("glommio"), "{refusal}");
    }

    #[test]
    fn each_error_says_what_to_do() {
        use rustix::io::Errno;
        for (errno, disabled, want) in [
            (Errno::PERM, "2", "sysctl -w kernel.io_uring_disabled=0"),
            (Errno::PERM, "0", "seccomp"),
            (Errno::PERM, "", "seccomp"),
            (Errno::NOSYS, "0", "seccomp"),
            (Errno::NOMEM, "0", "LimitMEMLOCK"),
            (Errno::INVAL, "0", "Linux 6.1"),
        ] {
            let refusal = refusal(&errno.into(), disabled, 8192);
            assert!(refusal.sentence.contains(want), "{refusal}");
        }
    }
}
