//! Conversions that the host does: what it copies, in how few requests, and that nothing is lost where it copies a part,
//! nothing, or fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]
#![allow(clippy::cast_possible_truncation)]

mod common;

use std::any::Any;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{contents, fill, fresh, node_on, speckled};
use diskimg_chain::Node;
use diskimg_core::{
    BlockDevice, ByteRange, Description, Error, Extent, HostRef, Limits, MemDevice, Prealloc, Repair, Result,
    Task, ZeroMode, errno,
};
use diskimg_engine::{ConvertOptions, check, convert};
use diskimg_testkit::Rng;

/// How a host copies.
#[derive(Clone, Copy, Debug)]
enum Manner {
    All,
    /// No more than so many bytes a request, and nothing at every third one.
    Parts(u64),
    /// Another file system, an old kernel, ...
    Nothing,
    /// The first requests succeed, the others fail.
    FailsAfter(u64),
}

/// Bytes in memory that are copied among their kind as a host does.
#[derive(Debug)]
struct HostMem {
    bytes: Arc<MemDevice>,
    manner: Manner,
    requests: AtomicU64,
    copied: AtomicU64,
}

impl HostMem {
    fn new(bytes: Arc<MemDevice>, manner: Manner) -> Arc<Self> {
        Arc::new(Self { bytes, manner, requests: AtomicU64::new(0), copied: AtomicU64::new(0) })
    }

    fn copied(&self) -> u64 {
        self.copied.load(Ordering::Relaxed)
    }
}

impl BlockDevice for HostMem {
    fn len(&self) -> u64 {
        self.bytes.len()
    }

    fn limits(&self) -> Limits {
        self.bytes.limits()
    }

    fn describe(&self) -> Description<'_> {
        self.bytes.describe()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.bytes.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.bytes.write_at(offset, buf)
    }

    fn write_zeroes(&self, range: ByteRange, how: ZeroMode) -> Result<()> {
        self.bytes.write_zeroes(range, how)
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        self.bytes.discard(range)
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn set_len(&self, len: u64, prealloc: Prealloc) -> Result<()> {
        self.bytes.set_len(len, prealloc)
    }

    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        let extent = self.bytes.extent_at(range)?;
        Ok(Extent {
            len: extent.len,
            flags: extent.flags,
            host: Some(HostRef { device: self, offset: range.start }),
        })
    }

    fn copy_from(&self, offset: u64, source: HostRef<'_>, len: u64) -> Result<u64> {
        let Some(from) = source.device.as_any().and_then(|any| any.downcast_ref::<Self>()) else {
            return Ok(0);
        };
        let request = self.requests.fetch_add(1, Ordering::Relaxed);
        let len = match self.manner {
            Manner::All => len,
            Manner::Parts(_) if request % 3 == 2 => 0,
            Manner::Parts(most) => len.min(most),
            Manner::Nothing => 0,
            Manner::FailsAfter(good) if request >= good => return Err(Error::from_errno(errno::ENOSPC)),
            Manner::FailsAfter(_) => len,
        };
        let mut bytes = vec![0; len as usize];
        from.bytes.read_at(source.offset, &mut bytes)?;
        self.bytes.write_at(offset, &bytes)?;
        self.copied.fetch_add(len, Ordering::Relaxed);
        Ok(len)
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

const RAW: &str = "raw";
const SMALL: &[&str] = &["cluster_size=4k"];

/// An empty image of `len` bytes on such a device: raw, or qcow2 with options.
fn image(options: Option<&[&'static str]>, len: u64, manner: Manner) -> (Arc<HostMem>, Node) {
    let (driver, storage) = match options {
        Some(options) => (&diskimg_qcow2::DRIVER, fresh(&diskimg_qcow2::DRIVER, len, options).0),
        None => (&diskimg_raw::DRIVER, Arc::new(MemDevice::new(len as usize))),
    };
    let host = HostMem::new(storage, manner);
    let node = node_on(driver, Arc::clone(&host) as _, true, None);
    (host, node)
}

fn options(workers: usize) -> ConvertOptions {
    let workers = NonZero::new(workers);
    ConvertOptions { copy_range: true, target_is_zero: true, workers, ..ConvertOptions::default() }
}

/// A source, as raw image or qcow2, with these bytes.
fn source(options: Option<&[&'static str]>, bytes: &[u8], piece: usize) -> Node {
    let (_, node) = image(options, bytes.len() as u64, Manner::All);
    fill(&node, bytes, piece);
    node
}

const KINDS: [Option<&[&str]>; 4] =
    [None, Some(&[]), Some(SMALL), Some(&["cluster_size=2M", "extended_l2=on"])];

#[test]
fn nothing_is_lost_however_the_host_copies() {
    let mut rng = Rng::new(5);
    // The end is within a cluster, and within a block of the host.
    let bytes = speckled(&mut rng, (5 << 20) + 5 * 512);
    for from in KINDS {
        let source = source(from, &bytes, 12 << 10);
        for to in KINDS {
            for manner in [Manner::All, Manner::Parts(4096), Manner::Parts(1000), Manner::Nothing] {
                let (_, target) = image(to, bytes.len() as u64, manner);
                let what = format!("{:?} to {:?}, {manner:?}", from.unwrap_or(&[RAW]), to.unwrap_or(&[RAW]));
                convert(&[&source], &target, &options(3), &Task::quiet()).expect(&what);
                assert!(contents(&target) == bytes, "{what}");
                if to.is_some() {
                    let found = check(&target, Repair::Nothing, &mut |_| {}, &Task::quiet()).unwrap();
                    assert_eq!((found.corruptions, found.leaks), (0, 0), "{what}");
                }
            }
        }
    }
}

#[test]
fn the_host_is_asked_once_for_each_extent() {
    let len = 40 << 20;
    let bytes = vec![7; len];
    for (from, to) in
        [(None, None), (None, KINDS[1]), (KINDS[1], None), (KINDS[1], KINDS[1]), (KINDS[2], KINDS[1])]
    {
        let source = source(from, &bytes, len);
        let (host, target) = image(to, len as u64, Manner::All);
        convert(&[&source], &target, &options(2), &Task::quiet()).unwrap();
        assert_eq!(host.copied(), len as u64, "{from:?} {to:?}");
        // Tables lie between the clusters.
        let requests = host.requests.load(Ordering::Relaxed);
        assert!(requests <= 40, "{from:?} {to:?}: {requests} requests");
        assert!(contents(&target) == bytes);
    }
}

#[test]
fn known_zeros_are_not_copied() {
    let mut bytes = vec![0; 32 << 20];
    bytes[9 << 20..10 << 20].fill(1);
    for to in [None, Some(SMALL)] {
        let (host, target) = image(to, bytes.len() as u64, Manner::All);
        convert(&[&source(Some(SMALL), &bytes, 4096)], &target, &options(1), &Task::quiet()).unwrap();
        assert_eq!(host.copied(), 1 << 20);
        assert!(contents(&target) == bytes);
    }
}

#[test]
fn a_host_that_fails_is_an_error_with_its_place() {
    let bytes = vec![9; 3 << 20];
    for to in [None, Some(SMALL)] {
        let mut spread = vec![0; 3 << 20];
        spread.chunks_mut(1 << 20).for_each(|part| part[..65536].fill(3));
        for (bytes, good, at) in [(&bytes, 0, 0), (&spread, 1, 1 << 20)] {
            let (_, target) = image(to, bytes.len() as u64, Manner::FailsAfter(good));
            let error =
                convert(&[&source(None, bytes, 65536)], &target, &options(1), &Task::quiet()).unwrap_err();
            assert_eq!(error.errno(), errno::ENOSPC);
            assert_eq!(error.joined(), format!("error while writing at byte {at}: No space left on device"));
        }
    }
}
