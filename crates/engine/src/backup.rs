//! Incremental backup: what a dirty bitmap marks, copied into an image of its own.
//!
//! The recipe:
//!
//! 1. *Full*: [`start`] (a bitmap that marks nothing and records), then [`convert`](crate::convert()) the disk.
//! 2. *Increment*, any number of times: [`increment`] into a new image of the same length, made with the backup before
//!    it as its backing file. It takes the marks off the bitmap, and holds only what they marked.
//! 3. *Restore*: convert the last increment; its chain reads as the disk did at that moment.
//!
//! With a disk that is written to meanwhile, an increment holds each marked granule as it was at some moment after the
//! bitmap was taken; for one moment of the whole disk stop the writers, or make a snapshot.

use diskimg_chain::Node;
use diskimg_core::{
    Bitmaps, BlockDevice as _, ByteRange, DirtyBitmap, Error, NewBitmap, Result, Task, ZeroMode, to_usize,
    unknown_bitmap,
};

/// Bytes that are copied at once.
const UNIT: u64 = 1 << 20;

/// What an increment copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IncrementReport {
    /// Bytes that the bitmap marked.
    pub marked: u64,
    /// Of these, bytes that were read and written; the others read as zeros.
    pub copied: u64,
}

/// Begins a series of backups: `disk` gets the bitmap `name`, which records from now on. To be called before the full
/// backup is copied.
///
/// # Errors
/// Those of [`Bitmaps::add_bitmap`]; `Unsupported` for a format without bitmaps.
pub fn start(disk: &Node, name: &str) -> Result<()> {
    bitmaps_of(disk, name)?.add_bitmap(&NewBitmap { name: name.to_owned(), granularity: None, enabled: true })
}

fn bitmaps_of<'a>(disk: &'a Node, name: &str) -> Result<&'a dyn Bitmaps> {
    disk.image().as_bitmaps().ok_or_else(|| unknown_bitmap(name))
}

/// Copies what the bitmap `name` of `disk` marks to the same place in `target`, flushes it, and takes the marks off. The
/// target reads elsewhere as it did: it is an image over the backup before, or a copy of it.
///
/// # Errors
/// `InvalidArg` for a target of another length and for a bitmap that is unknown or inconsistent (a full backup is due
/// then); what reading and writing say; `Cancelled`. After an error the bitmap marks again all that it marked.
pub fn increment(disk: &Node, name: &str, target: &Node, task: &Task<'_>) -> Result<IncrementReport> {
    if disk.device().len() != target.device().len() {
        return Err(Error::invalid("The target of an incremental backup must be as long as the disk"));
    }
    let bitmaps = bitmaps_of(disk, name)?;
    let marks = bitmaps.take_bitmap(name)?;
    copy_marked(disk, &marks, target, task).map_err(|error| match bitmaps.merge_bitmap(name, &marks) {
        Ok(()) => error,
        Err(worse) => worse.context(format!("Bitmap '{name}' lost its marks: a full backup is due")),
    })
}

/// Copies what `marks` marks, and flushes `target`.
///
/// # Errors
/// What reading and writing say; `Cancelled`.
pub fn copy_marked(
    disk: &Node,
    marks: &DirtyBitmap,
    target: &Node,
    task: &Task<'_>,
) -> Result<IncrementReport> {
    let marked = marks.dirty_bytes();
    let mut report = IncrementReport { marked, copied: 0 };
    let mut done = 0;
    let mut buf = Vec::new();
    for range in marks.ranges() {
        let mut at = range.start;
        while at < range.end() {
            task.check()?;
            let rest = ByteRange::from_bounds(at, range.end());
            let extent = disk.device().extent_at(rest)?;
            let (zero, len) = (extent.is_zero(), extent.len.clamp(1, rest.len));
            if zero {
                // Also over a backup that held something else there.
                target.device().write_zeroes(ByteRange::new(at, len), ZeroMode::MayUnmap)?;
            }
            let len = if zero { len } else { len.min(UNIT) };
            if !zero {
                buf.resize(to_usize(len), 0);
                disk.device().read_at(at, &mut buf)?;
                target.device().write_at(at, &buf)?;
                report.copied += len;
            }
            at += len;
            done += len;
            task.progress.update(done, marked.max(1));
        }
    }
    target.device().flush()?;
    Ok(report)
}
