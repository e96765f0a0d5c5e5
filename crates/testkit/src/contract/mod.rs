//! The format contract: what every format driver promises, as one suite over [`FormatDriver`].
//!
//! A format's own tests call [`run`] with a few [`ContractSetup`]s; what a format can't do (resize, discard, two-phase
//! writes, compressed clusters) is skipped by what it answers, not by configuration.

mod basic;
mod hostile;
mod payloads;
mod random;
mod reserve;
mod threads;

pub use basic::{creates_zeros, extents_agree, options_agree, read_only_refuses, set_len_is_exact};
pub use hostile::{HostileReport, flipped_bytes, hostile_image, poke, truncated};
pub use payloads::{commits_keep_to_themselves, payloads_of_threads};
pub use random::{crash_durable, faults_are_errors, random_operations};
pub use reserve::reservations;
pub use threads::{different_clusters, same_clusters};

use diskimg_core::FormatDriver;
use diskimg_core::driver::Caps;

use crate::subject::FormatSubject;

/// One kind of image to run the contract on, and how long.
#[derive(Clone, Debug)]
pub struct ContractSetup {
    /// Length of the disk in bytes; a multiple of 512.
    pub size: u64,
    /// Create options as `name=value`; a `data_file` must be called `data`.
    pub options: &'static [&'static str],
    /// Random operations per sequence.
    pub operations: usize,
    /// Sequences of random operations.
    pub sequences: u64,
    /// Sampled crash states; 0: the format makes no promise (it writes in place or has no metadata to protect).
    pub crash_samples: usize,
    /// Bytes from the start of the image that are all changed one by one.
    pub header_len: usize,
    /// Random changes to the rest of the image.
    pub flips: usize,
}

impl Default for ContractSetup {
    fn default() -> Self {
        Self {
            size: 1 << 20,
            options: &[],
            operations: 150,
            sequences: 4,
            crash_samples: 300,
            header_len: 512,
            flips: 300,
        }
    }
}

/// A test for each kind of image: `contracts! { DRIVER; name: setup; … }`.
#[macro_export]
macro_rules! contracts {
    ($driver:expr; $($name:ident: $setup:expr;)*) => {$(
        #[test]
        fn $name() {
            $crate::contract::run(&$driver, &$setup);
        }
    )*};
}

/// Runs the whole suite on images of one kind.
///
/// # Panics
/// If the driver breaks a promise; the message says which.
pub fn run(driver: &'static FormatDriver, setup: &ContractSetup) {
    let subject = FormatSubject::new(driver, setup.size, setup.options);
    options_agree(driver);
    if !driver.caps.contains(Caps::CREATE) {
        return;
    }
    creates_zeros(&subject);
    read_only_refuses(&subject);
    set_len_is_exact(&subject);
    for seed in 0..setup.sequences {
        random_operations(&subject, seed, setup.operations);
    }
    reservations(&subject);
    commits_keep_to_themselves(&subject);
    payloads_of_threads(&subject, 4);
    different_clusters(&subject, 4);
    same_clusters(&subject, 4);
    truncated(&subject);
    flipped_bytes(&subject, setup.header_len, setup.flips);
    if setup.crash_samples > 0 {
        crash_durable(&subject, setup.crash_samples);
        faults_are_errors(&subject);
    }
}
