//! Operations on a LUKS volume beside a flat model. It is filled with zeros first, for a new one reads as noise, and
//! keeps its length for the same reason.
#![no_main]

use diskimg_core::{ByteRange, ZeroMode};
use diskimg_fuzz::Input;
use diskimg_testkit::{FormatSubject, Op, Session};
use libfuzzer_sys::fuzz_target;

/// Create options.
const KINDS: &[&[&str]] = &[
    &["key-secret=s", "iter-time=0"],
    &["key-secret=s", "iter-time=0", "cipher-alg=aes-128", "cipher-mode=cbc", "ivgen-alg=essiv"],
    &["key-secret=s", "iter-time=0", "cipher-alg=cast5-128", "cipher-mode=ctr"],
];

fuzz_target!(|input: Input| {
    let options = KINDS[input.geometry % KINDS.len()];
    let subject = FormatSubject::new(&diskimg_luks::DRIVER, input.size, options);
    let mut session = Session::in_memory(&subject);
    session.must(&Op::Zero(ByteRange::new(0, input.size), ZeroMode::MayUnmap));
    for op in input.ops.iter().filter(|op| !matches!(op, Op::SetLen(_))) {
        session.must(op);
    }
    session.verify_reopened();
});
