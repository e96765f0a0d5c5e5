//! [`SectorBitmaps`]: which sectors of a differencing disk's blocks are in its file (MS-VHDX 2.5.1.2). A bitmap takes 1 MiB
//! for a chunk, one bit a sector, the least significant bit of a byte first.
//!
//! They are read in slices of a log sector, when they are wanted; memory is bounded.

use std::sync::Arc;

use diskimg_core::mapped::TableSlices;
use diskimg_core::{BlockDevice, Result, to_usize};

use crate::limits::LOG_SECTOR;

/// Sectors that a slice speaks of.
const SLICE_BITS: u64 = LOG_SECTOR * 8;
/// Slices that are kept; more only while they are dirty.
const KEPT: usize = 1024;

/// Sectors of one chunk: file offset of its bitmap, number of the first one in the chunk, how many.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sectors {
    pub bitmap: u64,
    pub first: u64,
    pub count: u64,
}

impl Sectors {
    /// Those in the slice of the first one: the slice's offset, the first bit in it, how many.
    fn head(&self) -> (u64, u64, u64) {
        let within = self.first % SLICE_BITS;
        let offset = self.bitmap.saturating_add(self.first / SLICE_BITS * LOG_SECTOR);
        (offset, within, self.count.min(SLICE_BITS - within))
    }

    fn skip(self, count: u64) -> Self {
        Self { first: self.first + count, count: self.count - count, ..self }
    }
}

/// Bits of `slice` from `first` on that are as the first one, `most` at most.
fn run(slice: &[u8], first: u64, most: u64) -> (bool, u64) {
    let byte = |bit: u64| slice.get(to_usize(bit / 8)).copied().unwrap_or(0);
    let is_set = |bit: u64| byte(bit) >> (bit % 8) & 1 != 0;
    let kind = is_set(first);
    let whole = if kind { 0xff } else { 0 };
    let (mut at, end) = (first, first + most);
    while at < end {
        if at.is_multiple_of(8) && byte(at) == whole {
            at = (at + 8).min(end);
        } else if is_set(at) == kind {
            at += 1;
        } else {
            break;
        }
    }
    (kind, at - first)
}

/// Sets or clears bits.
fn fill(slice: &mut [u8], first: u64, count: u64, value: bool) {
    let mut at = first;
    while at < first + count {
        let Some(byte) = slice.get_mut(to_usize(at / 8)) else { return };
        if at.is_multiple_of(8) && first + count - at >= 8 {
            *byte = if value { 0xff } else { 0 };
            at += 8;
            continue;
        }
        let bit = 1 << (at % 8);
        *byte = if value { *byte | bit } else { *byte & !bit };
        at += 1;
    }
}

/// The sector bitmaps of an open image.
#[derive(Debug)]
pub(crate) struct SectorBitmaps {
    /// What its holder writes back.
    pub slices: TableSlices,
}

impl SectorBitmaps {
    pub(crate) fn new(storage: Arc<dyn BlockDevice>) -> Self {
        Self { slices: TableSlices::new(storage, KEPT) }
    }

    /// Whether the first one is in the file, and how many from it on are of its kind.
    pub(crate) fn run(&self, sectors: Sectors) -> Result<(bool, u64)> {
        let mut total: Option<(bool, u64)> = None;
        let mut rest = sectors;
        while rest.count > 0 {
            let (offset, first, most) = rest.head();
            let (kind, count) = self.slices.look(offset, LOG_SECTOR, |slice| run(slice, first, most))?;
            match &mut total {
                None => total = Some((kind, count)),
                Some((known, sum)) if *known == kind => *sum += count,
                Some(_) => break,
            }
            if count < most {
                break;
            }
            rest = rest.skip(count);
        }
        Ok(total.unwrap_or((false, sectors.count)))
    }

    /// Says of all of them that they are in the file, or are not.
    pub(crate) fn set(&self, sectors: Sectors, value: bool) -> Result<()> {
        let mut rest = sectors;
        while rest.count > 0 {
            let (offset, first, count) = rest.head();
            let same = self.slices.look(offset, LOG_SECTOR, |slice| run(slice, first, count))?;
            if same != (value, count) {
                let all = 0..to_usize(LOG_SECTOR);
                self.slices.change(offset, LOG_SECTOR, all, |slice| fill(slice, first, count, value))?;
            }
            rest = rest.skip(count);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use diskimg_core::MemDevice;

    use super::*;

    #[test]
    fn bits_are_as_a_flat_model_has_them() {
        let memory = Arc::new(MemDevice::new(2 << 20));
        let bitmaps = SectorBitmaps::new(memory);
        let mut model = vec![false; 200_000];
        let mut state = 7_u64;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        for round in 0..400 {
            let first = next(200_000);
            let count = (1 + next(if round % 9 == 0 { 70_000 } else { 100 })).min(200_000 - first);
            let sectors = Sectors { bitmap: 1 << 20, first, count };
            if round % 3 == 0 {
                let kind = model[to_usize(first)];
                let same = model[to_usize(first)..to_usize(first + count)]
                    .iter()
                    .take_while(|bit| **bit == kind)
                    .count() as u64;
                assert_eq!(bitmaps.run(sectors).unwrap(), (kind, same), "{sectors:?}");
            } else {
                let value = round % 2 == 0;
                bitmaps.set(sectors, value).unwrap();
                model[to_usize(first)..to_usize(first + count)].fill(value);
            }
        }
        assert!(!bitmaps.slices.take_dirty().is_empty());
        bitmaps.slices.written(false);
        assert!(!bitmaps.slices.take_dirty().is_empty());
        bitmaps.slices.written(true);
        assert!(bitmaps.slices.take_dirty().is_empty());
    }
}
