//! Large answers and large updates: one copy for all who are to get the same, a position for each of
//! them. They go out in slices, so that no turn is held by one and the socket's pace, not memory,
//! bounds it.

use super::types::Instant;
use crate::dialect::y_websocket;
use crate::edge::websocket;
use collabblocks_storage_engine::LargeUpdate;
use std::cell::Cell;
use std::ops::Range;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

/// Answers that were given lately are kept for those who ask the same, up to so many bytes.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// The messages of an answer. They never change, and may be sent by several cores.
#[derive(Debug, Default)]
pub struct Messages {
    list: Vec<Message>,
    /// Bytes that they take.
    size: usize,
}

/// One of them.
#[derive(Debug)]
struct Message {
    head: Vec<u8>,
    body: LargeUpdate,
    /// Where it ends among the bytes of all.
    end: usize,
}

impl Messages {
    fn push(&mut self, head: Vec<u8>, mut body: LargeUpdate) {
        body.shrink_to_fit();
        self.size += head.capacity() + body.memory_bytes();
        let end = self.len() + head.len() + body.len();
        self.list.push(Message { head, body, end });
    }

    fn len(&self) -> usize {
        self.list.last().map_or(0, |message| message.end)
    }
}

impl Message {
    fn append(&self, range: Range<usize>, out: &mut Vec<u8>) {
        let of = |bytes: usize| range.start.min(bytes)..range.end.min(bytes);
        out.extend_from_slice(&self.head[of(self.head.len())]);
        let Range { start, end } = range;
        let head = self.head.len();
        out.extend_from_slice(&self.body[start.saturating_sub(head)..end.saturating_sub(head)]);
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

    /// Bytes that it takes.
    pub fn size(&self) -> usize {
        self.messages.size
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
    /// Given since the last call of [`Answers::grow_old`], and before it.
    kept: [Vec<Rc<Answer>>; 2],
    kept_bytes: usize,
}

impl Answers {
    /// The parts of a diff as messages: updates in causal order, closed by an empty step 2,
    /// which is what makes a client say that it is synced. One that cannot be split is one step 2.
    pub fn make(&mut self, mut parts: Vec<Vec<u8>>) -> Rc<Answer> {
        let mut messages = Messages::default();
        let mut last = super::session::EMPTY_UPDATE.to_vec();
        if parts.len() == 1 {
            last = parts.remove(0);
        }
        for part in parts {
            messages.push(y_websocket::update_head(part.len()), part.into());
        }
        messages.push(y_websocket::reply_head(last.len()), last.into());
        self.count(Arc::new(messages))
    }

    /// A large update, kept for those who are to hear of it.
    pub fn update(&mut self, update: LargeUpdate) -> Rc<Answer> {
        let mut messages = Messages::default();
        messages.push(y_websocket::update_head(update.len()), update);
        self.far_update(Arc::new(messages))
    }

    /// The same, of another core.
    pub fn far_update(&mut self, messages: Arc<Messages>) -> Rc<Answer> {
        let answer = self.count(messages);
        if self.kept_bytes + answer.size() > KEPT_BYTES_MAX {
            self.forget();
        }
        self.keep_alive(&answer);
        answer
    }

    /// Messages that live from now on, here.
    pub fn count(&mut self, messages: Arc<Messages>) -> Rc<Answer> {
        self.alive.set(self.alive.get() + messages.size);
        let alive = self.alive.clone();
        Rc::new(Answer { messages, alive })
    }

    /// Keeps an answer for those who ask the same soon, and gives a note of it.
    pub fn keep(&mut self, answer: &Rc<Answer>, seq: u64, vector: &[u8]) -> Answered {
        self.keep_alive(answer);
        Answered {
            seq,
            vector: vector.into(),
            answer: Rc::downgrade(answer),
        }
    }

    fn keep_alive(&mut self, answer: &Rc<Answer>) {
        let bytes = answer.size();
        if self.kept_bytes + bytes <= KEPT_BYTES_MAX {
            self.kept_bytes += bytes;
            self.kept[0].push(answer.clone());
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
    /// The message, and the bytes of the answer that went.
    message: usize,
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
            at: 0,
            granted: 0,
            control: Vec::new(),
            looked_at: None,
        }
    }

    /// Whether a message has begun and not ended: only control frames may come in between.
    pub fn is_in_message(&self) -> bool {
        self.at > self.start()
    }

    /// Whether another core made it.
    pub fn is_far(&self) -> bool {
        self._answer.is_none()
    }

    /// Bytes that have not gone.
    pub fn left(&self) -> usize {
        self.messages.len() - self.at
    }

    /// Whether less than a `part`th of it has gone in a time of `limit`.
    pub fn drags(&mut self, now: Instant, limit: Duration, part: usize) -> bool {
        match self.looked_at {
            Some((at, since)) if self.at - at < self.messages.len() / part => {
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

    fn start(&self) -> usize {
        match self.message {
            0 => 0,
            message => self.messages.list[message - 1].end,
        }
    }

    /// Appends what was granted, as frames.
    pub fn write(&mut self, out: &mut Vec<u8>) {
        while self.granted > 0 && !self.is_done() {
            let start = self.start();
            let message = &self.messages.list[self.message];
            let end = message.end;
            let slice = self.at..end.min(self.at + self.granted);
            let first = slice.start == start;
            websocket::fragment_header(first, slice.end == end, slice.len(), out);
            message.append(slice.start - start..slice.end - start, out);
            self.granted -= slice.len();
            self.at = slice.end;
            if self.at == end {
                self.message += 1;
            }
        }
        self.granted = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(answers: &mut Answers, ends: &[usize]) -> Rc<Answer> {
        let mut messages = Messages::default();
        for end in ends {
            let bytes: Vec<u8> = (messages.len()..*end).map(|at| at as u8).collect();
            let (head, body) = bytes.split_at(bytes.len() / 3);
            messages.push(head.to_vec(), body.to_vec().into());
        }
        answers.count(Arc::new(messages))
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
            assert_eq!(messages.concat(), (0..30).collect::<Vec<u8>>(), "{granted}");
            assert_eq!(
                messages.iter().map(Vec::len).collect::<Vec<_>>(),
                [5, 1, 24]
            );
        }
    }

    #[test]
    fn bytes_are_counted_while_they_live() {
        let mut answers = Answers::default();
        let one = answers.make(vec![vec![7; 1000]]);
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
