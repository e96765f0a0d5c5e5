//! Any bytes as what an NBD server sends: the handshake, then replies to a read and a block status.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = diskimg_nbd::hear(data);
});
