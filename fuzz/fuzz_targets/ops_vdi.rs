//! Operations on a VDI image beside a flat model, dynamic and static.
#![no_main]

use diskimg_fuzz::Input;
use diskimg_testkit::{FormatSubject, Session};
use libfuzzer_sys::fuzz_target;

/// Create options.
const KINDS: &[&[&str]] = &[&[], &["static=on"]];

fuzz_target!(|input: Input| {
    let options = KINDS[input.geometry % KINDS.len()];
    let subject = FormatSubject::new(&diskimg_vdi::DRIVER, input.size * 32, options);
    let mut session = Session::in_memory(&subject);
    for op in &input.ops {
        session.must(op);
    }
    session.verify_reopened();
});
