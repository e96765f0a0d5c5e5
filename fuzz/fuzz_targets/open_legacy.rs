//! Any bytes as a bochs, cloop or dmg image: opened in every mode, described, mapped, read, checked, written.
#![no_main]

use diskimg_testkit::{FormatSubject, contract};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for driver in [&diskimg_legacy::BOCHS, &diskimg_legacy::CLOOP, &diskimg_legacy::DMG] {
        let subject = FormatSubject::new(driver, 0, &[]);
        contract::poke(&subject, &[data.to_vec()], &|| "fuzz input".to_owned());
    }
});
