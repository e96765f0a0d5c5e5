//! Recording: the mark on the host before the first write, and the bits after each write.

use std::sync::atomic::Ordering;

use diskimg_core::{ByteRange, Error, ErrorKind, Result, errno, inconsistent_bitmap};

use super::{BitmapSet, Held};
use crate::bitmap_directory::{AUTO, IN_USE, data_bytes_for, encode};
use crate::image::Qcow2;
use crate::limits::MAX_BITMAP_DATA_BYTES;
use crate::settings::Overlap;

/// Most bytes of disk in bits, over all bitmaps that record: their chunks' headers then take 1 GiB at most.
const MAX_RECORDED_BITS: u64 = 1 << 40;

/// A write that is running: when it ends, well or not, its range is marked in every bitmap that records.
///
/// Marking comes after the write, so that whoever takes the bits of a bitmap and then reads the disk misses nothing:
/// a write that the reader did not see yet is marked in what is left.
#[derive(Debug)]
pub(crate) struct Recording<'a> {
    set: &'a BitmapSet,
    range: ByteRange,
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        for held in self.set.list.read().iter().filter(|held| held.is_enabled()) {
            if let Some(bits) = &held.bits {
                bits.set(self.range);
            }
        }
        self.set.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl BitmapSet {
    /// Called before a write, and before [`Qcow2::begin_recording`].
    pub(crate) fn record(&self, range: ByteRange) -> Recording<'_> {
        self.running.fetch_add(1, Ordering::SeqCst);
        Recording { set: self, range }
    }

    /// Refuses to go on if it is not known which bitmaps the host has.
    pub(super) fn check_sure(&self) -> Result<()> {
        if self.unsure.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Poisoned, "storing the bitmaps failed").with_errno(errno::EIO));
        }
        Ok(())
    }
}

impl Qcow2 {
    /// Makes sure that every enabled bitmap records: the first time this reads and marks them, and is durable.
    pub(crate) fn begin_recording(&self) -> Result<()> {
        let set = &self.bitmaps;
        if set.recording.load(Ordering::SeqCst) {
            return Ok(());
        }
        let mut list = set.list.write();
        if set.recording.load(Ordering::SeqCst) {
            return Ok(());
        }
        set.check_sure()?;
        self.take_into_use(&mut list, |held| held.is_enabled())?;
        set.recording.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Loads the chosen bitmaps that can be used and marks them on the host.
    pub(super) fn take_into_use(&self, list: &mut Vec<Held>, chosen: impl Fn(&Held) -> bool) -> Result<()> {
        if self.bitmaps.is_waiting() {
            self.store_all(list)?;
        }
        let mut loaded = Vec::new();
        let mut total = 0u64;
        for held in list.iter() {
            let wanted = held.bits.is_none() && !held.is_inconsistent() && chosen(held);
            if wanted {
                total = total.saturating_add(self.disk_len() >> held.stored.granularity_bits);
                if total > MAX_RECORDED_BITS {
                    return Err(Error::limit("The image has too many bitmaps to record all of them"));
                }
            }
            loaded.push(if wanted { Some(self.bits_of(held)?) } else { None });
        }
        if loaded.iter().all(Option::is_none) {
            return Ok(());
        }
        let marked = list.iter().zip(&loaded).map(|(held, bits)| {
            let mut stored = held.stored.clone();
            stored.flags |= if bits.is_some() { IN_USE } else { 0 };
            stored
        });
        let marked: Vec<_> = marked.collect();
        self.mark(&encode(&marked))?;
        for ((held, stored), bits) in list.iter_mut().zip(marked).zip(loaded) {
            held.stored = stored;
            if bits.is_some() {
                (held.bits, held.waiting) = (bits, None);
            }
        }
        Ok(())
    }

    /// Writes the directory in place. Only flags differ, so that it may be torn anywhere.
    fn mark(&self, directory: &[u8]) -> Result<()> {
        let Some(place) = self.directory_range() else { return Ok(()) };
        if place.len != diskimg_core::len_u64(directory) {
            return Err(Error::corrupt("Broken bitmap directory"));
        }
        self.meta.write_area(place.start, directory, Overlap::BITMAP_DIRECTORY)?;
        self.meta.barrier()
    }

    /// Refuses a length that the bitmaps can't follow to.
    pub(crate) fn check_bitmaps_for(&self, len: u64) -> Result<()> {
        let list = self.bitmaps.list.read();
        if let Some(held) = list.iter().find(|held| held.is_inconsistent()) {
            return Err(inconsistent_bitmap(&held.stored.name));
        }
        let too_long =
            |held: &&Held| data_bytes_for(len, held.stored.granularity_bits) > MAX_BITMAP_DATA_BYTES;
        match list.iter().find(too_long) {
            Some(held) => {
                let text = "Too much space will be occupied by the bitmap. Use larger granularity";
                Err(Error::limit(text).context(format!("Bitmap '{}' can't be resized", held.stored.name)))
            }
            None => Ok(()),
        }
    }

    /// All bitmaps are in use from now on: their tables on the host are made for the old length.
    pub(crate) fn begin_resizing_bitmaps(&self) -> Result<()> {
        self.take_into_use(&mut self.bitmaps.list.write(), |_| true)
    }

    /// The disk has another length: what it gains is not marked.
    pub(crate) fn resize_bitmaps(&self, len: u64) -> Result<()> {
        let mut list = self.bitmaps.list.write();
        list.iter_mut().filter_map(|held| held.bits.as_mut()).try_for_each(|bits| bits.resize(len))
    }

    /// Stores changes that wait: what follows goes by what the host has.
    pub(crate) fn store_waiting_bitmaps(&self) -> Result<()> {
        let mut list = self.bitmaps.list.write();
        if self.bitmaps.is_waiting() { self.store_all(&mut list) } else { Ok(()) }
    }

    /// Stores all bitmaps when the image is closed; there is no one to tell of errors but the notices.
    pub(crate) fn close_bitmaps(&self) {
        let mut list = self.bitmaps.list.write();
        if self.bitmaps.check_sure().is_err() {
            return;
        }
        let recorded = list.iter().any(|held| held.bits.is_some());
        let stored = self.store_all(&mut list);
        drop(list);
        match stored {
            Ok(()) => self.settle_shared(),
            Err(error) => {
                let what = if recorded { "which are inconsistent now" } else { "which are as they were" };
                self.notices.warn(&format!("Failed to store the bitmaps, {what}: {}", error.joined()));
            }
        }
    }

    /// The same when somebody asks for it.
    pub(super) fn store_now(&self) -> Result<()> {
        let set = &self.bitmaps;
        let mut list = set.list.write();
        // A write that begins from here on waits for the list, and marks the bitmaps again.
        let was_recording = set.recording.swap(false, Ordering::SeqCst);
        let stored = if set.running.load(Ordering::SeqCst) > 0 {
            Err(Error::invalid("bitmaps can't be stored while writes are running"))
        } else {
            self.meta.check_usable().and_then(|()| self.store_all(&mut list))
        };
        if stored.is_err() && set.check_sure().is_ok() {
            set.recording.store(was_recording, Ordering::SeqCst);
        }
        drop(list);
        if stored.is_ok() {
            self.settle_shared();
        }
        stored
    }
}

/// The flags of a bitmap that records (`in_use`) or rests.
pub(super) const fn flags(enabled: bool, in_use: bool) -> u32 {
    (if enabled { AUTO } else { 0 }) | (if in_use { IN_USE } else { 0 })
}
