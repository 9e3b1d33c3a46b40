//! The data directory: there, writable, locked, fit for O_DIRECT, with room for a log.

use super::Refusal;
use crate::config::Config;
use collabblocks_storage_engine::Store;
use collabblocks_wal::FsDisk;
use collabblocks_wal::disk::DirectIoError;
use rustix::fs::FlockOperation;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

const LOCK_NAME: &str = "lock";

/// Segments that a shard of a new store makes before long.
const SEGMENTS_AT_START: u64 = 3;

/// The lock of a data directory, held until it is dropped or the process ends however it ends.
#[derive(Debug)]
pub struct DataLock {
    _file: File,
    data: PathBuf,
}

impl DataLock {
    /// Locks a data directory, which exists.
    pub fn take(data: &Path) -> Result<Self, Refusal> {
        let path = data.join(LOCK_NAME);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| unusable(&path, &error))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                // Only a hint for the reader; an unreadable one is an unknown one.
                let _ = file.read_to_string(&mut holder);
                let holder = holder.trim();
                let holder = if holder.is_empty() {
                    "another process".into()
                } else {
                    format!("process {holder}")
                };
                return Err(Refusal::unavailable(format!(
                    "the data directory {} is in use by {holder}: stop that server, or give this one a directory of \
                     its own with --data",
                    data.display()
                )));
            }
            Err(errno) => {
                return Err(Refusal::unavailable(format!(
                    "the data directory {} cannot be locked ({errno}): put it on a local file system",
                    data.display()
                )));
            }
        }
        // Written over what is there, which needs no space. On a disk that is full the hint may be
        // missing: a store that is there is served all the same.
        let hint = format!("{}\n", std::process::id());
        let written = file
            .rewind()
            .and_then(|()| file.write_all(hint.as_bytes()))
            .and_then(|()| file.set_len(hint.len() as u64));
        match written {
            Err(error) if is_full(&error) => {}
            result => result.map_err(|error| unusable(&path, &error))?,
        }
        Ok(Self {
            _file: file,
            data: data.into(),
        })
    }

    /// The directory that is locked.
    pub fn data(&self) -> &Path {
        &self.data
    }
}

/// Makes the directory if need be, locks it and probes it.
pub(super) fn prepare(
    config: &Config,
    shards: usize,
    warnings: &mut Vec<String>,
) -> Result<DataLock, Refusal> {
    let data = &config.data;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data)
        .map_err(|error| unusable(data, &error))?;
    let lock = DataLock::take(data)?;
    // Not any file counts: the root of a fresh file system has its `lost+found`.
    let has_store = Store::stands_in(data).map_err(|error| unusable(data, &error))?;
    match FsDisk::probe_direct(data) {
        // Its files stand there since this was probed last: they can be read, and the log written as
        // far as its segments go.
        Err(DirectIoError::Io { error, .. }) if has_store && is_full(&error) => {
            warnings.push(format!(
                "the disk of the data directory {} is full: rooms can be read, updates are refused once the log needs \
                 space, until there is some",
                data.display()
            ));
        }
        result => result.map_err(|error| direct_refusal(data, &error))?,
    }
    let free = rustix::fs::statvfs(data).map_err(|errno| unusable(data, &errno.into()))?;
    let space = Space {
        free_bytes: free.f_bavail.saturating_mul(free.f_frsize),
        reserve_bytes: config.snapshots.disk_reserve_bytes,
        log_bytes: shards as u64 * SEGMENTS_AT_START * config.wal.segment_bytes,
    };
    space.judge(data, has_store, warnings)?;
    judge_medium(data, warnings)?;
    Ok(lock)
}

/// Warns where all there is stays in memory.
fn judge_medium(data: &Path, warnings: &mut Vec<String>) -> Result<(), Refusal> {
    let found = rustix::fs::statfs(data).map_err(|errno| unusable(data, &errno.into()))?;
    if let Some(name) = memory_file_system(found.f_type as u64) {
        warnings.push(format!(
            "the data directory {} is in memory ({name}): nothing in it survives a reboot; put it on a disk with --data",
            data.display()
        ));
    }
    Ok(())
}

/// The name of a file system that keeps its files in memory alone, by its number in statfs(2).
fn memory_file_system(magic: u64) -> Option<&'static str> {
    // Its width is that of a machine word; the numbers are of 32 bits.
    match magic & 0xFFFF_FFFF {
        0x0102_1994 => Some("tmpfs"),
        0x8584_58F6 => Some("ramfs"),
        _ => None,
    }
}

fn direct_refusal(data: &Path, error: &DirectIoError) -> Refusal {
    match error {
        DirectIoError::Unsupported { .. } => Refusal::unavailable(format!(
            "the file system of the data directory {} does not take O_DIRECT writes in blocks of \
             4096 bytes: put it on ext4 or XFS with --data",
            data.display()
        )),
        DirectIoError::Io { error, .. } => unusable(data, error),
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn unusable(path: &Path, error: &io::Error) -> Refusal {
    let path = path.display();
    match error.kind() {
        _ if is_full(error) => Refusal::unavailable(format!(
            "the disk of {path} is full: free some space, or put the data directory elsewhere with --data"
        )),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Refusal::config(format!(
                "{path} may not be written ({error}): run as its owner, change its owner with chown, or choose another data \
             directory with --data"
            ))
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => Refusal::config(format!(
            "{path} is not a directory: choose another data directory with --data"
        )),
        _ => Refusal::unavailable(format!(
            "{path} cannot be used ({error}): mend it, or choose another data directory with --data"
        )),
    }
}

struct Space {
    free_bytes: u64,
    reserve_bytes: u64,
    log_bytes: u64,
}

impl Space {
    /// A new store must fit; one that is there is opened, and refuses updates below the reserve.
    fn judge(
        &self,
        data: &Path,
        has_store: bool,
        warnings: &mut Vec<String>,
    ) -> Result<(), Refusal> {
        let (data, free) = (data.display(), self.free_bytes);
        let needed = self.reserve_bytes.saturating_add(self.log_bytes);
        if !has_store && free < needed {
            return Err(Refusal::unavailable(format!(
                "the disk of the data directory {data} has {free} bytes free and a new store needs {needed}: free some \
                 space, use fewer cores, or lower snapshots.disk_reserve_bytes"
            )));
        }
        if free < self.reserve_bytes {
            warnings.push(format!(
                "the disk of the data directory {data} has {free} bytes free, less than \
                 snapshots.disk_reserve_bytes = {}: updates are refused until there are more",
                self.reserve_bytes
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(data: PathBuf) -> Config {
        Config {
            data,
            ..Config::default()
        }
    }

    #[test]
    fn a_path_that_cannot_be_a_directory_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for data in [file.path().to_path_buf(), file.path().join("below")] {
            let refusal = prepare(&config(data), 1, &mut Vec::new()).unwrap_err();
            assert_eq!(
                refusal.exit_code,
                crate::preflight::EXIT_CONFIG,
                "{refusal}"
            );
            assert!(refusal.sentence.contains("not a directory"), "{refusal}");
        }
    }

    #[test]
    fn errors_say_what_to_do() {
        use rustix::io::Errno;
        let io = |errno: Errno| DirectIoError::Io {
            path: "/d".into(),
            error: errno.into(),
        };
        let unsupported = DirectIoError::Unsupported { path: "/d".into() };
        for (error, code, want) in [
            (unsupported, 69, "ext4 or XFS"),
            (io(Errno::NOSPC), 69, "is full"),
            (io(Errno::ACCESS), 78, "chown"),
            (io(Errno::ROFS), 78, "may not be written"),
            (io(Errno::IO), 69, "cannot be used"),
        ] {
            let refusal = direct_refusal(Path::new("/d"), &error);
            assert!(
                refusal.sentence.contains(want) && refusal.sentence.contains("/d"),
                "{refusal}"
            );
            assert_eq!(refusal.exit_code, code, "{refusal}");
        }
    }

    #[test]
    fn a_directory_in_memory_is_told() {
        use rustix::fs::MemfdFlags;
        use std::os::fd::AsRawFd;
        // A file of the kernel's own tmpfs, which is there whatever is mounted.
        let file = rustix::fs::memfd_create("d", MemfdFlags::CLOEXEC).unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let mut warnings = Vec::new();
        judge_medium(&path, &mut warnings).unwrap();
        let [warning] = warnings.as_slice() else {
            panic!("{warnings:?}");
        };
        assert!(
            warning.contains("is in memory (tmpfs): nothing in it survives a reboot"),
            "{warning}"
        );
        judge_medium(Path::new("/proc"), &mut warnings).unwrap();
        assert_eq!(warnings.len(), 1);
        assert_eq!(memory_file_system(0xEF53), None, "ext4");
        assert_eq!(memory_file_system(0xFFFF_FFFF_8584_58F6), Some("ramfs"));
        assert!(judge_medium(Path::new("/nowhere/d"), &mut warnings).is_err());
    }

    #[test]
    fn space_is_judged_by_whether_there_is_a_store() {
        let judge = |free_bytes, has_store| {
            let mut warnings = Vec::new();
            let space = Space {
                free_bytes,
                reserve_bytes: 100,
                log_bytes: 50,
            };
            (
                space
                    .judge(Path::new("/d"), has_store, &mut warnings)
                    .is_ok(),
                warnings.len(),
            )
        };
        assert_eq!(judge(150, false), (true, 0));
        assert_eq!(judge(149, false), (false, 0));
        assert_eq!(judge(100, true), (true, 0));
        assert_eq!(judge(99, true), (true, 1));
    }
}
