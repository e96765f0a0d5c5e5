//! Everything that can be done with an image that keeps snapshots and dirty bitmaps and can be amended, beside models of
//! its disk, its snapshots and its bitmaps. Property tests and fuzz targets choose what is done.

use std::sync::Arc;

use diskimg_core::opener::NoReferences;
use diskimg_core::options::{OptUse, ParsedOptions};
use diskimg_core::{
    AmendInput, Bitmaps, BlockDevice, ByteRange, DirtyBitmap, Image, NewBitmap, NewSnapshot, Repair, Result,
    SnapshotKey, Task, to_usize,
};

use crate::ops::Op;
use crate::session::{Applied, Session, read_all};
use crate::subject::FormatSubject;

/// A step: an operation of the guest, or one on snapshots, bitmaps or the whole image. Numbers choose among what there
/// is; where there is nothing, nothing is done.
#[derive(Clone, Debug)]
pub enum Act {
    /// What a guest does.
    Guest(Op),
    /// Makes a snapshot.
    CreateSnapshot,
    /// Goes back to a snapshot.
    ApplySnapshot(u64),
    /// Forgets a snapshot.
    DeleteSnapshot(u64),
    /// Makes a bitmap: number, granularity in bytes, whether it records.
    AddBitmap(u64, u64, bool),
    /// Removes a bitmap.
    RemoveBitmap(u64),
    /// Takes all marks off a bitmap.
    ClearBitmap(u64),
    /// Lets a bitmap record, or no more.
    EnableBitmap(u64, bool),
    /// Marks in the first bitmap what the second one marks.
    MergeBitmap(u64, u64),
    /// Takes the bits of a bitmap.
    TakeBitmap(u64),
    /// Stores the bitmaps.
    StoreBitmaps,
    /// Lets changes of bitmaps wait.
    DeferBitmaps,
    /// Amends the image by these options.
    Amend(&'static str),
    /// Repairs the image.
    Repair,
    /// Compares everything with the models.
    Compare,
}

/// What a bitmap must mark, and what it may mark besides.
#[derive(Clone, Debug)]
struct Expected {
    name: String,
    enabled: bool,
    must: DirtyBitmap,
    may: DirtyBitmap,
}

impl Expected {
    fn verify(&self, found: &DirtyBitmap) {
        assert_eq!(
            (found.len(), found.granularity()),
            (self.must.len(), self.must.granularity()),
            "{}",
            self.name
        );
        for range in self.must.ranges() {
            for at in (range.start..range.end()).step_by(512) {
                assert!(found.test(at), "{}: {at:#x} is not marked", self.name);
            }
        }
        for range in found.ranges() {
            for at in (range.start..range.end()).step_by(512) {
                assert!(self.may.test(at), "{}: {at:#x} is marked", self.name);
            }
        }
    }
}

/// A snapshot as it was made.
#[derive(Clone, Debug)]
struct Kept {
    id: String,
    disk: Vec<u8>,
}

/// An image, and its models.
pub struct Play<'s> {
    session: Session<'s>,
    snapshots: Vec<Kept>,
    bitmaps: Vec<Expected>,
    unit: u64,
    names: u64,
    /// Clusters may have been lost: those of bitmaps that another version does not have.
    leaks: bool,
}

impl<'s> Play<'s> {
    /// A new image in memory.
    ///
    /// # Panics
    /// If it can't be made.
    #[must_use]
    pub fn new(subject: &'s FormatSubject) -> Self {
        let session = Session::in_memory(subject);
        let unit = session.opened().device.limits().write_unit;
        Self { session, snapshots: Vec::new(), bitmaps: Vec::new(), unit, names: 0, leaks: false }
    }

    fn image(&self) -> Arc<dyn Image> {
        Arc::clone(&self.session.opened().layers[0])
    }

    fn len(&self) -> u64 {
        self.session.opened().device.len()
    }

    /// Does `act` and what belongs to it in the models.
    ///
    /// # Panics
    /// If the image does not follow the models, or fails where it should not.
    pub fn act(&mut self, act: &Act) {
        let image = self.image();
        match act {
            Act::Guest(op) => {
                drop(image);
                self.guest(op);
            }
            Act::CreateSnapshot => self.create_snapshot(&*image),
            Act::ApplySnapshot(number) => self.apply_snapshot(&*image, *number),
            Act::DeleteSnapshot(number) => self.delete_snapshot(&*image, *number),
            Act::Amend(change) => {
                self.amend(&*image, change);
                drop(image);
                // Without bitmaps the image is opened as another program would find it.
                if self.leaks {
                    self.session.must(&Op::Reopen);
                }
            }
            Act::Repair => {
                let check = image.as_check().expect("a check");
                let report = check.check(Repair::All, &mut |_| {}, &Task::quiet()).expect("repairs");
                assert_eq!(report.corruptions + report.corruptions_fixed + report.check_errors, 0);
                assert!(self.leaks || report.leaks_fixed == 0, "{report:?}");
                self.leaks = false;
            }
            Act::Compare => self.compare(&*image),
            _ => {
                if let Some(bitmaps) = image.as_bitmaps().filter(|bitmaps| bitmaps.can_add_bitmaps().is_ok())
                {
                    self.bitmap(bitmaps, act);
                }
            }
        }
    }

    /// Closes the image and opens it again: all is as before, and the check finds nothing.
    ///
    /// # Panics
    /// If that is not so.
    pub fn finish(mut self) {
        self.compare(&*self.image());
        self.session.must(&Op::Reopen);
        self.compare(&*self.image());
        let leaks = if self.leaks { u64::MAX } else { 0 };
        self.session.check_clean(leaks).expect("checks");
        self.session.must(&Op::Extents);
    }

    fn wrote(&mut self, range: ByteRange, done: bool) {
        for expected in self.bitmaps.iter().filter(|expected| expected.enabled) {
            if done {
                expected.must.set(range);
            }
            expected.may.set(range.align_outwards(self.unit));
        }
    }

    fn guest(&mut self, op: &Op) {
        let disk = ByteRange::new(0, self.len());
        let done = self.session.must(op) == Applied::Done;
        match op {
            Op::Write(range, _) | Op::Zero(range, _) => self.wrote(range.intersect(disk), done),
            // What is not a whole unit stays as it is.
            Op::Discard(range) => {
                self.wrote(range.intersect(disk), false);
                self.wrote(range.intersect(disk).align_inwards(self.unit), done);
            }
            Op::Reserve(range, _, commit) => self.wrote(range.intersect(disk), done && *commit),
            Op::Compress(cluster, _) => {
                let Some(cluster_len) = self.image().as_compressed().map(|clusters| clusters.cluster_len())
                else {
                    return;
                };
                self.wrote(ByteRange::new(cluster * cluster_len, cluster_len).intersect(disk), done);
            }
            Op::SetLen(_) if done => {
                let len = self.len();
                for expected in &mut self.bitmaps {
                    expected.must.resize(len).expect("a length");
                    expected.may.resize(len).expect("a length");
                }
            }
            _ => {}
        }
    }

    fn create_snapshot(&mut self, image: &dyn Image) {
        let Some(snapshots) = image.as_snapshots() else { return };
        self.names += 1;
        let new = NewSnapshot { name: format!("s{}", self.names), ..NewSnapshot::default() };
        // Where refcounts are too narrow, or data stands elsewhere.
        if let Ok(info) = snapshots.create_snapshot(&new) {
            self.snapshots.push(Kept { id: info.id, disk: self.session.history().latest().to_vec() });
        }
    }

    fn apply_snapshot(&mut self, image: &dyn Image, number: u64) {
        let Some(kept) = pick(&self.snapshots, number) else { return };
        let snapshots = image.as_snapshots().expect("snapshots");
        let applied = snapshots.apply_snapshot(&SnapshotKey::id(&self.snapshots[kept].id));
        if applied.is_ok() {
            assert!(self.bitmaps.is_empty(), "bitmaps would not fit any more");
            self.session.became(self.snapshots[kept].disk.clone());
        }
    }

    fn delete_snapshot(&mut self, image: &dyn Image, number: u64) {
        let Some(kept) = pick(&self.snapshots, number) else { return };
        let kept = self.snapshots.remove(kept);
        let snapshots = image.as_snapshots().expect("snapshots");
        snapshots.delete_snapshot(&SnapshotKey::id(&kept.id)).expect("deletes a snapshot");
    }

    /// What can't be amended changes nothing that is seen.
    fn amend(&mut self, image: &dyn Image, change: &str) {
        let amended = amend(image, change);
        let bitmaps = image.as_bitmaps().is_some_and(|bitmaps| bitmaps.can_add_bitmaps().is_ok());
        if amended.is_ok() && !bitmaps {
            self.leaks |= !self.bitmaps.is_empty();
            self.bitmaps.clear();
        }
    }

    fn bitmap(&mut self, bitmaps: &dyn Bitmaps, act: &Act) {
        let len = self.len();
        match act {
            Act::AddBitmap(number, granularity, enabled) => {
                let name = format!("b{number}");
                let new =
                    NewBitmap { name: name.clone(), granularity: Some(*granularity), enabled: *enabled };
                let known = self.bitmaps.iter().any(|expected| expected.name == name);
                assert_eq!(bitmaps.add_bitmap(&new).is_err(), known);
                if !known {
                    let must = DirtyBitmap::new(len, *granularity).expect("bits");
                    self.bitmaps.push(Expected { name, enabled: *enabled, may: must.clone(), must });
                }
            }
            Act::StoreBitmaps => bitmaps.store_bitmaps().expect("stores bitmaps"),
            Act::DeferBitmaps => bitmaps.defer_bitmap_changes(),
            Act::RemoveBitmap(number)
            | Act::ClearBitmap(number)
            | Act::EnableBitmap(number, _)
            | Act::MergeBitmap(number, _)
            | Act::TakeBitmap(number) => {
                if let Some(at) = pick(&self.bitmaps, *number) {
                    self.change_bitmap(bitmaps, at, act);
                }
            }
            _ => {}
        }
    }

    fn change_bitmap(&mut self, bitmaps: &dyn Bitmaps, at: usize, act: &Act) {
        let expected = &mut self.bitmaps[at];
        let name = expected.name.clone();
        match act {
            Act::RemoveBitmap(_) => {
                bitmaps.remove_bitmap(&name).expect("removes a bitmap");
                self.bitmaps.remove(at);
            }
            Act::ClearBitmap(_) => {
                bitmaps.clear_bitmap(&name).expect("clears a bitmap");
                expected.must.clear_all();
                expected.may.clear_all();
            }
            Act::EnableBitmap(_, enabled) => {
                bitmaps.enable_bitmap(&name, *enabled).expect("enables a bitmap");
                expected.enabled = *enabled;
            }
            Act::TakeBitmap(_) => {
                expected.verify(&bitmaps.take_bitmap(&name).expect("takes bits"));
                expected.must.clear_all();
                expected.may.clear_all();
            }
            Act::MergeBitmap(_, from) => {
                let Some(from) = pick(&self.bitmaps, *from) else { return };
                let from = self.bitmaps[from].clone();
                let bits = bitmaps.read_bitmap(&from.name).expect("reads a bitmap");
                bitmaps.merge_bitmap(&name, &bits).expect("merges bitmaps");
                self.bitmaps[at].must.merge(&from.must).expect("one length");
                self.bitmaps[at].may.merge(&from.may).expect("one length");
            }
            _ => {}
        }
    }

    fn compare(&self, image: &dyn Image) {
        self.session.verify_all();
        if let Some(snapshots) = image.as_snapshots() {
            let found: Vec<String> = snapshots.snapshots().into_iter().map(|info| info.id).collect();
            let wanted: Vec<String> = self.snapshots.iter().map(|kept| kept.id.clone()).collect();
            assert_eq!(found, wanted, "snapshots");
            for kept in &self.snapshots {
                let at = snapshots.open_snapshot(&SnapshotKey::id(&kept.id)).expect("opens a snapshot");
                assert_eq!(at.len(), kept.disk.len() as u64, "snapshot {}", kept.id);
                assert!(read_all(&*at).expect("reads") == kept.disk, "snapshot {}", kept.id);
            }
        }
        let Some(bitmaps) = image.as_bitmaps() else { return };
        let all: Vec<_> = bitmaps
            .bitmaps()
            .into_iter()
            .map(|info| (info.name, info.enabled, info.granularity, info.inconsistent))
            .collect();
        let wanted: Vec<_> = self
            .bitmaps
            .iter()
            .map(|one| (one.name.clone(), one.enabled, one.must.granularity(), false))
            .collect();
        assert_eq!(all, wanted, "bitmaps");
        for expected in &self.bitmaps {
            expected.verify(&bitmaps.read_bitmap(&expected.name).expect("reads a bitmap"));
        }
    }
}

/// The place that `number` chooses; `None` of nothing.
fn pick<T>(list: &[T], number: u64) -> Option<usize> {
    number.checked_rem(list.len() as u64).map(to_usize)
}

/// Amends an image by options as the command line has them.
///
/// # Errors
/// The driver's.
///
/// # Panics
/// If it can't be amended at all.
pub fn amend(image: &dyn Image, change: &str) -> Result<()> {
    let mut options = ParsedOptions::for_usage(&[image.driver().options], OptUse::AMEND);
    options.parse(change)?;
    let input = AmendInput { options: &options, force: false, opener: &NoReferences, task: Task::quiet() };
    image.as_amend().expect("an image that can be amended").amend(&input)
}
