//! The format contract on qcow2 images of every sort.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use diskimg_qcow2::DRIVER;
use diskimg_testkit::contract::ContractSetup;

const SMALL: ContractSetup = ContractSetup {
    size: 96 << 10,
    options: &[],
    operations: 120,
    sequences: 6,
    crash_samples: 300,
    header_len: 128,
    flips: 150,
};

/// For images whose smallest size is large.
const LARGE: ContractSetup =
    ContractSetup { size: 1 << 20, sequences: 2, crash_samples: 80, header_len: 8, flips: 30, ..SMALL };

/// Room for a few clusters of 16 KiB.
const MIDDLE: ContractSetup = ContractSetup { size: 256 << 10, sequences: 3, crash_samples: 150, ..SMALL };

/// As little key material and work to get at it as there can be.
const LUKS: [&str; 5] = [
    "encrypt.format=luks",
    "encrypt.key-secret=s",
    "encrypt.iter-time=0",
    "encrypt.cipher-alg=aes-128",
    "encrypt.cipher-mode=cbc",
];

diskimg_testkit::contracts! {
    DRIVER;
    default_image: ContractSetup { header_len: 128, ..LARGE };
    smallest_clusters: ContractSetup { options: &["cluster_size=512"], ..SMALL };
    version_2: ContractSetup { options: &["cluster_size=512", "compat=0.10"], ..SMALL };
    version_2_default: ContractSetup { options: &["compat=0.10"], ..LARGE };
    one_bit: ContractSetup { options: &["cluster_size=512", "refcount_bits=1"], ..SMALL };
    two_bits: ContractSetup { options: &["cluster_size=1k", "refcount_bits=2"], ..SMALL };
    four_bits: ContractSetup { options: &["cluster_size=512", "refcount_bits=4"], ..SMALL };
    eight_bits: ContractSetup { options: &["cluster_size=2k", "refcount_bits=8"], ..SMALL };
    thirty_two_bits: ContractSetup { options: &["cluster_size=512", "refcount_bits=32"], ..SMALL };
    sixty_four_bits: ContractSetup { options: &["cluster_size=512", "refcount_bits=64"], ..SMALL };
    zstd: ContractSetup { options: &["cluster_size=4k", "compression_type=zstd"], ..SMALL };
    zstd_default: ContractSetup { options: &["compression_type=zstd"], ..LARGE };
    subclusters_of_512: ContractSetup { options: &["cluster_size=16k", "extended_l2=on"], ..MIDDLE };
    subclusters_of_2k: ContractSetup { options: &["extended_l2=on"], ..LARGE };
    subclusters_and_zstd: ContractSetup {
        options: &["cluster_size=32k", "extended_l2=on", "compression_type=zstd"], ..LARGE
    };
    odd_length: ContractSetup { options: &["cluster_size=4k"], size: 99_840, ..SMALL };
    largest_clusters: ContractSetup {
        options: &["cluster_size=2M"],
        size: 9 << 20,
        operations: 60,
        crash_samples: 20,
        flips: 6,
        header_len: 2,
        ..LARGE
    };
    preallocated_tables: ContractSetup { options: &["cluster_size=1k", "preallocation=metadata"], ..SMALL };
    preallocated_full: ContractSetup { options: &["cluster_size=1k", "preallocation=full"], ..SMALL };
    preallocated_subclusters: ContractSetup {
        options: &["cluster_size=16k", "extended_l2=on", "preallocation=metadata"], ..MIDDLE
    };
    lazy: ContractSetup { options: &["cluster_size=512", "lazy_refcounts=on"], ..SMALL };
    data_file: ContractSetup { options: &["cluster_size=4k", "data_file=data"], ..SMALL };
    data_file_raw: ContractSetup {
        options: &["cluster_size=4k", "data_file=data", "data_file_raw=on"], ..SMALL
    };
    data_file_subclusters: ContractSetup {
        options: &["cluster_size=16k", "extended_l2=on", "data_file=data"], ..MIDDLE
    };
    aes: ContractSetup { options: &["encrypt.format=aes", "encrypt.key-secret=s"], ..LARGE };
    aes_small_clusters: ContractSetup {
        options: &["cluster_size=512", "encrypt.format=aes", "encrypt.key-secret=s"], ..SMALL
    };
    aes_version_2: ContractSetup {
        options: &["cluster_size=1k", "compat=0.10", "encryption=on", "encrypt.key-secret=s"], ..SMALL
    };
    aes_subclusters: ContractSetup {
        options: &["cluster_size=16k", "extended_l2=on", "encrypt.format=aes", "encrypt.key-secret=s"], ..MIDDLE
    };
    aes_data_file: ContractSetup {
        options: &["cluster_size=4k", "data_file=data", "encrypt.format=aes", "encrypt.key-secret=s"], ..SMALL
    };
    luks: ContractSetup { options: &LUKS, operations: 60, sequences: 1, crash_samples: 20, flips: 10, ..LARGE };
    luks_small_clusters: ContractSetup {
        options: &["cluster_size=2k", LUKS[0], LUKS[1], LUKS[2], LUKS[3], LUKS[4]],
        operations: 60, sequences: 1, crash_samples: 20, header_len: 16, flips: 10, ..SMALL
    };
    luks_subclusters: ContractSetup {
        options: &["extended_l2=on", LUKS[0], LUKS[1], LUKS[2], LUKS[3], LUKS[4]],
        operations: 60, sequences: 1, crash_samples: 20, flips: 10, ..LARGE
    };
    // A table of 64 entries covers 32 KiB: the disk has 32 of them, and their refcounts several blocks.
    many_tables: ContractSetup {
        options: &["cluster_size=512", "refcount_bits=64"], size: 1 << 20, sequences: 3, ..SMALL
    };
}
