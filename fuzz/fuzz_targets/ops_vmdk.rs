//! Operations on a VMDK image beside a flat model, for every kind that can be written anywhere.
#![no_main]

use diskimg_fuzz::{Input, VMDK_KINDS};
use diskimg_testkit::{FormatSubject, Session};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: Input| {
    let options = VMDK_KINDS[input.geometry % VMDK_KINDS.len()];
    let subject = FormatSubject::new(&diskimg_vmdk::DRIVER, input.size * 8, options);
    let mut session = Session::in_memory(&subject);
    for op in &input.ops {
        session.must(op);
    }
    session.verify_reopened();
});
