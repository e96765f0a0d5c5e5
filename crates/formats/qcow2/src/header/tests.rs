//! Reading and writing headers: each field survives, nothing unknown is lost, no input is too odd.

use diskimg_core::driver::OpenMode;
use diskimg_core::{ErrorKind, MemDevice};

use super::*;
use crate::extensions::{BitmapsPointer, CryptoPointer};

const READ: OpenMode = OpenMode { write: false, describe_only: false, check: false, guessed: false };
const WRITE: OpenMode = OpenMode { write: true, ..READ };
const CHECK: OpenMode = OpenMode { check: true, ..WRITE };

/// A header that every check accepts.
pub(crate) fn sample() -> Header {
    Header {
        version: 3,
        backing_name: Some("base.img".to_owned()),
        cluster_bits: 16,
        size: 5 << 30,
        crypt_method: 0,
        l1_size: 20,
        l1_offset: 0x3_0000,
        reftable_offset: 0x1_0000,
        reftable_clusters: 1,
        snapshot_count: 2,
        snapshots_offset: 0x7_0000,
        incompatible: features::DATA_FILE | features::EXTENDED_L2 | features::COMPRESSION,
        compatible: features::LAZY_REFCOUNTS | 1 << 40,
        autoclear: features::BITMAPS,
        refcount_order: 3,
        header_length: V3_LEN + 16,
        compression_type: 1,
        unknown_fields: (1..=16).collect(),
        extensions: Extensions {
            backing_format: Some("raw".to_owned()),
            data_file: Some("data.raw".to_owned()),
            crypto: None,
            bitmaps: Some(BitmapsPointer { count: 3, directory_size: 96, directory_offset: 0x9_0000 }),
            stale_bitmaps: false,
            unknown: vec![(0x1234_5678, b"first".to_vec()), (0x8765_4321, Vec::new())],
        },
        raw_texts: Vec::new(),
    }
}

fn image(header: &Header) -> MemDevice {
    MemDevice::from(header.encode().unwrap())
}

fn read(header: &Header, mode: OpenMode) -> Result<Header> {
    Header::read(&image(header), mode)
}

fn refusal(change: impl FnOnce(&mut Header)) -> (ErrorKind, String) {
    let mut header = sample();
    change(&mut header);
    let error = read(&header, WRITE).unwrap_err();
    (error.kind(), error.joined())
}

#[test]
fn everything_that_was_written_is_read_back() {
    let header = sample();
    assert_eq!(read(&header, WRITE).unwrap(), header);
    assert_eq!(header.encode().unwrap().len(), 1 << 16);
}

#[test]
fn a_version_two_header_has_no_features() {
    let mut header = Header {
        version: 2,
        incompatible: 0,
        compatible: 0,
        autoclear: 0,
        refcount_order: 4,
        header_length: V2_LEN,
        compression_type: 0,
        unknown_fields: Vec::new(),
        l1_size: 10,
        ..sample()
    };
    header.extensions.data_file = None;
    header.extensions.bitmaps = None;
    let read = read(&header, WRITE).unwrap();
    assert_eq!(read, header);
    assert_eq!(&image(&header).to_vec()[72..76], &0xe279_2aca_u32.to_be_bytes());
}

#[test]
fn luks_has_a_pointer() {
    let mut header = Header { crypt_method: CRYPT_LUKS, ..sample() };
    assert_eq!(read(&header, WRITE).unwrap_err().to_string(), "Missing CRYPTO header for crypt method 2");
    header.extensions.crypto = Some(CryptoPointer { offset: 0x5_0000, len: 77 });
    assert_eq!(read(&header, WRITE).unwrap(), header);
    header.crypt_method = 1;
    assert!(read(&header, WRITE).is_err());
}

#[test]
fn texts_that_are_not_utf8_are_stored_as_they_were() {
    let mut bytes = image(&sample()).to_vec();
    let at = bytes.windows(8).position(|part| part == b"base.img").unwrap();
    bytes[at] = 0xff;
    let at = bytes.windows(8).position(|part| part == b"data.raw").unwrap();
    bytes[at] = 0xfe;
    let header = Header::read(&MemDevice::from(bytes.clone()), WRITE).unwrap();
    assert_eq!(header.backing_name.as_deref(), Some("\u{fffd}ase.img"));
    assert_eq!(header.encode().unwrap(), bytes);
}

#[test]
fn a_header_that_needs_more_than_a_cluster_is_no_space() {
    let mut header = Header { cluster_bits: 9, ..sample() };
    header.backing_name = Some("b".repeat(400));
    assert_eq!(header.encode().unwrap_err().kind(), ErrorKind::NoSpace);
    header.backing_name = Some("b".repeat(1024));
    let error = Header { cluster_bits: 16, ..header }.encode().unwrap_err();
    assert_eq!(error.joined(), "Invalid argument");
}

#[test]
fn extensions_may_end_with_the_area_and_lie_far_behind_its_start() {
    let mut header = sample();
    header.extensions.unknown = vec![(7, vec![1; 9000]), (8, vec![2; 50_000])];
    assert_eq!(read(&header, READ).unwrap(), header);
    // Neither an end marker nor room for one.
    let mut bytes = image(&Header { header_length: V3_LEN, unknown_fields: Vec::new(), ..sample() }).to_vec();
    bytes[8..16].copy_from_slice(&128u64.to_be_bytes());
    bytes[16..20].copy_from_slice(&0u32.to_be_bytes());
    let read = Header::read(&MemDevice::from(bytes), READ).unwrap();
    assert_eq!(
        read.extensions,
        Extensions { backing_format: Some("raw".to_owned()), ..Extensions::default() }
    );
}

#[test]
fn stale_bitmaps_are_neither_checked_nor_written_again() {
    let mut header = sample();
    header.autoclear = 0;
    header.extensions.bitmaps = Some(BitmapsPointer { count: 0, directory_size: 0, directory_offset: 1 });
    let read = read(&header, WRITE).unwrap();
    assert!(read.extensions.stale_bitmaps);
    assert_eq!(read.extensions.bitmaps, None);
}

#[test]
fn kinds_tell_damage_from_limits_and_from_the_unknown() {
    assert_eq!(
        refusal(|h| h.version = 4),
        (ErrorKind::Unsupported, "Unsupported qcow2 version 4".to_owned())
    );
    let (kind, text) = refusal(|h| h.incompatible |= 1 << 17);
    let expected = "Unsupported qcow2 feature(s): Unknown incompatible feature: 20000";
    assert_eq!((kind, text.as_str()), (ErrorKind::Unsupported, expected));
    assert_eq!(refusal(|h| h.l1_size = 1 << 23), (ErrorKind::Limit, "Active L1 table too large".to_owned()));
    assert_eq!(
        refusal(|h| h.l1_offset = 512),
        (ErrorKind::Corrupt, "Active L1 table offset invalid".to_owned())
    );
    let (kind, text) = refusal(|h| h.size = u64::MAX);
    assert_eq!(
        (kind, text.as_str()),
        (ErrorKind::Limit, "Could not refresh total sector count: File too large")
    );
    assert_eq!(
        Header::read(&MemDevice::new(100), READ).unwrap_err().kind(),
        ErrorKind::NotThisFormat,
        "an empty file is no image"
    );
}

#[test]
fn damage_keeps_writers_out_but_not_readers_and_checks() {
    let corrupt = Header { incompatible: sample().incompatible | features::CORRUPT, ..sample() };
    assert!(read(&corrupt, READ).is_ok());
    assert!(read(&corrupt, CHECK).is_ok());
    let error = read(&corrupt, WRITE).unwrap_err();
    assert_eq!(error.to_string(), "qcow2: Image is corrupt; cannot be opened read/write");
    for broken in [
        Header { reftable_clusters: 0, ..sample() },
        Header { snapshot_count: 70_000, ..sample() },
        Header { snapshots_offset: 100, ..sample() },
    ] {
        assert!(read(&broken, READ).is_err());
        assert!(read(&broken, CHECK).is_ok());
    }
}

#[test]
fn no_bytes_are_too_odd_and_what_is_accepted_can_be_written() {
    let mut rng = 0x2545_f491_4f6c_dd1du64;
    let mut next = move || {
        rng ^= rng << 13;
        rng ^= rng >> 7;
        rng ^= rng << 17;
        rng
    };
    let good = sample().encode().unwrap();
    let mut accepted = 0;
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..=next() % 3 {
            let at = usize::try_from(next() % 400).unwrap();
            bytes[at] = [0, 1, 2, 0x7f, 0x80, 0xff][usize::try_from(next() % 6).unwrap()];
        }
        bytes.truncate(usize::try_from(next() % 4096).unwrap().max(400));
        let Ok(header) = Header::read(&MemDevice::from(bytes), WRITE) else { continue };
        accepted += 1;
        // Read, written and read again, a header says the same; a longer feature table may have pushed it out of room.
        if let Ok(encoded) = header.encode() {
            let again = Header::read(&MemDevice::from(encoded), WRITE).unwrap();
            let expected = Header { header_length: again.header_length, ..header };
            let mut expected = expected;
            expected.extensions.stale_bitmaps = false;
            if !expected.has_data_file() {
                expected.extensions.data_file = None;
            }
            if expected.backing_name.as_deref() == Some("") {
                expected.backing_name = None;
            }
            let keep = |raw: &Vec<(String, Vec<u8>)>| raw.len();
            assert!(keep(&again.raw_texts) <= keep(&expected.raw_texts));
            expected.raw_texts.clone_from(&again.raw_texts);
            assert_eq!(again, expected);
        }
    }
    assert!(accepted > 1000, "{accepted}");
}
