//! Operations on a qcow image of version 1 beside a flat model, plain and encrypted.
#![no_main]

use diskimg_fuzz::Input;
use diskimg_testkit::{FormatSubject, Session};
use libfuzzer_sys::fuzz_target;

/// Create options.
const KINDS: &[&[&str]] = &[&[], &["encrypt.format=aes", "encrypt.key-secret=s"]];

fuzz_target!(|input: Input| {
    let options = KINDS[input.geometry % KINDS.len()];
    let subject = FormatSubject::new(&diskimg_qcow::DRIVER, input.size, options);
    let mut session = Session::in_memory(&subject);
    for op in &input.ops {
        session.must(op);
    }
    session.verify_reopened();
});
