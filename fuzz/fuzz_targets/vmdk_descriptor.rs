//! Two files, of which the first may name the second as an extent: split at a line of dashes.
#![no_main]

use diskimg_testkit::{FormatSubject, contract};
use libfuzzer_sys::fuzz_target;

const BORDER: &[u8] = b"\n----\n";

fuzz_target!(|data: &[u8]| {
    let at = data.windows(BORDER.len()).position(|window| window == BORDER);
    let (text, extent) = at.map_or((data, &[][..]), |at| (&data[..at], &data[at + BORDER.len()..]));
    let subject = FormatSubject::new(&diskimg_vmdk::DRIVER, 0, &["subformat=monolithicFlat"]);
    contract::poke(&subject, &[text.to_vec(), extent.to_vec()], &|| "fuzz input".to_owned());
});
