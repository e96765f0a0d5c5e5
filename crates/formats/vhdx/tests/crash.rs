//! The crash test of VHDX images: whatever a flush acknowledged survives a crash at any moment, and the log makes whole
//! what the crash left half done. A reader replays it in memory here; that this is what `qemu-img` makes of it on the host
//! is tested with states whose log has to be replayed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;

use diskimg_core::driver::OpenMode;
use diskimg_core::options::{RuntimeOptions, RuntimeValue};
use diskimg_core::{BlockDevice, ByteRange, Result, to_usize};
use diskimg_testkit::crash::{self, Scenario};
use diskimg_testkit::{
    FormatSubject, MemOpener, Op, OpMix, Opened, Oracle, OverlaySubject, Sampling, Subject, open_image_with,
};
use diskimg_vhdx::DRIVER;

const MIB: u64 = 1 << 20;

/// A disk whose readers replay the log in memory.
struct Replaying {
    created: Box<dyn Subject>,
    has_parent: bool,
}

impl Replaying {
    fn plain(size: u64, options: &[&'static str]) -> Self {
        Self { created: Box::new(FormatSubject::new(&DRIVER, size, options)), has_parent: false }
    }

    fn differencing(size: u64) -> Self {
        let top = FormatSubject::new(&DRIVER, size, &["block_size=1M"]);
        let base_len = size - MIB / 2;
        let overlay = OverlaySubject { top, base: &DRIVER, base_len, seed: 5 };
        Self { created: Box::new(overlay), has_parent: true }
    }
}

impl Subject for Replaying {
    fn name(&self) -> String {
        self.created.name()
    }

    fn disks(&self) -> Vec<&'static str> {
        self.created.disks()
    }

    fn create(&self, disks: &[Arc<dyn BlockDevice>]) -> Result<()> {
        self.created.create(disks)
    }

    fn open(&self, disks: &[Arc<dyn BlockDevice>], write: bool) -> Result<Opened> {
        let open = |disk: &Arc<dyn BlockDevice>, write| {
            let mode = OpenMode { write, ..OpenMode::default() };
            let mut options = RuntimeOptions::new();
            options.set("replay-log", RuntimeValue::Bool(true));
            open_image_with(&DRIVER, Arc::clone(disk), mode, &MemOpener::default(), options)
        };
        let below =
            if self.has_parent { Opened::chain(open(&disks[1], false)?, None, false).node } else { None };
        Ok(Opened::chain(open(&disks[0], write)?, below.as_ref(), write))
    }

    fn initial(&self) -> Vec<u8> {
        self.created.initial()
    }

    fn format(&self) -> &'static str {
        self.created.format()
    }
}

/// `DISKIMG_CRASH_SAMPLES` asks for more.
fn samples() -> usize {
    crash::samples(60)
}

fn mixes(size: u64) -> [(&'static str, Vec<Op>, OpMix); 4] {
    let whole = Op::Write(ByteRange::new(0, size), 2);
    let none = OpMix::flushes(size);
    [
        ("allocating writes", vec![], OpMix { write: 30, ..none }),
        ("zeroes and discards", vec![whole], OpMix { zero: 20, discard: 20, write: 8, ..none }),
        ("two-phase writes", vec![], OpMix { reserve: 30, write: 5, ..none }),
        ("everything", vec![], OpMix { set_len: 0, ..OpMix::changes(size) }),
    ]
}

fn explore(subject: &Replaying, size: u64) {
    for (seed, (name, prepare, mix)) in (1..).zip(mixes(size)) {
        let record = mix.script(seed, 16, size, MIB);
        let sampling = Sampling { samples: samples(), seed };
        let scenario = Scenario { name, prepare: &prepare, record: &record, sampling, oracle_checks: 0 };
        let report = crash::explore(subject, &scenario, None);
        eprintln!("{}: {name}: {report:?}", subject.name());
    }
}

#[test]
fn what_was_flushed_survives_a_crash() {
    explore(&Replaying::plain(3 * MIB + 512, &["block_size=1M"]), 3 * MIB + 512);
}

#[test]
fn what_was_flushed_to_a_differencing_disk_survives_a_crash() {
    explore(&Replaying::differencing(3 * MIB), 3 * MIB);
}

#[test]
fn a_new_image_is_whole_or_none() {
    let subject = Replaying::plain(2 * MIB, &["block_size=1M", "subformat=fixed"]);
    crash::explore_create(&subject, Sampling { samples: samples(), seed: 9 });
}

/// Whole blocks, so that the table changes at each flush.
fn blocks(size: u64) -> Vec<Op> {
    (0..size / MIB)
        .flat_map(|block| [Op::Write(ByteRange::new(block * MIB, MIB), block + 1), Op::Flush])
        .collect()
}

#[test]
fn logs_are_replayed_as_the_oracle_replays_them() {
    let Some(oracle) = Oracle::find() else {
        assert!(!Oracle::is_required(), "qemu-img is missing");
        return;
    };
    let subject = Replaying::plain(3 * MIB, &["block_size=1M"]);
    let record = blocks(3 * MIB);
    let sampling = Sampling { samples: samples(), seed: 4 };
    let scenario = Scenario { name: "blocks", prepare: &[], record: &record, sampling, oracle_checks: 0 };
    let (trace, _) = crash::record(&subject, &scenario);
    let folder = tempfile::tempdir().unwrap();
    let mut replayed = 0;
    let visited = trace.explore(sampling, |state| {
        std::fs::write(folder.path().join("image"), &state.disks[0]).unwrap();
        let info = oracle.run(folder.path(), &["info", "-f", "vhdx", "image"]);
        if info.status.success() || replayed > 20 {
            return Ok::<(), String>(());
        }
        replayed += 1;
        let said = String::from_utf8_lossy(&info.stderr).into_owned();
        assert!(said.contains("needs to be replayed"), "{said}");
        oracle.must(folder.path(), &["check", "-r", "all", "-f", "vhdx", "image"]);
        let disk: Arc<dyn BlockDevice> = Arc::new(diskimg_core::MemDevice::read_only(state.disks[0].clone()));
        let opened = subject.open(&[disk], false).unwrap();
        let mut bytes = vec![0; to_usize(3 * MIB)];
        opened.device.read_at(0, &mut bytes).unwrap();
        std::fs::write(folder.path().join("disk"), bytes).unwrap();
        oracle.compare_raw(folder.path(), "vhdx", "image", "disk").unwrap();
        Ok(())
    });
    assert!(visited.unwrap() > 0 && replayed > 3, "{replayed} logs");
}
