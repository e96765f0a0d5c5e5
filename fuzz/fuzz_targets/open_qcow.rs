//! Any bytes as a qcow image: opened in every mode, described, mapped, read, checked, written.
#![no_main]

use diskimg_testkit::{FormatSubject, contract};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let subject = FormatSubject::new(&diskimg_qcow::DRIVER, 0, &[]);
    contract::poke(&subject, &[data.to_vec()], &|| "fuzz input".to_owned());
});
