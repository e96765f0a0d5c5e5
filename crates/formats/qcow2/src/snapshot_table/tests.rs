//! Snapshot tables of every shape, and those that exceed a limit.

use diskimg_core::{BlockDevice as _, ErrorKind, MemDevice};

use super::*;

const TABLE: u64 = 0x1_0000;

struct Entry {
    extra: Vec<u8>,
    claimed_extra: u32,
    id: &'static [u8],
    name: Vec<u8>,
}

fn entry(extra_len: u32, id: &'static [u8], name: &[u8]) -> Entry {
    let values = [9u64, 7 << 20, 5, 0x0102_0304_0506_0708];
    let mut extra: Vec<u8> = values.iter().flat_map(|value| value.to_be_bytes()).collect();
    extra.resize(to_usize(extra_len.into()), 0xee);
    Entry { extra, claimed_extra: extra_len, id, name: name.to_vec() }
}

fn image(entries: &[Entry]) -> (MemDevice, Header) {
    let mut bytes = vec![0; to_usize(TABLE)];
    for entry in entries {
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend(0x5_0000u64.to_be_bytes());
        bytes.extend(3u32.to_be_bytes());
        bytes.extend(u16::try_from(entry.id.len()).unwrap().to_be_bytes());
        bytes.extend(u16::try_from(entry.name.len()).unwrap().to_be_bytes());
        bytes.extend(1_700_000_000u32.to_be_bytes());
        bytes.extend(500u32.to_be_bytes());
        bytes.extend(42u64.to_be_bytes());
        bytes.extend(77u32.to_be_bytes());
        bytes.extend(entry.claimed_extra.to_be_bytes());
        bytes.extend(&entry.extra);
        bytes.extend(entry.id);
        bytes.extend(&entry.name);
    }
    let mut header = crate::header::tests::sample();
    header.snapshot_count = u32::try_from(entries.len()).unwrap();
    header.snapshots_offset = TABLE;
    (MemDevice::from(bytes), header)
}

#[test]
fn extra_data_is_understood_as_far_as_it_goes() {
    let entries = [entry(0, b"1", b""), entry(8, b"2", b"b"), entry(16, b"3", b"c"), entry(24, b"4", b"d")];
    let (device, header) = image(&entries);
    let table = read(&device, &header).unwrap();
    assert_eq!(table.len, device.len() - TABLE);
    let sizes: Vec<_> = table.snapshots.iter().map(|s| (s.vm_state_size, s.disk_size, s.icount)).collect();
    let now = header.disk_size();
    assert_eq!(sizes, [(77, now, None), (9, now, None), (9, 7 << 20, None), (9, 7 << 20, Some(5))]);
    let info = table.snapshots[3].info();
    assert_eq!((info.id.as_str(), info.name.as_str(), info.date_sec), ("4", "d", 1_700_000_000));
    assert_eq!((info.date_nsec, info.vm_clock_nsec), (500, 42));
}

#[test]
fn what_is_not_understood_is_kept() {
    let (device, header) = image(&[entry(30, b"\xff", b"n")]);
    let table = read(&device, &header).unwrap();
    assert_eq!(table.snapshots[0].unknown_extra, [1, 2, 3, 4, 5, 6]);
    assert_eq!(table.snapshots[0].extra_len, 30);
    assert_eq!(table.snapshots[0].id, b"\xff");
    assert_eq!(table.snapshots[0].shown_id(), "\u{fffd}");
}

#[test]
fn long_names_are_shown_in_part() {
    let (device, header) = image(&[entry(24, b"1", &[b'x'; 70])]);
    assert_eq!(read(&device, &header).unwrap().snapshots[0].shown_name().len(), 70);
    let (device, header) = image(&[entry(24, b"1", &vec![b'x'; 60_000]), entry(24, b"2", b"next")]);
    let table = read(&device, &header).unwrap();
    assert_eq!(table.snapshots[0].shown_name().len(), SHOWN_NAME);
    assert_eq!(table.snapshots[1].name, b"next");
}

#[test]
fn too_much_extra_data_is_refused_or_cut() {
    let (device, header) = image(&[entry(24, b"1", b"a"), entry(2000, b"2", b"b"), entry(24, b"3", b"c")]);
    let error = read(&device, &header).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
    assert_eq!(error.to_string(), "Too much extra metadata in snapshot table entry 1");
    assert!(error.hint().is_some());
    let table = read_leniently(&device, &header).unwrap();
    assert_eq!(table.cut_extra, [(1, 2000)]);
    assert_eq!(table.snapshots[1].extra_len, MAX_SNAPSHOT_EXTRA);
    assert_eq!(table.snapshots[2].name, b"c");
}

#[test]
fn too_many_or_too_large_ones_are_dropped_at_the_end() {
    let (device, mut header) = image(&[entry(24, b"1", b"a")]);
    header.snapshot_count = MAX_SNAPSHOTS + 5;
    let table = read_leniently(&device, &header).unwrap();
    assert_eq!((table.snapshots.len(), table.overhanging), (to_usize(MAX_SNAPSHOTS.into()), 5));
    let mut large = entry(24, b"1", b"a");
    large.claimed_extra = u32::MAX;
    let (device, mut header) = image(&[large]);
    header.snapshot_count = 4;
    let table = read_leniently(&device, &header).unwrap();
    assert_eq!((table.snapshots.len(), table.too_long, table.len), (0, 4, 0));
}

#[test]
fn a_table_that_no_file_can_hold_is_an_io_error() {
    let (device, mut header) = image(&[entry(24, b"1", b"a")]);
    header.snapshots_offset = 0x7fff_ffff_c000_0000;
    let error = read(&device, &header).unwrap_err();
    assert_eq!(error.joined(), "Failed to read snapshot table: Input/output error");
}
