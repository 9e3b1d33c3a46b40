//! The values inside structs: lib0's `Any`, JSON text, and the contents of items.

use super::Limits;
use super::Refusal;
use super::read::{Reader, malformed};
use super::walk::Content;

/// What reading an item's content found.
pub(crate) struct Measured {
    pub(crate) content: Content,
    /// In clocks: UTF-16 units for a string.
    pub(crate) len: u32,
    /// Whether a string holds characters outside the BMP.
    pub(crate) astral: bool,
}

/// Reads past an item's content.
#[inline]
pub(crate) fn content(
    reader: &mut Reader<'_>,
    kind: u8,
    limits: &Limits,
) -> Result<Measured, Refusal> {
    let start = reader.at;
    let one = |content| Measured {
        content,
        len: 1,
        astral: false,
    };
    Ok(match kind {
        1 => Measured {
            content: Content::Deleted,
            len: reader.clock()?,
            astral: false,
        },
        2 => {
            return Err(malformed(
                "content_json",
                "ContentJSON, which no current client writes",
                start,
            ));
        }
        3 => {
            reader.buffer()?;
            one(Content::Binary)
        }
        4 => {
            let text = reader.string()?;
            let (len, astral) = utf16_len(text);
            Measured {
                content: Content::String,
                len,
                astral,
            }
        }
        5 => {
            json_string(reader, limits)?;
            one(Content::Embed)
        }
        6 => {
            reader.string()?;
            json_string(reader, limits)?;
            one(Content::Format)
        }
        7 => {
            match reader.u8()? {
                0..=2 | 4 | 6 => {}
                3 => {
                    reader.string()?;
                }
                _ => {
                    return Err(malformed(
                        "type_unknown",
                        "a shared type of an unknown kind",
                        start,
                    ));
                }
            }
            one(Content::Type)
        }
        8 => {
            let count = reader.count(1)?;
            for _ in 0..count {
                any(reader, limits.any_depth_max)?;
            }
            // Bounded by the size of an update, so far below 2^31.
            Measured {
                content: Content::Any,
                len: count as u32,
                astral: false,
            }
        }
        9 => {
            reader.string()?;
            if reader.bytes.get(reader.at) != Some(&118) {
                return Err(malformed(
                    "subdoc_options",
                    "a sub-document without an options map",
                    reader.at,
                ));
            }
            any(reader, limits.any_depth_max)?;
            one(Content::Doc)
        }
        _ => {
            return Err(malformed(
                "content_unknown",
                "a struct of an unknown kind",
                start,
            ));
        }
    })
}

/// Length in UTF-16 units, and whether that differs from the count of characters.
#[inline]
pub(crate) fn utf16_len(text: &str) -> (u32, bool) {
    let mut chars = 0u32;
    let mut wide = 0u32;
    for &byte in text.as_bytes() {
        chars += u32::from((byte & 0xc0) != 0x80);
        wide += u32::from(byte >= 0xf0);
    }
    (chars + wide, wide > 0)
}

/// Reads past one `Any`. The recursion is bounded by `depth`.
fn any(reader: &mut Reader<'_>, depth: usize) -> Result<(), Refusal> {
    let start = reader.at;
    let tag = reader.u8()?;
    match tag {
        120 | 121 | 126 | 127 => {}
        125 => reader.skip_var_signed()?,
        124 => {
            reader.take(4)?;
        }
        122 | 123 => {
            reader.take(8)?;
        }
        119 => {
            reader.string()?;
        }
        116 => {
            reader.buffer()?;
        }
        117 | 118 => {
            if depth == 0 {
                return Err(malformed("any_depth", "values nested too deeply", start));
            }
            let map = tag == 118;
            let count = reader.count(if map { 2 } else { 1 })?;
            for _ in 0..count {
                if map {
                    reader.string()?;
                }
                any(reader, depth - 1)?;
            }
        }
        _ => return Err(malformed("any_tag", "a value of an unknown kind", start)),
    }
    Ok(())
}

fn json_string(reader: &mut Reader<'_>, limits: &Limits) -> Result<(), Refusal> {
    let text = reader.string()?;
    let start = reader.at - text.len();
    json(text.as_bytes(), limits.any_depth_max)
        .map_err(|at| malformed("json", "text that is not JSON", start + at))
}

/// Checks that `text` is one JSON value, nested at most `depth_max` deep. The error is an offset.
pub(crate) fn json(text: &[u8], depth_max: usize) -> Result<(), usize> {
    let mut json = Json { text, at: 0 };
    json.space();
    json.value(depth_max)?;
    json.space();
    if json.at == text.len() {
        Ok(())
    } else {
        Err(json.at)
    }
}

struct Json<'a> {
    text: &'a [u8],
    at: usize,
}

impl Json<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, word: &[u8]) -> Result<(), usize> {
        if self.text[self.at..].starts_with(word) {
            self.at += word.len();
            Ok(())
        } else {
            Err(self.at)
        }
    }

    fn value(&mut self, depth: usize) -> Result<(), usize> {
        match self.peek() {
            Some(b'n') => self.expect(b"null"),
            Some(b't') => self.expect(b"true"),
            Some(b'f') => self.expect(b"false"),
            Some(b'"') => self.string(),
            Some(open @ (b'{' | b'[')) => {
                if depth == 0 {
                    return Err(self.at);
                }
                self.at += 1;
                self.members(open, depth - 1)
            }
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(self.at),
        }
    }

    fn members(&mut self, open: u8, depth: usize) -> Result<(), usize> {
        let close = if open == b'{' { b'}' } else { b']' };
        self.space();
        if self.eat(close) {
            return Ok(());
        }
        loop {
            self.space();
            if open == b'{' {
                self.string()?;
                self.space();
                self.expect(b":")?;
                self.space();
            }
            self.value(depth)?;
            self.space();
            if self.eat(close) {
                return Ok(());
            }
            self.expect(b",")?;
        }
    }

    fn digits(&mut self) -> Result<(), usize> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(start) }
    }

    fn number(&mut self) -> Result<(), usize> {
        let start = self.at;
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if !self.eat(b'+') {
                self.eat(b'-');
            }
            self.digits()?;
        }
        // yrs refuses what JavaScript reads as infinity.
        let text = &self.text[start..self.at];
        let may_overflow = text.len() > 300 || text.iter().any(|byte| matches!(byte, b'e' | b'E'));
        let finite = || {
            std::str::from_utf8(text)
                .is_ok_and(|text| text.parse::<f64>().is_ok_and(f64::is_finite))
        };
        if may_overflow && !finite() {
            Err(start)
        } else {
            Ok(())
        }
    }

    /// A string; a lone surrogate written as an escape is refused, as no Rust string holds it.
    fn string(&mut self) -> Result<(), usize> {
        self.expect(b"\"")?;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    self.escape()?;
                }
                Some(0x20..) => self.at += 1,
                _ => return Err(self.at),
            }
        }
    }

    fn escape(&mut self) -> Result<(), usize> {
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 1;
                Ok(())
            }
            Some(b'u') => {
                let start = self.at;
                match self.unit()? {
                    0xd800..=0xdbff => {
                        self.expect(b"\\")?;
                        match self.unit()? {
                            0xdc00..=0xdfff => Ok(()),
                            _ => Err(start),
                        }
                    }
                    0xdc00..=0xdfff => Err(start),
                    _ => Ok(()),
                }
            }
            _ => Err(self.at),
        }
    }

    fn unit(&mut self) -> Result<u32, usize> {
        self.expect(b"u")?;
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self
                .peek()
                .and_then(|byte| char::from(byte).to_digit(16))
                .ok_or(self.at)?;
            unit = unit * 16 + digit;
            self.at += 1;
        }
        Ok(unit)
    }
}
