//! Any entries in the log of a VHDX image: whoever replays it on the host and whoever does so in memory see the same.
#![no_main]

use std::sync::Arc;

use diskimg_core::driver::OpenMode;
use diskimg_core::opener::NoReferences;
use diskimg_core::options::{RuntimeOptions, RuntimeValue};
use diskimg_core::{BlockDevice, MemDevice};
use diskimg_fuzz::vhdx::{self, Entry, Patch};
use diskimg_testkit::{open_image, open_image_with};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Log {
    entries: Vec<Entry>,
    /// Changes of the log behind its checksums.
    patches: Vec<Patch>,
}

fn bytes(image: &dyn BlockDevice) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; usize::try_from(image.len().min(8 << 20)).expect("short")];
    image.read_at(0, &mut bytes).map_err(|error| error.joined())?;
    Ok(bytes)
}

fuzz_target!(|log: Log| {
    let mut image = vhdx::image();
    vhdx::set_log(&mut image);
    log.entries.iter().for_each(|entry| entry.write(&mut image));
    log.patches.iter().for_each(|patch| patch.apply_to_log(&mut image));
    let mut options = RuntimeOptions::new();
    options.set("replay-log", RuntimeValue::Bool(true));
    let memory = Arc::new(MemDevice::read_only(image.clone()));
    let read_only =
        open_image_with(&diskimg_vhdx::DRIVER, memory, OpenMode::default(), &NoReferences, options);
    let disk = Arc::new(MemDevice::from(image));
    let write = OpenMode { write: true, ..OpenMode::default() };
    let written = open_image(&diskimg_vhdx::DRIVER, Arc::clone(&disk) as _, write, &NoReferences);
    match (read_only, written) {
        (Ok(a), Ok(b)) => assert!(bytes(&*a) == bytes(&*b), "read-only differs"),
        // What can't be replayed is left as it is.
        (Err(_), Err(_)) => return,
        (a, b) => panic!("read-only {a:?}, written {b:?}"),
    }
    // A log that was replayed is empty.
    let again = Arc::new(MemDevice::read_only(disk.to_vec()));
    let again = open_image(&diskimg_vhdx::DRIVER, again, OpenMode::default(), &NoReferences);
    assert!(!again.is_err_and(|error| error.joined().contains("needs to be replayed")));
});
