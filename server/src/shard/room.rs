//! What the shard knows of a room beside its document: its sessions, its presence, and the frames
//! of the turn.

use super::apart::Apart;
use super::hot::Hot;
use super::marks::Marks;
use super::presence::Presence;
use super::spread::Spread;
use super::stream::{Answer, Answered};
use super::tally::Counts;
use super::types::{ConnId, Instant};
use collabblocks_storage_engine::RoomId;
use std::ops::Range;
use std::rc::Rc;

/// One frame of a turn.
#[derive(Clone, Debug)]
pub struct TurnFrame {
    /// Whose own update it is, who must not get it from here: it is told once the update is durable.
    pub author: Option<ConnId>,
    /// Where it ends in the turn's bytes.
    pub end: usize,
}

/// The document frames of one turn, in order.
#[derive(Clone, Debug, Default)]
pub struct Turn {
    /// The frames, one after the other.
    pub bytes: Vec<u8>,
    /// Where each ends, and whose it is.
    pub frames: Vec<TurnFrame>,
    /// Large updates among them. Of each there is one byte in `bytes`, which has its place and is told
    /// to nobody: whoever is to hear it gets it as what was missed.
    large: Vec<Large>,
}

/// A large update among the frames.
#[derive(Clone, Debug)]
struct Large {
    /// Where its frame ends.
    end: usize,
    /// `None`: there is no memory for one more, and a diff tells it.
    update: Option<Rc<Answer>>,
}

impl Turn {
    /// Closes the frame whose bytes were appended last.
    pub fn frame_done(&mut self, author: Option<ConnId>) {
        self.frame_ends(author, self.bytes.len());
    }

    /// Closes a frame that ends here.
    pub fn frame_ends(&mut self, author: Option<ConnId>, end: usize) {
        self.frames.push(TurnFrame { author, end });
    }

    /// The longest runs of bytes in which no frame is `author`'s own.
    pub fn ranges_without(&self, author: ConnId) -> impl Iterator<Item = Range<usize>> + '_ {
        let starts = std::iter::once(0).chain(self.frames.iter().map(|f| f.end));
        starts
            .zip(&self.frames)
            .filter(move |(_, f)| f.author != Some(author))
            .map(|(start, f)| start..f.end)
    }

    /// Adds a large update.
    pub fn add_large(&mut self, author: ConnId, update: Option<Rc<Answer>>) {
        self.bytes.push(0);
        self.frame_done(Some(author));
        let end = self.bytes.len();
        self.large.push(Large { end, update });
    }

    /// Whether there is a large update among the frames.
    pub fn has_large(&self) -> bool {
        !self.large.is_empty()
    }

    fn large_at(&self, end: usize) -> Option<&Rc<Answer>> {
        let at = self.large.iter().find(|large| large.end == end)?;
        at.update.as_ref()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.frames.clear();
        self.large.clear();
    }
}

/// Document frames of a while: since some session of the room fell behind, one copy for all who did; or
/// that are not told to all yet.
#[derive(Clone, Debug, Default)]
pub struct Backlog {
    /// The room's stream offset at which the backlog begins.
    begins: u64,
    kept: Turn,
}

impl Backlog {
    /// Keeps a turn's frames, unless that makes more than so many bytes.
    pub fn append(&mut self, offset: u64, turn: &Turn, bytes_max: usize) {
        if self.kept.bytes.is_empty() {
            self.begins = offset;
        }
        let base = self.kept.bytes.len();
        let told_by_diff = turn.large.iter().any(|large| large.update.is_none());
        if told_by_diff || base + turn.bytes.len() > bytes_max {
            // From here on a diff is cheaper than the frames, whoever it is for.
            return self.lose();
        }
        self.kept.bytes.extend_from_slice(&turn.bytes);
        self.kept
            .frames
            .extend(turn.frames.iter().map(|f| TurnFrame {
                author: f.author,
                end: base + f.end,
            }));
        self.kept.large.extend(turn.large.iter().map(|l| Large {
            end: base + l.end,
            update: l.update.clone(),
        }));
    }

    /// Bytes that are kept.
    pub fn len(&self) -> usize {
        self.kept.bytes.len()
    }

    /// What is kept from a stream offset on.
    pub fn tail(&self, from: u64) -> &[u8] {
        if self.kept.bytes.is_empty() {
            return &[];
        }
        let skip = from.checked_sub(self.begins);
        &self.kept.bytes[skip.expect("what is not told to all is kept") as usize..]
    }

    /// Forgets what is before a stream offset, if that is worth the move.
    pub fn forget(&mut self, before: u64) {
        let skip = before.saturating_sub(self.begins) as usize;
        if skip >= self.kept.bytes.len() {
            self.kept.clear();
        } else if skip > self.kept.bytes.len() / 2 {
            self.kept.bytes.drain(..skip);
            self.kept.frames.retain_mut(|frame| {
                let stays = frame.end > skip;
                frame.end = frame.end.saturating_sub(skip);
                stays
            });
            self.kept.large.retain_mut(|large| {
                let stays = large.end > skip;
                large.end = large.end.saturating_sub(skip);
                stays
            });
            self.begins += skip as u64;
        }
    }

    fn lose(&mut self) {
        self.kept.clear();
        self.begins = u64::MAX;
    }

    fn replay_frames(
        &self,
        from: u64,
        out: &mut Vec<u8>,
        mut each: impl FnMut(Option<ConnId>, usize),
    ) -> bool {
        if self.begins > from || self.kept.bytes.is_empty() {
            return false;
        }
        let skip = (from - self.begins) as usize;
        if self.kept.large.iter().any(|large| large.end > skip) {
            return false;
        }
        out.extend_from_slice(&self.kept.bytes[skip..]);
        for frame in self.kept.frames.iter().filter(|f| f.end > skip) {
            each(frame.author, frame.end - skip);
        }
        true
    }

    /// Appends what came from a stream offset on and is not `reader`'s own, as [`Room::replay`] does.
    pub fn replay(
        &self,
        from: u64,
        reader: ConnId,
        bytes_max: usize,
        out: &mut Vec<u8>,
    ) -> Option<Replayed> {
        let mut at = from.checked_sub(self.begins)? as usize;
        if self.kept.bytes.is_empty() {
            return None;
        }
        let mut first = self.kept.frames.partition_point(|f| f.end <= at);
        let begin = first
            .checked_sub(1)
            .map_or(0, |before| self.kept.frames[before].end);
        if begin < at
            && let Some(frame) = self.kept.frames.get(first)
        {
            // Who has heard a part has heard it all: a diff in the place of frames has no offsets within.
            at = frame.end;
            first += 1;
        }
        let begins = out.len();
        for frame in &self.kept.frames[first..] {
            if out.len() - begins >= bytes_max {
                break;
            }
            let large = self.kept.large_at(frame.end);
            if frame.author != Some(reader) {
                if large.is_some() {
                    return Some(Replayed {
                        up_to: self.begins + frame.end as u64,
                        large: large.cloned(),
                    });
                }
                out.extend_from_slice(&self.kept.bytes[at..frame.end]);
            }
            at = frame.end;
        }
        Some(Replayed {
            up_to: self.begins + at as u64,
            large: None,
        })
    }
}

/// How far what was missed was told.
#[derive(Debug)]
pub struct Replayed {
    /// The stream offset up to which all is told.
    pub up_to: u64,
    /// The last of it is this large update, which is not among the frames.
    pub large: Option<Rc<Answer>>,
}

/// Entries of [`Room::asks`].
pub const ASKS_MAX: usize = 1024;

/// A room with sessions. Lives on its home shard.
#[derive(Debug)]
pub struct Room {
    /// Its id in the storage engine.
    pub id: RoomId,
    /// Connections attached to it that are live.
    pub sessions: Vec<ConnId>,
    /// Connections that wait for it to load.
    pub loading: Vec<ConnId>,
    /// Bytes of what those have sent.
    pub loading_bytes: usize,
    /// Who is there.
    pub presence: Presence,
    /// Document frames of this turn.
    pub turn: Turn,
    /// Whether it is on the shard's list of rooms to flush.
    pub dirty: bool,
    /// Document bytes broadcast since the room was opened.
    pub stream_offset: u64,
    /// Sessions that are behind.
    pub behind: usize,
    backlog: Option<Box<Backlog>>,
    /// Updates that the document has and that are relayed only once they are durable.
    pub held: usize,
    /// Of whom to ask again when a unit (client and clock) is there: what they sent was cut for want
    /// of it. Past [`ASKS_MAX`] nobody new is noted.
    pub asks: Vec<(ConnId, u64, u32)>,
    /// Large answers that were given lately.
    pub answers: Vec<Answered>,
    /// What a job has its document for, and who waits for it.
    pub apart: Option<Box<Apart>>,
    /// While it is hot, or has sessions of other cores.
    pub hot: Option<Box<Hot>>,
    /// What its document held, while it is large or has sessions of other cores.
    pub marks: Marks,
    /// While it is large.
    pub spread: Option<Box<Spread>>,
    /// Of a room of another core: its sessions on all cores, as its home said last.
    pub size_told: usize,
    /// When what there is to tell was told last.
    pub flushed_at: Instant,
    /// What there is to tell waits until then.
    pub paced: Option<Instant>,
    /// What of it is in the shard's sums.
    pub counted: Counts,
}

impl Room {
    /// A room nobody is in yet; `held` counts what was written to it before all left and is not relayed yet.
    pub fn new(id: RoomId, held: usize, hash_seed: u64) -> Self {
        Self {
            id,
            sessions: Vec::new(),
            loading: Vec::new(),
            loading_bytes: 0,
            presence: Presence::new(hash_seed),
            turn: Turn::default(),
            dirty: false,
            stream_offset: 0,
            behind: 0,
            backlog: None,
            held,
            asks: Vec::new(),
            answers: Vec::new(),
            apart: None,
            hot: None,
            marks: Marks::default(),
            spread: None,
            size_told: 0,
            flushed_at: Instant(0),
            paced: None,
            counted: Counts::default(),
        }
    }

    /// Whether nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends the turn: its frames are kept for those who are behind, then forgotten.
    pub fn end_turn(&mut self, backlog_bytes_max: usize) {
        if self.behind > 0 {
            self.begin_backlog();
            let backlog = self.backlog.as_mut().expect("it has begun");
            backlog.append(self.stream_offset, &self.turn, backlog_bytes_max);
        }
        if let Some(spread) = &mut self.spread {
            spread.turn_ended(self.stream_offset, &self.turn);
        }
        self.stream_offset += self.turn.bytes.len() as u64;
        self.turn.clear();
        self.dirty = false;
    }

    /// Sessions of it are behind from now on.
    pub fn fell_behind(&mut self, sessions: usize) {
        self.behind += sessions;
        self.begin_backlog();
    }

    /// From here on frames are kept, with those that are not told to all yet.
    fn begin_backlog(&mut self) {
        if self.backlog.is_none() {
            let window = self.spread.as_ref().map(|spread| spread.window().clone());
            self.backlog = Some(Box::new(window.unwrap_or_default()));
        }
    }

    /// A session is no longer behind.
    pub fn caught_up(&mut self) {
        self.behind -= 1;
        if self.behind == 0 {
            self.backlog = None;
        }
    }

    /// Appends what a session that was behind since `from` missed and is not its own, in whole frames
    /// until those are `bytes_max` or more, or a large update is next. `None` if only a diff helps.
    pub fn replay(
        &self,
        from: u64,
        reader: ConnId,
        bytes_max: usize,
        out: &mut Vec<u8>,
    ) -> Option<Replayed> {
        match &self.backlog {
            _ if from >= self.stream_offset => Some(Replayed {
                up_to: from,
                large: None,
            }),
            Some(backlog) => backlog.replay(from, reader, bytes_max, out),
            None => None,
        }
    }

    /// What a whole core missed: all frames, and who wrote each, where it ends in `out`; `false` if
    /// they are no longer all kept.
    pub fn replay_frames(
        &self,
        from: u64,
        out: &mut Vec<u8>,
        each: impl FnMut(Option<ConnId>, usize),
    ) -> bool {
        match &self.backlog {
            _ if from >= self.stream_offset => true,
            Some(backlog) => backlog.replay_frames(from, out, each),
            None => false,
        }
    }

    /// Forgets all that was, and goes on from a stream offset: for the copy on a core of a room of
    /// another one.
    pub fn begin(&mut self, offset: u64) {
        self.presence.clear();
        self.turn.clear();
        self.backlog = None;
        self.spread = None;
        self.stream_offset = offset;
    }

    /// What is kept for those who are behind does not reach up to now.
    pub fn lose_backlog(&mut self) {
        if let Some(backlog) = &mut self.backlog {
            backlog.lose();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ConnId = ConnId {
        slot: 1,
        generation: 1,
    };
    const B: ConnId = ConnId {
        slot: 2,
        generation: 1,
    };

    fn room() -> Room {
        let id = RoomId {
            slot: 0,
            generation: 0,
        };
        Room::new(id, 0, 1)
    }

    fn turn(room: &mut Room, frames: &[(&[u8], Option<ConnId>)], max: usize) {
        for (bytes, author) in frames {
            room.turn.bytes.extend_from_slice(bytes);
            room.turn.frame_done(*author);
        }
        room.end_turn(max);
    }

    #[test]
    fn a_writer_gets_the_turn_without_its_own() {
        let mut turn = Turn::default();
        for (bytes, author) in [
            (b"aa", Some(A)),
            (b"bb", Some(B)),
            (b"cc", None),
            (b"dd", Some(A)),
        ] {
            turn.bytes.extend_from_slice(bytes);
            turn.frame_done(author);
        }
        let of = |who| -> Vec<u8> {
            turn.ranges_without(who)
                .flat_map(|r| turn.bytes[r].to_vec())
                .collect()
        };
        assert_eq!(of(A), b"bbcc");
        assert_eq!(of(B), b"aaccdd");
    }

    #[test]
    fn who_falls_behind_misses_nothing() {
        let mut room = room();
        turn(&mut room, &[(b"seen", Some(B))], 100);
        let from = room.stream_offset;
        room.behind = 2;
        turn(&mut room, &[(b"one", Some(B)), (b"own", Some(A))], 100);
        let later = room.stream_offset;
        turn(&mut room, &[(b"two", None)], 100);
        let replay = |from, who| {
            let mut out = Vec::new();
            let end = room.replay(from, who, 100, &mut out).unwrap();
            assert_eq!(end.up_to, room.stream_offset);
            out
        };
        assert_eq!(replay(from, A), b"onetwo");
        assert_eq!(replay(from, B), b"owntwo");
        assert_eq!(replay(later, A), b"two");
        // In parts: whole frames, and what is one's own costs nothing.
        let mut out = Vec::new();
        let part = room.replay(from, B, 1, &mut out).unwrap().up_to;
        assert_eq!((part, out.as_slice()), (from + 6, &b"own"[..]));
        let part = room.replay(from, A, 4, &mut out).unwrap().up_to;
        assert_eq!((part, &out[3..]), (room.stream_offset, &b"onetwo"[..]));
        assert_eq!(room.replay(part, A, 4, &mut out).unwrap().up_to, part);
        assert_eq!(out.len(), 9);
    }

    #[test]
    fn past_its_bound_only_a_diff_helps() {
        let mut room = room();
        let from = room.stream_offset;
        room.behind = 1;
        turn(&mut room, &[(&[1; 60], None)], 100);
        turn(&mut room, &[(&[2; 60], None)], 100);
        assert!(room.replay(from, A, 100, &mut Vec::new()).is_none());
        turn(&mut room, &[(&[3; 10], None)], 100);
        assert!(
            room.replay(from, A, 100, &mut Vec::new()).is_none(),
            "frames after the hole are not enough"
        );
        room.caught_up();
        assert_eq!(room.behind, 0);
    }
}
