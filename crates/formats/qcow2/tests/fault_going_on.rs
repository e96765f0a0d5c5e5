//! A request to the storage fails in the middle of something that changes where tables are or whose clusters are whose,
//! and the image is used on: what is flushed afterwards is there when it is opened again, no cluster belongs to two
//! owners, and what was given up is given back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use diskimg_core::driver::OpenMode;
use diskimg_core::opener::NoReferences;
use diskimg_core::{
    BlockDevice, ByteRange, Error, Image, Limits, MemDevice, Prealloc, Repair, Result, Task, ZeroMode, errno,
    to_usize,
};
use diskimg_qcow2::DRIVER;
use diskimg_testkit::{FaultDevice, FaultKinds, FaultPlan, FaultSpec, FormatSubject, amend, open_image};

fn open(disk: &Arc<MemDevice>, plan: &Arc<FaultPlan>) -> Result<Arc<dyn Image>> {
    let memory: Arc<dyn BlockDevice> = Arc::<MemDevice>::clone(disk);
    let device = Arc::new(FaultDevice::new(memory, Arc::clone(plan)));
    open_image(&DRIVER, device, OpenMode { write: true, ..OpenMode::default() }, &NoReferences)
}

/// Nothing fails.
fn sound() -> Arc<FaultPlan> {
    FaultPlan::new(FaultSpec::count_only(FaultKinds::CHANGES))
}

/// Corruptions and leaks.
fn checked(disk: &Arc<MemDevice>) -> (u64, u64, Vec<String>) {
    let image =
        open_image(&DRIVER, Arc::<MemDevice>::clone(disk), OpenMode::default(), &NoReferences).unwrap();
    let mut said = Vec::new();
    let mut say = |line: &str| said.push(line.to_owned());
    let report = image.as_check().unwrap().check(Repair::Nothing, &mut say, &Task::quiet()).unwrap();
    (report.corruptions + report.check_errors, report.leaks, said)
}

/// What is done when a request fails, and which L2 tables there are before.
fn moves_tables(what: &str, act: impl Fn(&dyn Image) -> Result<()>, options: &'static [&'static str]) {
    const SIZE: u64 = 256 << 10;
    for kind in [FaultKinds::FLUSH, FaultKinds::WRITE] {
        for nth in 0.. {
            let disk = FormatSubject::new(&DRIVER, SIZE, options).fresh().remove(0);
            let image = open(&disk, &sound()).unwrap();
            image.write_at(0, &[1; 4096]).unwrap();
            drop(image);
            let plan = FaultPlan::new(FaultSpec::once(kind, nth));
            let image = open(&disk, &plan).unwrap();
            let done = act(&*image);
            if plan.injected() == 0 {
                assert!(nth > 0, "{what}: {done:?}");
                break;
            }
            plan.disarm();
            // A region that has no table yet.
            let wrote = image.write_at(200 << 10, &[2; 4096]).and_then(|()| {
                image.write_zeroes(ByteRange::new(100 << 10, 8192), ZeroMode::MayUnmap)?;
                image.flush()
            });
            let story = format!("{what}, {kind:?} {nth}: {done:?}, then {wrote:?}");
            drop(image);
            let (corruptions, _, said) = checked(&disk);
            assert_eq!(corruptions, 0, "{story}: {said:#?}");
            let image = open(&disk, &sound()).unwrap();
            let mut found = vec![0; 4096];
            image.read_at(0, &mut found).unwrap();
            assert!(found == [1; 4096], "{story}: what was flushed before is lost");
            image.read_at(200 << 10, &mut found).unwrap();
            assert!(wrote.is_err() || found == [2; 4096], "{story}: what was flushed is lost");
            image.read_at(100 << 10, &mut found).unwrap_or_else(|error| panic!("{story}: {error:?}"));
        }
    }
}

#[test]
fn a_longer_l1_table_that_may_be_there_or_not() {
    moves_tables("longer", |image| image.set_len(1 << 20, Prealloc::Off), &["cluster_size=512"]);
}

#[test]
fn a_version_that_may_be_there_or_not() {
    moves_tables("downgrade", |image| amend(image, "compat=v2"), &["cluster_size=4096"]);
    moves_tables("upgrade", |image| amend(image, "compat=v3"), &["cluster_size=4096", "compat=v2"]);
}

#[test]
fn a_refcount_table_that_may_be_there_or_not() {
    // 64 blocks of 64 refcounts: the table is full after 2 MiB.
    let big = |image: &dyn Image| image.write_at(8192, &vec![3; 3 << 20]);
    const OPTIONS: &[&str] = &["cluster_size=512", "refcount_bits=64"];
    for kind in [FaultKinds::FLUSH, FaultKinds::WRITE] {
        for nth in 0.. {
            let disk = FormatSubject::new(&DRIVER, 8 << 20, OPTIONS).fresh().remove(0);
            let plan = FaultPlan::new(FaultSpec::once(kind, nth));
            let image = open(&disk, &plan).unwrap();
            let done = big(&*image);
            if plan.injected() == 0 {
                assert!(nth > 0, "{done:?}");
                break;
            }
            plan.disarm();
            let wrote = image.write_at(4 << 20, &vec![4; 1 << 20]).and_then(|()| image.flush());
            drop(image);
            let (corruptions, _, said) = checked(&disk);
            let story = format!("{kind:?} {nth}: {done:?}, then {wrote:?}");
            assert_eq!(corruptions, 0, "{story}: {said:#?}");
            let image = open(&disk, &sound()).unwrap();
            let mut found = vec![0; 1 << 20];
            image.read_at(4 << 20, &mut found).unwrap();
            assert!(wrote.is_err() || found.iter().all(|byte| *byte == 4), "{story}");
            if nth > 60 {
                break;
            }
        }
    }
}

/// A device that fails chosen reads or zeroings once it is told to.
#[derive(Debug)]
struct Failing {
    inner: Arc<MemDevice>,
    reads: AtomicU64,
    zeros: AtomicU64,
}

/// Nothing fails.
const NEVER: u64 = u64::MAX;

impl Failing {
    fn new(inner: &Arc<MemDevice>) -> Arc<Self> {
        Arc::new(Self { inner: Arc::clone(inner), reads: NEVER.into(), zeros: NEVER.into() })
    }

    fn open(self: &Arc<Self>) -> Arc<dyn Image> {
        let mode = OpenMode { write: true, ..OpenMode::default() };
        open_image(&DRIVER, Arc::<Self>::clone(self), mode, &NoReferences).unwrap()
    }
}

/// Fails when `left` requests have passed, once.
fn pass(left: &AtomicU64) -> Result<()> {
    match left.load(Ordering::SeqCst) {
        NEVER => Ok(()),
        0 => {
            left.store(NEVER, Ordering::SeqCst);
            Err(Error::from_errno(errno::EIO))
        }
        more => {
            left.store(more - 1, Ordering::SeqCst);
            Ok(())
        }
    }
}

impl BlockDevice for Failing {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        pass(&self.reads)?;
        self.inner.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.inner.write_at(offset, buf)
    }

    fn write_zeroes(&self, range: ByteRange, how: ZeroMode) -> Result<()> {
        pass(&self.zeros)?;
        self.inner.write_zeroes(range, how)
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        self.inner.discard(range)
    }

    fn flush(&self) -> Result<()> {
        self.inner.flush()
    }

    fn set_len(&self, len: u64, prealloc: Prealloc) -> Result<()> {
        self.inner.set_len(len, prealloc)
    }
}

/// A reservation over two slices of L2 tables, one of which can't be read again when it is committed.
#[test]
fn entries_are_published_all_or_none() {
    const SIZE: u64 = 128 << 20;
    /// What a slice maps.
    const SLICE: u64 = 32 << 10;
    let disk = FormatSubject::new(&DRIVER, SIZE, &["cluster_size=512"]).fresh().remove(0);
    let image = open(&disk, &sound()).unwrap();
    for at in (0..SIZE).step_by(to_usize(SLICE)) {
        image.write_at(at + SLICE / 2, &[1; 512]).unwrap();
    }
    drop(image);
    for nth in 0..3 {
        let copy = Arc::new(MemDevice::from(disk.to_vec()));
        let failing = Failing::new(&copy);
        let image = failing.open();
        let place = ByteRange::from_bounds(SLICE / 2 + 512, SLICE + SLICE / 2);
        let reserved = image.reserve(place).unwrap().unwrap();
        reserved.write_at(place.start, &vec![2; to_usize(place.len)]).unwrap();
        // The slices go from memory.
        let mut at = 4 * SLICE;
        while at < SIZE {
            at += image.extent_at(ByteRange::from_bounds(at, SIZE)).unwrap().len;
        }
        failing.reads.store(nth, Ordering::SeqCst);
        let done = reserved.commit();
        failing.reads.store(NEVER, Ordering::SeqCst);
        assert_eq!(done.is_ok(), nth == 2, "{nth}: {done:?}");
        image.flush().unwrap();
        image.flush().unwrap();
        image.write_at(SLICE * 4, &[3; 16 << 10]).unwrap();
        image.flush().unwrap();
        let mut found = vec![9; to_usize(place.len)];
        image.read_at(place.start, &mut found).unwrap();
        let wanted = if done.is_ok() { 2 } else { 0 };
        drop(image);
        let (corruptions, leaks, said) = checked(&copy);
        assert_eq!((corruptions, leaks), (0, 0), "{nth}: {said:#?}");
        assert!(found.iter().all(|byte| *byte == wanted), "{nth}: what was not published is to be seen");
    }
}

#[test]
fn what_a_failed_reservation_or_preallocation_took_is_given_back() {
    let disk = FormatSubject::new(&DRIVER, 8192 + 512, &["cluster_size=4096"]).fresh().remove(0);
    let failing = Failing::new(&disk);
    let image = failing.open();
    failing.zeros.store(0, Ordering::SeqCst);
    image.reserve(ByteRange::new(8192, 512)).map(|_| ()).unwrap_err();
    image.flush().unwrap();
    drop(image);
    assert_eq!(checked(&disk), (0, 0, vec![]), "reservation");
    for nth in 0.. {
        let disk = FormatSubject::new(&DRIVER, 64 << 10, &["cluster_size=4096"]).fresh().remove(0);
        let failing = Failing::new(&disk);
        let image = failing.open();
        image.write_at(0, &[1; 64 << 10]).unwrap();
        for at in (0..64 << 10).step_by(16 << 10) {
            image.discard(ByteRange::new(at, 8192)).unwrap();
        }
        image.flush().unwrap();
        failing.zeros.store(nth, Ordering::SeqCst);
        let grown = image.set_len(128 << 10, Prealloc::Metadata);
        let injected = failing.zeros.swap(NEVER, Ordering::SeqCst) == NEVER;
        image.flush().unwrap();
        drop(image);
        assert_eq!(checked(&disk), (0, 0, vec![]), "preallocation, {nth}: {grown:?}");
        if !injected {
            break;
        }
    }
}
