//! A number for each host cluster, kept compactly: a byte each in blocks that exist only where a number is not 0,
//! and the few numbers that need more in a map beside them.
//!
//! The memory is at most one byte per cluster of the host file (plus 16 to 32 bytes for each number of 255 and more),
//! and a page for each scattered cluster of a sparse file.

use std::collections::{BTreeMap, HashMap};

use diskimg_core::{is_zero, to_usize};

/// Clusters of a block.
pub(super) const BLOCK: u64 = 4096;
const BLOCK_LEN: usize = 4096;
/// Says that the number is in the map.
const MANY: u8 = u8::MAX;
/// Up to this many clusters the blocks are found by index; a longer (sparse) file has them in a tree.
const FLAT_LIMIT: u64 = 1 << 32;

type Block = Box<[u8; BLOCK_LEN]>;

#[derive(Debug)]
enum Blocks {
    Flat(Vec<Option<Block>>),
    Tree(BTreeMap<u64, Block>),
}

/// One number per cluster.
#[derive(Debug)]
pub(super) struct Counts {
    blocks: Blocks,
    many: HashMap<u64, u64>,
    clusters: u64,
}

impl Counts {
    /// Zeros for `clusters` clusters.
    pub(super) fn new(clusters: u64) -> Self {
        let blocks = if clusters <= FLAT_LIMIT {
            Blocks::Flat(std::iter::repeat_with(|| None).take(to_usize(clusters.div_ceil(BLOCK))).collect())
        } else {
            Blocks::Tree(BTreeMap::new())
        };
        Self { blocks, many: HashMap::new(), clusters }
    }

    /// Clusters that can be counted: those below.
    pub(super) const fn clusters(&self) -> u64 {
        self.clusters
    }

    /// The bytes of block `index`; `None`: all zeros. A byte of 255 says that [`Counts::get`] knows better.
    pub(super) fn block(&self, index: u64) -> Option<&[u8; BLOCK_LEN]> {
        match &self.blocks {
            Blocks::Flat(blocks) => blocks.get(to_usize(index))?.as_deref(),
            Blocks::Tree(blocks) => blocks.get(&index).map(|block| &**block),
        }
    }

    fn block_mut(&mut self, index: u64) -> Option<&mut [u8; BLOCK_LEN]> {
        let new = || Box::new([0; BLOCK_LEN]);
        match &mut self.blocks {
            Blocks::Flat(blocks) => Some(&mut **blocks.get_mut(to_usize(index))?.get_or_insert_with(new)),
            Blocks::Tree(blocks) => Some(&mut **blocks.entry(index).or_insert_with(new)),
        }
    }

    /// Indices of the blocks that may hold something, ascending.
    pub(super) fn used_blocks(&self) -> Vec<u64> {
        match &self.blocks {
            Blocks::Flat(blocks) => {
                (0u64..).zip(blocks).filter(|(_, block)| block.is_some()).map(|(index, _)| index).collect()
            }
            Blocks::Tree(blocks) => blocks.keys().copied().collect(),
        }
    }

    /// The number of `cluster`; 0 behind the last one.
    pub(super) fn get(&self, cluster: u64) -> u64 {
        let byte = self.block(cluster / BLOCK).and_then(|block| block.get(to_usize(cluster % BLOCK)));
        match byte {
            None => 0,
            Some(&MANY) => self.many.get(&cluster).copied().unwrap_or_default(),
            Some(&byte) => byte.into(),
        }
    }

    /// The clusters with a number above `most`, in no order.
    pub(super) fn above(&self, most: u64) -> Vec<u64> {
        let Some(most_byte) = u8::try_from(most).ok().filter(|most| *most != MANY) else {
            let large = self.many.iter().filter(|(_, count)| **count > most);
            return large.map(|(cluster, _)| *cluster).collect();
        };
        let mut found = Vec::new();
        for index in self.used_blocks() {
            let bytes = self.block(index).into_iter().flatten();
            let above = (index * BLOCK..).zip(bytes).filter(|(_, byte)| **byte > most_byte);
            found.extend(above.map(|(cluster, _)| cluster));
        }
        found
    }

    /// Adds `weight` to each of `len` clusters from `first` on; those behind the last one are left out.
    pub(super) fn add(&mut self, first: u64, len: u64, weight: u64) {
        if len == 1 && self.add_one(first, weight) {
            return;
        }
        let end = first.saturating_add(len).min(self.clusters);
        let mut at = first;
        while at < end {
            let stop = end.min((at / BLOCK + 1) * BLOCK);
            self.add_within_block(at, stop, weight);
            at = stop;
        }
    }

    /// The usual case of scattered clusters. False: it is not as simple.
    fn add_one(&mut self, cluster: u64, weight: u64) -> bool {
        let Ok(step) = u8::try_from(weight) else { return false };
        if cluster >= self.clusters {
            return true;
        }
        let block = self.block_mut(cluster / BLOCK);
        let Some(byte) = block.and_then(|block| block.get_mut(to_usize(cluster % BLOCK))) else {
            return true;
        };
        let sum = byte.saturating_add(step);
        if sum < MANY {
            *byte = sum;
        }
        sum < MANY
    }

    fn add_within_block(&mut self, first: u64, end: u64, weight: u64) {
        let range = to_usize(first % BLOCK)..to_usize(first % BLOCK + (end - first));
        let Some(bytes) = self.block_mut(first / BLOCK).and_then(|block| block.get_mut(range)) else {
            return;
        };
        let highest = bytes.iter().fold(0, |highest: u8, byte| highest.max(*byte));
        if let Some(step) = u8::try_from(weight).ok().filter(|step| step.saturating_add(highest) < MANY) {
            bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_add(step));
            return;
        }
        for cluster in first..end {
            let count = self.get(cluster).saturating_add(weight);
            self.set(cluster, count);
        }
    }

    /// Sets the number of `cluster`.
    pub(super) fn set(&mut self, cluster: u64, count: u64) {
        if cluster >= self.clusters {
            return;
        }
        let byte = u8::try_from(count).unwrap_or(MANY);
        if byte == MANY {
            self.many.insert(cluster, count);
        }
        if let Some(place) =
            self.block_mut(cluster / BLOCK).and_then(|b| b.get_mut(to_usize(cluster % BLOCK)))
        {
            *place = byte;
        }
    }

    /// Sets the numbers from `first` on, all within a block and none of them 255.
    pub(super) fn set_small(&mut self, first: u64, values: &[u8]) {
        let values = values.get(..to_usize(self.clusters.saturating_sub(first))).unwrap_or(values);
        if is_zero(values) {
            return;
        }
        let start = to_usize(first % BLOCK);
        let place =
            self.block_mut(first / BLOCK).and_then(|block| block.get_mut(start..start + values.len()));
        if let Some(place) = place {
            place.copy_from_slice(values);
        }
    }

    /// True if the number of each cluster is 1 (`one`) or of none is (not `one`).
    pub(super) fn all_are(&self, first: u64, len: u64, one: bool) -> bool {
        let end = first.saturating_add(len);
        if end > self.clusters {
            return false;
        }
        if len == 1 {
            let block = self.block(first / BLOCK);
            let byte = block.and_then(|block| block.get(to_usize(first % BLOCK)));
            return (byte == Some(&1)) == one;
        }
        let mut at = first;
        while at < end {
            let stop = end.min((at / BLOCK + 1) * BLOCK);
            let range = to_usize(at % BLOCK)..to_usize(at % BLOCK + (stop - at));
            let fits = match self.block(at / BLOCK).and_then(|block| block.get(range)) {
                None => !one,
                Some(bytes) if one => bytes.iter().fold(0, |all, byte| all | (byte ^ 1)) == 0,
                Some(bytes) => !bytes.contains(&1),
            };
            if !fits {
                return false;
            }
            at = stop;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_numbers_add_up_across_blocks() {
        for clusters in [20_000, FLAT_LIMIT + 20_000] {
            let base = clusters - 20_000;
            let mut counts = Counts::new(clusters);
            counts.add(base + 4000, 9000, 1);
            counts.add(base + 4095, 2, 253);
            counts.add(base + 4095, 1, 1);
            counts.add(base + 4096, 1, 1000);
            assert_eq!(counts.get(base + 3999), 0);
            assert_eq!((counts.get(base + 4000), counts.get(base + 4095)), (1, 255));
            assert_eq!((counts.get(base + 4096), counts.get(base + 4097)), (1254, 1));
            assert_eq!((counts.get(base + 12_999), counts.get(base + 13_000)), (1, 0));
            assert!(counts.all_are(base + 4097, 8000, true));
            assert!(!counts.all_are(base + 4096, 2, true));
            assert!(counts.all_are(base, 4000, false) && !counts.all_are(base, 4001, false));
            assert!(!counts.all_are(base + 19_999, 2, false), "behind the end nothing is known");
            assert_eq!(counts.above(255), [base + 4096]);
            assert_eq!(counts.above(1), [base + 4095, base + 4096]);
        }
    }

    #[test]
    fn nothing_is_counted_behind_the_end() {
        let mut counts = Counts::new(10);
        counts.add(8, u64::MAX, 1);
        counts.set(10, 3);
        counts.set_small(9, &[4, 5, 6]);
        assert_eq!((counts.get(8), counts.get(9), counts.get(10)), (1, 4, 0));
    }
}
