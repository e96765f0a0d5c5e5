//! The format contract on Parallels images, and what a crash leaves.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use diskimg_core::{BlockDevice, ByteRange, MemDevice, Result};
use diskimg_parallels::DRIVER;
use diskimg_testkit::contract::{self, ContractSetup};
use diskimg_testkit::{FormatSubject, Op, OpMix, Opened, Sampling, Subject, crash};

/// An image that was not closed is a finding of the check, which the exploration of crashes in the contract does not let
/// pass: see [`Recovered`].
fn run(size: u64, options: &'static [&'static str]) {
    contract::run(&DRIVER, &ContractSetup { size, options, crash_samples: 0, ..ContractSetup::default() });
}

#[test]
fn images_keep_the_contract() {
    run(5 << 20, &[]);
}

#[test]
fn so_do_small_clusters() {
    run((1 << 20) + 512, &["cluster_size=3584"]);
}

#[test]
fn so_does_a_disk_of_one_sector() {
    run(512, &["cluster_size=512"]);
}

/// Images that are opened for writing once, which repairs them, before anybody looks at them.
struct Recovered(FormatSubject);

impl Subject for Recovered {
    fn name(&self) -> String {
        self.0.name()
    }

    fn disks(&self) -> Vec<&'static str> {
        self.0.disks()
    }

    fn create(&self, disks: &[Arc<dyn BlockDevice>]) -> Result<()> {
        self.0.create(disks)
    }

    fn open(&self, disks: &[Arc<dyn BlockDevice>], write: bool) -> Result<Opened> {
        if write {
            return self.0.open(disks, true);
        }
        let mut bytes = vec![0; usize::try_from(disks[0].len()).unwrap()];
        disks[0].read_at(0, &mut bytes)?;
        let copy: Vec<Arc<dyn BlockDevice>> = vec![Arc::new(MemDevice::from(bytes))];
        drop(self.0.open(&copy, true)?);
        self.0.open(&copy, false)
    }

    fn initial(&self) -> Vec<u8> {
        self.0.initial()
    }

    fn format(&self) -> &'static str {
        self.0.format()
    }
}

#[test]
fn what_was_flushed_survives_a_crash() {
    for (size, unit, seed) in [(64 << 10, 4096, 1), (64 << 10, 4096, 2), (20 << 10, 512, 3)] {
        let options: &[&str] = if unit == 512 { &["cluster_size=512"] } else { &["cluster_size=4096"] };
        let subject = Recovered(FormatSubject::new(&DRIVER, size, options));
        let prepare = [Op::Write(ByteRange::new(0, size / 2), 2)];
        let record = OpMix::changes(size).script(seed, 40, size, unit);
        let scenario = crash::Scenario {
            name: "random operations",
            prepare: &prepare,
            record: &record,
            sampling: Sampling { samples: 150, seed },
            oracle_checks: 0,
        };
        let report = crash::explore(&subject, &scenario, None);
        assert!(report.distinct > 100, "{report:?}");
        // Nobody hears of a flush that fails when an image is closed.
        let stays: Vec<Op> = record.iter().filter(|op| !matches!(op, Op::Reopen)).cloned().collect();
        crash::explore_failed_flushes(&subject, &crash::Scenario { record: &stays, ..scenario });
    }
}
