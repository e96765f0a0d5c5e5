//! The format contract on QED images.

use diskimg_qed::DRIVER;
use diskimg_testkit::contract::{self, ContractSetup};

#[test]
fn images_keep_the_contract() {
    contract::run(&DRIVER, &ContractSetup { size: 3 << 20, header_len: 64, ..ContractSetup::default() });
}

#[test]
fn so_do_small_clusters_with_many_tables() {
    let setup = ContractSetup {
        size: (9 << 20) + 512,
        options: &["cluster_size=4k", "table_size=2"],
        header_len: 64,
        ..ContractSetup::default()
    };
    contract::run(&DRIVER, &setup);
}

#[test]
fn so_does_a_disk_of_one_sector() {
    let setup = ContractSetup {
        size: 512,
        options: &["cluster_size=4k", "table_size=16"],
        header_len: 64,
        ..ContractSetup::default()
    };
    contract::run(&DRIVER, &setup);
}
