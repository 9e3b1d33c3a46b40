//! Limits of the process: locked memory and open files.

use super::Refusal;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Locked memory that is enough whatever is registered with the kernel.
const MEMLOCK_WANTED_BYTES: u64 = 64 << 20;

/// What one glommio executor locks.
const MEMLOCK_GLOMMIO_BYTES: u64 = 512 << 10;

/// Fewer open files than this serve nobody.
const FILES_NEEDED: u64 = 256;

/// Fewer open files than this are worth a word.
const FILES_WANTED: u64 = 16_384;

/// The soft limit in force after it was raised as far as the process may.
fn raise(resource: Resource, wanted: u64) -> u64 {
    let now = getrlimit(resource);
    let enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= wanted);
    if !enough(now.current) {
        // First as a privileged process may, past the hard limit; else up to it.
        let hard = if enough(now.maximum) {
            now.maximum
        } else {
            Some(wanted)
        };
        let raised = setrlimit(
            resource,
            Rlimit {
                current: Some(wanted),
                maximum: hard,
            },
        );
        if raised.is_err() {
            let up_to_hard = Rlimit {
                current: now.maximum,
                maximum: now.maximum,
            };
            // What could not be raised shows in the limit read back.
            let _ = setrlimit(resource, up_to_hard);
        }
    }
    getrlimit(resource).current.unwrap_or(u64::MAX)
}

/// Raises the locked memory limit; bytes in force.
pub(super) fn raise_memlock() -> u64 {
    raise(Resource::Memlock, MEMLOCK_WANTED_BYTES)
}

/// Whether the locked memory suffices. A ring's own memory is not counted since Linux 5.12; only
/// what is registered is, and what glommio registers it must have.
pub(super) fn judge_memlock(
    bytes: u64,
    glommio: bool,
    cores: usize,
    warnings: &mut Vec<String>,
) -> Result<(), Refusal> {
    let needed = MEMLOCK_GLOMMIO_BYTES * (cores as u64 + 1);
    if glommio && bytes < needed {
        return Err(Refusal::unavailable(format!(
            "locked memory is limited to {bytes} bytes and the glommio runtime needs {needed}: raise it with \
             `ulimit -l` or LimitMEMLOCK=64M in a unit, or use runtime = \"ring\""
        )));
    }
    if bytes < MEMLOCK_WANTED_BYTES {
        warnings.push(format!(
            "locked memory is limited to {bytes} bytes; {MEMLOCK_WANTED_BYTES} are better: raise it with `ulimit -l` \
             or LimitMEMLOCK=64M in a unit"
        ));
    }
    Ok(())
}

/// Raises the limit of open files to its hard limit; files in force.
pub(super) fn raise_files(warnings: &mut Vec<String>) -> Result<u64, Refusal> {
    let now = getrlimit(Resource::Nofile);
    if now.current != now.maximum {
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: now.maximum,
                maximum: now.maximum,
            },
        );
    }
    judge_files(
        getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
        warnings,
    )
}

fn judge_files(files: u64, warnings: &mut Vec<String>) -> Result<u64, Refusal> {
    if files < FILES_NEEDED {
        return Err(Refusal::unavailable(format!(
            "the process may open only {files} files and needs at least {FILES_NEEDED}: raise the limit with \
             `ulimit -n` or LimitNOFILE=1048576 in a unit"
        )));
    }
    if files < FILES_WANTED {
        warnings.push(format!(
            "the process may open only {files} files, and each connection is one: raise the limit with `ulimit -n` or \
             LimitNOFILE=1048576 in a unit"
        ));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memlock_is_judged_by_runtime() {
        let judge = |bytes, glommio| {
            let mut warnings = Vec::new();
            (
                judge_memlock(bytes, glommio, 3, &mut warnings).is_ok(),
                warnings.len(),
            )
        };
        assert_eq!(judge(u64::MAX, true), (true, 0));
        assert_eq!(judge(64 << 20, false), (true, 0));
        assert_eq!(judge((64 << 20) - 1, false), (true, 1));
        assert_eq!(judge(0, false), (true, 1));
        assert_eq!(judge(2 << 20, true), (true, 1));
        assert_eq!(judge((2 << 20) - 1, true), (false, 0));
    }

    #[test]
    fn files_are_judged() {
        let judge = |files| {
            let mut warnings = Vec::new();
            (judge_files(files, &mut warnings).is_ok(), warnings.len())
        };
        assert_eq!(judge(255), (false, 0));
        assert_eq!(judge(256), (true, 1));
        assert_eq!(judge(16_384), (true, 0));
    }

    #[test]
    fn limits_are_raised_as_far_as_allowed() {
        let hard = getrlimit(Resource::Memlock).maximum.unwrap_or(u64::MAX);
        let raised = raise_memlock();
        assert!(
            raised >= hard.min(MEMLOCK_WANTED_BYTES),
            "{raised} of {hard}"
        );
        let files = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        assert_eq!(raise_files(&mut Vec::new()).unwrap(), files);
    }
}
