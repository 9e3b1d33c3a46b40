//! State vectors and awareness updates.

use super::content::json;
use super::read::{Reader, malformed};
use super::walk::Seen;
use super::{Limits, Refusal};

/// One client's state in an awareness update.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AwarenessEntry<'a> {
    /// Below 2^53.
    pub client: u64,
    /// At most 2^32 - 2, so that a successor can be written.
    pub clock: u32,
    /// The state's JSON text; `None` when it is `null`, that is: gone.
    pub state: Option<&'a str>,
}

/// Reads an awareness update (without a length before it). All of it is refused if any state is
/// too large or is not JSON, since clients throw on it.
pub fn awareness<'a>(
    update: &'a [u8],
    limits: &Limits,
) -> Result<Vec<AwarenessEntry<'a>>, Refusal> {
    let mut reader = Reader::new(update);
    let count = reader.count(3)?;
    if count > limits.awareness_entries_max {
        return Err(Refusal::TooLarge {
            what: "entries in one awareness update",
            size: count,
            limit: limits.awareness_entries_max,
        });
    }
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let client = reader.var()?;
        let clock_at = reader.at;
        let clock = reader.var()?;
        if clock >= u64::from(u32::MAX) {
            return Err(malformed(
                "clock_range",
                "an awareness clock above 2^32 - 2",
                clock_at,
            ));
        }
        let text = reader.string()?;
        if text.len() > limits.awareness_state_bytes_max {
            return Err(Refusal::TooLarge {
                what: "bytes of one awareness state",
                size: text.len(),
                limit: limits.awareness_state_bytes_max,
            });
        }
        let start = reader.at - text.len();
        json(text.as_bytes(), limits.any_depth_max)
            .map_err(|at| malformed("json", "an awareness state that is not JSON", start + at))?;
        let state = (text.trim_ascii() != "null").then_some(text);
        entries.push(AwarenessEntry {
            client,
            clock: clock as u32,
            state,
        });
    }
    if reader.remaining() > 0 {
        return Err(malformed(
            "trailing_bytes",
            "bytes after the end",
            reader.at,
        ));
    }
    Ok(entries)
}

/// Reads a state vector (without a length before it), as (client, clock).
pub fn state_vector(vector: &[u8], limits: &Limits) -> Result<Vec<(u64, u32)>, Refusal> {
    let mut reader = Reader::new(vector);
    let count = reader.count(2)?;
    if count > limits.clients_max {
        return Err(Refusal::TooLarge {
            what: "clients in a state vector",
            size: count,
            limit: limits.clients_max,
        });
    }
    let mut clocks = Vec::with_capacity(count);
    let mut seen = Seen::default();
    for _ in 0..count {
        let at = reader.at;
        let client = reader.var()?;
        if !seen.insert(client) {
            return Err(malformed("section_twice", "a client that comes twice", at));
        }
        clocks.push((client, reader.clock()?));
    }
    if reader.remaining() > 0 {
        return Err(malformed(
            "trailing_bytes",
            "bytes after the end",
            reader.at,
        ));
    }
    Ok(clocks)
}
