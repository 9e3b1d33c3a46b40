//! Sub-documents, kept from yrs.
//!
//! yrs drops options of a sub-document that it does not know (applications put their own under
//! `meta`), keeps the room's document alive through its sub-documents, and when a sub-document goes
//! with the type it is in, reads the freed item. A server needs none of what yrs does with them. So
//! yrs is given each as bytes, an item of the same length and place, and what it writes is turned
//! back.

use super::plan::write_var;
use super::read::Reader;
use super::walk::{Content, Id, Kind, Struct, Visit, walk};
use super::{Limits, Refusal};

const BINARY: u8 = 3;
const DOC: u8 = 9;

/// Finds items of one kind of content.
struct Find<F> {
    content: Content,
    wanted: F,
    /// Where struct, content and end are.
    found: Vec<(usize, usize, usize)>,
}

impl<'a, F: Fn(Id) -> bool> Visit<'a> for Find<F> {
    fn on_section(&mut self, _client: u64) {}

    fn on_struct(&mut self, read: &Struct<'a>) -> Result<(), Refusal> {
        if read.kind == Kind::Item(self.content) && (self.wanted)(read.id) {
            self.found.push((read.at, read.content_at, read.end));
        }
        Ok(())
    }

    fn on_delete(&mut self, _client: u64, _clock: u32, _clock_end: u32) -> Result<(), Refusal> {
        Ok(())
    }
}

/// Writes `update` with the items that are `wanted` turned from one kind of content to another.
fn turn(
    update: &[u8],
    content: Content,
    into: u8,
    wanted: impl Fn(Id) -> bool,
    write: impl Fn(&mut Vec<u8>, &[u8]) -> Result<(), Refusal>,
) -> Result<Vec<u8>, Refusal> {
    let mut find = Find {
        content,
        wanted,
        found: Vec::new(),
    };
    walk(update, &Limits::own_state(), &mut find)?;
    let mut out = Vec::with_capacity(update.len() + 4 * find.found.len());
    let mut copied = 0;
    for (at, content_at, end) in find.found {
        out.extend_from_slice(&update[copied..at]);
        out.push(update[at] & 0xe0 | into);
        out.extend_from_slice(&update[at + 1..content_at]);
        write(&mut out, &update[content_at..end])?;
        copied = end;
    }
    out.extend_from_slice(&update[copied..]);
    Ok(out)
}

/// Turns all sub-documents of an update into bytes.
pub(crate) fn hide(update: &[u8]) -> Result<Vec<u8>, Refusal> {
    turn(
        update,
        Content::Doc,
        BINARY,
        |_| true,
        |out, content| {
            write_var(out, content.len() as u64);
            out.extend_from_slice(content);
            Ok(())
        },
    )
}

/// Turns the items that are `hidden` back into sub-documents.
pub(crate) fn reveal(update: &[u8], hidden: impl Fn(Id) -> bool) -> Result<Vec<u8>, Refusal> {
    turn(update, Content::Binary, DOC, hidden, |out, content| {
        out.extend_from_slice(Reader::new(content).buffer()?);
        Ok(())
    })
}
