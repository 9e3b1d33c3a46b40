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
use std::rc::{Rc, Weak};

/// One frame of a turn.
#[derive(Clone, Debug)]
pub struct TurnFrame {
    /// Whose own update it is, who must not get it from here: it is told once the update is durable.
    pub author: Option<ConnId>,
    /// Where it ends in the turn's bytes.
    pub end: usize,
}

/// An update that is too large to stand among the frames. In their bytes it takes one, which is never
/// sent: those who come to it get its messages, at their sockets' pace.
#[derive(Clone, Debug)]
pub struct Large {
    /// Where its byte ends.
    pub end: usize,
    /// What is sent in its place, as long as that lives; after it only a diff helps.
    pub answer: Weak<Answer>,
    /// Bytes that it takes while it does.
    pub size: usize,
}

impl Large {
    /// One that ends here; without an answer only a diff helps.
    pub fn new(answer: Option<&Rc<Answer>>, end: usize) -> Self {
        Self {
            end,
            answer: answer.map_or_else(Weak::new, Rc::downgrade),
            size: answer.map_or(0, |answer| answer.size()),
        }
    }
}

/// The document frames of one turn, in order.
#[derive(Clone, Debug, Default)]
pub struct Turn {
    /// The frames, one after the other.
    pub bytes: Vec<u8>,
    /// Where each ends, and whose it is.
    pub frames: Vec<TurnFrame>,
    /// Those of them that are large.
    pub large: Vec<Large>,
}

impl Turn {
    /// Appends an update that is large.
    pub fn push_large(&mut self, author: Option<ConnId>, answer: Option<&Rc<Answer>>) {
        self.bytes.push(0);
        self.large.push(Large::new(answer, self.bytes.len()));
        self.frame_done(author);
    }

    /// Its bytes, those of large updates included.
    fn size(&self) -> usize {
        self.bytes.len() + self.large.iter().map(|large| large.size).sum::<usize>()
    }

    fn append(&mut self, turn: &Self) {
        let base = self.bytes.len();
        self.bytes.extend_from_slice(&turn.bytes);
        self.frames.extend(turn.frames.iter().map(|f| TurnFrame {
            author: f.author,
            end: base + f.end,
        }));
        self.large.extend(turn.large.iter().map(|l| Large {
            end: base + l.end,
            ..l.clone()
        }));
    }

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

    fn clear(&mut self) {
        self.bytes.clear();
        self.frames.clear();
        self.large.clear();
    }
}

/// What a session that is behind gets next: what was appended, and then a large update, if there is one.
#[derive(Debug)]
pub struct Part {
    /// The stream offset up to which it has all then.
    pub up_to: u64,
    /// The update.
    pub large: Option<Rc<Answer>>,
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
    /// Keeps a turn's frames, unless that makes more than so many bytes. One large update does not count.
    pub fn append(&mut self, offset: u64, turn: &Turn, bytes_max: usize) {
        if self.kept.bytes.is_empty() {
            self.begins = offset;
        }
        let large = self.kept.large.len() + turn.large.len();
        let bytes = if large > 1 {
            self.kept.size().saturating_add(turn.size())
        } else {
            self.kept.bytes.len() + turn.bytes.len()
        };
        if bytes > bytes_max {
            // From here on a diff is cheaper than the frames, whoever it is for.
            return self.lose();
        }
        self.kept.append(turn);
    }

    /// Bytes that are kept, those of large updates included.
    pub fn size(&self) -> usize {
        self.kept.size()
    }

    /// What is kept from a stream offset on, and whether a large update is in it.
    pub fn tail(&self, from: u64) -> (&[u8], bool) {
        if self.kept.bytes.is_empty() {
            return (&[], false);
        }
        let skip = from.checked_sub(self.begins);
        let skip = skip.expect("what is not told to all is kept") as usize;
        let large = self.kept.large.last().is_some_and(|l| l.end > skip);
        (&self.kept.bytes[skip..], large)
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
        if self.kept.large.last().is_some_and(|l| l.end > skip) {
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
    ) -> Option<Part> {
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
        let first_large = self.kept.large.partition_point(|l| l.end <= at);
        let mut large = self.kept.large[first_large..].iter().peekable();
        for frame in &self.kept.frames[first..] {
            if out.len() - begins >= bytes_max {
                break;
            }
            if let Some(large) = large.next_if(|l| l.end == frame.end)
                && frame.author != Some(reader)
            {
                let answer = large.answer.upgrade();
                if answer.is_none() {
                    out.truncate(begins);
                }
                return answer.map(|answer| Part {
                    up_to: self.begins + frame.end as u64,
                    large: Some(answer),
                });
            }
            if frame.author != Some(reader) {
                out.extend_from_slice(&self.kept.bytes[at..frame.end]);
            }
            at = frame.end;
        }
        Some(Part {
            up_to: self.begins + at as u64,
            large: None,
        })
    }
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
    /// What its document held, while it is large or has sessions of other cores, and before large updates.
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
    /// until those are `bytes_max` or more, or a large update comes. `None` if only a diff helps.
    pub fn replay(
        &self,
        from: u64,
        reader: ConnId,
        bytes_max: usize,
        out: &mut Vec<u8>,
    ) -> Option<Part> {
        match &self.backlog {
            _ if from >= self.stream_offset => Some(Part {
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
    use crate::shard::stream::Answers;

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
            let part = room.replay(from, who, 100, &mut out).unwrap();
            assert_eq!(part.up_to, room.stream_offset);
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
    fn a_large_update_comes_after_what_was_before_it() {
        let mut room = room();
        let answer = Answers::default().update(vec![7; 1000].into());
        let from = room.stream_offset;
        room.behind = 1;
        for large in [Some(&answer), None] {
            room.turn.bytes.extend_from_slice(b"one");
            room.turn.frame_done(Some(B));
            room.turn.push_large(Some(B), large);
            room.turn.bytes.extend_from_slice(b"two");
            room.turn.frame_done(None);
            room.end_turn(10_000);
        }
        let mut out = Vec::new();
        let first = room.replay(from, A, 100, &mut out).unwrap();
        assert!(Rc::ptr_eq(&first.large.unwrap(), &answer));
        assert_eq!((first.up_to, &out[..]), (from + 4, &b"one"[..]));
        let second = room.replay(first.up_to, A, 1, &mut out).unwrap();
        assert_eq!((second.up_to, &out[3..]), (from + 7, &b"two"[..]));
        assert!(second.large.is_none());
        assert!(
            room.replay(second.up_to, A, 100, &mut out).is_none(),
            "of the second the messages are gone"
        );
        let own = room.replay(from, B, 100, &mut out).unwrap();
        assert_eq!((own.up_to, &out[6..]), (room.stream_offset, &b"twotwo"[..]));
        assert!(
            !room.replay_frames(from, &mut out, |_, _| {}),
            "nothing for a core"
        );
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
