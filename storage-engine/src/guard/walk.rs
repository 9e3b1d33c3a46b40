//! A strict reading of an update v1, struct by struct, without allocating on the usual path.

use super::content::{Measured, content};
use super::read::{CLOCK_MAX, Reader, malformed};
use super::{Limits, Refusal};
use std::collections::HashSet;

/// Names one unit of content: the client that made it and its clock.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Id {
    /// Below 2^53.
    pub client: u64,
    /// Below 2^31.
    pub clock: u32,
}

/// What an item holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// A tombstone.
    Deleted,
    /// Bytes.
    Binary,
    /// Text; its length is in UTF-16 units.
    String,
    /// A JSON value in a text.
    Embed,
    /// A formatting mark.
    Format,
    /// A shared type.
    Type,
    /// Plain values.
    Any,
    /// A sub-document.
    Doc,
}

/// What a struct is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Content that was collected.
    Gc,
    /// A hole: these clocks are not in the update.
    Skip,
    /// Content.
    Item(Content),
}

/// Where an item stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parent<'a> {
    /// In the type that its origin or right origin is in; also for GC and Skip.
    Inherited,
    /// In the root type of this name.
    Root(&'a str),
    /// In the shared type of this item.
    Item(Id),
}

/// One struct of an update.
#[derive(Clone, Copy, Debug)]
pub struct Struct<'a> {
    /// Its first unit.
    pub id: Id,
    /// Units; at least 1.
    pub len: u32,
    /// What it is.
    pub kind: Kind,
    /// The unit to the left of which it was inserted.
    pub origin: Option<Id>,
    /// The unit to the right of which it was inserted.
    pub right_origin: Option<Id>,
    /// Where it stands.
    pub parent: Parent<'a>,
    /// The map key or attribute name, if it is written (only beside an explicit parent).
    pub key: Option<&'a str>,
    /// It is a string with characters outside the BMP.
    pub astral: bool,
    /// Where its bytes begin in the update.
    pub at: usize,
    /// Where its content begins.
    pub content_at: usize,
    /// Where its bytes end.
    pub end: usize,
}

impl Struct<'_> {
    /// The clock after its last unit.
    #[inline]
    pub fn clock_end(&self) -> u32 {
        self.id.clock + self.len
    }
}

/// Told what the walker reads, in the order of the bytes.
pub trait Visit<'a> {
    /// A client's section begins.
    fn on_section(&mut self, client: u64);
    /// A struct.
    fn on_struct(&mut self, read: &Struct<'a>) -> Result<(), Refusal>;
    /// A range of deleted units, `clock..clock_end`, not empty.
    fn on_delete(&mut self, client: u64, clock: u32, clock_end: u32) -> Result<(), Refusal>;
}

/// Sees that no client comes twice. Every known encoder writes sections by falling client, so the
/// set is made only for others.
#[derive(Default)]
pub(super) struct Seen {
    falling: Vec<u64>,
    all: Option<HashSet<u64, foldhash::fast::RandomState>>,
}

impl Seen {
    pub(super) fn insert(&mut self, client: u64) -> bool {
        if let Some(all) = &mut self.all {
            return all.insert(client);
        }
        if self.falling.last().is_none_or(|&last| client < last) {
            self.falling.push(client);
            return true;
        }
        let mut all: HashSet<_, _> = self.falling.drain(..).collect();
        let new = all.insert(client);
        self.all = Some(all);
        new
    }
}

/// Reads all of `update`, refuses what is not a well-formed update v1 within `limits`, and tells
/// `visit` what is in it. A refusal may come after parts were told.
pub fn walk<'a>(
    update: &'a [u8],
    limits: &Limits,
    visit: &mut impl Visit<'a>,
) -> Result<(), Refusal> {
    if update.len() > limits.update_bytes_max {
        return Err(too_large(
            "update bytes",
            update.len(),
            limits.update_bytes_max,
        ));
    }
    let mut reader = Reader::new(update);
    structs(&mut reader, limits, visit)?;
    deletes(&mut reader, limits, visit)?;
    if reader.remaining() > 0 {
        return Err(malformed(
            "trailing_bytes",
            "bytes after the end",
            reader.at,
        ));
    }
    Ok(())
}

#[cold]
fn too_large(what: &'static str, size: usize, limit: usize) -> Refusal {
    Refusal::TooLarge { what, size, limit }
}

#[inline]
fn structs<'a>(
    reader: &mut Reader<'a>,
    limits: &Limits,
    visit: &mut impl Visit<'a>,
) -> Result<(), Refusal> {
    // A section takes at least its three numbers and one struct of two bytes.
    let sections = reader.count(5)?;
    if sections > limits.clients_max {
        return Err(too_large("client sections", sections, limits.clients_max));
    }
    let mut total = 0;
    let mut subdocs = 0;
    let mut seen = Seen::default();
    for _ in 0..sections {
        let start = reader.at;
        let count = reader.count(2)?;
        if count == 0 {
            return Err(malformed(
                "empty_section",
                "a client section without structs",
                start,
            ));
        }
        total += count;
        if total > limits.update_structs_max {
            return Err(too_large(
                "structs in one update",
                total,
                limits.update_structs_max,
            ));
        }
        let client = reader.var()?;
        if sections > 1 && !seen.insert(client) {
            return Err(malformed(
                "section_twice",
                "a client section that comes twice",
                start,
            ));
        }
        visit.on_section(client);
        let mut clock = reader.clock()?;
        for _ in 0..count {
            let read = read_struct(reader, Id { client, clock }, limits)?;
            if read.kind == Kind::Item(Content::Doc) {
                subdocs += 1;
                if subdocs > limits.subdocs_max {
                    return Err(too_large("sub-documents", subdocs, limits.subdocs_max));
                }
            }
            clock = read.clock_end();
            visit.on_struct(&read)?;
        }
    }
    Ok(())
}

#[inline]
pub(super) fn read_struct<'a>(
    reader: &mut Reader<'a>,
    id: Id,
    limits: &Limits,
) -> Result<Struct<'a>, Refusal> {
    let at = reader.at;
    let info = reader.u8()?;
    let mut read = Struct {
        id,
        len: 0,
        kind: Kind::Gc,
        origin: None,
        right_origin: None,
        parent: Parent::Inherited,
        key: None,
        astral: false,
        at,
        content_at: reader.at,
        end: 0,
    };
    match info {
        0 => read.len = reader.clock()?,
        10 => {
            read.kind = Kind::Skip;
            read.len = reader.clock()?;
        }
        _ => {
            (read.origin, read.right_origin, read.parent) = item_links(reader, info)?;
            if info & 0xe0 == 0x20 {
                read.key = Some(reader.string()?);
            }
            read.content_at = reader.at;
            let Measured {
                content,
                len,
                astral,
            } = content(reader, info & 0x1f, limits)?;
            read.kind = Kind::Item(content);
            read.len = len;
            read.astral = astral;
        }
    }
    if read.len == 0 {
        return Err(malformed("empty_struct", "a struct of length 0", at));
    }
    if u64::from(id.clock) + u64::from(read.len) > CLOCK_MAX {
        return Err(malformed(
            "clock_range",
            "a struct that ends above clock 2^31 - 1",
            at,
        ));
    }
    read.end = reader.at;
    Ok(read)
}

type Links<'a> = (Option<Id>, Option<Id>, Parent<'a>);

#[inline]
fn item_links<'a>(reader: &mut Reader<'a>, info: u8) -> Result<Links<'a>, Refusal> {
    let origin = if info & 0x80 != 0 {
        Some(read_id(reader)?)
    } else {
        None
    };
    let right_origin = if info & 0x40 != 0 {
        Some(read_id(reader)?)
    } else {
        None
    };
    if info & 0xc0 != 0 {
        return Ok((origin, right_origin, Parent::Inherited));
    }
    let parent_at = reader.at;
    let parent = match reader.var()? {
        1 => Parent::Root(reader.string()?),
        0 => Parent::Item(read_id(reader)?),
        _ => {
            return Err(malformed(
                "parent_kind",
                "a parent of an unknown kind",
                parent_at,
            ));
        }
    };
    Ok((None, None, parent))
}

/// What the struct at the reader builds on; its content is not read.
pub(super) fn read_links<'a>(reader: &mut Reader<'a>) -> Result<Links<'a>, Refusal> {
    match reader.u8()? {
        0 | 10 => Ok((None, None, Parent::Inherited)),
        info => item_links(reader, info),
    }
}

#[inline]
fn read_id(reader: &mut Reader<'_>) -> Result<Id, Refusal> {
    let client = reader.var()?;
    let clock = reader.clock()?;
    Ok(Id { client, clock })
}

#[inline]
fn deletes<'a>(
    reader: &mut Reader<'a>,
    limits: &Limits,
    visit: &mut impl Visit<'a>,
) -> Result<(), Refusal> {
    let sections = reader.count(4)?;
    if sections > limits.clients_max {
        return Err(too_large("client sections", sections, limits.clients_max));
    }
    let mut total = 0;
    let mut seen = Seen::default();
    for _ in 0..sections {
        let start = reader.at;
        let client = reader.var()?;
        if sections > 1 && !seen.insert(client) {
            return Err(malformed(
                "section_twice",
                "a client's deletions that come twice",
                start,
            ));
        }
        let count = reader.count(2)?;
        total += count;
        if total > limits.update_deletes_max {
            return Err(too_large(
                "delete ranges in one update",
                total,
                limits.update_deletes_max,
            ));
        }
        for _ in 0..count {
            let at = reader.at;
            let clock = reader.clock()?;
            let len = reader.clock()?;
            if len == 0 {
                return Err(malformed("empty_delete", "a deletion of length 0", at));
            }
            if u64::from(clock) + u64::from(len) > CLOCK_MAX {
                return Err(malformed(
                    "clock_range",
                    "a deletion that ends above clock 2^31 - 1",
                    at,
                ));
            }
            visit.on_delete(client, clock, clock + len)?;
        }
    }
    Ok(())
}
