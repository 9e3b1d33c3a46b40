//! The file system as the kernel asks for it.

use crate::tree::{Cut, DiskFault, Faults, File, Node, Operation, Tree};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};
use rand::rngs::StdRng;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const BLOCK_BYTES: u64 = 4096;
const BLOCKS: u64 = 4 << 20;
/// Nothing is remembered by the kernel: it asks each time.
const TTL: Duration = Duration::ZERO;

type Shared = Arc<Mutex<Tree>>;

fn lock(tree: &Shared) -> MutexGuard<'_, Tree> {
    tree.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A mounted file system; dropping it unmounts it.
pub struct FaultFs {
    tree: Shared,
    root: PathBuf,
    _session: BackgroundSession,
}

impl FaultFs {
    /// Mounts an empty one on an empty directory.
    pub fn mount(root: &Path) -> io::Result<Self> {
        std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")?;
        let tree = Shared::new(Mutex::new(Tree::new()));
        let session = fuser::spawn_mount(Served { tree: tree.clone() }, root, &Config::default())?;
        Ok(Self {
            tree,
            root: root.into(),
            _session: session,
        })
    }

    /// Where it is mounted.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Sets what is to go wrong.
    pub fn set_faults(&self, faults: Faults) {
        lock(&self.tree).faults = faults;
    }

    /// What went wrong so far, and what is still to.
    pub fn faults(&self) -> Faults {
        lock(&self.tree).faults.clone()
    }

    /// Adds the image of a disk as a file at the root.
    pub fn add_image(&self, name: &str, bytes: Vec<u8>) {
        let added = lock(&self.tree).add(1, name, Node::File(File::image(bytes)));
        assert!(added.is_some(), "the root is a directory");
    }

    /// The power goes after so many more writes to images.
    pub fn cut_after(&self, writes: u64) {
        lock(&self.tree).off_after = Some(writes);
    }

    /// Whether the power is gone.
    pub fn is_off(&self) -> bool {
        lock(&self.tree).off
    }

    /// The power goes, if it has not: all fails from now on. Returns what is left of an image.
    pub fn cut(&self, name: &str, rng: &mut StdRng) -> Option<Cut> {
        let mut tree = lock(&self.tree);
        tree.off = true;
        let image = tree.find(1, name)?;
        tree.file(image)?.cut(rng)
    }

    /// The power comes back.
    pub fn power_on(&self) {
        let mut tree = lock(&self.tree);
        (tree.off, tree.off_after) = (false, None);
    }

    /// Takes an image away.
    pub fn remove_image(&self, name: &str) {
        let mut tree = lock(&self.tree);
        if let Some(ino) = tree.dir(1).and_then(|names| names.remove(name)) {
            tree.nodes.remove(&ino);
        }
    }
}

struct Served {
    tree: Shared,
}

impl Served {
    fn attr(tree: &Tree, ino: u64) -> Option<FileAttr> {
        let (kind, size, perm) = match tree.nodes.get(&ino)? {
            Node::Dir(_) => (FileType::Directory, BLOCK_BYTES, 0o755),
            Node::File(file) => (FileType::RegularFile, file.bytes.len() as u64, 0o644),
        };
        Some(FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: BLOCK_BYTES as u32,
            flags: 0,
        })
    }

    fn add(&self, parent: INodeNo, name: &OsStr, node: Node) -> Result<FileAttr, Errno> {
        let name = name.to_str().ok_or(Errno::EINVAL)?;
        let mut tree = lock(&self.tree);
        let ino = tree.add(parent.0, name, node).ok_or(Errno::ENOTDIR)?;
        Self::attr(&tree, ino).ok_or(Errno::EIO)
    }

    fn remove(&self, parent: INodeNo, name: &OsStr) -> Result<(), Errno> {
        let name = name.to_str().ok_or(Errno::EINVAL)?;
        let mut tree = lock(&self.tree);
        let ino = tree.find(parent.0, name).ok_or(Errno::ENOENT)?;
        if tree.dir(ino).is_some_and(|names| !names.is_empty()) {
            return Err(Errno::ENOTEMPTY);
        }
        tree.dir(parent.0).ok_or(Errno::ENOTDIR)?.remove(name);
        // Its bytes stay for who has it open; the process ends soon.
        tree.named(ino, "");
        Ok(())
    }

    fn rename(&self, from: (INodeNo, &OsStr), to: (INodeNo, &OsStr)) -> Result<(), Errno> {
        let (old, new) = (from.1.to_str(), to.1.to_str());
        let (old, new) = old.zip(new).ok_or(Errno::EINVAL)?;
        let mut tree = lock(&self.tree);
        let ino = tree.find(from.0.0, old).ok_or(Errno::ENOENT)?;
        tree.dir(from.0.0).ok_or(Errno::ENOTDIR)?.remove(old);
        tree.dir(to.0.0)
            .ok_or(Errno::ENOTDIR)?
            .insert(new.into(), ino);
        tree.named(ino, new);
        Ok(())
    }

    fn read(&self, ino: INodeNo, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let mut tree = lock(&self.tree);
        if tree.off {
            return Err(Errno::EIO);
        }
        let bytes = &tree.file(ino.0).ok_or(Errno::ENOENT)?.bytes;
        let start = (offset as usize).min(bytes.len());
        let end = (start + size as usize).min(bytes.len());
        Ok(bytes[start..end].to_vec())
    }

    fn write(&self, ino: INodeNo, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        let mut tree = lock(&self.tree);
        if tree.off {
            return Err(Errno::EIO);
        }
        let fault = match tree.logs.contains(&ino.0) {
            true => tree.faults.meet(Operation::Write),
            false => None,
        };
        let file = tree.file(ino.0).ok_or(Errno::ENOENT)?;
        let half = &data[..data.len() / 2];
        match fault {
            None => {
                file.write(offset, data);
                let image = file.is_image();
                if let Some(left) = tree.off_after.as_mut().filter(|_| image) {
                    *left = left.saturating_sub(1);
                    tree.off = *left == 0;
                }
                Ok(data.len() as u32)
            }
            Some(DiskFault::Eio) => {
                file.write(offset, half);
                Err(Errno::EIO)
            }
            Some(DiskFault::Enospc) => Err(Errno::ENOSPC),
            Some(DiskFault::Short) => {
                file.write(offset, half);
                Ok(half.len() as u32)
            }
        }
    }

    /// How a sync ends, and how long that takes.
    fn sync(&self, ino: INodeNo) -> (Result<(), Errno>, Duration) {
        let mut tree = lock(&self.tree);
        if tree.off {
            return (Err(Errno::EIO), Duration::ZERO);
        }
        let (mut result, mut takes) = (Ok(()), Duration::ZERO);
        if tree.logs.contains(&ino.0) {
            takes = tree.faults.sync_takes;
            result = match tree.faults.meet(Operation::Sync) {
                None => Ok(()),
                Some(DiskFault::Enospc) => Err(Errno::ENOSPC),
                Some(_) => Err(Errno::EIO),
            };
        }
        if result.is_ok()
            && let Some(file) = tree.file(ino.0)
        {
            file.sync();
        }
        (result, takes)
    }
}

fn done(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut tree = lock(&self.tree);
        let ino = name.to_str().and_then(|name| tree.find(parent.0, name));
        match ino.and_then(|ino| Self::attr(&tree, ino)) {
            Some(attr) => reply.entry(&TTL, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match Self::attr(&lock(&self.tree), ino.0) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut tree = lock(&self.tree);
        if let (Some(len), Some(file)) = (size, tree.file(ino.0)) {
            file.set_len(len);
        }
        match Self::attr(&tree, ino.0) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        match self.add(parent, name, Node::Dir(Default::default())) {
            Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, self.remove(parent, name));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, self.remove(parent, name));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        done(
            reply,
            Self::rename(self, (parent, name), (newparent, newname)),
        );
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Each write comes here at once. FOPEN_DIRECT_IO would make the kernel forget RWF_DSYNC.
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.add(parent, name, Node::File(File::default())) {
            Ok(attr) => reply.created(
                &TTL,
                &attr,
                Generation(0),
                FileHandle(0),
                FopenFlags::empty(),
            ),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match Self::read(self, ino, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match Self::write(self, ino, offset, data) {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let (result, takes) = self.sync(ino);
        if takes.is_zero() {
            return done(reply, result);
        }
        // All else goes on meanwhile.
        std::thread::spawn(move || {
            std::thread::sleep(takes);
            done(reply, result);
        });
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let mut tree = lock(&self.tree);
        let Some(names) = tree.dir(ino.0).cloned() else {
            return reply.error(Errno::ENOTDIR);
        };
        for (index, (name, child)) in names.iter().enumerate().skip(offset as usize) {
            let kind = match tree.nodes.get(child) {
                Some(Node::Dir(_)) => FileType::Directory,
                _ => FileType::RegularFile,
            };
            if reply.add(INodeNo(*child), index as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let block = BLOCK_BYTES as u32;
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, 1 << 20, 1 << 20, block, 255, block);
    }
}
