//! Contract: many threads at once, on different clusters and on the same ones.

use std::sync::Arc;
use std::time::Duration;

use diskimg_core::{BlockDevice, ByteRange, MemDevice, ZeroMode, to_usize};

use super::basic::must;
use crate::ops::pattern;
use crate::rng::Rng;
use crate::session::{checked, read_all};
use crate::slow::SlowDevice;
use crate::subject::{FormatSubject, Opened, Subject};

/// Rounds of each thread.
const ROUNDS: u64 = 40;

/// The image in memory with delays; the storages and what is open on them.
pub(super) fn open_slow(subject: &FormatSubject) -> (Vec<Arc<MemDevice>>, Vec<Arc<dyn BlockDevice>>, Opened) {
    let memory = subject.fresh();
    let slow = |(seed, device): (u64, &Arc<MemDevice>)| -> Arc<dyn BlockDevice> {
        Arc::new(SlowDevice::new(Arc::clone(device) as _, Duration::from_micros(200), seed << 32))
    };
    let shared: Vec<Arc<dyn BlockDevice>> = (0..).zip(&memory).map(slow).collect();
    let opened = must(subject, "open", subject.open(&shared, true));
    (memory, shared, opened)
}

pub(super) fn finish(
    subject: &FormatSubject,
    opened: Opened,
    disks: &[Arc<dyn BlockDevice>],
    expected: &[u8],
) {
    assert!(must(subject, "read", read_all(&opened.device)) == expected, "{}: contents", subject.name());
    must(subject, "flush", opened.device.flush());
    drop(opened);
    let opened = must(subject, "open again", subject.open(disks, true));
    assert!(
        must(subject, "read", read_all(&opened.device)) == expected,
        "{}: contents after reopening",
        subject.name()
    );
    if let Some((report, said)) = must(subject, "check", checked(opened.layers[0].as_ref())) {
        let found = report.corruptions + report.check_errors + report.leaks;
        assert_eq!(found, 0, "{}: {report:?}\n{}", subject.name(), said.join("\n"));
    }
}

/// Threads that write, zero, discard and read, each on clusters of its own (every `threads`-th), while one flushes.
///
/// # Panics
/// If one of them sees something else than its own last bytes.
pub fn different_clusters(subject: &FormatSubject, threads: u64) {
    let (_memory, disks, opened) = open_slow(subject);
    let unit = opened.device.limits().write_unit.max(512);
    let units = subject.size / unit;
    if units < threads {
        return;
    }
    let parts: Vec<Vec<(u64, Vec<u8>)>> = std::thread::scope(|scope| {
        let work = |thread: u64| {
            let opened = &opened;
            scope.spawn(move || own_clusters(subject, opened, thread, threads, unit, units))
        };
        let running: Vec<_> = (0..threads).map(work).collect();
        for _ in 0..10 {
            must(subject, "flush", opened.device.flush());
            std::thread::yield_now();
        }
        running.into_iter().map(|thread| thread.join().expect("a thread panicked")).collect()
    });
    let mut expected = vec![0; to_usize(subject.size)];
    for (at, bytes) in parts.into_iter().flatten() {
        expected[to_usize(at)..to_usize(at) + bytes.len()].copy_from_slice(&bytes);
    }
    finish(subject, opened, &disks, &expected);
}

/// The work of one thread; gives its clusters' last contents.
fn own_clusters(
    subject: &FormatSubject,
    opened: &Opened,
    thread: u64,
    threads: u64,
    unit: u64,
    units: u64,
) -> Vec<(u64, Vec<u8>)> {
    let mut rng = Rng::new(thread);
    let mut mine: Vec<(u64, Vec<u8>)> = (thread..units)
        .step_by(to_usize(threads))
        .take(24)
        .map(|number| (number * unit, vec![0; to_usize(unit)]))
        .collect();
    for round in 0..ROUNDS {
        let chosen = rng.index(mine.len());
        let (at, content) = &mut mine[chosen];
        let from = rng.below(unit);
        let range = if rng.chance(50) {
            ByteRange::new(0, unit)
        } else {
            ByteRange::new(from, 1 + rng.below(unit - from))
        };
        let place = ByteRange::new(*at + range.start, range.len);
        let slot = to_usize(range.start)..to_usize(range.end());
        match rng.below(5) {
            0 => {
                must(subject, "zero", opened.device.write_zeroes(place, ZeroMode::MayUnmap));
                content[slot].fill(0);
            }
            1 => {
                must(subject, "discard", opened.device.discard(place));
                must(subject, "read", opened.device.read_at(place.start, &mut content[slot]));
            }
            _ => {
                let bytes = pattern(1 + thread * 1000 + round, place.start, place.len);
                must(subject, "write", opened.device.write_at(place.start, &bytes));
                content[slot].copy_from_slice(&bytes);
            }
        }
        let mut got = vec![0xaa; to_usize(unit)];
        must(subject, "read", opened.device.read_at(*at, &mut got));
        assert!(got == *content, "{}: thread {thread} round {round} cluster at {at:#x}", subject.name());
    }
    mine
}

/// Threads that write different bytes of the same clusters, with readers beside them that must see only bytes that
/// someone wrote there.
///
/// # Panics
/// If a byte is lost or strange.
pub fn same_clusters(subject: &FormatSubject, threads: u64) {
    let (_memory, disks, opened) = open_slow(subject);
    let unit = opened.device.limits().write_unit.max(512);
    let clusters = (subject.size / unit).min(6);
    let slice = unit / (threads * 2);
    if clusters == 0 || slice == 0 {
        return;
    }
    let (device, name) = (&opened.device, &subject.name());
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let mut rng = Rng::new(thread ^ 99);
                for round in 0..ROUNDS {
                    let place = rng.below(clusters) * unit + thread * 2 * slice;
                    // The value tells the thread; the slice is its own.
                    let value = u8::try_from(1 + thread).unwrap_or(1);
                    let bytes = vec![value; to_usize(slice)];
                    must(subject, "write", device.write_at(place, &bytes));
                    let mut got = vec![0; to_usize(slice)];
                    must(subject, "read", device.read_at(place, &mut got));
                    assert!(got == bytes, "{name}: thread {thread} round {round}: own bytes at {place:#x}");
                }
            });
        }
        scope.spawn(move || {
            let mut got = vec![0; to_usize(unit)];
            for round in 0..ROUNDS * 2 {
                must(subject, "read", device.read_at((round % clusters) * unit, &mut got));
                for (at, byte) in got.iter().enumerate() {
                    let owner = at as u64 / slice;
                    let right = *byte == 0 || (owner.is_multiple_of(2) && u64::from(*byte) == owner / 2 + 1);
                    assert!(right, "{name}: byte {at} of cluster {} is {byte}", round % clusters);
                }
            }
        });
    });
    let expected = must(subject, "read", read_all(&opened.device));
    finish(subject, opened, &disks, &expected);
}
