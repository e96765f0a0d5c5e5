//! [`Bitmaps`]: which sectors of a differencing image's blocks are in its file. A bitmap stands before each block, one bit
//! a sector, the most significant bit of a byte first.
//!
//! A lookup that misses loads the bitmap without a lock and is repeated; memory is bounded.

use std::sync::Arc;

use diskimg_core::mapped::TableWrite;
use diskimg_core::{BlockDevice, DirtySlice, Result, SliceCache, read_zero_padded, to_usize};
use parking_lot::{Mutex, RwLock};

/// Bytes of bitmaps that are kept; more only while they are dirty.
const KEPT: u64 = 4 << 20;

/// The bitmaps of an open image, by their host offsets.
#[derive(Debug)]
pub(crate) struct Bitmaps {
    storage: Arc<dyn BlockDevice>,
    /// Bytes of each.
    len: u64,
    slices: RwLock<SliceCache>,
    /// What the write-back that is under way has taken.
    taken: Mutex<Vec<DirtySlice>>,
}

/// The bit of a sector.
fn is_set(bitmap: &[u8], sector: u64) -> bool {
    bitmap.get(to_usize(sector / 8)).is_some_and(|byte| *byte >> (7 - sector % 8) & 1 != 0)
}

impl Bitmaps {
    pub(crate) fn new(storage: Arc<dyn BlockDevice>, len: u64) -> Self {
        let slices = SliceCache::new(to_usize(KEPT / len.max(1)).max(8));
        Self { storage, len, slices: RwLock::new(slices), taken: Mutex::default() }
    }

    /// Brings the bitmap at `host` in.
    pub(crate) fn load(&self, host: u64) -> Result<()> {
        loop {
            let generation = self.slices.read().generation();
            let mut bytes = vec![0; to_usize(self.len)];
            read_zero_padded(&*self.storage, host, &mut bytes)?;
            if self.slices.write().insert_current(host, bytes, generation) {
                return Ok(());
            }
        }
    }

    /// Whether sector `first` is in the file, and how many from it on (at most `most`) are of its kind.
    pub(crate) fn run(&self, host: u64, first: u64, most: u64) -> Result<(bool, u64)> {
        loop {
            if let Some(bitmap) = self.slices.read().get(host) {
                let here = is_set(bitmap, first);
                let same = (first..first + most).take_while(|sector| is_set(bitmap, *sector) == here);
                return Ok((here, same.count() as u64));
            }
            self.load(host)?;
        }
    }

    /// A bitmap that says of no sector that it is in the file.
    pub(crate) fn add(&self, host: u64) {
        self.slices.write().insert_new(host, vec![0; to_usize(self.len)]);
    }

    /// Says of sectors that they are in the file; false: the bitmap has to be loaded first.
    pub(crate) fn set(&self, host: u64, first: u64, count: u64) -> bool {
        let part = to_usize(first / 8)..to_usize((first + count).div_ceil(8));
        let mut slices = self.slices.write();
        let Some(bytes) = slices.get_mut(host, part) else { return false };
        for sector in first..first + count {
            if let Some(byte) = bytes.get_mut(to_usize(sector / 8 - first / 8)) {
                *byte |= 0x80 >> (sector % 8);
            }
        }
        true
    }

    pub(crate) fn wants_write_back(&self) -> bool {
        self.slices.read().wants_write_back()
    }

    /// What is dirty. It stays in memory until [`Self::written`] is called.
    pub(crate) fn take_dirty(&self) -> Vec<TableWrite> {
        let dirty = self.slices.write().take_dirty();
        let writes = dirty
            .iter()
            .map(|slice| TableWrite { offset: slice.offset, bytes: slice.data.to_vec() })
            .collect();
        *self.taken.lock() = dirty;
        writes
    }

    /// The writing of what was taken has ended; if badly, it is dirty again.
    pub(crate) fn written(&self, ok: bool) {
        let taken = std::mem::take(&mut *self.taken.lock());
        self.slices.write().written(&taken, ok);
    }
}

#[cfg(test)]
mod tests {
    use diskimg_core::MemDevice;

    use super::*;

    #[test]
    fn the_first_sector_is_the_highest_bit() {
        let memory = Arc::new(MemDevice::from(vec![0x40, 0x70, 0, 0xff]));
        let bitmaps = Bitmaps::new(memory, 4);
        let runs: Vec<_> =
            [0, 1, 2, 9, 12, 24].map(|first| bitmaps.run(0, first, 32 - first).unwrap()).into();
        assert_eq!(runs, [(false, 1), (true, 1), (false, 7), (true, 3), (false, 12), (true, 8)]);
        assert!(bitmaps.set(0, 2, 7));
        assert_eq!(bitmaps.run(0, 1, 31).unwrap(), (true, 11));
        assert_eq!(bitmaps.take_dirty()[0].bytes, [0x7f, 0xf0, 0, 0xff]);
        bitmaps.written(true);
        assert!(!bitmaps.set(8, 0, 1));
        bitmaps.add(8);
        assert!(bitmaps.set(8, 0, 1));
        assert_eq!(bitmaps.take_dirty()[0].bytes, [0x80, 0, 0, 0]);
    }
}
