//! Persistent dirty bitmaps of an open image (specification, "Bitmaps").
//!
//! On the host a bitmap is *in use* (its bits there are out of date) from before the first write that it has to record,
//! or before its marks are taken, until it is stored anew. That mark is made when it is needed, not when the image is opened: an image that is opened
//! for writing and only read stays as it is, and only bitmaps that record are marked, so that a crash costs no other one.
//!
//! Order, with a barrier at each `|`:
//!
//! ```text
//! first write:  directory with the mark | guest data
//! storing:      data and tables of the bitmaps, the new directory, their counts | header | the old ones are dropped
//! ```
//!
//! So what is on the host never says that nothing was written where something was: the mark is durable before the first
//! write, and taken off by the one change of the header that also refers to the new bits. Whatever fails in between
//! leaves the mark: the bitmap is then inconsistent, and can only be removed.
//!
//! A repair of the whole image finds bitmaps whose table or data lie behind the end of the file, or where something else
//! stands too ([`crate::check`]). What they say there is not known, and counts as written to: a bitmap may mark too much,
//! never too little. Their bits are kept in memory and stored anew, in clusters of their own, with the next store.
//!
//! Changes of the list can be made to wait ([`diskimg_core::Bitmaps::defer_bitmap_changes`]): what the host has stays as
//! it is until all of them are stored with one change of the header.
//!
//! Lock order: the list, then the locks of [`crate::meta`]. Writers take the list's lock for reading, without I/O.

mod load;
mod mend;
mod record;
mod store;
mod verbs;

use std::sync::atomic::{AtomicBool, AtomicUsize};

use diskimg_core::{ByteRange, DirtyBitmap};
use parking_lot::{Mutex, RwLock};

pub(crate) use record::Recording;

use crate::bitmap_directory::{AUTO, Bitmap, IN_USE};
use crate::image::Qcow2;
use crate::meta::FixedArea;
use crate::settings::Overlap;

/// A bitmap of an open image.
#[derive(Debug)]
struct Held {
    /// Its entry of the directory; as it is on the host, unless changes wait.
    stored: Bitmap,
    /// Its bits, if they are newer than those on the host: it is in use by this image.
    bits: Option<DirtyBitmap>,
    /// Bits that are to be on the host, if it is not in use: those there are damaged, or a change waits. They are stored
    /// with whatever is stored next.
    waiting: Option<DirtyBitmap>,
}

impl Held {
    const fn is_enabled(&self) -> bool {
        self.stored.flags & AUTO != 0
    }

    /// It was not closed cleanly, and its bits are not known.
    const fn is_inconsistent(&self) -> bool {
        self.stored.flags & IN_USE != 0 && self.bits.is_none()
    }

    /// It has bits that the host does not have.
    const fn is_newer(&self) -> bool {
        self.bits.is_some() || self.waiting.is_some()
    }
}

/// The bitmaps of an open image, in the order of their directory.
#[derive(Debug)]
pub(crate) struct BitmapSet {
    list: RwLock<Vec<Held>>,
    /// Every enabled bitmap that can be used has its bits in memory and is marked on the host.
    recording: AtomicBool,
    /// Writes that are running.
    running: AtomicUsize,
    /// A change of the header failed: it is not known which bitmaps the host has, and nothing is written any more.
    unsure: AtomicBool,
    /// Changes wait for the next store, and all are stored anew with them.
    deferring: AtomicBool,
    /// The directory on the host while changes wait.
    on_host: Mutex<Option<Vec<Bitmap>>>,
    /// Damaged bitmaps share clusters with something else: once they are stored anew, flags and counts are repaired.
    shares: AtomicBool,
}

impl BitmapSet {
    /// The bitmaps as the directory has them.
    pub(crate) fn new(stored: Vec<Bitmap>) -> Self {
        let list = stored.into_iter().map(|stored| Held { stored, bits: None, waiting: None }).collect();
        Self {
            list: RwLock::new(list),
            recording: AtomicBool::new(false),
            running: AtomicUsize::new(0),
            unsure: AtomicBool::new(false),
            deferring: AtomicBool::new(false),
            on_host: Mutex::new(None),
            shares: AtomicBool::new(false),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.read().is_empty()
    }

    /// Their entries of the directory as they are to be.
    pub(crate) fn entries(&self) -> Vec<Bitmap> {
        self.list.read().iter().map(|held| held.stored.clone()).collect()
    }

    /// Their entries of the directory as they are on the host.
    pub(crate) fn stored(&self) -> Vec<Bitmap> {
        let list = self.list.read();
        self.stored_of(&list)
    }

    fn stored_of(&self, list: &[Held]) -> Vec<Bitmap> {
        let on_host = self.on_host.lock().clone();
        on_host.unwrap_or_else(|| list.iter().map(|held| held.stored.clone()).collect())
    }

    /// Changes wait for the next store.
    fn is_waiting(&self) -> bool {
        self.on_host.lock().is_some()
    }
}

impl Qcow2 {
    /// Where the directory is on the host.
    fn directory_range(&self) -> Option<ByteRange> {
        let pointer = self.meta.header().extensions.bitmaps?;
        Some(ByteRange::new(pointer.directory_offset, pointer.directory_size))
    }

    /// Tells what writes of guest data must not hit.
    fn guard_directory(&self, range: Option<ByteRange>) {
        let kind = Overlap::BITMAP_DIRECTORY;
        let cluster = self.meta.geo.cluster_size();
        let area = range.filter(|range| !range.is_empty()).map(|range| FixedArea {
            range: range.align_outwards(cluster),
            kind,
            name: "bitmap directory",
        });
        self.meta.set_fixed_area(kind, area);
    }
}
