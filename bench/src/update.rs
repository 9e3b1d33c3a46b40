//! Yjs updates (v1): crafting one-character inserts, and counting what arrives.
//!
//! Every writer types its own run of one-character inserts into one text that the room shares: its
//! first character has no origin, each further one is placed behind the writer's previous one. So
//! an edit is named by `(client, clock)`, and a receiver can tell which edits an update carries
//! even where a server merged several into one: it reads the client sections and sums the lengths.

use crate::lib0::{Reader, write_var_uint};

/// The name of the root text that all edits go to.
pub const ROOT_TEXT: &[u8] = b"t";

const REF_GC: u8 = 0;
const REF_DELETED: u8 = 1;
const REF_JSON: u8 = 2;
const REF_BINARY: u8 = 3;
const REF_STRING: u8 = 4;
const REF_EMBED: u8 = 5;
const REF_FORMAT: u8 = 6;
const REF_TYPE: u8 = 7;
const REF_SKIP: u8 = 10;
const HAS_ORIGIN: u8 = 0x80;
const HAS_RIGHT_ORIGIN: u8 = 0x40;
const HAS_PARENT_SUB: u8 = 0x20;

/// Appends the update in which `client` inserts its character number `clock`, and the `chars - 1`
/// that follow it.
#[inline]
pub fn write_insert(out: &mut Vec<u8>, client: u64, clock: u32, chars: u32) {
    out.extend_from_slice(&[1, 1]);
    write_var_uint(out, client);
    write_var_uint(out, u64::from(clock));
    match clock.checked_sub(1) {
        Some(previous) => {
            out.push(REF_STRING | HAS_ORIGIN);
            write_var_uint(out, client);
            write_var_uint(out, u64::from(previous));
        }
        None => {
            out.extend_from_slice(&[REF_STRING, 1]);
            crate::lib0::write_var_bytes(out, ROOT_TEXT);
        }
    }
    write_var_uint(out, u64::from(chars));
    out.extend((clock..clock + chars).map(|clock| b'a' + (clock % 26) as u8));
    out.push(0);
}

/// Calls `on_range(client, clock, length)` for every unbroken range of clocks that `update` carries.
///
/// Returns `None`, after the ranges before it, at the first thing that it cannot read. It knows
/// the contents that a text room can hold; embedded values of other kinds end the reading.
#[inline]
pub fn for_each_range(update: &[u8], mut on_range: impl FnMut(u64, u64, u64)) -> Option<()> {
    let mut reader = Reader::new(update);
    let clients = reader.var_uint()?;
    for _ in 0..clients {
        let structs = reader.var_uint()?;
        let client = reader.var_uint()?;
        let mut start = reader.var_uint()?;
        let mut length = 0;
        for _ in 0..structs {
            let (is_skip, struct_length) = read_struct(&mut reader)?;
            if is_skip {
                if length > 0 {
                    on_range(client, start, length);
                }
                start += length + struct_length;
                length = 0;
            } else {
                length += struct_length;
            }
        }
        if length > 0 {
            on_range(client, start, length);
        }
    }
    Some(())
}

/// Reads one struct and returns whether it is a skip, and how many clocks it covers.
#[inline]
fn read_struct(reader: &mut Reader<'_>) -> Option<(bool, u64)> {
    let info = reader.byte()?;
    let content = info & 0x1f;
    if content == REF_GC || content == REF_SKIP {
        return Some((content == REF_SKIP, reader.var_uint()?));
    }
    if info & HAS_ORIGIN != 0 {
        reader.var_uint()?;
        reader.var_uint()?;
    }
    if info & HAS_RIGHT_ORIGIN != 0 {
        reader.var_uint()?;
        reader.var_uint()?;
    }
    if info & (HAS_ORIGIN | HAS_RIGHT_ORIGIN) == 0 {
        if reader.var_uint()? == 1 {
            reader.var_bytes()?;
        } else {
            reader.var_uint()?;
            reader.var_uint()?;
        }
        if info & HAS_PARENT_SUB != 0 {
            reader.var_bytes()?;
        }
    }
    let length = match content {
        REF_STRING => utf16_length(reader.var_bytes()?)?,
        REF_DELETED => reader.var_uint()?,
        REF_JSON => {
            let values = reader.var_uint()?;
            for _ in 0..values {
                reader.var_bytes()?;
            }
            values
        }
        REF_BINARY | REF_EMBED => {
            reader.var_bytes()?;
            1
        }
        REF_FORMAT => {
            reader.var_bytes()?;
            reader.var_bytes()?;
            1
        }
        REF_TYPE => {
            let kind = reader.var_uint()?;
            // Elements and hooks carry their name.
            if kind == 3 || kind == 5 {
                reader.var_bytes()?;
            }
            1
        }
        _ => return None,
    };
    Some((false, length))
}

/// Yjs counts a string in UTF-16 units.
#[inline]
fn utf16_length(bytes: &[u8]) -> Option<u64> {
    if bytes.len() == 1 || bytes.is_ascii() {
        return Some(bytes.len() as u64);
    }
    let text = std::str::from_utf8(bytes).ok()?;
    Some(text.encode_utf16().count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use yrs::updates::decoder::Decode;
    use yrs::updates::encoder::Encode;
    use yrs::{Doc, GetString, ReadTxn, StateVector, Text, Transact, Update};

    fn ranges(update: &[u8]) -> Vec<(u64, u64, u64)> {
        let mut found = Vec::new();
        for_each_range(update, |client, clock, length| {
            found.push((client, clock, length))
        })
        .expect("update is readable");
        found
    }

    fn insert(client: u64, clock: u32) -> Vec<u8> {
        let mut update = Vec::new();
        write_insert(&mut update, client, clock, 1);
        update
    }

    #[test]
    fn several_characters_are_one_insert_that_yrs_writes_too() {
        let client = 0x8000_0123;
        let doc = Doc::with_client_id(client);
        let text = doc.get_or_insert_text(std::str::from_utf8(ROOT_TEXT).unwrap());
        for from in [0, 300] {
            let before = doc.transact().state_vector();
            let typed: String = (from..from + 300)
                .map(|clock| char::from(b'a' + (clock % 26) as u8))
                .collect();
            text.insert(&mut doc.transact_mut(), from, &typed);
            let mut update = Vec::new();
            write_insert(&mut update, client, from, 300);
            assert_eq!(update, doc.transact().encode_state_as_update_v1(&before));
            assert_eq!(ranges(&update), [(client, u64::from(from), 300)]);
        }
    }

    #[test]
    fn crafted_inserts_are_what_yrs_itself_writes() {
        let client = 0x8000_0123;
        let doc = Doc::with_client_id(client);
        let text = doc.get_or_insert_text(std::str::from_utf8(ROOT_TEXT).unwrap());
        for clock in 0..300 {
            let before = doc.transact().state_vector();
            let character = char::from(b'a' + (clock % 26) as u8);
            text.insert(&mut doc.transact_mut(), clock, &character.to_string());
            let written = doc.transact().encode_state_as_update_v1(&before);
            assert_eq!(insert(client, clock), written, "clock {clock}");
        }
    }

    #[test]
    fn crafted_inserts_of_many_writers_apply_without_a_gap() {
        let doc = Doc::new();
        let text = doc.get_or_insert_text(std::str::from_utf8(ROOT_TEXT).unwrap());
        for clock in 0..200 {
            for client in 0x9000_0000..0x9000_0005u64 {
                let update = Update::decode_v1(&insert(client, clock)).unwrap();
                doc.transact_mut().apply_update(update).unwrap();
            }
        }
        let transaction = doc.transact();
        assert!(!transaction.has_missing_updates());
        assert_eq!(text.get_string(&transaction).len(), 1_000);
        for client in 0x9000_0000..0x9000_0005u64 {
            assert_eq!(
                u64::from(transaction.state_vector().get(&yrs::ClientID::new(client))),
                200
            );
        }
    }

    #[test]
    fn edits_that_a_server_merged_are_counted_singly() {
        let (one, two) = (0x8000_0001, 0x8000_0002);
        let updates: Vec<_> = (0..50)
            .flat_map(|clock| [insert(one, clock), insert(two, clock)])
            .map(|bytes| Update::decode_v1(&bytes).unwrap())
            .collect();
        let mut merged = ranges(&Update::merge_updates(updates).encode_v1());
        merged.sort_unstable();
        assert_eq!(merged, [(one, 0, 50), (two, 0, 50)]);

        // A document's own diff, squashed into one string, from the middle of a run.
        let doc = Doc::new();
        for clock in 0..50 {
            let update = Update::decode_v1(&insert(one, clock)).unwrap();
            doc.transact_mut().apply_update(update).unwrap();
        }
        let known = StateVector::from_iter([(yrs::ClientID::new(one), 20)]);
        let diff = doc.transact().encode_state_as_update_v1(&known);
        assert_eq!(ranges(&diff), [(one, 20, 30)]);
    }

    #[test]
    fn a_skip_splits_a_range() {
        let far = Update::decode_v1(&insert(7, 9)).unwrap();
        let near = Update::decode_v1(&insert(7, 3)).unwrap();
        let merged = Update::merge_updates([near, far]).encode_v1();
        assert_eq!(ranges(&merged), [(7, 3, 1), (7, 9, 1)]);
    }

    #[test]
    fn counts_text_in_utf16_units_and_refuses_what_is_cut_off() {
        assert_eq!(utf16_length("aé🙂".as_bytes()), Some(4));
        let update = insert(0x8000_0001, 1_000);
        for cut in 0..update.len() - 2 {
            assert_eq!(
                for_each_range(&update[..cut], |_, _, _| {}),
                None,
                "cut at {cut}"
            );
        }
    }
}
