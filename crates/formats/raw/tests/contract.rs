//! The format contract on raw images.

use diskimg_raw::DRIVER;
use diskimg_testkit::contract::{self, ContractSetup};

#[test]
fn raw_keeps_the_contract() {
    contract::run(&DRIVER, &ContractSetup { size: 256 << 10, ..ContractSetup::default() });
}

#[test]
fn so_does_a_disk_of_one_sector() {
    let setup = ContractSetup { size: 512, header_len: 64, flips: 10, ..ContractSetup::default() };
    contract::run(&DRIVER, &setup);
}
