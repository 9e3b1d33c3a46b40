//! A real file system on a disk whose writes and flushes are seen.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn run(command: &mut Command) -> Result<String, String> {
    let done = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if !done.status.success() {
        let why = String::from_utf8_lossy(&done.stderr);
        return Err(format!("{command:?}: {why}"));
    }
    Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
}

/// The bytes of a disk with an empty ext4.
pub fn ext4_image(dir: &Path, len: u64) -> Result<Vec<u8>, String> {
    let path = dir.join("new.img");
    let file = std::fs::File::create(&path).map_err(|e| e.to_string())?;
    file.set_len(len).map_err(|e| e.to_string())?;
    run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&path))?;
    let bytes = std::fs::read(&path).map_err(|e| e.to_string())?;
    std::fs::remove_file(&path).map_err(|e| e.to_string())?;
    Ok(bytes)
}

/// An image that is mounted through a loop device; dropping it unmounts it.
pub struct Mounted {
    device: String,
    at: PathBuf,
}

impl Mounted {
    /// Mounts an image at a directory.
    pub fn new(image: &Path, at: &Path) -> Result<Self, String> {
        let device = run(Command::new("losetup")
            .args(["--find", "--show"])
            .arg(image))?;
        let mounted = Self {
            device,
            at: at.into(),
        };
        run(Command::new("mount")
            .args(["-t", "ext4"])
            .arg(&mounted.device)
            .arg(at))?;
        Ok(mounted)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Without power the file system cannot even be unmounted in order.
        for _ in 0..100 {
            if run(Command::new("umount").arg(&self.at)).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        if let Err(error) = run(Command::new("losetup").arg("--detach").arg(&self.device)) {
            eprintln!("{error}");
        }
    }
}
