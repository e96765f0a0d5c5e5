//! Any bytes as a LUKS header: parsed, described, written back; what parses is the same afterwards.
#![no_main]

use diskimg_crypto::luks::{Header, Placement, is_luks};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for placement in [Placement::Attached, Placement::Detached] {
        if let Ok(header) = Header::parse(data, placement) {
            assert!(is_luks(data));
            assert!(header.header_len() >= 4096 && !header.info(None).is_empty());
            let again = Header::parse(&header.encode(), placement);
            assert!(again.is_ok_and(|again| again == header));
        }
    }
});
