//! Files and names of the simulated disk, as they are read and as they would be after a crash.

use super::ReadFault;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The unit that a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// One change, the smallest after which a crash can come.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum SimOp {
    /// Makes a directory and its parents, durable at once.
    CreateDir { path: PathBuf },
    /// Makes an empty file, in the place of any that stands there.
    Create { path: PathBuf },
    /// Writes bytes; not durable before a sync.
    Write {
        path: PathBuf,
        offset: u64,
        bytes: Vec<u8>,
    },
    /// Cuts a file or fills it up with zero bytes.
    SetLen { path: PathBuf, len: u64 },
    /// Makes a file's bytes and length durable.
    Sync { path: PathBuf },
    /// A sync that was lost: what it should have made durable never becomes so.
    LoseSync { path: PathBuf },
    /// Gives a file another name.
    Rename { from: PathBuf, to: PathBuf },
    /// Takes a file's name away.
    Remove { path: PathBuf },
    /// Removes a directory and all in it.
    RemoveDirAll { path: PathBuf },
    /// Makes the names in a directory durable.
    SyncDir { path: PathBuf },
}

/// One thing that a crash may lose or keep.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Unsynced {
    /// (Part of) a sector of one write.
    Sector {
        file: u64,
        offset: u64,
        bytes: usize,
    },
    /// A file's length.
    Length { file: u64, len: u64 },
    /// Names that were made or removed together.
    Names { paths: Vec<PathBuf> },
}

#[derive(Clone, Debug)]
enum Pending {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

#[derive(Clone, Debug, Default)]
struct File {
    durable: Vec<u8>,
    current: Vec<u8>,
    pending: Vec<Pending>,
    /// What cannot be read.
    spoiled: Vec<(Range<u64>, ReadFault)>,
}

/// Names that change together.
#[derive(Clone, Debug)]
struct NameChange {
    dir: PathBuf,
    /// The file that had the name, where it is taken away.
    removed: Vec<(PathBuf, u64)>,
    added: Option<(PathBuf, u64)>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct State {
    files: BTreeMap<u64, File>,
    next_file: u64,
    dirs: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    pending_names: Vec<NameChange>,
}

fn put(bytes: &mut Vec<u8>, offset: usize, new: &[u8]) {
    if bytes.len() < offset + new.len() {
        bytes.resize(offset + new.len(), 0);
    }
    bytes[offset..offset + new.len()].copy_from_slice(new);
}

/// The pieces of a write that are written whole or not at all.
fn sectors(offset: usize, len: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let mut at = offset;
    std::iter::from_fn(move || {
        let end = (at / SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES).min(offset + len);
        let piece = at..end;
        at = end;
        (!piece.is_empty()).then_some(piece)
    })
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_owned()
}

fn apply_names(names: &mut BTreeMap<PathBuf, u64>, change: &NameChange) {
    for (path, file) in &change.removed {
        if names.get(path) == Some(file) {
            names.remove(path);
        }
    }
    if let Some((path, file)) = &change.added {
        names.insert(path.clone(), *file);
    }
}

impl State {
    fn find(&self, path: &Path) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("{}: no such file", path.display()),
            )
        })
    }

    fn file(&mut self, path: &Path) -> io::Result<&mut File> {
        let file = self.find(path)?;
        Ok(self.files.get_mut(&file).expect("a name has a file"))
    }

    pub(super) fn bytes(&self, path: &Path) -> io::Result<&[u8]> {
        Ok(&self.files[&self.find(path)?].current)
    }

    pub(super) fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let bytes = |file: &u64| self.files[file].current.clone();
        self.names
            .iter()
            .map(|(path, file)| (path.clone(), bytes(file)))
            .collect()
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.names
            .values()
            .map(|file| self.files[file].current.len() as u64)
            .sum()
    }

    /// By how many bytes an operation makes the files grow.
    pub(super) fn growth(&self, op: &SimOp) -> u64 {
        let (path, end) = match op {
            SimOp::Write {
                path,
                offset,
                bytes,
            } => (path, offset + bytes.len() as u64),
            SimOp::SetLen { path, len } => (path, *len),
            _ => return 0,
        };
        let len = self.bytes(path).map_or(0, <[u8]>::len) as u64;
        end.saturating_sub(len)
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let inside = |path: &Path| {
            let mut rest = path.strip_prefix(dir).ok()?.components();
            Some(rest.next()?.as_os_str().to_string_lossy().into_owned())
        };
        let names: BTreeSet<String> = self
            .names
            .keys()
            .chain(&self.dirs)
            .filter_map(|path| inside(path))
            .collect();
        if names.is_empty() && !self.dirs.contains(dir) {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("{}: no such directory", dir.display()),
            ));
        }
        Ok(names.into_iter().collect())
    }

    fn change_names(&mut self, dir: PathBuf, removed: Vec<PathBuf>, added: Option<(PathBuf, u64)>) {
        let file_of = |path: PathBuf| self.names.get(&path).map(|file| (path, *file));
        let change = NameChange {
            dir,
            removed: removed.into_iter().filter_map(file_of).collect(),
            added,
        };
        apply_names(&mut self.names, &change);
        self.pending_names.push(change);
    }

    pub(super) fn apply(&mut self, op: SimOp) -> io::Result<()> {
        match op {
            SimOp::CreateDir { path } => {
                self.dirs.extend(path.ancestors().map(Path::to_owned));
            }
            SimOp::Create { path } => {
                let file = self.next_file;
                self.next_file += 1;
                self.files.insert(file, File::default());
                self.change_names(parent(&path), Vec::new(), Some((path, file)));
            }
            SimOp::Write {
                path,
                offset,
                bytes,
            } => {
                let file = self.file(&path)?;
                let offset = offset as usize;
                put(&mut file.current, offset, &bytes);
                // A disk gives a sector that is written anew another place.
                let end = (offset + bytes.len()) as u64;
                file.spoiled
                    .retain(|(range, _)| range.start < offset as u64 || end < range.end);
                file.pending.push(Pending::Write { offset, bytes });
            }
            SimOp::SetLen { path, len } => {
                let file = self.file(&path)?;
                file.current.resize(len as usize, 0);
                file.pending.push(Pending::SetLen(len as usize));
            }
            SimOp::Sync { path } => {
                let file = self.file(&path)?;
                for pending in std::mem::take(&mut file.pending) {
                    match pending {
                        Pending::Write { offset, bytes } => put(&mut file.durable, offset, &bytes),
                        Pending::SetLen(len) => file.durable.resize(len, 0),
                    }
                }
            }
            SimOp::LoseSync { path } => self.file(&path)?.pending.clear(),
            SimOp::Rename { from, to } => {
                let file = self.find(&from)?;
                self.change_names(parent(&to), vec![from], Some((to, file)));
            }
            SimOp::Remove { path } => {
                self.find(&path)?;
                self.change_names(parent(&path), vec![path], None);
            }
            SimOp::RemoveDirAll { path } => {
                let inside = self.names.keys().filter(|name| name.starts_with(&path));
                let inside = inside.cloned().collect();
                self.change_names(parent(&path), inside, None);
                self.dirs.retain(|dir| !dir.starts_with(&path));
            }
            SimOp::SyncDir { path } => {
                let (synced, rest) = std::mem::take(&mut self.pending_names)
                    .into_iter()
                    .partition(|change| change.dir == path);
                self.pending_names = rest;
                let synced: Vec<NameChange> = synced;
                for change in &synced {
                    apply_names(&mut self.durable_names, change);
                }
                self.forget_nameless();
            }
        }
        Ok(())
    }

    /// Frees what no name leads to, now or after a crash.
    fn forget_nameless(&mut self) {
        let pending = self
            .pending_names
            .iter()
            .filter_map(|change| change.added.as_ref());
        let named: BTreeSet<u64> = (self.names.values().copied())
            .chain(self.durable_names.values().copied())
            .chain(pending.map(|(_, file)| *file))
            .collect();
        self.files.retain(|file, _| named.contains(file));
    }

    pub(super) fn unsynced(&self) -> Vec<Unsynced> {
        let mut units = Vec::new();
        for (&file, content) in &self.files {
            for pending in &content.pending {
                match pending {
                    Pending::SetLen(len) => units.push(Unsynced::Length {
                        file,
                        len: *len as u64,
                    }),
                    Pending::Write { offset, bytes } => {
                        units.extend(sectors(*offset, bytes.len()).map(|piece| Unsynced::Sector {
                            file,
                            offset: piece.start as u64,
                            bytes: piece.len(),
                        }));
                    }
                }
            }
        }
        units.extend(self.pending_names.iter().map(|change| {
            Unsynced::Names {
                paths: change
                    .removed
                    .iter()
                    .chain(&change.added)
                    .map(|(path, _)| path.clone())
                    .collect(),
            }
        }));
        units
    }

    /// Keeps the unsynced units that `keep` says, in the order of [`State::unsynced`].
    pub(super) fn crash(&mut self, keep: &mut dyn FnMut(usize) -> bool) {
        let mut unit = 0;
        let mut keep = || {
            unit += 1;
            keep(unit - 1)
        };
        for file in self.files.values_mut() {
            for pending in std::mem::take(&mut file.pending) {
                match pending {
                    Pending::SetLen(len) if keep() => file.durable.resize(len, 0),
                    Pending::SetLen(_) => {}
                    Pending::Write { offset, bytes } => {
                        for piece in sectors(offset, bytes.len()) {
                            if keep() {
                                let new = &bytes[piece.start - offset..piece.end - offset];
                                put(&mut file.durable, piece.start, new);
                            }
                        }
                    }
                }
            }
            file.current.clone_from(&file.durable);
        }
        for change in std::mem::take(&mut self.pending_names) {
            if keep() {
                apply_names(&mut self.durable_names, &change);
            }
        }
        self.names.clone_from(&self.durable_names);
        self.forget_nameless();
    }

    pub(super) fn corrupt(&mut self, path: &Path, offset: u64, mask: u8) {
        let file = self.file(path).expect("what is damaged exists");
        for bytes in [&mut file.durable, &mut file.current] {
            if let Some(byte) = bytes.get_mut(offset as usize) {
                *byte ^= mask;
            }
        }
    }

    pub(super) fn spoil(&mut self, path: &Path, bytes: Range<u64>, fault: ReadFault) {
        let file = self.file(path).expect("what is spoiled exists");
        file.spoiled.push((bytes, fault));
    }

    pub(super) fn heal(&mut self) {
        self.files
            .values_mut()
            .for_each(|file| file.spoiled.clear());
    }

    /// Whether a read of these bytes meets what cannot be read; what fails once has then failed.
    pub(super) fn meets_spoiled_bytes(&mut self, path: &Path, bytes: Range<u64>) -> bool {
        let Ok(file) = self.file(path) else {
            return false;
        };
        let touches = |range: &Range<u64>| range.start < bytes.end && bytes.start < range.end;
        let meets = file.spoiled.iter().any(|(range, _)| touches(range));
        file.spoiled
            .retain(|(range, fault)| *fault == ReadFault::Lasting || !touches(range));
        meets
    }
}
