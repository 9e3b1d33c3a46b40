//! Whether this machine can run the ring, asked before anything else.

use super::buffers::Buffers;
use super::uring::Uring;
use io_uring::{Probe, opcode};
use std::io;

/// The oldest kernel: DEFER_TASKRUN came with it.
const KERNEL_MIN: (u32, u32) = (6, 1);

/// Tells in one sentence what is missing and what to do, if something is.
pub fn probe() -> Result<(), String> {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    check_kernel(&release)?;
    let uring = Uring::new().map_err(|error| setup_failed(&error))?;
    let mut supported = Probe::new();
    uring
        .submitter()
        .register_probe(&mut supported)
        .map_err(|error| setup_failed(&error))?;
    let needed = [
        ("accept", opcode::AcceptMulti::CODE),
        ("recv", opcode::RecvMulti::CODE),
        ("send", opcode::Send::CODE),
        ("read", opcode::Read::CODE),
        ("write", opcode::Write::CODE),
        ("fsync", opcode::Fsync::CODE),
        ("async_cancel", opcode::AsyncCancel::CODE),
        ("msg_ring", opcode::MsgRingData::CODE),
    ];
    if let Some((name, _)) = needed
        .iter()
        .find(|(_, code)| !supported.is_supported(*code))
    {
        return Err(format!(
            "this kernel ({release}) refuses the io_uring operation {name}: lift its io_uring restriction or start with --runtime glommio"
        ));
    }
    let mut buffers =
        Buffers::new().map_err(|error| format!("no memory for receive buffers: {error}"))?;
    buffers.register(&uring.submitter()).map_err(|error| {
        format!("io_uring takes no receive buffers ({error}): raise the memlock limit (ulimit -l 65536, systemd LimitMEMLOCK=64M)")
    })?;
    buffers
        .unregister(&uring.submitter())
        .map_err(|error| format!("io_uring keeps its receive buffers: {error}"))
}

fn check_kernel(release: &str) -> Result<(), String> {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= KERNEL_MIN {
        return Ok(());
    }
    let (major, minor) = KERNEL_MIN;
    Err(format!(
        "kernel {release} is older than {major}.{minor}: boot a newer one or start with --runtime glommio"
    ))
}

fn setup_failed(error: &io::Error) -> String {
    let what_to_do = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "allow it: sysctl kernel.io_uring_disabled=0, and in a container a seccomp profile that permits io_uring_setup, io_uring_enter and io_uring_register"
        }
        Some(libc::ENOSYS) => "this kernel or sandbox has no io_uring: use one that has",
        Some(libc::ENOMEM) => "raise the memlock limit: ulimit -l 65536, systemd LimitMEMLOCK=64M",
        Some(libc::EMFILE | libc::ENFILE) => "raise the limit on open files: ulimit -n 1048576",
        Some(libc::EINVAL) => {
            "this kernel lacks SINGLE_ISSUER or DEFER_TASKRUN: boot Linux 6.1 or newer"
        }
        _ => "see the kernel log",
    };
    format!("io_uring cannot be set up ({error}): {what_to_do}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_apart() {
        for good in ["6.1.0-18-amd64", "6.18.44-fc-v657", "7.0", "10.2.3"] {
            assert_eq!(check_kernel(good), Ok(()), "{good}");
        }
        for bad in ["5.15.0", "6.0.19", "4.18.0-553.el8", "strange"] {
            assert!(
                check_kernel(bad).unwrap_err().contains("older than 6.1"),
                "{bad}"
            );
        }
    }

    #[test]
    fn refusals_say_what_to_do() {
        let told = |code| setup_failed(&io::Error::from_raw_os_error(code));
        assert!(told(libc::EPERM).contains("io_uring_disabled=0"));
        assert!(told(libc::ENOMEM).contains("memlock"));
        assert!(told(libc::EMFILE).contains("open files"));
    }

    #[test]
    fn this_machine_passes() {
        probe().unwrap();
    }
}
