//! Identifiers, configuration and errors of the log.

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of a block: every write and every segment is a multiple of it.
pub const BLOCK_BYTES: usize = 4096;

/// A byte address in a shard's log: `segment id × segment bytes + offset`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Lsn(pub u64);

/// The number of a segment; they only ever grow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SegmentId(pub u64);

/// The room a record belongs to, as the log sees it: the LSN of the room's `RoomCreated` record,
/// so that a key is never used twice. Zero for records that belong to no room.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RoomKey(pub u64);

/// What a record says. The numbers are on disk: never renumber.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum RecordKind {
    /// A room came into being; the payload is its name, its key is this record's LSN.
    RoomCreated = 1,
    /// A client's update, verbatim.
    Update = 2,
    /// A snapshot of the room is durable; the payload is `covers_lsn` (u64) and `room_seq` (u64).
    SnapshotInstalled = 3,
    /// The room and all it held is gone.
    RoomDeleted = 4,
    /// Vouches for all before it.
    Seal = 5,
    /// The shard was closed in order.
    CleanShutdown = 6,
    /// Live-storage operations.
    LiveOps = 7,
    /// The next free actor number of a room.
    ActorCounter = 8,
}

impl RecordKind {
    /// The kind with this number on disk.
    pub fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::RoomCreated,
            Self::Update,
            Self::SnapshotInstalled,
            Self::RoomDeleted,
            Self::Seal,
            Self::CleanShutdown,
            Self::LiveOps,
            Self::ActorCounter,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }

    /// Whether the log may need it to make room for others; such records are taken when the log is
    /// full for clients.
    pub(crate) fn is_housekeeping(self) -> bool {
        matches!(
            self,
            Self::SnapshotInstalled | Self::Seal | Self::CleanShutdown
        )
    }
}

/// One record as recovery and inspection see it.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Where it stands.
    pub lsn: Lsn,
    /// The durable LSN at which it is known durable (the end of its batch).
    pub durable_at: Lsn,
    /// What it says.
    pub kind: RecordKind,
    /// Whose it is.
    pub room: RoomKey,
    /// The room's own sequence number, from 1; 0 where it has no meaning.
    pub room_seq: u64,
    /// Its bytes.
    pub payload: &'a [u8],
}

/// Whose log this is; written into every segment and checked when it is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The store, drawn at random when it was made.
    pub store: [u8; 16],
    /// The shard's number.
    pub shard: u16,
}

/// Sizes and bounds of a log.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Bytes of a segment, a multiple of [`BLOCK_BYTES`]. On disk it never changes for a store.
    pub segment_bytes: u64,
    /// A batch is closed once it holds this many bytes; one larger record still gets a batch of
    /// its own, as long as it fits a segment.
    pub batch_bytes: usize,
    /// Bytes that may wait for the disk before [`AppendError::Full`].
    pub queue_bytes_max: usize,
    /// Segments kept prepared ahead.
    pub segments_ready: usize,
    /// Seeds segment salts; drawn at random by the caller in production.
    pub salt_seed: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            batch_bytes: 1 << 20,
            queue_bytes_max: 64 << 20,
            segments_ready: 2,
            salt_seed: 0,
        }
    }
}

/// Where an appended record landed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appended {
    /// Its address.
    pub lsn: Lsn,
    /// It is durable once `durable_lsn >= durable_at`: a value greater than its own LSN and not
    /// greater than the end of its batch (a batch becomes durable whole).
    pub durable_at: Lsn,
}

/// Why a record was not taken. Nothing was appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AppendError {
    /// The disk is behind by more than `queue_bytes_max`, or no segment could be prepared; try later.
    #[error("the log is full: {0}")]
    Full(&'static str),
    /// No segment could ever hold it.
    #[error("a record of {bytes} bytes exceeds the {max} bytes a segment can hold")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The largest that fits.
        max: usize,
    },
    /// A write failed earlier; the process must end.
    #[error("the log is poisoned by an earlier write error")]
    Poisoned,
}

/// A write or sync failed; nothing can be acknowledged any more and the process must end.
#[derive(Debug, thiserror::Error)]
#[error(
    "write-ahead log write at LSN {lsn:?} failed: {why}; nothing after the last acknowledged update can be promised"
)]
pub struct Poisoned {
    /// The first address not known durable.
    pub lsn: Lsn,
    /// What the operating system said.
    pub why: String,
}

/// One group commit to be written and made durable: `buffer` to `path` at `offset`, O_DIRECT, then
/// fdatasync (or one write with RWF_DSYNC). Hand it back through `Log::on_written`.
#[derive(Debug)]
pub struct WriteJob {
    /// The segment's number: a runtime keeps its open files by it.
    pub segment: SegmentId,
    /// The segment's file, absolute.
    pub path: Arc<Path>,
    /// Byte offset in the file, a multiple of [`BLOCK_BYTES`].
    pub offset: u64,
    /// What to write, whole: `buffer.as_slice()`, a multiple of [`BLOCK_BYTES`] long, aligned.
    pub buffer: crate::AlignedBuf,
}

/// Why a log could not be opened. Nothing on disk was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The operating system said no.
    #[error("{path}: {error}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        error: std::io::Error,
    },
    /// Acknowledged data is damaged.
    #[error("{path}: acknowledged data is damaged at LSN {lsn}: {what}. Nothing was changed. Run `collabblocks wal inspect` to see what is left", lsn = lsn.0)]
    Damaged {
        /// The segment's file.
        path: PathBuf,
        /// The first address that cannot be read.
        lsn: Lsn,
        /// What is wrong with it.
        what: String,
        /// Rooms with records in what can still be read at or after the damage.
        rooms: Vec<RoomKey>,
    },
    /// Written by newer software.
    #[error(
        "{path}: {what} is of a newer format than this program knows; use the program that wrote it"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// What is new.
        what: String,
    },
    /// Another store's or shard's file, or settings that do not fit what is on disk.
    #[error("{path}: {what}")]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// What does not fit, and what to do.
        what: String,
    },
    /// The reader of the records refused one.
    #[error("record at LSN {lsn}: {what}", lsn = lsn.0)]
    Refused {
        /// Its address.
        lsn: Lsn,
        /// Why.
        what: String,
    },
}

/// What recovery found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Records replayed.
    pub records: u64,
    /// Bytes of log read.
    pub bytes: u64,
    /// Where the log goes on.
    pub end: Lsn,
    /// A torn tail was zeroed from here.
    pub torn_at: Option<Lsn>,
    /// The log ended with a CleanShutdown record.
    pub clean: bool,
}
