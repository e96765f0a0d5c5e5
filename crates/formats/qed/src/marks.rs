//! [`Marks`]: a set of clusters, for the check. It takes memory for the parts of the file that are in use alone, one bit
//! a cluster, so that the length of a file that is mostly holes costs nothing.

use std::collections::HashMap;

use diskimg_core::to_usize;

/// Words of a page.
const WORDS: usize = 64;
/// Clusters of a page.
const PAGE: u64 = WORDS as u64 * 64;

#[derive(Debug, Default)]
pub(crate) struct Marks {
    pages: HashMap<u64, Box<[u64; WORDS]>>,
    count: u64,
}

impl Marks {
    /// Marks a cluster; false if it was marked before.
    pub(crate) fn mark(&mut self, cluster: u64) -> bool {
        let page = self.pages.entry(cluster / PAGE).or_insert_with(|| Box::new([0; WORDS]));
        let Some(word) = page.get_mut(to_usize(cluster % PAGE / 64)) else { return false };
        let bit = 1_u64 << (cluster % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        self.count += u64::from(is_new);
        is_new
    }

    /// How many clusters are marked.
    pub(crate) const fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cluster_counts_once() {
        let mut marks = Marks::default();
        let found: Vec<bool> = [0, 63, 64, 4095, 4096, 1 << 50, 64, 1 << 50].map(|at| marks.mark(at)).into();
        assert_eq!(found, [true, true, true, true, true, true, false, false]);
        assert_eq!(marks.count(), 6);
    }
}
