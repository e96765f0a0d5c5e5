//! Operations on a raw image beside a flat model.
#![no_main]

use diskimg_fuzz::Input;
use diskimg_testkit::{FormatSubject, Session};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: Input| {
    let subject = FormatSubject::new(&diskimg_raw::DRIVER, input.size, &[]);
    let mut session = Session::in_memory(&subject);
    for op in &input.ops {
        session.must(op);
    }
    session.verify_reopened();
});
