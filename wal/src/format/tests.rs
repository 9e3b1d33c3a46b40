//! The bytes of format version 1, pinned: if one of these changes, old logs cannot be read.

use super::*;
use crate::AlignedBuf;
use crate::batch::{Batch, Finish};

const IDENTITY: Identity = Identity {
    store: *b"0123456789abcdef",
    shard: 0x0201,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn segment_header() -> SegmentHeader {
    SegmentHeader {
        identity: IDENTITY,
        segment: SegmentId(3),
        segment_bytes: 64 << 20,
        salt: 0x1122_3344_5566_7788,
    }
}

fn batch() -> AlignedBuf {
    let buf = AlignedBuf::with_capacity(BLOCK_BYTES);
    let mut batch = Batch::new(SegmentId(3), 4096, Lsn(0x0c00_1000), buf);
    batch.push(RecordKind::RoomCreated, RoomKey(0), 0, &[b"ro", b"om"]);
    batch.push(
        RecordKind::Update,
        RoomKey(0x0c00_1080),
        7,
        &[b"\x00\x01\x02"],
    );
    let finish = Finish {
        salt: 0x1122_3344_5566_7788,
        epoch: 5,
        durable_lsn: Lsn(0x0bff_f000),
        previous: 0xa1b2_c3d4,
    };
    batch.finish(finish).0
}

#[test]
fn golden_segment_header() {
    let mut block = vec![0xff; BLOCK_BYTES];
    segment_header().encode(&mut block);
    assert_eq!(hex(&block[..64]), SEGMENT_GOLDEN);
    assert!(is_zero(&block[64..]));
    assert_eq!(SegmentHeader::decode(&block), Ok(segment_header()));
}

#[test]
fn golden_batch() {
    let buf = batch();
    let bytes = buf.as_slice();
    assert_eq!(bytes.len(), BLOCK_BYTES);
    assert_eq!(hex(&bytes[..72]), BATCH_GOLDEN);
    assert!(is_zero(&bytes[72..128]));
    assert_eq!(hex(&bytes[128..191]), RECORDS_GOLDEN);
    assert!(is_zero(&bytes[191..]));
    let (header, checksum) = BatchHeader::decode(bytes).unwrap();
    assert_eq!(checksum.to_le_bytes(), bytes[4..8]);
    assert_eq!(header.payload_bytes, 63);
    assert_eq!(header.records, 2);
    let records: Vec<_> = Records::new(Lsn(0x0c00_1080), &bytes[128..191])
        .map(Result::unwrap)
        .collect();
    assert_eq!(records[0].room, RoomKey(0x0c00_1080));
    assert_eq!(records[0].payload, b"room");
    assert_eq!(
        (records[1].kind, records[1].room_seq),
        (RecordKind::Update, 7)
    );
    assert_eq!(records[1].lsn, Lsn(0x0c00_1080 + 32));
}

#[test]
fn every_flipped_bit_is_noticed() {
    let mut block = vec![0; BLOCK_BYTES];
    segment_header().encode(&mut block);
    let buf = batch();
    for bit in 0..BLOCK_BYTES * 8 {
        let flip = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes
        };
        assert!(SegmentHeader::decode(&flip(&block)).is_err(), "bit {bit}");
        let bytes = flip(buf.as_slice());
        let intact = BatchHeader::decode(&bytes)
            .is_ok_and(|(header, _)| crate::recovery::payload_fits(&header, &bytes));
        assert!(!intact, "bit {bit}");
    }
}

/// A header with one field changed and its checksum made right again.
fn forged(
    bytes: &[u8],
    crc_at: usize,
    from: usize,
    to: usize,
    change: impl Fn(&mut [u8]),
) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    change(&mut bytes);
    let crc = crc32fast::hash(&bytes[from..to]);
    put(&mut bytes, crc_at, crc.to_le_bytes());
    bytes
}

#[test]
fn an_intact_header_with_anything_unknown_is_newer() {
    let mut block = vec![0; BLOCK_BYTES];
    segment_header().encode(&mut block);
    // Version, cipher, key, and what is reserved after them.
    for at in [12, 13, 64, 70, 79, 4095] {
        let newer = forged(&block, 8, 12, BLOCK_BYTES, |bytes| bytes[at] ^= 2);
        assert!(
            matches!(
                SegmentHeader::decode(&newer),
                Err(HeaderFault::Newer { .. })
            ),
            "{at}"
        );
    }
    let moved = forged(&block, 8, 12, BLOCK_BYTES, |bytes| bytes[48] ^= 2);
    assert!(matches!(
        SegmentHeader::decode(&moved),
        Err(HeaderFault::Bad(_))
    ));
    let buf = batch();
    for at in [8, 9, 10, 15, 72, 127] {
        let newer = forged(buf.as_slice(), 4, 8, 128, |bytes| bytes[at] ^= 2);
        assert!(
            matches!(BatchHeader::decode(&newer), Err(HeaderFault::Newer { .. })),
            "{at}"
        );
    }
}

#[test]
fn records_that_are_cut_off_moved_or_of_an_unknown_kind() {
    let buf = batch();
    let payload = &buf.as_slice()[128..191];
    let lsn = Lsn(0x0c00_1080);
    for len in (1..63).filter(|len| *len != 32) {
        let last = Records::new(lsn, &payload[..len]).last().unwrap();
        assert!(matches!(last, Err(RecordFault::Bad(_))), "{len}");
    }
    let moved = Records::new(Lsn(lsn.0 + 1), payload).next().unwrap();
    assert!(matches!(moved, Err(RecordFault::Bad(_))));
    let mut unknown = payload[..32].to_vec();
    unknown[8] = 99;
    let crc = record_crc(lsn, &unknown[4..28], &[&unknown[28..]]);
    put(&mut unknown, 0, crc.to_le_bytes());
    let mut records = Records::new(lsn, &unknown);
    assert_eq!(records.next(), Some(Err(RecordFault::Newer { kind: 99 })));
    assert_eq!(records.next(), None);
}

#[test]
fn the_numbers_of_the_kinds_never_change() {
    let kinds = [
        RecordKind::RoomCreated,
        RecordKind::Update,
        RecordKind::SnapshotInstalled,
        RecordKind::RoomDeleted,
        RecordKind::Seal,
        RecordKind::CleanShutdown,
        RecordKind::LiveOps,
        RecordKind::ActorCounter,
    ];
    for (index, kind) in kinds.into_iter().enumerate() {
        assert_eq!(RecordKind::from_byte(index as u8 + 1), Some(kind));
    }
    assert_eq!(RecordKind::from_byte(0), None);
    assert_eq!(RecordKind::from_byte(9), None);
}

const SEGMENT_GOLDEN: &str = "43424c4b5345470aba1b06200100010288776655443322113031323334353637383961626364656603000000000000000000000c000000000000000400000000";
const BATCH_GOLDEN: &str = "4342420a7f0d6971010000000000000088776655443322110010000c000000000300000000000000050000000000000000f0ff0b000000003f00000002000000d4c3b2a11e609afb";
const RECORDS_GOLDEN: &str = "cc332ecc04000000010000008010000c000000000000000000000000726f6f6da32cd9a003000000020000008010000c000000000700000000000000000102";
