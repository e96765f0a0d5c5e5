//! The format contract on VHD images.

use diskimg_testkit::contract::{self, ContractSetup};
use diskimg_vhd::DRIVER;

/// Blocks of 2 MiB make each crash state and each damaged image large: fewer of them.
const LARGE_BLOCKS: ContractSetup = ContractSetup {
    size: 5 << 20,
    options: &["force_size=on"],
    operations: 60,
    sequences: 2,
    crash_samples: 40,
    header_len: 128,
    flips: 60,
};

#[test]
fn dynamic_images_keep_the_contract() {
    contract::run(&DRIVER, &LARGE_BLOCKS);
}

#[test]
fn disks_with_a_geometry_keep_the_contract() {
    // A size that is its geometry's.
    contract::run(&DRIVER, &ContractSetup { size: 2_088_960 + 34_816, options: &[], ..LARGE_BLOCKS });
}

#[test]
fn fixed_images_keep_the_contract() {
    let setup = ContractSetup {
        size: (3 << 20) + 512,
        options: &["subformat=fixed", "force_size=on"],
        // Sectors are written in place: there is nothing to protect.
        crash_samples: 0,
        ..LARGE_BLOCKS
    };
    contract::run(&DRIVER, &setup);
}
