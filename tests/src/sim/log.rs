//! The log of a run: what one seed did, to be compared with what it does again.

use std::fmt::{Arguments, Write};
use std::hash::{DefaultHasher, Hasher};

/// A running hash of all that happened.
pub(crate) struct EventLog {
    hasher: DefaultHasher,
    line: String,
    print: bool,
    pub events: u64,
}

impl EventLog {
    pub fn new(print: bool) -> Self {
        Self {
            hasher: DefaultHasher::new(),
            line: String::new(),
            print,
            events: 0,
        }
    }

    /// Something happened.
    pub fn note(&mut self, now: u64, what: Arguments<'_>) {
        self.events += 1;
        self.line.clear();
        let written = write!(self.line, "{now} {what}");
        assert!(written.is_ok(), "a String takes all");
        self.hasher.write(self.line.as_bytes());
        if self.print {
            println!("{:>13.6} ms  {what}", now as f64 / 1e6);
        }
    }

    /// Bytes that belong to what was noted last.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.hasher.write(bytes);
    }

    pub fn hash(&self) -> u64 {
        self.hasher.finish()
    }
}
