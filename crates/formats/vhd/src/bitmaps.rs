//! [`Bitmaps`]: which sectors of a differencing image's blocks are in its file. A bitmap stands before each block, one bit
//! a sector, the most significant bit of a byte first.
//!
//! Each is loaded when it is wanted; memory is bounded.

use std::sync::Arc;

use diskimg_core::mapped::TableSlices;
use diskimg_core::{BlockDevice, Result, to_usize};

/// Bytes of bitmaps that are kept; more only while they are dirty.
const KEPT: u64 = 4 << 20;

/// The bitmaps of an open image, by their host offsets.
#[derive(Debug)]
pub(crate) struct Bitmaps {
    /// Bytes of each.
    len: u64,
    /// What its holder writes back.
    pub slices: TableSlices,
}

/// The bit of a sector.
fn is_set(bitmap: &[u8], sector: u64) -> bool {
    bitmap.get(to_usize(sector / 8)).is_some_and(|byte| *byte >> (7 - sector % 8) & 1 != 0)
}

impl Bitmaps {
    pub(crate) fn new(storage: Arc<dyn BlockDevice>, len: u64) -> Self {
        Self { len, slices: TableSlices::new(storage, to_usize(KEPT / len.max(1)).max(8)) }
    }

    /// Brings the bitmap at `host` in.
    pub(crate) fn load(&self, host: u64) -> Result<()> {
        self.slices.load(host, self.len)
    }

    /// Whether sector `first` is in the file, and how many from it on (at most `most`) are of its kind.
    pub(crate) fn run(&self, host: u64, first: u64, most: u64) -> Result<(bool, u64)> {
        self.slices.look(host, self.len, |bitmap| {
            let here = is_set(bitmap, first);
            let same = (first..first + most).take_while(|sector| is_set(bitmap, *sector) == here);
            (here, same.count() as u64)
        })
    }

    /// A bitmap that says of no sector that it is in the file.
    pub(crate) fn add(&self, host: u64) {
        self.slices.add(host, vec![0; to_usize(self.len)]);
    }

    /// Says of sectors that they are in the file; false: the bitmap has to be loaded first.
    pub(crate) fn set(&self, host: u64, first: u64, count: u64) -> bool {
        let part = to_usize(first / 8)..to_usize((first + count).div_ceil(8));
        self.slices.try_change(host, part, |bytes| {
            for sector in first..first + count {
                if let Some(byte) = bytes.get_mut(to_usize(sector / 8 - first / 8)) {
                    *byte |= 0x80 >> (sector % 8);
                }
            }
        })
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
        assert_eq!(bitmaps.slices.take_dirty()[0].bytes, [0x7f, 0xf0, 0, 0xff]);
        bitmaps.slices.written(true);
        assert!(!bitmaps.set(8, 0, 1));
        bitmaps.add(8);
        assert!(bitmaps.set(8, 0, 1));
        assert_eq!(bitmaps.slices.take_dirty()[0].bytes, [0x80, 0, 0, 0]);
    }
}
