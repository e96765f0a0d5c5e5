//! Contract: payloads of compressed clusters, which share clusters of the file with each other: none touches another's
//! bytes, in whatever order they are placed, written and committed.

use std::sync::Arc;

use diskimg_core::{ByteRange, CompressedClusters, Image, Reservation, to_usize};

use super::basic::must;
use super::threads::{finish, open_slow};
use crate::record::{Change, Recorder};
use crate::rng::Rng;
use crate::subject::{FormatSubject, Subject};

/// Clusters that are open at a time.
const AT_ONCE: u64 = 12;

/// Guest clusters that a thread writes.
const OF_A_THREAD: u64 = 60;

/// Reservations that are all open at once, compressed ones and, where there are any, plain ones: the commit of one
/// leaves alone what belongs to another, whether that is written already or not.
///
/// # Panics
/// If a commit changes a byte of another reservation.
pub fn commits_keep_to_themselves(subject: &FormatSubject) {
    let recorder = Recorder::new();
    let bytes = subject.fresh().into_iter().map(|disk| disk.to_vec());
    let disks = recorder.devices(bytes);
    let opened = must(subject, "open", subject.open(&disks, true));
    let image = opened.layers[0].as_ref();
    let Some(clusters) = in_any_order(image) else { return };
    let whole = clusters.cluster_len();
    let mut rng = Rng::new(5);
    for first in (0..subject.size / whole).step_by(to_usize(AT_ONCE)).take(4) {
        let mut open: Vec<(Vec<ByteRange>, Reservation<'_>)> = Vec::new();
        for cluster in first..(first + AT_ONCE).min(subject.size / whole) {
            let place = ByteRange::new(cluster * whole, whole);
            let plain = if rng.chance(25) { must(subject, "reserve", image.reserve(place)) } else { None };
            let len = 1 + rng.below(whole - 1);
            // Encryption and data files refuse payloads.
            let Ok(reservation) = plain.map_or_else(|| clusters.reserve_encoded(place.start, len), Ok) else {
                return;
            };
            open.push((hosts(&reservation), reservation));
        }
        while !open.is_empty() {
            let before = recorder.position();
            let (own, reservation) = open.swap_remove(rng.index(open.len()));
            must(subject, "commit", reservation.commit());
            for event in &recorder.trace().events[before..] {
                let changed = changed_by(&event.change);
                for other in open.iter().flat_map(|(hosts, _)| hosts) {
                    let hit = event.disk == 0 && !changed.intersect(*other).is_empty();
                    assert!(!hit, "{}: commit of {own:?} changed {changed:?} of {other:?}", subject.name());
                }
            }
        }
    }
}

/// Threads that compress clusters of their own, with delays, into a file that grows.
///
/// # Panics
/// If a cluster reads differently afterwards.
pub fn payloads_of_threads(subject: &FormatSubject, threads: u64) {
    let (_memory, disks, opened) = open_slow(subject);
    let image = &opened.layers[0];
    let Some(whole) = in_any_order(image.as_ref()).map(CompressedClusters::cluster_len) else { return };
    let count = (subject.size / whole).min(OF_A_THREAD * threads);
    let work = |thread: u64| {
        let mine = (thread..count).step_by(to_usize(threads));
        mine.map(|cluster| (cluster, compress(subject, image, cluster, whole))).collect::<Vec<_>>()
    };
    let done = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        running.into_iter().flat_map(|thread| thread.join().expect("a thread panicked")).collect::<Vec<_>>()
    });
    let mut expected = vec![0; to_usize(subject.size)];
    for (cluster, bytes) in done {
        let at = to_usize(cluster * whole);
        expected[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    finish(subject, opened, &disks, &expected);
}

/// Compresses a cluster that is partly noise: its bytes, or none where the image takes no payload.
fn compress(subject: &FormatSubject, image: &Arc<dyn Image>, cluster: u64, whole: u64) -> Vec<u8> {
    let Some(clusters) = image.as_compressed() else { return Vec::new() };
    let mut rng = Rng::new(cluster);
    let mut bytes = vec![u8::try_from(1 + cluster % 200).unwrap_or(1); to_usize(whole)];
    let noise = rng.index(bytes.len() * 3 / 4);
    bytes[..noise].fill_with(|| u8::try_from(rng.below(256)).unwrap_or(0));
    let mut payload = Vec::new();
    let mut encoder = must(subject, "encoder", clusters.encoder());
    if !must(subject, "encode", encoder.encode(&bytes, &mut payload)) {
        return Vec::new();
    }
    let len = u64::try_from(payload.len()).unwrap_or(u64::MAX);
    // Encryption and data files refuse.
    let Ok(reservation) = clusters.reserve_encoded(cluster * whole, len) else { return Vec::new() };
    must(subject, "write a payload", reservation.write_at(0, &payload));
    must(subject, "commit", reservation.commit());
    bytes
}

/// The image's compressed clusters, if they may come in any order.
fn in_any_order(image: &dyn Image) -> Option<&dyn CompressedClusters> {
    image.as_compressed().filter(|clusters| !clusters.only_encoded())
}

fn hosts(reservation: &Reservation<'_>) -> Vec<ByteRange> {
    let host = |piece: &diskimg_core::Piece<'_>| Some(ByteRange::new(piece.host?.offset, piece.range.len));
    reservation.pieces().iter().filter_map(host).collect()
}

/// What a change may have done to the bytes of a file.
fn changed_by(change: &Change) -> ByteRange {
    match change {
        Change::Write(offset, bytes) => ByteRange::new(*offset, diskimg_core::len_u64(bytes)),
        Change::Zero(range) | Change::Discard(range) => *range,
        Change::SetLen(len) => ByteRange::from_bounds(*len, u64::MAX),
        Change::Barrier => ByteRange::new(0, 0),
    }
}
