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

/// Clusters of nearly two gigabytes are written to as they are: nobody holds one in memory to fill it up.
#[test]
fn a_very_long_cluster_is_no_unit_of_writes() {
    for (sectors, unit) in [(131_072, 64 << 20), (4_186_127, 1)] {
        let mut header = b"WithoutFreeSpace".to_vec();
        for field in [2, 16, 1, sectors, 1, 2048, 0, 0, 0, 0, 0, 0_u32] {
            header.extend(field.to_le_bytes());
        }
        header.resize(512, 0);
        let subject = FormatSubject::new(&DRIVER, 1 << 20, &[]);
        let memory: Arc<dyn BlockDevice> = Arc::new(MemDevice::from(header));
        let image = subject.open(&[memory], true).unwrap().device;
        assert_eq!(image.limits().write_unit, unit, "{sectors}");
    }
}

/// A hole that is used again shows nothing of what it held, also where a cluster is too long to be zeroed in one step.
#[test]
fn a_long_hole_is_zeroed_before_it_is_used_again() {
    let subject = FormatSubject::new(&DRIVER, 48 << 20, &["cluster_size=16M"]);
    let memory: Arc<dyn BlockDevice> = Arc::new(MemDevice::from(subject.fresh()[0].to_vec()));
    let image = subject.open(&[Arc::clone(&memory)], true).unwrap().device;
    let cluster = 16 << 20;
    image.write_at(0, &vec![7; cluster]).unwrap();
    image.write_at(2 * cluster as u64, &vec![8; 512]).unwrap();
    image.flush().unwrap();
    let first = ByteRange::new(0, cluster as u64);
    image.write_zeroes(first, diskimg_core::ZeroMode::MayUnmap).unwrap();
    for _ in 0..4 {
        image.flush().unwrap();
    }
    let before = memory.len();
    image.write_at(cluster as u64 + (1 << 20), &[9; 4096]).unwrap();
    assert_eq!(memory.len(), before, "the hole is taken");
    let mut bytes = vec![1; cluster];
    image.read_at(cluster as u64, &mut bytes).unwrap();
    assert!(bytes[1 << 20..(1 << 20) + 4096].iter().all(|byte| *byte == 9));
    bytes[1 << 20..(1 << 20) + 4096].fill(0);
    assert!(bytes.iter().all(|byte| *byte == 0));
}
