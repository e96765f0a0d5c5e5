//! Operations on a QED image beside a flat model, in several geometries.
#![no_main]

use diskimg_fuzz::Input;
use diskimg_testkit::{FormatSubject, Session};
use libfuzzer_sys::fuzz_target;

/// Create options.
const KINDS: &[&[&str]] = &[&[], &["cluster_size=4k", "table_size=2"], &["cluster_size=4k", "table_size=16"]];

fuzz_target!(|input: Input| {
    let options = KINDS[input.geometry % KINDS.len()];
    let subject = FormatSubject::new(&diskimg_qed::DRIVER, input.size, options);
    let mut session = Session::in_memory(&subject);
    for op in &input.ops {
        session.must(op);
    }
    session.verify_reopened();
});
