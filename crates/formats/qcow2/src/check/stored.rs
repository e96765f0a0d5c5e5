//! The refcounts as the image has them: refcount blocks read in parallel into a compact array.

use parking_lot::Mutex;

use diskimg_core::{BlockDevice, Result, Task, errno, to_usize};

use super::counts::{BLOCK, Counts};
use super::layout::{Layout, is_readable, read};
use super::patch::Patcher;
use super::pool;
use crate::entry::REFTABLE_RESERVED;
use crate::meta::refcounts::write_packed;

/// Where the refcounts of a block are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefblockPlace {
    /// Nowhere: they are 0.
    Nowhere,
    /// At this host offset in bytes.
    At(u64),
    /// At an offset that no cluster starts at.
    Unaligned(u64),
    /// At an offset that no file has.
    Unreachable,
}

/// The place that a refcount table entry names.
pub(super) fn place_of(layout: &Layout, entry: u64) -> RefblockPlace {
    match entry & !REFTABLE_RESERVED {
        0 => RefblockPlace::Nowhere,
        offset if !layout.geo.is_aligned(offset) => RefblockPlace::Unaligned(offset),
        offset if !is_readable(offset, layout.geo.cluster_size()) => RefblockPlace::Unreachable,
        offset => RefblockPlace::At(offset),
    }
}

/// All refcounts of the host file.
pub(super) struct Stored<'a> {
    storage: &'a dyn BlockDevice,
    layout: Layout,
    reftable: &'a [u64],
    counts: Counts,
    /// Some refcounts can't be read.
    damaged: bool,
}

impl<'a> Stored<'a> {
    /// Reads all of them.
    ///
    /// # Errors
    /// The storage's; `Cancelled`.
    pub(super) fn load(
        storage: &'a dyn BlockDevice,
        layout: &Layout,
        reftable: &'a [u64],
        task: &Task<'_>,
    ) -> Result<Self> {
        let per_block = layout.geo.refblock_entries();
        let needed = to_usize(layout.countable().div_ceil(per_block));
        let relevant = reftable.get(..needed).unwrap_or(reftable);
        let usable =
            |entry: &u64| matches!(place_of(layout, *entry), RefblockPlace::At(_) | RefblockPlace::Nowhere);
        let damaged = !relevant.iter().all(usable);
        let counts = Mutex::new(Counts::new(layout.countable()));
        let group = to_usize((BLOCK / per_block).max(1));
        let groups: Vec<&[u64]> = relevant.chunks(group).collect();
        let used = relevant.iter().filter(|entry| **entry != 0).count();
        let bytes = layout.geo.cluster_size().saturating_mul(u64::try_from(used).unwrap_or(u64::MAX));
        pool::run(groups.len(), bytes, task, |claims| {
            let mut reader =
                Reader { storage, layout, buf: Vec::new(), small: Vec::new(), large: Vec::new() };
            while let Some(unit) = claims.next()? {
                let entries = groups.get(unit).copied().unwrap_or_default();
                let index = u64::try_from(unit * group).unwrap_or(u64::MAX);
                for (index, entry) in (index..).zip(entries) {
                    if let RefblockPlace::At(offset) = place_of(layout, *entry) {
                        reader.load(offset, index.saturating_mul(per_block), &counts)?;
                    }
                }
            }
            Ok(())
        })?;
        Ok(Self { storage, layout: *layout, reftable, counts: counts.into_inner(), damaged })
    }

    /// What holds the image.
    pub(super) const fn storage(&self) -> &'a dyn BlockDevice {
        self.storage
    }

    /// The refcounts of the host file's clusters, without those that can't be read.
    pub(super) const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The refcount blocks within the file that can't be read, ascending.
    pub(super) fn damaged_refblocks(&self) -> impl Iterator<Item = u64> + '_ {
        let blocks = (0u64..).zip(self.reftable).take(if self.damaged { usize::MAX } else { 0 });
        blocks
            .filter(|(_, entry)| {
                let place = place_of(&self.layout, **entry);
                matches!(place, RefblockPlace::Unaligned(_) | RefblockPlace::Unreachable)
            })
            .map(|(index, _)| index)
    }

    /// The place of the refcount of `cluster`, with the index of its block.
    pub(super) fn place(&self, cluster: u64) -> (u64, RefblockPlace) {
        let index = cluster / self.layout.geo.refblock_entries();
        let entry = self.reftable.get(to_usize(index)).copied().unwrap_or_default();
        (index, place_of(&self.layout, entry))
    }

    /// The refcount of any cluster, or the error number of its failed reading.
    pub(super) fn get(&self, cluster: u64) -> Result<u64, i32> {
        match self.place(cluster).1 {
            RefblockPlace::Nowhere => Ok(0),
            RefblockPlace::Unaligned(_) | RefblockPlace::Unreachable => Err(errno::EIO),
            RefblockPlace::At(_) if cluster < self.counts.clusters() => Ok(self.counts.get(cluster)),
            RefblockPlace::At(offset) => self.read_one(offset, cluster).map_err(|error| error.errno()),
        }
    }

    /// Sets the refcount of `cluster` here and, by `patcher`, on the host. False: there is no block for it.
    ///
    /// # Errors
    /// The storage's.
    pub(super) fn set(&mut self, cluster: u64, count: u64, patcher: &mut Patcher<'_>) -> Result<bool> {
        let RefblockPlace::At(block) = self.place(cluster).1 else { return Ok(false) };
        let order = self.layout.geo.refcount_order;
        let bit = (cluster % self.layout.geo.refblock_entries()) << order;
        let bytes = patcher.bytes(block + bit / 8, ((1u64 << order) / 8).max(1))?;
        write_packed(bytes, order, to_usize((bit % 8) >> order), count);
        self.counts.set(cluster, count);
        Ok(true)
    }

    /// True if it is certain that the refcounts of all these clusters are 1 (`one`), or of none (not `one`).
    pub(super) fn all_are(&self, first: u64, len: u64, one: bool) -> bool {
        !self.damaged && self.counts.all_are(first, len, one)
    }

    fn read_one(&self, refblock: u64, cluster: u64) -> Result<u64> {
        let order = self.layout.geo.refcount_order;
        let bit = (cluster % self.layout.geo.refblock_entries()) << order;
        let width = to_usize(((1u64 << order) / 8).max(1));
        let mut bytes = [0; 8];
        if let Some(place) = bytes.get_mut(8 - width..) {
            read(self.storage, refblock + bit / 8, place)?;
        }
        let value = u64::from_be_bytes(bytes);
        Ok(if order < 3 { value >> (bit % 8) & self.layout.geo.max_refcount() } else { value })
    }
}

/// A worker's buffers.
struct Reader<'a> {
    storage: &'a dyn BlockDevice,
    layout: &'a Layout,
    buf: Vec<u8>,
    small: Vec<u8>,
    large: Vec<(u64, u64)>,
}

impl Reader<'_> {
    /// Reads the block at `offset`, whose first refcount is that of cluster `first`, as far as the file has clusters.
    fn load(&mut self, offset: u64, first: u64, counts: &Mutex<Counts>) -> Result<()> {
        let geo = &self.layout.geo;
        let order = geo.refcount_order;
        let wanted = geo.refblock_entries().min(self.layout.countable().saturating_sub(first));
        let step = BLOCK.min(geo.refblock_entries());
        self.buf.resize(to_usize((wanted << order).div_ceil(8)), 0);
        read(self.storage, offset, &mut self.buf)?;
        let buf = std::mem::take(&mut self.buf);
        for (at, bytes) in (0..).step_by(to_usize(step)).zip(buf.chunks(to_usize((step << order) / 8))) {
            let first = first + at;
            if diskimg_core::is_zero(bytes) {
                continue;
            }
            self.large.clear();
            decode(bytes, order, first, &mut self.small, &mut self.large);
            let mut counts = counts.lock();
            counts.set_small(first, &self.small);
            self.large.iter().for_each(|(cluster, count)| counts.set(*cluster, *count));
        }
        self.buf = buf;
        Ok(())
    }
}

/// Decodes refcounts of `1 << order` bits: those below 255 into `small`, the others with their clusters into `large`.
fn decode(bytes: &[u8], order: u32, first: u64, small: &mut Vec<u8>, large: &mut Vec<(u64, u64)>) {
    small.clear();
    match order {
        0..3 => {
            let width = 1u32 << order;
            let mask = u8::MAX >> (8 - width);
            let shifts = (0..8).step_by(to_usize(width.into()));
            small.extend(bytes.iter().flat_map(|byte| shifts.clone().map(move |shift| byte >> shift & mask)));
        }
        3 => {
            small.extend_from_slice(bytes);
            take_large(small, first, large, bytes.iter().map(|byte| u64::from(*byte)));
        }
        4 => decode_wide::<2>(bytes, first, small, large, |entry| u16::from_be_bytes(entry).into()),
        5 => decode_wide::<4>(bytes, first, small, large, |entry| u32::from_be_bytes(entry).into()),
        _ => decode_wide::<8>(bytes, first, small, large, u64::from_be_bytes),
    }
}

fn decode_wide<const N: usize>(
    bytes: &[u8],
    first: u64,
    small: &mut Vec<u8>,
    large: &mut Vec<(u64, u64)>,
    value: impl Fn([u8; N]) -> u64 + Copy,
) {
    let (entries, _) = bytes.as_chunks::<N>();
    small.resize(entries.len(), 0);
    let mut all = 0;
    for (place, entry) in small.iter_mut().zip(entries) {
        let value = value(*entry);
        all |= value;
        // Larger ones are taken out below.
        *place = u8::try_from(value & 0xff).unwrap_or(0);
    }
    if all >= u8::MAX.into() {
        take_large(small, first, large, entries.iter().map(|entry| value(*entry)));
    }
}

/// Moves values of 255 and more to `large`.
fn take_large(small: &mut [u8], first: u64, large: &mut Vec<(u64, u64)>, values: impl Iterator<Item = u64>) {
    for ((cluster, place), value) in (first..).zip(small).zip(values) {
        if value >= u8::MAX.into() {
            *place = 0;
            large.push((cluster, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(bytes: &[u8], order: u32) -> (Vec<u8>, Vec<(u64, u64)>) {
        let (mut small, mut large) = (Vec::new(), Vec::new());
        decode(bytes, order, 100, &mut small, &mut large);
        (small, large)
    }

    #[test]
    fn every_width_decodes() {
        assert_eq!(decoded(&[0b1000_0001], 0).0, [1, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(decoded(&[0b1110_0100], 1).0, [0, 1, 2, 3]);
        assert_eq!(decoded(&[0x21, 0x43], 2).0, [1, 2, 3, 4]);
        assert_eq!(decoded(&[7, 255], 3), (vec![7, 0], vec![(101, 255)]));
        assert_eq!(decoded(&[0, 9, 1, 0], 4), (vec![9, 0], vec![(101, 256)]));
        assert_eq!(decoded(&[0, 0, 0, 9, 0, 0, 0, 254], 5), (vec![9, 254], vec![]));
        assert_eq!(decoded(&u64::MAX.to_be_bytes(), 6), (vec![0], vec![(100, u64::MAX)]));
    }
}
