//! All that can be seen of an image: what the crash and fault tests compare when an operation was cut short.
#![allow(dead_code)] // each test uses its part

use std::sync::Arc;

use diskimg_core::{
    BlockDevice, ByteRange, Image, MemDevice, NewBitmap, NewSnapshot, Repair, Result, SnapshotKey, Task,
    to_usize,
};
use diskimg_testkit::{Opened, Subject};

/// The disk, the snapshots and the bitmaps of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Picture {
    pub(crate) disk: Vec<u8>,
    /// Identifiers, names, contents.
    pub(crate) snapshots: Vec<(String, String, Vec<u8>)>,
    /// Names, whether they record, and what they mark; `None`: inconsistent.
    pub(crate) bitmaps: Vec<(String, bool, Option<Vec<ByteRange>>)>,
}

fn whole(device: &dyn BlockDevice) -> Vec<u8> {
    let mut bytes = vec![0; to_usize(device.len())];
    device.read_at(0, &mut bytes).unwrap();
    bytes
}

impl Picture {
    pub(crate) fn of(opened: &Opened) -> Self {
        let image = &opened.layers[0];
        let snapshots = image.as_snapshots().unwrap();
        let kept = |info: diskimg_core::SnapshotInfo| {
            let at = snapshots.open_snapshot(&SnapshotKey::id(&info.id)).unwrap();
            (info.id, info.name, whole(&*at))
        };
        let bitmaps = image.as_bitmaps().unwrap();
        let marked = |info: diskimg_core::BitmapInfo| {
            let marks = (!info.inconsistent)
                .then(|| bitmaps.read_bitmap(&info.name).unwrap().ranges().collect::<Vec<_>>());
            (info.name, info.enabled, marks)
        };
        Self {
            disk: whole(&opened.device),
            snapshots: snapshots.snapshots().into_iter().map(kept).collect(),
            bitmaps: bitmaps.bitmaps().into_iter().map(marked).collect(),
        }
    }

    /// Whether this is what an operation between `old` and `new` may leave: the disk as the one or the other (where it
    /// `mixes` each byte so), what both have of snapshots and bitmaps, and nothing that neither has. A bitmap may be
    /// inconsistent, but marks no less than it should.
    pub(crate) fn lies_between(
        &self,
        old: &Self,
        new: &Self,
        mixes: bool,
    ) -> std::result::Result<(), String> {
        let mixed = || {
            self.disk.len() == old.disk.len()
                && self
                    .disk
                    .iter()
                    .zip(&old.disk)
                    .zip(&new.disk)
                    .all(|((got, old), new)| got == old || got == new)
        };
        if !(self.disk == old.disk || self.disk == new.disk || mixes && mixed()) {
            return Err("other contents".into());
        }
        for kept in &old.snapshots {
            if new.snapshots.contains(kept) && !self.snapshots.contains(kept) {
                return Err(format!("snapshot {} is lost or another one", kept.1));
            }
        }
        for found in &self.snapshots {
            // Made again after a failure, it has another identifier.
            let is_it = |known: &(String, String, Vec<u8>)| (&known.1, &known.2) == (&found.1, &found.2);
            if !old.snapshots.contains(found) && !new.snapshots.iter().any(is_it) {
                return Err(format!("snapshot {} is none that was made", found.1));
            }
        }
        let named =
            |picture: &Self, name: &str| picture.bitmaps.iter().find(|(known, ..)| known == name).cloned();
        for (name, ..) in &old.bitmaps {
            if named(new, name).is_some() && named(self, name).is_none() {
                return Err(format!("bitmap {name} is lost"));
            }
        }
        for (name, _, marks) in &self.bitmaps {
            let Some(marks) = marks else { continue };
            let (then, now) = (named(old, name), named(new, name));
            let known = |one: &Option<(String, bool, Option<Vec<ByteRange>>)>| {
                one.as_ref().is_some_and(|(.., known)| known.as_ref() == Some(marks))
            };
            if known(&now) || known(&then) && self.disk == old.disk {
                continue;
            }
            let covers = |at: u64| marks.iter().any(|range| at >= range.start && at < range.end());
            let mut changed =
                (0u64..).zip(self.disk.iter().zip(&old.disk)).filter(|(_, (got, old))| got != old);
            let all_marked = changed.all(|(at, _)| covers(at));
            let before = then.and_then(|(.., marks)| marks).unwrap_or_default();
            if !(mixes && all_marked && before.iter().all(|range| covers(range.start))) {
                return Err(format!("bitmap {name} marks {marks:x?}"));
            }
        }
        Ok(())
    }
}

pub(crate) fn memory(disks: &[Vec<u8>]) -> Vec<Arc<MemDevice>> {
    disks.iter().map(|bytes| Arc::new(MemDevice::from(bytes.clone()))).collect()
}

pub(crate) fn shared(disks: &[Arc<MemDevice>]) -> Vec<Arc<dyn BlockDevice>> {
    disks.iter().map(|device| Arc::clone(device) as _).collect()
}

/// What an image has wrong with it, and whether it says that it was not closed.
fn complaints(image: &dyn Image) -> (Vec<String>, bool) {
    let mut words = Vec::new();
    let mut say = |text: &str| words.extend(text.lines().map(str::to_owned));
    let report = image.as_check().unwrap().check(Repair::Nothing, &mut say, &Task::quiet()).unwrap();
    words.retain(|line| !line.starts_with("Leaked"));
    if report.corruptions + report.check_errors == 0 {
        assert!(words.is_empty(), "{words:?}");
    } else {
        assert!(!words.is_empty());
    }
    (words, image.info().unwrap().dirty == Some(true))
}

/// Looks at what an operation between `old` and `new` left: the image opens, its check finds leaks at most (flags too,
/// where it says that it is unclean, or can't say so), and also once it was opened for writing it is as it should be.
pub(crate) fn judge(
    subject: &dyn Subject,
    disks: &[Vec<u8>],
    (old, new): (&Picture, &Picture),
    mixes: bool,
) -> std::result::Result<(), String> {
    let opened = subject.open(&shared(&memory(disks)), false).map_err(|error| format!("{error:?}"))?;
    Picture::of(&opened).lies_between(old, new, mixes)?;
    let (words, dirty) = complaints(&*opened.layers[0]);
    // Version 2 has no bit for it.
    let excused = dirty || opened.layers[0].as_bitmaps().unwrap().can_add_bitmaps().is_err();
    if !(words.is_empty() || excused && words.iter().all(|line| line.contains("OFLAG_COPIED"))) {
        return Err(format!("unclean: {dirty}; check: {words:#?}"));
    }
    drop(opened);
    let opened =
        subject.open(&shared(&memory(disks)), true).map_err(|error| format!("for writing: {error:?}"))?;
    Picture::of(&opened).lies_between(old, new, mixes)?;
    let (words, _) = complaints(&*opened.layers[0]);
    if dirty && !words.is_empty() {
        return Err(format!("repaired, but check: {words:#?}"));
    }
    Ok(())
}

pub(crate) fn add_snapshot(image: &dyn Image, name: &str) -> Result<()> {
    let new = NewSnapshot { name: name.to_owned(), date_sec: 1_700_000_000, ..NewSnapshot::default() };
    image.as_snapshots().unwrap().create_snapshot(&new).map(|_| ())
}

pub(crate) fn add_bitmap(image: &dyn Image, name: &str, enabled: bool) -> Result<()> {
    let new = NewBitmap { name: name.to_owned(), granularity: Some(4096), enabled };
    image.as_bitmaps().unwrap().add_bitmap(&new)
}
