//! Rooms that held their core, or a file worker, until the process had to be ended: they are not opened again until an
//! operator says so, lest the same happens after each restart.
//!
//! They stand in the file `quarantine` of the data directory, a line for each: the room's name, a tab,
//! why. Removing the line, or the file, and starting the server again releases the room.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

/// The file's name in the data directory.
pub const FILE: &str = "quarantine";

/// The rooms that are to stay closed (blocking).
pub fn rooms(data: &Path) -> io::Result<Vec<String>> {
    let text = match std::fs::read(data.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result?,
    };
    // Room names hold no tab and no line break: a request's path has neither.
    let names = String::from_utf8_lossy(&text)
        .lines()
        .filter_map(|line| line.split('\t').next())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    Ok(names)
}

/// Adds a room, durably (blocking).
pub fn add(data: &Path, room: &str, why: &str) -> io::Result<()> {
    if room.contains(char::is_control) {
        return Err(io::Error::other("its name would not stand on a line"));
    }
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(data.join(FILE))?;
    // First a line break: the last line may be without its own.
    file.write_all(format!("\n{room}\t{why}\n").as_bytes())?;
    file.sync_all()?;
    std::fs::File::open(data)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_are_added_and_released_by_their_line() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path();
        assert_eq!(rooms(data).unwrap(), Vec::<String>::new());
        add(data, "größe/7", "it held shard 0 for 30000 ms").unwrap();
        // As an editor may leave it.
        let text = std::fs::read_to_string(data.join(FILE)).unwrap();
        std::fs::write(data.join(FILE), text.trim_end()).unwrap();
        add(data, "b", "why").unwrap();
        assert_eq!(rooms(data).unwrap(), ["größe/7", "b"]);
        let text = std::fs::read_to_string(data.join(FILE)).unwrap();
        let kept: Vec<&str> = text.lines().filter(|l| !l.starts_with("größe/7")).collect();
        std::fs::write(data.join(FILE), kept.join("\n")).unwrap();
        assert_eq!(rooms(data).unwrap(), ["b"]);
    }
}
