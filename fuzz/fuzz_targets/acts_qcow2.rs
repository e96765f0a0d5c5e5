//! Guest operations, snapshots, bitmaps, amendments and repairs on a qcow2 image beside models of all of them.
#![no_main]

use diskimg_fuzz::GEOMETRIES;
use diskimg_fuzz::acts::ActInput;
use diskimg_testkit::{FormatSubject, Play};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: ActInput| {
    let subject = FormatSubject::new(&diskimg_qcow2::DRIVER, input.size, GEOMETRIES[input.geometry]);
    let mut play = Play::new(&subject);
    input.acts.iter().for_each(|act| play.act(act));
    play.finish();
});
