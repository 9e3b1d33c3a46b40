//! What a session wrote and is to be told again, in the order in which it wrote it, from a large update
//! on: that goes out at the socket's pace, and what comes after it waits.

use super::stream::Answer;
use std::collections::VecDeque;
use std::rc::Rc;

/// Frames that are told at once, or one large update.
#[derive(Debug)]
pub enum Echo {
    /// Whole frames.
    Frames(Vec<u8>),
    /// A large update.
    Large(Rc<Answer>),
}

/// A session's queue of them.
#[derive(Debug, Default)]
pub struct Echoes {
    queue: VecDeque<Echo>,
    /// A large update is on its way.
    under_way: bool,
}

impl Echoes {
    /// Appends a large update.
    pub fn push(&mut self, answer: Rc<Answer>) {
        self.queue.push_back(Echo::Large(answer));
    }

    /// Where the frames of an update that came after it go.
    pub fn frames(&mut self) -> &mut Vec<u8> {
        if !matches!(self.queue.back(), Some(Echo::Frames(_))) {
            self.queue.push_back(Echo::Frames(Vec::new()));
        }
        match self.queue.back_mut() {
            Some(Echo::Frames(frames)) => frames,
            _ => unreachable!("frames are last"),
        }
    }

    /// The next one.
    pub fn pop(&mut self) -> Option<Echo> {
        self.queue.pop_front()
    }

    /// Appends what comes next, up to a large update, which is on its way then.
    pub fn next(&mut self, out: &mut Vec<u8>) -> Option<Rc<Answer>> {
        while let Some(echo) = self.queue.pop_front() {
            match echo {
                Echo::Frames(frames) => out.extend_from_slice(&frames),
                Echo::Large(answer) => {
                    self.under_way = true;
                    return Some(answer);
                }
            }
        }
        None
    }

    /// The large update that was on its way, if any, has gone. Whether nothing is left.
    pub fn has_gone(&mut self) -> bool {
        self.under_way = false;
        self.queue.is_empty()
    }

    /// Whether nothing waits, and nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() && !self.under_way
    }

    /// Bytes that wait.
    pub fn size(&self) -> usize {
        let size = |echo: &Echo| match echo {
            Echo::Frames(frames) => frames.len(),
            Echo::Large(answer) => answer.size(),
        };
        self.queue.iter().map(size).sum()
    }
}
