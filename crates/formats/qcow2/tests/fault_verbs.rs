//! Each request to the storage fails in turn while bitmaps, snapshots and amendments are at work: the failure is an
//! error, never a panic; the image opens, its check finds leaks at most, and the disk, the snapshots and the bitmaps are
//! the old ones or the new ones. Going on with the same image after the failure does no harm either.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod picture;

use std::process::ExitCode;
use std::sync::Mutex;

use diskimg_core::{BlockDevice, ByteRange, Image, Result, SnapshotKey, ZeroMode};
use diskimg_qcow2::DRIVER;
use diskimg_testkit::crash::prepared;
use diskimg_testkit::faults::FaultReport;
use diskimg_testkit::{FaultPlan, FaultSpec, FormatSubject, Op, Subject, amend, suite};

use picture::{Picture, add_bitmap, add_snapshot};

/// Bytes of the disks.
const SIZE: u64 = 256 << 10;

/// Numbers of all tests together.
static TOTAL: Mutex<Option<FaultReport>> = Mutex::new(None);

/// Create options.
const IMAGES: &[&[&str]] = &[
    &["cluster_size=4096"],
    &["cluster_size=512", "refcount_bits=64"],
    &["cluster_size=16384", "extended_l2=on"],
    &["cluster_size=4096", "data_file=data"],
    &["cluster_size=4096", "encrypt.format=luks", "encrypt.key-secret=a", "encrypt.iter-time=1"],
];

/// What is done while requests fail.
struct Verb {
    name: &'static str,
    /// A failure may leave each byte of the disk the old or the new one.
    mixes: bool,
    /// Formats of images that it can't be done with.
    not_with: &'static [&'static str],
    act: fn(&dyn Image) -> Result<()>,
}

const fn verb(name: &'static str, act: fn(&dyn Image) -> Result<()>) -> Verb {
    Verb { name, mixes: false, not_with: &[], act }
}

const BITMAP_VERBS: &[Verb] = &[
    Verb { mixes: true, ..verb("write", |image| image.write_at(5 << 10, &[3; 30 << 10])) },
    Verb {
        mixes: true,
        ..verb("write and store", |image| {
            image.write_at(70 << 10, &[4; 9 << 10])?;
            image.as_bitmaps().unwrap().store_bitmaps()?;
            image.flush()
        })
    },
    Verb {
        mixes: true,
        ..verb("zeros", |image| image.write_zeroes(ByteRange::new(0, 64 << 10), ZeroMode::MayUnmap))
    },
    verb("add", |image| add_bitmap(image, "new", true)),
    verb("remove", |image| image.as_bitmaps().unwrap().remove_bitmap("records")),
    verb("clear", |image| image.as_bitmaps().unwrap().clear_bitmap("rests")),
    verb("enable", |image| image.as_bitmaps().unwrap().enable_bitmap("rests", true)),
    verb("disable", |image| image.as_bitmaps().unwrap().enable_bitmap("records", false)),
    verb("take", |image| image.as_bitmaps().unwrap().take_bitmap("records").map(|_| ())),
    verb("merge", |image| {
        let bitmaps = image.as_bitmaps().unwrap();
        bitmaps.merge_bitmap("rests", &bitmaps.read_bitmap("records")?)
    }),
    verb("all together", |image| {
        let bitmaps = image.as_bitmaps().unwrap();
        let bits = bitmaps.read_bitmap("records")?;
        bitmaps.defer_bitmap_changes();
        add_bitmap(image, "new", false)?;
        bitmaps.merge_bitmap("new", &bits)?;
        bitmaps.remove_bitmap("rests")?;
        bitmaps.store_bitmaps()
    }),
    verb("longer", |image| image.set_len(SIZE + (200 << 10), diskimg_core::Prealloc::Off)),
    verb("amend refcounts", |image| amend(image, "refcount_bits=32")),
    verb("amend header", |image| amend(image, "lazy_refcounts=on")),
];

const SNAPSHOT_VERBS: &[Verb] = &[
    verb("create", |image| add_snapshot(image, "three")),
    verb("apply", |image| image.as_snapshots().unwrap().apply_snapshot(&SnapshotKey::name("one"))),
    verb("delete", |image| image.as_snapshots().unwrap().delete_snapshot(&SnapshotKey::name("two"))),
    verb("delete the first", |image| {
        image.as_snapshots().unwrap().delete_snapshot(&SnapshotKey::name("one"))
    }),
    verb("amend refcounts", |image| amend(image, "refcount_bits=8")),
    verb("amend size", |image| amend(image, "size=320k,lazy_refcounts=on")),
];

const PLAIN_VERBS: &[Verb] = &[
    verb("amend refcounts", |image| amend(image, "refcount_bits=1")),
    verb("amend size", |image| amend(image, "size=1M,lazy_refcounts=on")),
    Verb {
        not_with: &["data_file", "encrypt", "refcount_bits=64", "extended_l2"],
        ..verb("amend down", |image| amend(image, "compat=v2"))
    },
    verb("amend size and refcounts", |image| amend(image, "refcount_bits=8,size=2M")),
];

fn with_bitmaps(image: &dyn Image) {
    add_bitmap(image, "records", true).unwrap();
    add_bitmap(image, "rests", true).unwrap();
    image.write_at(100 << 10, &[7; 70 << 10]).unwrap();
    image.as_bitmaps().unwrap().enable_bitmap("rests", false).unwrap();
    image.write_at(3 << 10, &[8; 3 << 10]).unwrap();
    image.flush().unwrap();
}

fn with_snapshots(image: &dyn Image) {
    add_snapshot(image, "one").unwrap();
    image.write_at(8 << 10, &[5; 20 << 10]).unwrap();
    add_snapshot(image, "two").unwrap();
    image.write_at(100 << 10, &[6; 9 << 10]).unwrap();
    image.flush().unwrap();
}

fn main() -> ExitCode {
    let mut tests = Vec::new();
    type Before = fn(&dyn Image);
    let groups: [(&str, &'static [Verb], Before); 3] = [
        ("bitmaps", BITMAP_VERBS, with_bitmaps),
        ("snapshots", SNAPSHOT_VERBS, with_snapshots),
        ("plain", PLAIN_VERBS, |_| {}),
    ];
    for (name, verbs, before) in groups {
        for options in IMAGES {
            // A snapshot holds no data that stands elsewhere.
            if name == "snapshots" && options.contains(&"data_file=data") {
                continue;
            }
            tests.push(suite::plain(format!("{name}: {}", options.join(",")), move || {
                let fits = |verb: &&Verb| {
                    !options.iter().any(|option| verb.not_with.iter().any(|with| option.starts_with(with)))
                };
                verbs.iter().filter(fits).for_each(|verb| explore(options, verb, before));
            }));
        }
    }
    let code = suite::run(tests);
    if let Some(total) = *TOTAL.lock().unwrap() {
        println!("injected failures: {total:?}");
    }
    code
}

fn explore(options: &[&'static str], verb: &Verb, before: fn(&dyn Image)) {
    let subject = FormatSubject::new(&DRIVER, SIZE, options);
    let k = |from: u64, len: u64| ByteRange::new(from << 10, len << 10);
    let contents = [Op::Write(k(0, 50), 1), Op::Zero(k(16, 16), ZeroMode::KeepAllocated), Op::Flush];
    let (disks, _) = prepared(&subject, &contents);
    let start = picture::memory(&disks);
    before(&*subject.open(&picture::shared(&start), true).unwrap().layers[0]);
    let old = Picture::of(&subject.open(&picture::shared(&start), false).unwrap());
    let start: Vec<Vec<u8>> = start.iter().map(|device| device.to_vec()).collect();
    let done = picture::memory(&start);
    let opened = subject.open(&picture::shared(&done), true).unwrap();
    (verb.act)(&*opened.layers[0]).unwrap_or_else(|error| panic!("{options:?} {}: {error:?}", verb.name));
    drop(opened);
    let new = Picture::of(&subject.open(&picture::shared(&done), false).unwrap());
    let mut report = FaultReport::default();
    for spec in FaultSpec::usual() {
        for nth in 0.. {
            let spec = FaultSpec { nth, ..spec };
            let mut story = String::new();
            let mut injected = 0;
            let mut run = || once(&subject, verb, &start, (&old, &new), spec, &mut report, &mut story);
            let text = diskimg_testkit::panics(|| injected = run());
            if let Some(text) = text {
                panic!("{options:?} {}: {spec:?}: {story}: {text}", verb.name);
            }
            if injected == 0 {
                assert!(nth > 0, "{} made no requests", verb.name);
                break;
            }
        }
    }
    TOTAL.lock().unwrap().get_or_insert_with(FaultReport::default).add(report);
}

/// One failure; how many were injected.
fn once(
    subject: &FormatSubject,
    verb: &Verb,
    start: &[Vec<u8>],
    (old, new): (&Picture, &Picture),
    spec: FaultSpec,
    report: &mut FaultReport,
    story: &mut String,
) -> u64 {
    let plan = FaultPlan::new(spec);
    let memory = picture::memory(start);
    let failing = plan.over(&memory);
    let mut result = Ok(());
    let mut at_once = 0;
    let opened = subject.open(&failing, true);
    if let Ok(opened) = &opened {
        result = (verb.act)(&*opened.layers[0]);
        at_once = plan.injected();
        if result.is_err() && spec.nth.is_multiple_of(2) {
            // Somebody may try again, or read.
            plan.disarm();
            let again = (verb.act)(&*opened.layers[0]);
            *story = format!("{result:?}, then {again:?}");
            result = again;
            at_once = 0;
            let mut disk = vec![0; diskimg_core::to_usize(opened.device.len())];
            let _ = opened.device.read_at(0, &mut disk);
        } else {
            *story = format!("{result:?}");
        }
    }
    let reported = opened.is_err() || result.is_err();
    drop(opened);
    plan.disarm();
    let disks: Vec<Vec<u8>> = memory.iter().map(|device| device.to_vec()).collect();
    // What was not reported must be there, but for what only closing the image stores.
    let sure = !reported && plan.injected() == at_once && at_once == 0;
    let from = if sure { new } else { old };
    picture::judge(subject, &disks, (from, new), verb.mixes).unwrap();
    report.runs += 1;
    report.injected += plan.injected();
    report.reported += usize::from(reported);
    plan.injected()
}
