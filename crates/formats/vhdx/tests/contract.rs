//! The format contract on VHDX images.

use diskimg_testkit::contract::{self, ContractSetup};
use diskimg_vhdx::DRIVER;

/// An image is 8 MiB long at least, so fewer changes are tried than of other formats; `tests/hostile.rs` changes the
/// structures themselves, with their checksums.
const SETUP: ContractSetup = ContractSetup {
    size: 5 << 20,
    options: &["block_size=1M"],
    operations: 150,
    sequences: 3,
    // The log of a crash is replayed by who may write; `crash.rs` does it.
    crash_samples: 0,
    header_len: 8,
    flips: 40,
};

#[test]
fn dynamic_images_keep_the_contract() {
    contract::run(&DRIVER, &SETUP);
}

#[test]
fn fixed_images_keep_the_contract() {
    let setup =
        ContractSetup { size: (3 << 20) + 512, options: &["subformat=fixed", "block_size=1M"], ..SETUP };
    contract::run(&DRIVER, &setup);
}

#[test]
fn so_do_those_without_zero_blocks() {
    let setup =
        ContractSetup { size: (2 << 20) + 512, options: &["block_size=1M", "block_state_zero=off"], ..SETUP };
    contract::run(&DRIVER, &setup);
}

#[test]
fn so_does_a_disk_of_one_sector_in_larger_blocks() {
    contract::run(&DRIVER, &ContractSetup { size: 512, options: &["block_size=2M"], flips: 10, ..SETUP });
}
