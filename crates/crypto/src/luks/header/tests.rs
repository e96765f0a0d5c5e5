//! Headers: written and read back, and their places.

use super::*;
use crate::luks::{CreateOptions, create};

fn header(placement: Placement) -> Header {
    create(&CreateOptions { iter_time: 0, placement, ..CreateOptions::default() }, b"x").unwrap().header
}

#[test]
fn what_is_written_is_read_back() {
    for placement in [Placement::Attached, Placement::Detached] {
        let header = header(placement);
        let bytes = header.encode();
        assert_eq!(bytes.len(), HEADER_LEN);
        assert!(is_luks(&bytes));
        assert_eq!(Header::parse(&bytes, placement).unwrap(), header);
    }
}

#[test]
fn a_detached_header_has_no_payload_behind_it() {
    let header = header(Placement::Detached);
    assert_eq!((header.payload_offset(), header.header_len()), (0, 2_068_480));
    let error = Header::parse(&header.encode(), Placement::Attached).unwrap_err();
    assert_eq!(error.to_string(), "LUKS payload is overlapping with the header");
}

#[test]
fn material_behind_every_offset_is_no_wraparound() {
    let mut bytes = header(Placement::Attached).encode();
    bytes[248..252].copy_from_slice(&u32::MAX.to_be_bytes());
    let error = Header::parse(&bytes, Placement::Attached).unwrap_err();
    assert_eq!(error.to_string(), "Keyslot 0 is overlapping with the encrypted payload");
}

#[test]
fn the_format_stands_behind_the_uuid() {
    let header = header(Placement::Attached);
    let names = |format| header.info(format).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(Some("luks"))[4..7], ["uuid", "format", "cipher-mode"]);
    assert_eq!(names(None)[4..6], ["uuid", "cipher-mode"]);
}
