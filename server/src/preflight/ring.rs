//! Whether the kernel's io_uring does what the runtimes ask of it.

use super::Refusal;
use io_uring::{IoUring, Probe, opcode};
use std::io;

/// The oldest kernel with all that is used: DEFER_TASKRUN came with it.
const KERNEL_MIN: (u32, u32) = (6, 1);

/// Entries of the ring that is tried, as many as a core's ring has at least.
const ENTRIES: u32 = 256;

/// Operations that the runtimes submit.
const OPERATIONS: &[(u8, &str)] = &[
    (opcode::Accept::CODE, "accept"),
    (opcode::AsyncCancel::CODE, "async cancel"),
    (opcode::Close::CODE, "close"),
    (opcode::Fsync::CODE, "fsync"),
    (opcode::MsgRingData::CODE, "message to another ring"),
    (opcode::PollAdd::CODE, "poll"),
    (opcode::Read::CODE, "read"),
    (opcode::Recv::CODE, "receive"),
    (opcode::Send::CODE, "send"),
    (opcode::SendMsg::CODE, "sendmsg"),
    (opcode::Shutdown::CODE, "shutdown"),
    (opcode::Timeout::CODE, "timeout"),
    (opcode::Write::CODE, "write"),
    (opcode::Writev::CODE, "writev"),
];

/// Tries a ring as the runtimes make it.
pub(super) fn probe(memlock_bytes: u64) -> Result<(), Refusal> {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    judge_kernel(&release)?;
    let disabled =
        std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let refused = |error: io::Error| refusal(&error, disabled.trim(), memlock_bytes);
    let ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_cqsize(4 * ENTRIES)
        .build(ENTRIES)
        .map_err(refused)?;
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(refused)?;
    let missing: Vec<&str> = OPERATIONS
        .iter()
        .filter(|(code, _)| !probe.is_supported(*code))
        .map(|(_, name)| *name)
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(Refusal::unavailable(format!(
            "io_uring of kernel {release} lacks: {}; use Linux {}.{} or newer with io_uring not restricted",
            missing.join(", "),
            KERNEL_MIN.0,
            KERNEL_MIN.1
        )))
    }
}

fn judge_kernel(release: &str) -> Result<(), Refusal> {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= KERNEL_MIN {
        return Ok(());
    }
    let (major, minor) = KERNEL_MIN;
    Err(Refusal::unavailable(format!(
        "the kernel is {release} and Linux {major}.{minor} or newer is needed (for io_uring as it is used here): \
         update the kernel"
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
        probe(0).unwrap();
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
            assert_eq!(judge_kernel(release).is_ok(), ok, "{release}");
        }
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
