//! Any bytes as a LUKS volume: opened in every mode, described, mapped, read, written. Iterations are cut: a header may
//! ask for hours of them.
#![no_main]

use diskimg_testkit::{FormatSubject, contract};
use libfuzzer_sys::fuzz_target;

/// Where the upper halves of iteration counts are: of the key's digest, and of the slots.
fn counts() -> impl Iterator<Item = usize> {
    std::iter::once(164).chain((0..8).map(|slot| 208 + slot * 48 + 4))
}

fuzz_target!(|data: &[u8]| {
    let mut image = data.to_vec();
    for at in counts() {
        if let Some(upper) = image.get_mut(at..at + 2) {
            upper.fill(0);
        }
    }
    let subject = FormatSubject::new(&diskimg_luks::DRIVER, 0, &["key-secret=s"]);
    contract::poke(&subject, &[image], &|| "fuzz input".to_owned());
});
