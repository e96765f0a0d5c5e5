//! The explorations pass a disk that keeps its promises and catch disks that break them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;

use diskimg_core::{BlockDevice, ByteRange, Device, Extent, Limits, Prealloc, Result, ZeroMode, to_usize};
use diskimg_testkit::{FaultKinds, FaultSpec, Op, OpMix, Opened, Sampling, Session, Subject, crash, faults};
use parking_lot::Mutex;

const SIZE: u64 = 16 << 10;

/// What a disk does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    /// A flush does nothing.
    IgnoresFlush,
    /// Zeroing forgets the last byte.
    ZerosTooLittle,
    /// Failures of the storage are swallowed.
    SwallowsErrors,
}

/// Bytes that stand in the storage as they are.
#[derive(Debug)]
struct Plain {
    storage: Arc<dyn BlockDevice>,
    flaw: Flaw,
    lock: Mutex<()>,
}

impl Plain {
    fn done(&self, result: Result<()>) -> Result<()> {
        if self.flaw == Flaw::SwallowsErrors { Ok(()) } else { result }
    }
}

impl BlockDevice for Plain {
    fn len(&self) -> u64 {
        self.storage.len()
    }

    fn limits(&self) -> Limits {
        Limits { write_unit: 4096, ..Limits::default() }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.storage.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        let _alone = self.lock.lock();
        self.done(self.storage.write_at(offset, buf))
    }

    fn write_zeroes(&self, range: ByteRange, how: ZeroMode) -> Result<()> {
        let short = u64::from(self.flaw == Flaw::ZerosTooLittle);
        self.storage.write_zeroes(ByteRange::new(range.start, range.len - short), how)
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        self.storage.discard(range)
    }

    fn flush(&self) -> Result<()> {
        if self.flaw == Flaw::IgnoresFlush { Ok(()) } else { self.storage.flush() }
    }

    fn set_len(&self, len: u64, prealloc: Prealloc) -> Result<()> {
        self.storage.set_len(len, prealloc)
    }

    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        self.storage.extent_at(range)
    }
}

impl Subject for Flaw {
    fn name(&self) -> String {
        format!("{self:?}")
    }

    fn disks(&self) -> Vec<&'static str> {
        vec!["image"]
    }

    fn create(&self, disks: &[Arc<dyn BlockDevice>]) -> Result<()> {
        disks[0].set_len(SIZE, Prealloc::Off)
    }

    fn open(&self, disks: &[Arc<dyn BlockDevice>], write: bool) -> Result<Opened> {
        let plain = Plain { storage: Arc::clone(&disks[0]), flaw: *self, lock: Mutex::new(()) };
        Ok(Opened {
            device: Device::with_mode(Arc::new(plain), !write, false),
            layers: Vec::new(),
            node: None,
        })
    }

    fn initial(&self) -> Vec<u8> {
        vec![0; to_usize(SIZE)]
    }

    fn format(&self) -> &'static str {
        "raw"
    }
}

fn random(flaw: Flaw) {
    let mut session = Session::in_memory(&flaw);
    for op in OpMix::all(SIZE * 2).script(5, 400, SIZE, 4096) {
        session.must(&op);
    }
    session.verify_reopened();
}

fn crashes(flaw: Flaw) -> crash::CrashReport {
    let record = OpMix::changes(SIZE * 2).script(1, 60, SIZE, 4096);
    let sampling = Sampling { samples: 500, seed: 3 };
    let scenario =
        crash::Scenario { name: "random", prepare: &[], record: &record, sampling, oracle_checks: 0 };
    crash::explore(&flaw, &scenario, None)
}

fn failures(flaw: Flaw, run: &[Op]) -> faults::FaultReport {
    let spec = FaultSpec::once(FaultKinds::CHANGES, 0);
    faults::explore(&flaw, &faults::Scenario { name: "failures", prepare: &[], run, spec, step: 1 })
}

fn is_caught(run: impl FnOnce() + std::panic::UnwindSafe) -> bool {
    std::panic::catch_unwind(run).is_err()
}

#[test]
fn a_good_disk_passes() {
    random(Flaw::None);
    let report = crashes(Flaw::None);
    assert!(report.states > 500 && report.distinct > 300, "{report:?}");
    let report = failures(Flaw::None, &OpMix::changes(SIZE).script(2, 40, SIZE, 4096));
    assert!(report.injected > 20 && report.reported > 20, "{report:?}");
}

#[test]
fn wrong_bytes_are_caught() {
    assert!(is_caught(|| random(Flaw::ZerosTooLittle)));
}

#[test]
fn a_flush_that_does_nothing_is_caught_by_crashes_only() {
    random(Flaw::IgnoresFlush);
    assert!(is_caught(|| println!("{:?}", crashes(Flaw::IgnoresFlush))));
}

#[test]
fn swallowed_failures_are_caught() {
    let run = [Op::Write(ByteRange::new(0, 5000), 1), Op::Flush];
    assert!(is_caught(|| println!("{:?}", failures(Flaw::SwallowsErrors, &run))));
}

#[test]
fn a_session_notices_bytes_changed_behind_its_back() {
    let mut session = Session::in_memory(&Flaw::None);
    session.must(&Op::Write(ByteRange::new(100, 1000), 2));
    session.disks()[0].write_at(500, &[0]).unwrap();
    assert!(is_caught(std::panic::AssertUnwindSafe(|| session.verify_all())));
}
