//! Operations on a qcow2 image beside a flat model, in many geometries.
#![no_main]

use diskimg_fuzz::{GEOMETRIES, Input};
use diskimg_testkit::{FormatSubject, Session};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: Input| {
    let subject = FormatSubject::new(&diskimg_qcow2::DRIVER, input.size, GEOMETRIES[input.geometry]);
    let mut session = Session::in_memory(&subject);
    for op in &input.ops {
        session.must(op);
    }
    session.verify_reopened();
});
