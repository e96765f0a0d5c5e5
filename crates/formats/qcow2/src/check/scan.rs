//! The fast look at an L2 table: what it references as runs of clusters, its statistics, and whether anything in
//! it needs a closer look. It reports nothing itself.

use super::counts::Counts;
use super::entry::{Target, judge};
use super::layout::Layout;
use super::stored::Stored;
use crate::entry::{COPIED, L2_RESERVED, L2Entry};

/// Entries that are tested for zeros at once.
const STRIDE: usize = 32;

/// A run of host clusters, each referenced `weight` times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: u64,
    len: u64,
    weight: u64,
}

/// Entries of tables, by nature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Statistics {
    /// Entries that refer to data, compressed or not.
    pub allocated: u64,
    /// Those that do not continue their predecessor on the host.
    pub fragmented: u64,
    /// Those that are compressed.
    pub compressed: u64,
}

impl Statistics {
    /// Adds those of a table that is used `times` times.
    pub(super) fn add(&mut self, other: &Self, times: u64) {
        let grow = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more.saturating_mul(times));
        grow(&mut self.allocated, other.allocated);
        grow(&mut self.fragmented, other.fragmented);
        grow(&mut self.compressed, other.compressed);
    }
}

/// How a table is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Use {
    /// References to it in all L1 tables.
    pub total: u64,
    /// Those in the active one: its COPIED flags matter.
    pub active: u64,
}

/// Scans one table after the other, each in pieces.
pub(super) struct Scanner<'a> {
    layout: &'a Layout,
    stored: &'a Stored<'a>,
    runs: Vec<Run>,
    usage: Use,
    stats: Statistics,
    suspicious: bool,
    /// The entry that would continue the current run; its flags are those of the whole run.
    next: L2Entry,
    /// Clusters of the current run; 0: none.
    run: u64,
    /// Where the last cluster ended; 0: there was none.
    expected: u64,
}

impl<'a> Scanner<'a> {
    /// A scanner with nothing in it.
    pub(super) fn new(layout: &'a Layout, stored: &'a Stored<'a>) -> Self {
        Self {
            layout,
            stored,
            runs: Vec::new(),
            usage: Use::default(),
            stats: Statistics::default(),
            suspicious: false,
            next: L2Entry::default(),
            run: 0,
            expected: 0,
        }
    }

    /// Starts the table at host byte `offset`.
    pub(super) fn begin(&mut self, offset: u64, usage: Use) {
        self.usage = usage;
        self.stats = Statistics::default();
        self.suspicious = false;
        self.run = 0;
        self.expected = 0;
        self.reference(offset, self.layout.geo.cluster_size());
    }

    /// The next piece of it.
    pub(super) fn feed(&mut self, piece: &[u8]) {
        if self.layout.geo.extended_l2 {
            let (entries, _) = piece.as_chunks::<16>();
            for block in entries.chunks(STRIDE) {
                if block.as_flattened().iter().fold(0, |all, byte| all | byte) != 0 {
                    block.iter().for_each(|entry| self.extended(u128::from_be_bytes(*entry)));
                }
            }
            return;
        }
        let (entries, _) = piece.as_chunks::<8>();
        let cluster_size = self.layout.geo.cluster_size();
        for block in entries.chunks(STRIDE) {
            if block.iter().fold(0, |all, entry| all | u64::from_ne_bytes(*entry)) == 0 {
                continue;
            }
            for entry in block {
                let descriptor = u64::from_be_bytes(*entry);
                if descriptor == self.next.descriptor && self.run != 0 {
                    self.run += 1;
                    self.next.descriptor = descriptor.wrapping_add(cluster_size);
                } else if descriptor != 0 {
                    self.other(L2Entry { descriptor, bitmap: 0 });
                }
            }
        }
    }

    fn extended(&mut self, raw: u128) {
        let word = |part: u128| u64::try_from(part & u128::from(u64::MAX)).unwrap_or_default();
        let entry = L2Entry { descriptor: word(raw >> 64), bitmap: word(raw) };
        let sound = entry.allocated_mask() & entry.zero_mask() == 0;
        if self.run != 0 && entry.descriptor == self.next.descriptor && sound {
            self.run += 1;
            self.next.descriptor = entry.descriptor.wrapping_add(self.layout.geo.cluster_size());
        } else if raw != 0 {
            self.other(entry);
        }
    }

    /// Ends the table. True: it needs a closer look.
    pub(super) fn end(&mut self) -> (Statistics, bool) {
        self.end_run();
        (self.stats, self.suspicious)
    }

    /// An entry that does not continue the run.
    fn other(&mut self, entry: L2Entry) {
        self.end_run();
        let mut suspicious = false;
        // The index only matters for what is reported.
        let target = judge(self.layout, entry, 0, &mut |_| suspicious = true);
        self.suspicious |= suspicious;
        match target {
            Target::Nothing => {}
            Target::Compressed { offset, len } => {
                self.stats.allocated += 1;
                self.stats.compressed += 1;
                self.stats.fragmented += 1;
                self.reference(offset, len);
            }
            Target::Cluster(offset) => self.cluster(entry, offset),
        }
    }

    fn cluster(&mut self, entry: L2Entry, offset: u64) {
        if self.expected != 0 && self.expected != offset {
            self.stats.fragmented += 1;
        }
        let geo = &self.layout.geo;
        if geo.is_aligned(offset) && entry.descriptor & L2_RESERVED == 0 {
            self.next = L2Entry { descriptor: entry.descriptor.wrapping_add(geo.cluster_size()), bitmap: 0 };
            self.run = 1;
            return;
        }
        self.suspicious = true;
        self.stats.allocated += 1;
        self.expected = offset.saturating_add(geo.cluster_size());
        if !self.layout.data_file {
            self.reference(offset, geo.cluster_size());
        }
    }

    /// Takes in the run of aligned clusters that is over.
    fn end_run(&mut self) {
        if self.run == 0 {
            return;
        }
        let bits = self.layout.geo.cluster_bits;
        let (len, copied) = (std::mem::take(&mut self.run), self.next.descriptor & COPIED != 0);
        // A run that went on into reserved bits ends far behind the file: it is looked at again in any case.
        let end = (self.next.descriptor & !COPIED) >> bits;
        let first = end.saturating_sub(len);
        self.stats.allocated += len;
        self.expected = end << bits;
        if self.layout.data_file {
            self.suspicious |= !copied;
            return;
        }
        let there = len.min(self.layout.clusters.saturating_sub(first));
        self.suspicious |= there != len || end > crate::limits::HOST_OFFSET_END >> bits;
        if self.usage.active != 0 && !self.stored.all_are(first, len, copied) {
            self.suspicious = true;
        }
        self.push(Run { first, len: there, weight: self.usage.total });
    }

    /// References a region once for each use of the table.
    fn reference(&mut self, offset: u64, len: u64) {
        match self.layout.region(offset, len) {
            Err(_) => self.suspicious = true,
            Ok(clusters) => {
                self.push(Run { first: clusters.first, len: clusters.count, weight: self.usage.total });
            }
        }
    }

    fn push(&mut self, run: Run) {
        if run.len == 0 {
            return;
        }
        match self.runs.last_mut() {
            // Compressed clusters share host clusters with their neighbours.
            Some(last) if last.first == run.first && last.len == run.len => {
                last.weight = last.weight.saturating_add(run.weight);
            }
            _ => self.runs.push(run),
        }
    }

    /// Runs that have not been counted yet.
    pub(super) fn pending(&self) -> usize {
        self.runs.len()
    }

    /// Counts them.
    pub(super) fn count_into(&mut self, counts: &mut Counts) {
        self.runs.drain(..).for_each(|run| counts.add(run.first, run.len, run.weight));
    }
}
