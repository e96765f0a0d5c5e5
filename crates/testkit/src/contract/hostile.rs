//! Contract: images that lie. Nothing panics, hangs or takes much memory; errors are fine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use diskimg_core::driver::OpenMode;
use diskimg_core::{BlockDevice, ByteRange, ErrorKind, MemDevice, Prealloc, ZeroMode, to_usize};

use crate::capped::CappedDevice;
use crate::ops::{Op, OpMix, pattern};
use crate::rng::Rng;
use crate::session::{Session, checked};
use crate::subject::{FormatSubject, MemOpener, Subject, open_image_with};
use crate::suite::caught;

/// One image may take so long, on a busy machine and without optimisation.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes by which a storage may grow.
const GROWTH: u64 = 4 << 20;

/// Requests for extents per image.
const MOST_EXTENTS: usize = 200;

/// What was tried.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostileReport {
    /// Images.
    pub images: usize,
    /// Those that opened.
    pub opened: usize,
    /// The longest time for one image.
    pub slowest: Duration,
}

/// An image of the kind with all sorts of contents: its storages.
///
/// # Panics
/// If it can't be made.
#[must_use]
pub fn hostile_image(subject: &FormatSubject) -> Vec<Vec<u8>> {
    let memory = subject.fresh();
    let shared = crate::subject::shared(&memory);
    let mut session = Session::open(subject, shared, subject.initial(), || 0).expect("open");
    let unit = session.opened().device.limits().write_unit.max(512);
    session.must(&Op::Compress(0, 1));
    session.must(&Op::Compress(1, 4));
    for op in OpMix::changes(subject.size).script(17, 40, subject.size, unit) {
        if !matches!(op, Op::SetLen(_)) {
            session.must(&op);
        }
    }
    drop(session);
    memory.iter().map(|disk| disk.to_vec()).collect()
}

/// Opens the image (for everything there is) and uses it in every way; gives whether it opened.
///
/// # Panics
/// If anything panics or takes longer than a minute.
pub fn poke(subject: &FormatSubject, disks: &[Vec<u8>], story: &dyn Fn() -> String) -> (bool, Duration) {
    let start = Instant::now();
    let outcome = caught(|| {
        let modes = [
            OpenMode::default(),
            OpenMode { describe_only: true, ..OpenMode::default() },
            OpenMode { check: true, ..OpenMode::default() },
            OpenMode { write: true, ..OpenMode::default() },
        ];
        modes.map(|mode| use_all(subject, disks, mode)).into_iter().any(|opened| opened)
    });
    let took = start.elapsed();
    match outcome {
        Ok(opened) => {
            assert!(took < PATIENCE, "{}: {}: took {took:?}", subject.name(), story());
            (opened, took)
        }
        Err(text) => panic!("{}: {}: {text}", subject.name(), story()),
    }
}

fn use_all(subject: &FormatSubject, disks: &[Vec<u8>], mode: OpenMode) -> bool {
    let shared: Vec<Arc<dyn BlockDevice>> = disks
        .iter()
        .map(|bytes| -> Arc<dyn BlockDevice> {
            if mode.write {
                Arc::new(CappedDevice::new(bytes.clone(), bytes.len() as u64 + GROWTH))
            } else {
                Arc::new(MemDevice::read_only(bytes.clone()))
            }
        })
        .collect();
    let opener =
        MemOpener::new(subject.disks().into_iter().map(str::to_owned).zip(shared.iter().cloned()).skip(1));
    let (storage, options) = (Arc::clone(&shared[0]), subject.runtime_options());
    let Ok(image) = open_image_with(subject.driver, storage, mode, &opener, options) else { return false };
    let _ = image.info();
    let _ = (image.backing(), image.children(), image.allocated_len());
    if mode.describe_only {
        return true;
    }
    let len = image.len();
    let mut buf = vec![0; 200_000];
    let mut rng = Rng::new(len);
    let last = len.saturating_sub(buf.len() as u64);
    for at in [0, last, rng.below(last.max(1)), rng.below(last.max(1)), 1 << 30] {
        let part = to_usize(len.saturating_sub(at).min(buf.len() as u64));
        let _ = image.read_at(at, &mut buf[..part]);
    }
    let mut at = 0;
    for _ in 0..MOST_EXTENTS {
        if at >= len {
            break;
        }
        let Ok(extent) = image.extent_at(ByteRange::from_bounds(at, len)) else { break };
        assert!(extent.len > 0 && extent.len <= len - at, "{extent:?} at {at} of {len}");
        at += extent.len;
    }
    let _ = checked(image.as_ref());
    if mode.write {
        change_all(image.as_ref(), len);
        let _ = checked(image.as_ref());
    }
    true
}

fn change_all(image: &dyn diskimg_core::Image, len: u64) {
    let unit = image.limits().write_unit.clamp(512, 1 << 21);
    for at in [0, unit + 100, len / 2, len.saturating_sub(700)] {
        let part = len.saturating_sub(at).min(700);
        if part > 0 {
            let _ = image.write_at(at, &pattern(3, at, part));
        }
    }
    let part = ByteRange::new(unit, unit).intersect(ByteRange::new(0, len));
    if !part.is_empty() {
        let _ = image.write_zeroes(part, ZeroMode::MayUnmap);
        let _ = image.discard(part);
    }
    let _ = image.flush();
    // What a hostile table makes of these lengths must stay bounded as well.
    for new in [len.saturating_add(unit) / 512 * 512, len / 2 / 512 * 512] {
        if let Err(error) = image.set_len(new, Prealloc::Off) {
            assert_ne!(error.kind(), ErrorKind::Cancelled);
        }
    }
    let _ = image.flush();
}

/// The image cut off at every interesting length.
///
/// # Panics
/// If a driver panics or hangs.
pub fn truncated(subject: &FormatSubject) -> HostileReport {
    let disks = hostile_image(subject);
    let len = disks[0].len();
    let mut lengths: Vec<usize> =
        [0, 1, 3, 4, 7, 8, 71, 72, 100, 103, 104, 111, 112, 200, 511, 512, 513].into();
    let step = (len / 40).max(1);
    lengths.extend((0..len).step_by(step).flat_map(|at| [at, at + 1, at + step / 2]));
    lengths.extend(len.saturating_sub(16)..len);
    let mut report = HostileReport::default();
    for cut in lengths.into_iter().filter(|cut| *cut < len) {
        let mut disks = disks.clone();
        disks[0].truncate(cut);
        note(&mut report, poke(subject, &disks, &|| format!("cut to {cut} of {len}")));
    }
    report
}

/// Every byte of the first `header_len` changed in several ways, and `flips` random changes of the rest.
///
/// # Panics
/// If a driver panics or hangs.
pub fn flipped_bytes(subject: &FormatSubject, header_len: usize, flips: usize) -> HostileReport {
    let mut disks = hostile_image(subject);
    let mut report = HostileReport::default();
    let len = disks[0].len();
    for at in 0..header_len.min(len) {
        let old = disks[0][at];
        for new in [0, 0xff, old ^ 1, old ^ 0x80, old.wrapping_add(1)] {
            if new != old {
                disks[0][at] = new;
                note(
                    &mut report,
                    poke(subject, &disks, &|| format!("byte {at:#x}: {old:#04x} -> {new:#04x}")),
                );
            }
        }
        disks[0][at] = old;
    }
    let mut rng = Rng::new(len as u64);
    let places = metadata_places(&disks[0]);
    for _ in 0..flips {
        let at = if rng.chance(80) && !places.is_empty() { *rng.pick(&places) } else { rng.index(len) };
        let count = 1 + rng.index(3);
        let before = disks[0].clone();
        let changes: Vec<(usize, u8)> = (0..count)
            .map(|n| ((at + n * rng.index(9)).min(len - 1), rng.next_u64().to_le_bytes()[0]))
            .collect();
        for (at, value) in &changes {
            disks[0][*at] = *value;
        }
        note(&mut report, poke(subject, &disks, &|| format!("bytes {changes:x?}")));
        disks[0] = before;
    }
    report
}

fn note(report: &mut HostileReport, (opened, took): (bool, Duration)) {
    report.images += 1;
    report.opened += usize::from(opened);
    report.slowest = report.slowest.max(took);
}

/// Bytes that look like table entries: in words that are mostly zeros but not only.
fn metadata_places(bytes: &[u8]) -> Vec<usize> {
    let sparse = |word: &[u8]| {
        let zeros = word.iter().filter(|byte| **byte == 0).count();
        (2..8).contains(&zeros)
    };
    let words = bytes.chunks_exact(8).enumerate().filter(|(_, word)| sparse(word));
    words.flat_map(|(number, _)| number * 8..number * 8 + 8).collect()
}
