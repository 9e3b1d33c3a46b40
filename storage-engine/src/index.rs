//! Where snapshots stand, and how much of each snapshot segment still lives.

use crate::manifest::SnapshotSegment;
use collabblocks_wal::{Lsn, RoomKey};
use std::collections::BTreeMap;

/// Where a room's snapshot stands and what it covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SnapshotRef {
    pub(crate) key: RoomKey,
    pub(crate) seq: u64,
    pub(crate) covers: Lsn,
    pub(crate) segment: u32,
    /// Bytes of the entry, header and name included.
    pub(crate) len: u32,
    pub(crate) offset: u64,
}

/// What is known of a snapshot segment.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct SegmentUse {
    /// Bytes known to be durable.
    pub(crate) durable_bytes: u64,
    /// Bytes of entries that are some room's newest.
    pub(crate) live_bytes: u64,
    /// Jobs under way that read from it, and snapshots in it that are not their rooms' newest yet.
    pub(crate) readers: u32,
    /// Nothing is appended to it any more.
    pub(crate) sealed: bool,
}

/// The snapshot segments of a shard.
#[derive(Default)]
pub(crate) struct Segments {
    map: BTreeMap<u32, SegmentUse>,
}

impl Segments {
    /// A segment was found or made durable up to `durable_bytes`.
    pub(crate) fn grown(&mut self, id: u32, durable_bytes: u64) {
        let segment = self.map.entry(id).or_default();
        assert!(
            segment.durable_bytes <= durable_bytes,
            "a snapshot segment only grows"
        );
        segment.durable_bytes = durable_bytes;
    }

    /// A snapshot became a room's newest.
    pub(crate) fn born(&mut self, at: SnapshotRef) {
        self.map.entry(at.segment).or_default().live_bytes += u64::from(at.len);
    }

    /// A snapshot is no room's newest any more.
    pub(crate) fn died(&mut self, at: SnapshotRef) {
        let segment = self
            .map
            .get_mut(&at.segment)
            .expect("a segment with live bytes is known");
        segment.live_bytes = segment
            .live_bytes
            .checked_sub(u64::from(at.len))
            .expect("only live bytes can die");
    }

    /// Nothing will be appended to it any more.
    pub(crate) fn seal(&mut self, id: u32) {
        if let Some(segment) = self.map.get_mut(&id) {
            segment.sealed = true;
        }
    }

    /// It could not be copied from: it is left alone until the next start.
    pub(crate) fn give_up(&mut self, id: u32) {
        self.map.get_mut(&id).expect("a victim is known").sealed = false;
    }

    /// More is appended to it.
    pub(crate) fn reopen(&mut self, id: u32) {
        self.map.get_mut(&id).expect("the segment was found").sealed = false;
    }

    pub(crate) fn read_begins(&mut self, id: u32) {
        self.map
            .get_mut(&id)
            .expect("a segment that is read is known")
            .readers += 1;
    }

    pub(crate) fn read_ended(&mut self, id: u32) {
        let segment = self
            .map
            .get_mut(&id)
            .expect("a segment with readers is not dropped");
        segment.readers = segment.readers.checked_sub(1).expect("each read ends once");
    }

    /// Forgets a segment, whose file is about to be removed.
    pub(crate) fn dropped(&mut self, id: u32) {
        let segment = self.map.remove(&id).expect("a dropped segment was known");
        assert!(
            segment.live_bytes == 0 && segment.readers == 0,
            "a dropped segment is dead"
        );
    }

    /// The sealed segment with the smallest share of live bytes, if that is below `ratio_min`.
    pub(crate) fn worst(&self, ratio_min: f64) -> Option<(u32, SegmentUse)> {
        let share = |s: &SegmentUse| s.live_bytes as f64 / s.durable_bytes.max(1) as f64;
        self.map
            .iter()
            .filter(|(_, s)| {
                s.sealed && s.readers == 0 && (s.live_bytes == 0 || share(s) < ratio_min)
            })
            .min_by(|(_, a), (_, b)| share(a).total_cmp(&share(b)))
            .map(|(&id, &s)| (id, s))
    }

    /// For the manifest: all segments but `without`.
    pub(crate) fn list(&self, without: Option<u32>) -> Vec<SnapshotSegment> {
        self.map
            .iter()
            .filter(|&(&id, _)| Some(id) != without)
            .map(|(&id, s)| SnapshotSegment {
                id,
                durable_bytes: s.durable_bytes,
            })
            .collect()
    }

    pub(crate) fn get(&self, id: u32) -> Option<&SegmentUse> {
        self.map.get(&id)
    }
}
