//! Reads of any shape from any bochs, cloop or dmg image: a part reads as it does within the whole.
#![no_main]

use std::sync::Arc;

use diskimg_core::MemDevice;
use diskimg_core::driver::OpenMode;
use diskimg_core::opener::NoReferences;
use diskimg_testkit::open_image;
use libfuzzer_sys::fuzz_target;

/// Longest disk that is read as a whole, in bytes.
const MOST: u64 = 1 << 20;

fuzz_target!(|input: (u8, Vec<(u32, u16)>, &[u8])| {
    let (driver, reads, bytes) = input;
    let drivers = [&diskimg_legacy::BOCHS, &diskimg_legacy::CLOOP, &diskimg_legacy::DMG];
    let driver = drivers[usize::from(driver) % drivers.len()];
    let storage = Arc::new(MemDevice::read_only(bytes.to_vec()));
    let Ok(image) = open_image(driver, storage, OpenMode::default(), &NoReferences) else { return };
    let len = image.len();
    if len > MOST || reads.len() > 50 {
        return;
    }
    let mut whole = vec![0; usize::try_from(len).unwrap_or(0)];
    let readable = image.read_at(0, &mut whole).is_ok();
    for (at, count) in reads {
        let at = usize::try_from(at).unwrap_or(0) % (whole.len() + 1);
        let count = usize::from(count).min(whole.len() - at);
        let mut part = vec![0xee; count];
        let read = image.read_at(at as u64, &mut part);
        assert!(!readable || (read.is_ok() && part == whole[at..at + count]));
    }
});
