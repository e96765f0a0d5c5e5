//! What a host file promises: cache modes, threads, extents that follow changes, failures that leave it as it was.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::cast_possible_truncation)]

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread;

use diskimg_core::protocol::CacheMode;
use diskimg_core::{
    BlockDevice, ByteRange, CancelToken, ErrorKind, ExtentFlags, HostRef, Prealloc, ZeroMode,
};
use diskimg_file::{FileDevice, FileOptions};

struct Scratch {
    _folder: tempfile::TempDir,
    path: String,
}

impl Scratch {
    fn new(bytes: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk").to_str().unwrap().to_owned();
        std::fs::write(&path, bytes).unwrap();
        Self { _folder: folder, path }
    }

    fn open(&self) -> FileDevice {
        FileOptions::new().write(true).open(&self.path).unwrap()
    }

    /// `None`: the file system lacks O_DIRECT.
    fn open_direct(&self) -> Option<FileDevice> {
        match FileOptions::new().write(true).cache(CacheMode::None).open(&self.path) {
            Err(error) if error.kind() == ErrorKind::Unsupported => None,
            opened => Some(opened.unwrap()),
        }
    }
}

/// Kinds and lengths of all extents.
fn extents(device: &dyn BlockDevice) -> Vec<(bool, u64)> {
    let (mut found, mut at): (Vec<(bool, u64)>, u64) = (Vec::new(), 0);
    while at < device.len() {
        let extent = device.extent_at(ByteRange::from_bounds(at, device.len())).unwrap();
        found.push((extent.flags.contains(ExtentFlags::DATA), extent.len));
        assert_eq!(extent.host.map(|host| host.offset), Some(at));
        at += extent.len;
    }
    found
}

/// Whether the file system of the temporary folder gives space back.
fn can_punch() -> bool {
    Scratch::new(&[1; 10]).open().discard(ByteRange::new(0, 1)).is_ok()
}

#[test]
fn every_cache_mode_stores_the_bytes_and_keeps_the_exact_length() {
    for (name, cache) in CacheMode::NAMES {
        let scratch = Scratch::new(&[1; 1000]);
        let Ok(device) = FileOptions::new().write(true).cache(cache).open(&scratch.path) else {
            assert!(cache.is_direct(), "{name}");
            continue;
        };
        device.write_at(998, &[2; 5003]).unwrap();
        device.write_at(20_000, &[3]).unwrap();
        device.flush().unwrap();
        let mut expected = vec![0; 20_001];
        expected[..998].fill(1);
        expected[998..6001].fill(2);
        expected[20_000] = 3;
        let mut bytes = vec![0; expected.len()];
        device.read_at(0, &mut bytes).unwrap();
        assert!(bytes == expected, "{name}");
        drop(device);
        assert!(std::fs::read(&scratch.path).unwrap() == expected, "{name}");
    }
}

#[test]
fn large_requests_past_the_page_cache_are_split_right() {
    let scratch = Scratch::new(&[]);
    let Some(device) = scratch.open_direct() else { return };
    let bytes: Vec<u8> = (0..5_000_000u32).map(|i| (i / 7 % 251) as u8).collect();
    for (at, len) in [(0, 5_000_000), (4096, 4_194_304), (511, 3_000_001), (1 << 20, 2 << 20)] {
        device.write_at(at, &bytes[..len]).unwrap();
        let mut back = vec![0; len];
        device.read_at(at, &mut back).unwrap();
        assert!(back == bytes[..len], "{at} {len}");
    }
}

#[test]
fn threads_that_write_neighbouring_bytes_do_not_disturb_each_other() {
    let scratch = Scratch::new(&[]);
    let mut devices = vec![scratch.open()];
    devices.extend(scratch.open_direct());
    for device in devices {
        let device = Arc::new(device);
        device.set_len(0, Prealloc::Off).unwrap();
        // 700 is no divisor of any block; some writes extend the file, some do not.
        thread::scope(|scope| {
            for worker in 0..4u8 {
                let device = Arc::clone(&device);
                scope.spawn(move || {
                    for round in 0..60u64 {
                        let at = (round * 4 + u64::from(worker)) * 700;
                        device.write_at(at, &[worker + 1; 700]).unwrap();
                        let mut back = [0; 700];
                        device.read_at(at, &mut back).unwrap();
                        assert_eq!(back, [worker + 1; 700]);
                    }
                });
            }
        });
        assert_eq!(device.len(), 240 * 700);
        let bytes = std::fs::read(&scratch.path).unwrap();
        for (index, part) in bytes.chunks(700).enumerate() {
            assert!(part.iter().all(|byte| *byte == (index % 4) as u8 + 1), "part {index}");
        }
    }
}

#[test]
fn extents_tell_holes_from_data_and_follow_every_change() {
    const MIB: u64 = 1 << 20;
    let scratch = Scratch::new(&[]);
    let device = scratch.open();
    device.set_len(8 * MIB, Prealloc::Off).unwrap();
    if !can_punch() {
        return;
    }
    device.write_zeroes(ByteRange::new(0, 8 * MIB), ZeroMode::MayUnmap).unwrap();
    assert_eq!(extents(&device), [(false, 8 * MIB)]);

    device.write_at(MIB, &[1; 65536]).unwrap();
    device.write_at(4 * MIB, &[1; 65536]).unwrap();
    let expected =
        [(false, MIB), (true, 65536), (false, 3 * MIB - 65536), (true, 65536), (false, 4 * MIB - 65536)];
    assert_eq!(extents(&device), expected);
    // Asked backwards and for parts.
    let part = device.extent_at(ByteRange::new(4 * MIB + 100, 1000)).unwrap();
    assert_eq!((part.len, part.is_zero()), (1000, false));
    assert!(device.extent_at(ByteRange::new(10, 1000)).unwrap().is_zero());

    device.discard(ByteRange::new(MIB, 65536)).unwrap();
    assert_eq!(extents(&device), [(false, 4 * MIB), (true, 65536), (false, 4 * MIB - 65536)]);
    device.set_len(4 * MIB, Prealloc::Off).unwrap();
    assert_eq!(extents(&device), [(false, 4 * MIB)]);
}

#[test]
fn zeroing_can_keep_or_give_back_space_and_make_the_file_longer() {
    let scratch = Scratch::new(&[7; 300_000]);
    let device = scratch.open();
    let before = device.allocated_len().unwrap().unwrap();
    match device.write_zeroes(ByteRange::new(0, 262_144), ZeroMode::KeepAllocated) {
        // Not every file system can: tmpfs punches only, ramfs does nothing of the kind.
        Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported),
        Ok(()) => assert!(device.len() == 300_000),
    }
    if !can_punch() {
        return;
    }
    assert!(device.allocated_len().unwrap().unwrap() >= before);
    device.write_zeroes(ByteRange::new(0, 262_144), ZeroMode::MayUnmap).unwrap();
    assert!(device.allocated_len().unwrap().unwrap() < before);
    device.write_zeroes(ByteRange::new(299_999, 700_001), ZeroMode::FastOnly).unwrap();
    assert_eq!(device.len(), 1_000_000);
    let bytes = std::fs::read(&scratch.path).unwrap();
    assert_eq!(bytes.len(), 1_000_000);
    assert!(bytes[..262_144].iter().chain(&bytes[299_999..]).all(|byte| *byte == 0));
    assert!(bytes[262_144..299_999].iter().all(|byte| *byte == 7));
    assert!(device.discard(ByteRange::new(900_000, 1 << 40)).is_ok());
    assert_eq!(device.len(), 1_000_000);
}

#[test]
fn preallocation_takes_the_space() {
    for (prealloc, taken) in [(Prealloc::Off, 4096), (Prealloc::Falloc, 1 << 20), (Prealloc::Full, 1 << 20)] {
        let scratch = Scratch::new(&[]);
        let device = scratch.open();
        device.set_len(1 << 20, prealloc).unwrap();
        assert!(device.allocated_len().unwrap().unwrap() >= taken, "{prealloc:?}");
        assert!(std::fs::read(&scratch.path).unwrap().iter().all(|byte| *byte == 0));
        let error = device.set_len(100, Prealloc::Falloc).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(device.len(), 1 << 20);
    }
}

#[test]
fn a_failed_resize_leaves_the_file_as_it_was() {
    let scratch = Scratch::new(&[5; 1000]);
    let device = scratch.open();
    let error = device.set_len(2000, Prealloc::Metadata).unwrap_err();
    assert_eq!(error.joined(), "Unsupported preallocation mode: metadata");
    if let Err(error) = device.set_len(i64::MAX.unsigned_abs(), Prealloc::Off) {
        assert!(error.joined().starts_with("Could not resize file: "), "{error:?}");
    }
    device.set_len(1000, Prealloc::Off).unwrap();
    let error = device.set_len(u64::MAX, Prealloc::Off).unwrap_err();
    assert_eq!(error.joined(), "Could not resize file: Invalid argument");
    // Where space can't be reserved, zeros would be written until the disk is full.
    if can_punch() {
        let error = device.set_len(1 << 60, Prealloc::Falloc).unwrap_err();
        assert!(error.joined().starts_with("Could not preallocate new data: "), "{error:?}");
    }
    assert_eq!(device.len(), 1000);
    assert_eq!(std::fs::read(&scratch.path).unwrap(), [5; 1000]);
}

#[test]
fn requests_that_make_no_sense_are_errors() {
    let scratch = Scratch::new(&[5; 1000]);
    let device = scratch.open();
    for (offset, len) in [(1000, 1), (999, 2), (u64::MAX, 1), (u64::MAX - 1, 10)] {
        let error = device.read_at(offset, &mut vec![0; len]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange);
    }
    for offset in [u64::MAX, u64::MAX - 5, i64::MAX.unsigned_abs(), i64::MAX.unsigned_abs() - 5] {
        assert!(device.write_at(offset, &[0; 10]).is_err());
        assert!(device.write_zeroes(ByteRange::new(offset, 10), ZeroMode::MayUnmap).is_err());
        let source = HostRef { device: &device, offset: 0 };
        assert!(device.copy_from(offset, source, 10).is_err());
    }
    assert!(device.extent_at(ByteRange::new(0, 0)).is_err());
    assert!(device.extent_at(ByteRange::new(999, 2)).is_err());
    device.read_at(1000, &mut []).unwrap();
    assert_eq!(std::fs::read(&scratch.path).unwrap(), [5; 1000]);
}

#[test]
fn a_file_that_shrinks_behind_our_back_is_an_error_not_a_hang() {
    for direct in [false, true] {
        let scratch = Scratch::new(&[5; 100_000]);
        let device = if direct { scratch.open_direct() } else { Some(scratch.open()) };
        let Some(device) = device else { continue };
        std::fs::File::options().write(true).open(&scratch.path).unwrap().set_len(10_000).unwrap();
        let error = device.read_at(0, &mut vec![0; 100_000]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange);
        assert!(device.extent_at(ByteRange::new(50_000, 1000)).unwrap().is_zero());
    }
}

#[test]
fn a_device_opened_for_reading_refuses_every_change() {
    let scratch = Scratch::new(&[5; 1000]);
    let device = FileOptions::new().open(&scratch.path).unwrap();
    assert!(device.is_read_only());
    let range = ByteRange::new(0, 10);
    let refusals = [
        device.write_at(0, &[1]),
        device.write_zeroes(range, ZeroMode::MayUnmap),
        device.discard(range),
        device.set_len(5, Prealloc::Off),
        device.copy_from(0, HostRef { device: &device, offset: 500 }, 10).map(|_| ()),
    ];
    for refusal in refusals {
        assert_eq!(refusal.unwrap_err().kind(), ErrorKind::ReadOnly);
    }
    device.flush().unwrap();
}

#[test]
fn copies_between_files_stay_in_the_kernel_and_stop_at_the_end() {
    let (source, target) = (Scratch::new(&[9; 300_000]), Scratch::new(&[1; 10]));
    let (source, target_device) = (source.open(), target.open());
    let from = HostRef { device: &source, offset: 100_000 };
    let copied = target_device.copy_from(5, from, 1 << 30).unwrap();
    assert!(copied == 200_000 || copied == 0);
    if copied > 0 {
        assert_eq!(target_device.len(), 200_005);
        let bytes = std::fs::read(&target.path).unwrap();
        assert_eq!(&bytes[..5], [1; 5]);
        assert!(bytes[5..].iter().all(|byte| *byte == 9));
    }
    let memory = diskimg_core::MemDevice::new(100);
    assert_eq!(target_device.copy_from(0, HostRef { device: &memory, offset: 0 }, 10).unwrap(), 0);
}

#[test]
fn what_the_kernel_refuses_to_copy_is_left_to_the_caller() {
    let scratch = Scratch::new(&[7; 300_000]);
    let device = scratch.open();
    // A file over itself.
    let from = HostRef { device: &device, offset: 4096 };
    assert_eq!(device.copy_from(8192, from, 100_000).unwrap(), 0);
    assert_eq!(std::fs::read(&scratch.path).unwrap(), [7; 300_000]);
    // Another file system, where there is one: all or nothing.
    let Ok(other) = tempfile::tempdir_in("/dev/shm") else { return };
    let path = other.path().join("other");
    std::fs::write(&path, [1; 10]).unwrap();
    let target = FileOptions::new().write(true).open(path.to_str().unwrap()).unwrap();
    let copied = target.copy_from(0, HostRef { device: &device, offset: 0 }, 300_000).unwrap();
    let expected = if copied == 0 { vec![1; 10] } else { vec![7; 300_000] };
    assert!(std::fs::read(&path).unwrap() == expected);
    assert_eq!(target.len(), expected.len() as u64);
}

#[test]
fn copies_need_no_borders() {
    let bytes: Vec<u8> = (0..1_000_000u32).map(|at| (at % 251) as u8).collect();
    let (source, scratch) = (Scratch::new(&bytes), Scratch::new(&[0; 2_000_000]));
    let (source, target) = (source.open(), scratch.open());
    for (from, to, len) in
        [(512, 512 + 8192, 900_000), (512, 1000, 70_000), (4095, 4095, 1), (100, 4196, 4000)]
    {
        let copied = target.copy_from(to, HostRef { device: &source, offset: from }, len).unwrap();
        assert!(copied == len || copied == 0);
        let now = std::fs::read(&scratch.path).unwrap();
        let part = |bytes: &[u8], at: u64| bytes[at as usize..(at + copied) as usize].to_vec();
        assert!(part(&now, to) == part(&bytes, from), "{from} {to} {len}");
    }
}

/// Run it with a spare device, for example a loop device: everything on it is overwritten.
#[test]
#[ignore = "needs a spare block device in DISKIMG_TEST_BLOCK_DEVICE"]
fn block_devices_have_a_fixed_length_and_can_be_zeroed() {
    let Ok(path) = std::env::var("DISKIMG_TEST_BLOCK_DEVICE") else { panic!("no device given") };
    for cache in [CacheMode::WriteBack, CacheMode::None] {
        let device = FileOptions::new().write(true).cache(cache).open(&path).unwrap();
        assert_eq!(device.describe().driver, "host_device");
        let len = device.len();
        assert!(len >= 1 << 20 && !device.limits().growable);
        device.write_at(0, &vec![3; 1 << 20]).unwrap();
        device.write_at(100, &[4; 1000]).unwrap();
        assert_eq!(device.write_at(len - 1, &[1, 2]).unwrap_err().kind(), ErrorKind::OutOfRange);
        assert_eq!(
            device.write_zeroes(ByteRange::new(len, 1), ZeroMode::MayUnmap).unwrap_err().kind(),
            ErrorKind::OutOfRange
        );
        assert_eq!(
            device.set_len(len / 2, Prealloc::Off).unwrap_err().joined(),
            "Cannot resize device files"
        );
        device.set_len(len, Prealloc::Off).unwrap();
        let mut bytes = vec![0; 1 << 20];
        device.read_at(0, &mut bytes).unwrap();
        assert!(bytes[..100].iter().chain(&bytes[1100..]).all(|byte| *byte == 3));
        assert!(bytes[100..1100].iter().all(|byte| *byte == 4));
        for how in [ZeroMode::MayUnmap, ZeroMode::KeepAllocated] {
            device.write_at(0, &vec![3; 1 << 20]).unwrap();
            device.write_zeroes(ByteRange::new(4096, 65536), how).unwrap();
            device.read_at(0, &mut bytes).unwrap();
            assert!(bytes[4096..69632].iter().all(|byte| *byte == 0));
            assert!(bytes[69632..].iter().all(|byte| *byte == 3));
        }
        device.discard(ByteRange::new(0, 1 << 20)).unwrap();
        assert!(!device.extent_at(ByteRange::new(0, len)).unwrap().is_zero());
        device.flush().unwrap();
    }
}

/// Run it with a folder on a file system of at most 16 MiB.
#[test]
#[ignore = "needs a folder on a small file system in DISKIMG_TEST_SMALL_FOLDER"]
fn a_full_disk_is_told_as_such_and_a_failed_resize_undone() {
    let Ok(folder) = std::env::var("DISKIMG_TEST_SMALL_FOLDER") else { panic!("no folder given") };
    let path = format!("{folder}/disk");
    std::fs::write(&path, [5; 1000]).unwrap();
    let device = FileOptions::new().write(true).open(&path).unwrap();
    for prealloc in [Prealloc::Full, Prealloc::Falloc] {
        let error = device.set_len(64 << 20, prealloc).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
        assert!(error.joined().ends_with(": No space left on device"), "{error:?}");
        assert_eq!(device.len(), 1000);
    }
    let error = device.write_at(500, &vec![1; 64 << 20]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    let mut head = [0; 500];
    device.read_at(0, &mut head).unwrap();
    assert_eq!(head, [5; 500]);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn reserving_space_ends_when_it_is_asked_to() {
    let scratch = Scratch::new(&[5; 1000]);
    let cancel = CancelToken::default();
    let device = FileOptions::new().write(true).cancel(cancel.clone()).open(&scratch.path).unwrap();
    cancel.cancel();
    assert_eq!(device.set_len(1 << 20, Prealloc::Full).unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!((device.len(), std::fs::metadata(&scratch.path).unwrap().len()), (1000, 1000));
}

#[test]
fn the_length_of_a_file_that_others_extend_is_that_of_its_opening() {
    let scratch = Scratch::new(&[5; 1000]);
    let device = scratch.open();
    std::fs::File::options().write(true).open(&scratch.path).unwrap().write_all_at(&[6; 1000], 1000).unwrap();
    assert_eq!(device.len(), 1000);
    device.write_at(2500, &[7]).unwrap();
    assert_eq!(device.len(), 2501);
    let mut bytes = vec![0; 2501];
    device.read_at(0, &mut bytes).unwrap();
    assert!(bytes[1000..2000].iter().all(|byte| *byte == 6));
}
