//! [`TableSlices`]: parts of tables in a file, loaded when they are wanted, changed in memory and written back in cuts.
//! Memory is bounded.
//!
//! A lookup that misses loads the slice without a lock and is repeated: there is no I/O under the lock. One write-back
//! is under way at a time, from taking what is dirty to [`TableSlices::written`]; its caller sees to that.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::TableWrite;
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::range::to_usize;
use crate::read::read_zero_padded;
use crate::slice_cache::{DirtySlice, SliceCache};

/// Slices of one kind of table, by host offset.
#[derive(Debug)]
pub struct TableSlices {
    io: Arc<dyn BlockDevice>,
    slices: RwLock<SliceCache>,
    /// What the write-back that is under way has taken.
    taken: Mutex<Vec<DirtySlice>>,
}

pub(super) fn bad_place() -> Error {
    Error::corrupt("a table lies outside of all files").with_errno(crate::error::errno::EIO)
}

impl TableSlices {
    /// Slices in `io`, of which about `capacity` are kept; more only while they are dirty. Nothing is read.
    #[must_use]
    pub fn new(io: Arc<dyn BlockDevice>, capacity: usize) -> Self {
        Self { io, slices: RwLock::new(SliceCache::new(capacity)), taken: Mutex::default() }
    }

    /// Brings in the slice of `len` bytes at host offset `offset`. Behind the end of the file are zeros.
    ///
    /// # Errors
    /// The storage's.
    pub fn load(&self, offset: u64, len: u64) -> Result<()> {
        loop {
            let generation = self.slices.read().generation();
            let mut bytes = vec![0; to_usize(len)];
            read_zero_padded(&*self.io, offset, &mut bytes)?;
            if self.slices.write().insert_current(offset, bytes, generation) {
                return Ok(());
            }
        }
    }

    /// What `look` says of the slice of `len` bytes at host offset `offset`.
    ///
    /// # Errors
    /// The storage's.
    pub fn look<T>(&self, offset: u64, len: u64, mut look: impl FnMut(&[u8]) -> T) -> Result<T> {
        loop {
            if let Some(slice) = self.slices.read().get(offset) {
                return Ok(look(slice));
            }
            self.load(offset, len)?;
        }
    }

    /// Lets `change` change the bytes `part` of the slice of `len` bytes at host offset `offset`, in memory.
    ///
    /// # Errors
    /// The storage's; `Corrupt` if the slice does not have these bytes.
    pub fn change(
        &self,
        offset: u64,
        len: u64,
        part: Range<usize>,
        change: impl FnOnce(&mut [u8]),
    ) -> Result<()> {
        loop {
            let mut slices = self.slices.write();
            if let Some(bytes) = slices.get_mut(offset, part.clone()) {
                change(bytes);
                return Ok(());
            }
            if slices.contains(offset) {
                return Err(bad_place());
            }
            drop(slices);
            self.load(offset, len)?;
        }
    }

    /// The same for callers who hold a lock of their own. False: the slice has to be loaded first.
    pub fn try_change(&self, offset: u64, part: Range<usize>, change: impl FnOnce(&mut [u8])) -> bool {
        self.slices.write().get_mut(offset, part).map(change).is_some()
    }

    /// Puts in a new slice that the file does not have yet.
    pub fn add(&self, offset: u64, bytes: Vec<u8>) {
        self.slices.write().insert_new(offset, bytes);
    }

    /// True if the slice at host offset `offset` is in memory.
    #[must_use]
    pub fn contains(&self, offset: u64) -> bool {
        self.slices.read().contains(offset)
    }

    /// True if so much is dirty that a write-back is due.
    #[must_use]
    pub fn wants_write_back(&self) -> bool {
        self.slices.read().wants_write_back()
    }

    fn take(&self, write: impl FnMut(&DirtySlice)) {
        let dirty = self.slices.write().take_dirty();
        dirty.iter().for_each(write);
        *self.taken.lock() = dirty;
    }

    /// The slices that are dirty, whole. They stay in memory until [`Self::written`] is called.
    #[must_use]
    pub fn take_dirty(&self) -> Vec<TableWrite> {
        let mut writes = Vec::new();
        self.take(|slice| writes.push(TableWrite { offset: slice.offset, bytes: slice.data.to_vec() }));
        writes
    }

    /// The bytes that are dirty, neighbours in one. They stay in memory until [`Self::written`] is called.
    #[must_use]
    pub fn take_dirty_parts(&self) -> Vec<TableWrite> {
        let mut writes: Vec<TableWrite> = Vec::new();
        self.take(|slice| {
            let offset = slice.offset.saturating_add(slice.part.start as u64);
            let bytes = slice.data.get(slice.part.clone()).unwrap_or_default();
            match writes.last_mut() {
                Some(last) if last.offset + last.bytes.len() as u64 == offset => {
                    last.bytes.extend_from_slice(bytes);
                }
                _ => writes.push(TableWrite { offset, bytes: bytes.to_vec() }),
            }
        });
        writes
    }

    /// The writing of what was taken has ended; if badly, it is dirty again.
    pub fn written(&self, ok: bool) {
        let taken = std::mem::take(&mut *self.taken.lock());
        self.slices.write().written(&taken, ok);
    }

    /// Forgets everything: the host was changed. Nothing may be dirty.
    pub fn clear(&self) {
        self.slices.write().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::MemDevice;

    fn slices() -> TableSlices {
        TableSlices::new(Arc::new(MemDevice::from((0..20).collect::<Vec<u8>>())), 2)
    }

    fn write(offset: u64, bytes: &[u8]) -> TableWrite {
        TableWrite { offset, bytes: bytes.to_vec() }
    }

    #[test]
    fn a_slice_is_loaded_when_it_is_wanted() {
        let slices = slices();
        assert!(!slices.contains(8));
        assert_eq!(slices.look(8, 4, <[u8]>::to_vec).unwrap(), [8, 9, 10, 11]);
        assert!(slices.contains(8));
        assert_eq!(slices.look(18, 4, <[u8]>::to_vec).unwrap(), [18, 19, 0, 0], "zeros behind the end");
        assert!(!slices.try_change(0, 0..1, |_| panic!("not called")));
        slices.load(0, 4).unwrap();
        assert!(slices.try_change(0, 0..1, |bytes| bytes.fill(1)));
        assert!(slices.change(0, 4, 3..5, |_| panic!("not called")).is_err(), "more than the slice has");
    }

    #[test]
    fn what_is_dirty_is_taken_whole_or_in_parts() {
        let slices = slices();
        slices.change(0, 4, 2..4, |bytes| bytes.fill(50)).unwrap();
        slices.change(4, 4, 0..1, |bytes| bytes.fill(60)).unwrap();
        slices.add(100, vec![7; 2]);
        assert!(slices.wants_write_back());
        let parts = slices.take_dirty_parts();
        assert_eq!(parts, [write(2, &[50, 50, 60]), write(100, &[7, 7])]);
        slices.written(false);
        let whole = slices.take_dirty();
        assert_eq!(whole, [write(0, &[0, 1, 50, 50]), write(4, &[60, 5, 6, 7]), write(100, &[7, 7])]);
        slices.written(true);
        assert!(slices.take_dirty().is_empty() && !slices.wants_write_back());
        slices.written(true);
        slices.clear();
        assert_eq!(slices.look(0, 4, <[u8]>::to_vec).unwrap(), [0, 1, 2, 3]);
    }
}
