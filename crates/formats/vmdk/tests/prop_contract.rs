//! The format contract on VMDK images of every sort.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use diskimg_testkit::contract::{self, ContractSetup};
use diskimg_testkit::{FormatSubject, Subject};
use diskimg_vmdk::DRIVER;

const SPARSE: ContractSetup = ContractSetup {
    size: 1 << 20,
    options: &[],
    operations: 100,
    sequences: 4,
    crash_samples: 60,
    header_len: 80,
    flips: 60,
};

const FLAT: ContractSetup = ContractSetup { size: 256 << 10, crash_samples: 0, flips: 200, ..SPARSE };

diskimg_testkit::contracts! {
    DRIVER;
    default_image: SPARSE;
    zeroed_grains: ContractSetup { options: &["zeroed_grain=on"], ..SPARSE };
    odd_length: ContractSetup { size: (700 << 10) + 512, ..SPARSE };
    flat: ContractSetup { options: &["subformat=monolithicFlat"], ..FLAT };
    split_flat: ContractSetup { options: &["subformat=twoGbMaxExtentFlat"], ..FLAT };
    split_sparse: ContractSetup { options: &["subformat=twoGbMaxExtentSparse"], ..SPARSE };
}

/// A table covers 32 MiB of disk.
#[test]
fn two_tables() {
    for options in [&[][..], &["zeroed_grain=on"]] {
        let subject = FormatSubject::new(&DRIVER, (33 << 20) + 512, options);
        contract::creates_zeros(&subject);
        contract::random_operations(&subject, 3, 25);
        contract::reservations(&subject);
    }
}

/// What can be asked of a stream: it is not written in any order, nor over what is written.
#[test]
fn streams() {
    for options in [&["subformat=streamOptimized"][..], &["subformat=streamOptimized", "zeroed_grain=on"]] {
        for size in [512, 1 << 20, (700 << 10) + 512, 80 << 20] {
            let subject = FormatSubject::new(&DRIVER, size, options);
            contract::creates_zeros(&subject);
            contract::read_only_refuses(&subject);
            contract::set_len_is_exact(&subject);
        }
        let subject = FormatSubject::new(&DRIVER, 1 << 20, options);
        assert_eq!(subject.disks(), ["image"]);
        let image = subject.fresh()[0].to_vec();
        for at in 0..80 {
            for new in [0, 1, 0xff] {
                let mut image = image.clone();
                image[at] = new;
                contract::poke(&subject, &[image], &|| format!("byte {at} is {new}"));
            }
        }
    }
}
