//! Bytes changed in the structures of a VHDX image, whose checksums are made right again: opened in every mode,
//! described, mapped, read, checked, written.
#![no_main]

use diskimg_fuzz::vhdx::{self, Patch};
use diskimg_testkit::{FormatSubject, contract};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Damage {
    patches: Vec<Patch>,
    right_checksums: bool,
    /// KiB that are cut off.
    cut: u16,
}

fuzz_target!(|damage: Damage| {
    let subject = FormatSubject::new(&diskimg_vhdx::DRIVER, 0, &[]);
    let mut image = vhdx::image();
    damage.patches.iter().for_each(|patch| patch.apply(&mut image));
    if damage.right_checksums {
        vhdx::mend(&mut image);
    }
    let len = image.len().saturating_sub(usize::from(damage.cut) * 1024);
    if damage.cut < 5000 {
        image.truncate(len);
    }
    contract::poke(&subject, &[image], &|| "fuzz input".to_owned());
});
