//! Operations on a VHD image beside a flat model, dynamic and fixed.
#![no_main]

use diskimg_fuzz::Input;
use diskimg_testkit::{FormatSubject, Session};
use libfuzzer_sys::fuzz_target;

/// Create options.
const KINDS: &[&[&str]] = &[&["force_size=on"], &["subformat=fixed", "force_size=on"]];

fuzz_target!(|input: Input| {
    let options = KINDS[input.geometry % KINDS.len()];
    let subject = FormatSubject::new(&diskimg_vhd::DRIVER, input.size * 32, options);
    let mut session = Session::in_memory(&subject);
    for op in &input.ops {
        session.must(op);
    }
    session.verify_reopened();
});
