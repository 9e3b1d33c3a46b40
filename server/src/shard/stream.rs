//! Large answers: one copy for all who are to get the same, a position for each of them. They go out
//! in slices, so that no turn is held by one and the socket's pace, not memory, bounds it.

use super::types::Instant;
use crate::dialect::y_websocket;
use crate::edge::websocket;
use collabblocks_storage_engine::LargeUpdate;
use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

/// Answers that were given lately are kept for those who ask the same, up to so many bytes.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// The bytes of an answer. They never change, and may be sent by several cores.
#[derive(Debug)]
pub struct Messages {
    list: Vec<Message>,
    /// Bytes of all of them.
    bytes: usize,
}

/// One message: what a buffer holds from some place on.
#[derive(Debug)]
struct Message {
    buffer: Vec<u8>,
    start: usize,
}

impl Message {
    /// An update with its head before it, which is written where there is room for it.
    fn new(update: LargeUpdate, head: fn(usize, &mut Vec<u8>)) -> Self {
        let mut message = Vec::new();
        head(update.len(), &mut message);
        let room = message.len();
        let (mut buffer, start) = update.into_parts();
        if start >= room {
            let start = start - room;
            buffer[start..start + room].copy_from_slice(&message);
            return Self { buffer, start };
        }
        message.reserve_exact(buffer.len() - start);
        message.extend_from_slice(&buffer[start..]);
        Self {
            buffer: message,
            start: 0,
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..]
    }
}

impl Messages {
    fn new(list: Vec<Message>) -> Self {
        let bytes = list.iter().map(|message| message.bytes().len()).sum();
        Self { list, bytes }
    }

    /// Bytes of memory that they take.
    fn size(&self) -> usize {
        self.list.iter().map(|m| m.buffer.capacity()).sum()
    }
}

/// Messages that make up an answer, counted while they live.
#[derive(Debug)]
pub struct Answer {
    messages: Arc<Messages>,
    alive: Rc<Cell<usize>>,
}

impl Answer {
    /// Its bytes, for another core: they are counted here as long as the answer is held here.
    pub fn messages(&self) -> Arc<Messages> {
        self.messages.clone()
    }

    /// Bytes of memory that it takes.
    pub fn size(&self) -> usize {
        self.messages.size()
    }

    /// Appends its messages as frames: for those to whom it goes with others.
    pub fn frame(&self, out: &mut Vec<u8>) {
        for message in &self.messages.list {
            websocket::binary_header(message.bytes().len(), out);
            out.extend_from_slice(message.bytes());
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.alive.set(self.alive.get() - self.size());
    }
}

/// What a room answered to a state vector. Its bytes live as long as somebody is getting them, and a
/// while after.
#[derive(Debug)]
pub struct Answered {
    /// The room's sequence number.
    pub seq: u64,
    /// The state vector, as far as the room has it.
    pub vector: Box<[u8]>,
    answer: Weak<Answer>,
}

impl Answered {
    /// The answer, if it still lives.
    pub fn answer(&self) -> Option<Rc<Answer>> {
        self.answer.upgrade()
    }

    /// Whether it can be given again at this sequence number.
    pub fn lives(&self, seq: u64) -> bool {
        self.seq == seq && self.answer.strong_count() > 0
    }
}

/// All answers of a shard.
#[derive(Debug, Default)]
pub struct Answers {
    alive: Rc<Cell<usize>>,
    /// Bytes of large updates that are being told.
    updates: Rc<Cell<usize>>,
    /// Given since the last call of [`Answers::grow_old`], and before it.
    kept: [Vec<Rc<Answer>>; 2],
    kept_bytes: usize,
}

impl Answers {
    /// The parts of a diff as messages: updates in causal order, closed by an empty step 2,
    /// which is what makes a client say that it is synced. One that cannot be split is one step 2.
    pub fn make(&mut self, mut parts: Vec<LargeUpdate>) -> Rc<Answer> {
        let whole = if parts.len() == 1 { parts.pop() } else { None };
        let last = whole.unwrap_or_else(|| super::session::EMPTY_UPDATE.into());
        let updates = parts.into_iter();
        let mut list: Vec<_> = updates
            .map(|part| Message::new(part, y_websocket::update_head))
            .collect();
        list.push(Message::new(last, y_websocket::reply_head));
        Self::counted(&self.alive, list)
    }

    fn counted(alive: &Rc<Cell<usize>>, list: Vec<Message>) -> Rc<Answer> {
        let messages = Arc::new(Messages::new(list));
        alive.set(alive.get() + messages.size());
        let alive = alive.clone();
        Rc::new(Answer { messages, alive })
    }

    /// A large update as a message, without copying it: for its peers, and as its echo.
    pub fn make_update(&mut self, update: LargeUpdate) -> Rc<Answer> {
        let message = Message::new(update, y_websocket::update_head);
        Self::counted(&self.updates, vec![message])
    }

    /// Bytes of large updates that are being told.
    pub fn update_bytes(&self) -> usize {
        self.updates.get()
    }

    /// Keeps an answer for those who ask the same soon, and gives a note of it.
    pub fn keep(&mut self, answer: &Rc<Answer>, seq: u64, vector: &[u8]) -> Answered {
        let bytes = answer.size();
        if self.kept_bytes + bytes <= KEPT_BYTES_MAX {
            self.kept_bytes += bytes;
            self.kept[0].push(answer.clone());
        }
        Answered {
            seq,
            vector: vector.into(),
            answer: Rc::downgrade(answer),
        }
    }

    /// Lets go of the older half of what is kept.
    pub fn grow_old(&mut self) {
        for answer in self.kept[1].drain(..) {
            self.kept_bytes -= answer.size();
        }
        self.kept.swap(0, 1);
    }

    /// Lets go of all that is kept.
    pub fn forget(&mut self) {
        self.grow_old();
        self.grow_old();
    }

    /// Whether one more may be made: answers that are only kept give way.
    pub fn has_room(&mut self, bytes_max: usize) -> bool {
        if self.alive.get() >= bytes_max && self.kept_bytes > 0 {
            self.forget();
        }
        self.alive.get() < bytes_max
    }

    /// Bytes of all that live.
    pub fn alive_bytes(&self) -> usize {
        self.alive.get()
    }
}

/// How far one connection has come in an answer.
#[derive(Clone, Debug)]
pub struct Stream {
    messages: Arc<Messages>,
    /// Counted here, unless it is of another core.
    _answer: Option<Rc<Answer>>,
    /// The message, how many bytes of it went, and how many of the whole answer.
    message: usize,
    sent: usize,
    at: usize,
    /// Bytes that may go in this turn.
    pub granted: usize,
    /// Control frames to go between two slices of a message.
    pub control: Vec<u8>,
    /// Where it stood when its progress was looked at last, and when.
    looked_at: Option<(usize, Instant)>,
}

impl Stream {
    /// From the first message on.
    pub fn new(answer: Rc<Answer>) -> Self {
        Self {
            _answer: Some(answer.clone()),
            ..Self::of(answer.messages())
        }
    }

    /// The same, of an answer that another core made and counts.
    pub fn of(messages: Arc<Messages>) -> Self {
        Self {
            messages,
            _answer: None,
            message: 0,
            sent: 0,
            at: 0,
            granted: 0,
            control: Vec::new(),
            looked_at: None,
        }
    }

    /// Whether a message has begun and not ended: only control frames may come in between.
    pub fn is_in_message(&self) -> bool {
        self.sent > 0
    }

    /// Bytes that have not gone.
    pub fn left(&self) -> usize {
        self.messages.bytes - self.at
    }

    /// Whether less than a `part`th of it has gone in a time of `limit`.
    pub fn drags(&mut self, now: Instant, limit: Duration, part: usize) -> bool {
        match self.looked_at {
            Some((at, since)) if self.at - at < self.messages.bytes / part => {
                now.0.saturating_sub(since.0) > limit.as_nanos() as u64
            }
            _ => {
                self.looked_at = Some((self.at, now));
                false
            }
        }
    }

    /// Whether nothing is left.
    pub fn is_done(&self) -> bool {
        self.left() == 0
    }

    /// Appends what was granted, as frames.
    pub fn write(&mut self, out: &mut Vec<u8>) {
        while self.granted > 0 && !self.is_done() {
            let message = self.messages.list[self.message].bytes();
            let slice = self.sent..message.len().min(self.sent + self.granted);
            let (first, last) = (slice.start == 0, slice.end == message.len());
            websocket::fragment_header(first, last, slice.len(), out);
            out.extend_from_slice(&message[slice.clone()]);
            self.granted -= slice.len();
            self.at += slice.len();
            self.sent = slice.end;
            if last {
                self.message += 1;
                self.sent = 0;
            }
        }
        self.granted = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(answers: &mut Answers, ends: &[usize]) -> Rc<Answer> {
        let starts = std::iter::once(&0).chain(ends);
        let message = |(start, end): (&usize, &usize)| Message {
            buffer: (start - start.min(&3)..*end).map(|at| at as u8).collect(),
            start: *start.min(&3),
        };
        Answers::counted(&answers.alive, starts.zip(ends).map(message).collect())
    }

    #[test]
    fn slices_make_up_the_messages() {
        let mut answers = Answers::default();
        let answer = answer(&mut answers, &[5, 6, 30]);
        for granted in 1..40 {
            let mut stream = Stream::new(answer.clone());
            let (mut messages, mut message) = (Vec::new(), Vec::new());
            while !stream.is_done() {
                let mut out = Vec::new();
                stream.granted = granted;
                stream.write(&mut out);
                let mut frames = out.as_slice();
                while let [first, len, rest @ ..] = frames {
                    assert_eq!(
                        first & 0x0f == 2,
                        message.is_empty(),
                        "binary, then continued"
                    );
                    let (payload, rest) = rest.split_at(usize::from(*len));
                    message.extend_from_slice(payload);
                    if first & 0x80 != 0 {
                        messages.push(std::mem::take(&mut message));
                    }
                    frames = rest;
                }
                assert_eq!(stream.is_in_message(), !message.is_empty());
            }
            let all: Vec<u8> = (0..30).collect();
            assert_eq!(messages.concat(), all, "{granted}");
            assert_eq!(
                messages.iter().map(Vec::len).collect::<Vec<_>>(),
                [5, 1, 24]
            );
        }
    }

    #[test]
    fn bytes_are_counted_while_they_live() {
        let mut answers = Answers::default();
        let one = answers.make(vec![vec![7; 1000].into()]);
        assert!((1000..1100).contains(&answers.alive_bytes()));
        let noted = answers.keep(&one, 3, &[0]);
        assert!(noted.lives(3) && !noted.lives(4));
        drop(one);
        assert!(noted.lives(3), "kept for those who come after");
        assert!(answers.has_room(1));
        assert_eq!(answers.alive_bytes(), 0);
        assert!(!noted.lives(3));
    }
}
