//! The files, what of them is durable, and what is to go wrong.

use rand::RngExt;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

/// What a disk writes whole.
const SECTOR_BYTES: u64 = 512;

/// What can be made to fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// A write to a log segment.
    Write,
    /// A sync of a log segment.
    Sync,
}

/// How it fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskFault {
    /// With EIO; of a write, half arrived.
    Eio,
    /// With ENOSPC; nothing arrived.
    Enospc,
    /// A write says that it wrote half, and did.
    Short,
}

/// What is to go wrong with the logs. All after the first that failed goes well again: that nobody
/// tries again is the server's doing.
#[derive(Clone, Default, Debug)]
pub struct Faults {
    /// So many operations of this kind from now, one fails.
    pub next: Option<(Operation, u64, DiskFault)>,
    /// Every sync of a log takes so long.
    pub sync_takes: Duration,
    /// One has failed.
    pub fired: bool,
    /// Writes of logs so far.
    pub writes: u64,
    /// Syncs of logs so far.
    pub syncs: u64,
}

impl Faults {
    /// What happens to an operation that is done now.
    pub(crate) fn meet(&mut self, operation: Operation) -> Option<DiskFault> {
        match operation {
            Operation::Write => self.writes += 1,
            Operation::Sync => self.syncs += 1,
        }
        let (kind, left, fault) = self.next.as_mut()?;
        if *kind != operation {
            return None;
        }
        if *left > 0 {
            *left -= 1;
            return None;
        }
        let fault = *fault;
        self.next = None;
        self.fired = true;
        Some(fault)
    }
}

/// A file or a directory.
#[derive(Debug)]
pub(crate) enum Node {
    Dir(BTreeMap<String, u64>),
    File(File),
}

/// What a power cut leaves of an image.
#[derive(Clone, Debug)]
pub struct Cut {
    /// Its bytes.
    pub left: Vec<u8>,
    /// Sectors that were written and not flushed.
    pub unsynced: u64,
    /// Those of them that are as they were before.
    pub lost: u64,
}

/// A file's bytes.
#[derive(Default, Debug)]
pub(crate) struct File {
    pub bytes: Vec<u8>,
    /// Kept for images only: what a power cut leaves for sure, and what came since.
    image: Option<Image>,
}

#[derive(Default, Debug)]
struct Image {
    durable: Vec<u8>,
    unsynced: Vec<(u64, Vec<u8>)>,
}

fn put(bytes: &mut Vec<u8>, offset: u64, new: &[u8]) {
    let offset = offset as usize;
    if bytes.len() < offset + new.len() {
        bytes.resize(offset + new.len(), 0);
    }
    bytes[offset..offset + new.len()].copy_from_slice(new);
}

impl File {
    /// The image of a disk: a power cut takes some of what was not synced.
    pub fn image(bytes: Vec<u8>) -> Self {
        Self {
            image: Some(Image {
                durable: bytes.clone(),
                unsynced: Vec::new(),
            }),
            bytes,
        }
    }

    pub fn write(&mut self, offset: u64, new: &[u8]) {
        put(&mut self.bytes, offset, new);
        if let Some(image) = &mut self.image {
            image.unsynced.push((offset, new.to_vec()));
        }
    }

    pub fn is_image(&self) -> bool {
        self.image.is_some()
    }

    pub fn set_len(&mut self, len: u64) {
        self.bytes.resize(len as usize, 0);
    }

    pub fn sync(&mut self) {
        if let Some(image) = &mut self.image {
            for (offset, new) in image.unsynced.drain(..) {
                put(&mut image.durable, offset, &new);
            }
        }
    }

    /// What a power cut now leaves of an image, how many of its sectors were unsynced, and how many of
    /// those it takes.
    pub fn cut(&self, rng: &mut StdRng) -> Option<Cut> {
        let image = self.image.as_ref()?;
        let (mut left, mut unsynced, mut lost) = (image.durable.clone(), 0, 0);
        let share = [0.0, 0.1, 0.5, 0.9, 1.0][rng.random_range(0..5)];
        for (offset, new) in &image.unsynced {
            for piece in sectors(*offset, new.len()) {
                unsynced += 1;
                if rng.random_bool(share) {
                    put(&mut left, offset + piece.start as u64, &new[piece]);
                } else {
                    lost += 1;
                }
            }
        }
        Some(Cut {
            left,
            unsynced,
            lost,
        })
    }
}

/// The parts of a write that come whole or not at all.
fn sectors(offset: u64, len: usize) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let left = SECTOR_BYTES - (offset + at as u64) % SECTOR_BYTES;
        let piece = at..(at + left as usize).min(len);
        at = piece.end;
        (!piece.is_empty()).then_some(piece)
    })
}

/// All files.
#[derive(Debug)]
pub(crate) struct Tree {
    pub nodes: BTreeMap<u64, Node>,
    next: u64,
    /// The files that are log segments, by their names.
    pub logs: std::collections::BTreeSet<u64>,
    pub faults: Faults,
    /// The power is gone: everything fails.
    pub off: bool,
    /// It goes after so many more writes to images.
    pub off_after: Option<u64>,
}

impl Tree {
    pub fn new() -> Self {
        Self {
            nodes: BTreeMap::from([(1, Node::Dir(BTreeMap::new()))]),
            next: 2,
            logs: std::collections::BTreeSet::new(),
            faults: Faults::default(),
            off: false,
            off_after: None,
        }
    }

    pub fn dir(&mut self, ino: u64) -> Option<&mut BTreeMap<String, u64>> {
        match self.nodes.get_mut(&ino)? {
            Node::Dir(names) => Some(names),
            Node::File(_) => None,
        }
    }

    pub fn file(&mut self, ino: u64) -> Option<&mut File> {
        match self.nodes.get_mut(&ino)? {
            Node::File(file) => Some(file),
            Node::Dir(_) => None,
        }
    }

    pub fn find(&mut self, parent: u64, name: &str) -> Option<u64> {
        self.dir(parent)?.get(name).copied()
    }

    pub fn add(&mut self, parent: u64, name: &str, node: Node) -> Option<u64> {
        let ino = self.next;
        self.dir(parent)?.insert(name.into(), ino);
        self.next += 1;
        self.nodes.insert(ino, node);
        self.named(ino, name);
        Some(ino)
    }

    /// A file has a name now.
    pub fn named(&mut self, ino: u64, name: &str) {
        if name.ends_with(".wal") {
            self.logs.insert(ino);
        } else {
            self.logs.remove(&ino);
        }
    }
}
