//! Operations on a VHDX image beside a flat model, dynamic and fixed.
#![no_main]

use diskimg_fuzz::Input;
use diskimg_testkit::{FormatSubject, Session};
use libfuzzer_sys::fuzz_target;

/// Create options.
const KINDS: &[&[&str]] =
    &[&["block_size=1M"], &["block_size=1M", "subformat=fixed"], &["block_size=2M", "block_state_zero=off"]];

fuzz_target!(|input: Input| {
    let options = KINDS[input.geometry % KINDS.len()];
    let subject = FormatSubject::new(&diskimg_vhdx::DRIVER, input.size * 32, options);
    let mut session = Session::in_memory(&subject);
    for op in &input.ops {
        session.must(op);
    }
    session.verify_reopened();
});
