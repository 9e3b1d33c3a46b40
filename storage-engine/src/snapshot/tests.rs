//! The layouts on disk, pinned byte by byte: a change here is a new format version.

use super::format::{self, Body, EntryError, EntryHeader, Found};
use crate::manifest::{Manifest, SnapshotSegment};
use crate::paths::ShardDir;
use crate::store::StoreFile;
use collabblocks_wal::{Identity, Lsn, RoomKey};
use std::path::Path;

fn dir() -> ShardDir {
    ShardDir::new(
        Path::new("/"),
        Identity {
            store: *b"0123456789abcdef",
            shard: 0x0102,
        },
    )
}

fn header() -> EntryHeader {
    EntryHeader {
        key: RoomKey(0x1112131415161718),
        seq: 0x2122232425262728,
        covers: Lsn(0x3132333435363738),
        payload_bytes: 0x41424344,
        raw_bytes: 0x31525354,
        payload_crc: 0x61626364,
        name_bytes: 4,
        offset: 0x7172737475767778,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn an_entry_header_is_laid_out_as_ever() {
    let bytes = header().encode(&dir(), 5, "room");
    assert_eq!(
        hex(&bytes),
        "4342736e01000400b33a4ee164636261181716151413121128272625242322213837363534333231444342415453523178777675747372710000000000000000"
    );
}

#[test]
fn a_segment_header_is_laid_out_as_ever() {
    let bytes = format::segment_header(&dir(), 5);
    assert_eq!(bytes.len(), 4096);
    assert_eq!(
        hex(&bytes[..56]),
        "4342534e415053470100000016000000000000000000000000000000f0badc75303132333435363738396162636465660201050000000000"
    );
    assert!(bytes[56..].iter().all(|&b| b == 0));
}

#[test]
fn a_body_is_archived_as_ever() {
    let body = Body {
        state_vector: vec![1, 2, 3],
        state: vec![4, 5, 6, 7, 8, 9, 10, 11, 12],
    };
    let raw = rkyv::to_bytes::<rkyv::rancor::Error>(&body).unwrap();
    assert_eq!(
        hex(&raw),
        "0102030405060708090a0b0cf4ffffff03000000efffffff09000000"
    );
    let (raw_bytes, payload) = body.encode().unwrap();
    assert_eq!(raw_bytes as usize, raw.len());
    assert_eq!(Body::decode(raw_bytes, &payload), Ok(body));
}

#[test]
fn a_manifest_is_laid_out_as_ever() {
    let manifest = Manifest {
        sequence: 7,
        store: *b"0123456789abcdef",
        shard: 3,
        low: 9,
        snapshots: vec![SnapshotSegment {
            id: 2,
            durable_bytes: 0x8000,
        }],
    };
    let bytes = manifest.encode();
    assert_eq!(
        hex(&bytes[..112]),
        "43424d414e49465301000000400000000000000000000000000000007c6245690200000000000000008000000000000007000000000000003031323334353637383961626364656603000000000000000900000000000000c8ffffff0100000000000000000000000000000000000000"
    );
    assert_eq!(Manifest::decode(&bytes), Ok(manifest));
}

#[test]
fn a_store_file_is_laid_out_as_ever() {
    let file = StoreFile {
        id: *b"0123456789abcdef",
        generation: 4,
        shards: 3,
        segment_bytes: 64 << 20,
    };
    let bytes = file.encode();
    assert_eq!(
        hex(&bytes[..64]),
        "434253544f52450001000000200000000000000000000000000000002e3344863031323334353637383961626364656604000000030000000000000400000000"
    );
    assert_eq!(StoreFile::decode(&bytes), Ok(file));
}

#[test]
fn every_flipped_bit_of_an_entry_header_or_name_is_noticed() {
    let header = header();
    let mut bytes = header.encode(&dir(), 5, "room").to_vec();
    bytes.extend_from_slice(b"room");
    let read = |bytes: &[u8]| match format::decode_entry(&dir(), 5, header.offset, bytes) {
        Ok(Found::Entry(found, name)) => Ok((found, name.to_owned())),
        Ok(Found::Padding) => Err(EntryError::Damaged("padding")),
        Err(error) => Err(error),
    };
    assert_eq!(read(&bytes), Ok((header, "room".into())));
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(
            matches!(read(&bad), Err(EntryError::Damaged(_))),
            "bit {bit}"
        );
    }
    for cut in 0..bytes.len() {
        assert!(read(&bytes[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn an_entry_of_another_place_segment_or_shard_is_refused() {
    let header = header();
    let mut bytes = header.encode(&dir(), 5, "room").to_vec();
    bytes.extend_from_slice(b"room");
    let mut elsewhere = dir();
    elsewhere.identity.shard += 1;
    assert!(format::decode_entry(&dir(), 5, header.offset + 8, &bytes).is_err());
    assert!(format::decode_entry(&dir(), 6, header.offset, &bytes).is_err());
    assert!(format::decode_entry(&elsewhere, 5, header.offset, &bytes).is_err());
}
