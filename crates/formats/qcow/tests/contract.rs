//! The format contract on qcow images of version 1.

use diskimg_qcow::DRIVER;
use diskimg_testkit::contract::{self, ContractSetup};

#[test]
fn images_keep_the_contract() {
    let setup = ContractSetup { size: (5 << 20) + 512, header_len: 48, ..ContractSetup::default() };
    contract::run(&DRIVER, &setup);
}

#[test]
fn so_do_encrypted_ones() {
    let setup = ContractSetup {
        size: 3 << 20,
        options: &["encrypt.format=aes", "encrypt.key-secret=s"],
        header_len: 48,
        ..ContractSetup::default()
    };
    contract::run(&DRIVER, &setup);
}

#[test]
fn so_does_a_disk_of_one_sector() {
    contract::run(&DRIVER, &ContractSetup { size: 512, header_len: 48, ..ContractSetup::default() });
}
