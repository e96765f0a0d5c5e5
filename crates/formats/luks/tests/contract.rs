//! The format contract on LUKS volumes that are filled with zeros.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use common::FILLED;
use diskimg_testkit::contract::{self, ContractSetup};

/// Volumes are written in place: of data that is being written nothing is promised, and there is nothing else.
const SETUP: ContractSetup = ContractSetup {
    size: 256 << 10,
    options: &["key-secret=s", "iter-time=0"],
    operations: 100,
    sequences: 3,
    crash_samples: 0,
    header_len: 0,
    flips: 20,
};

#[test]
fn volumes_keep_the_contract() {
    contract::run(&FILLED, &SETUP);
}

#[test]
fn so_do_those_with_other_ciphers_and_damaged_headers() {
    let options: &[&str] = &[
        "key-secret=s",
        "iter-time=0",
        "cipher-alg=aes-128",
        "cipher-mode=cbc",
        "ivgen-alg=essiv",
        "hash-alg=sha1",
    ];
    contract::run(&FILLED, &ContractSetup { options, size: 64 << 10, header_len: 592, ..SETUP });
}

#[test]
fn so_does_a_disk_of_one_sector() {
    contract::run(&FILLED, &ContractSetup { size: 512, sequences: 1, flips: 5, ..SETUP });
}
