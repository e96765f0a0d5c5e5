//! Fresh images whose data has host space from the start (`preallocation=falloc` and `full`).
//!
//! Layout: header, first L2 table, first refcount block, L1 table, further refcount blocks, refcount table, data in one
//! run, further L2 tables. Everything is counted once. It is what the format's usual implementation leaves, whose first
//! refcount table has given its cluster to an L2 table.

use diskimg_core::{BlockDevice, Error, Prealloc, Result, to_usize};

use crate::entry::{L1Entry, L2Entry};
use crate::geometry::Geometry;
use crate::header::Header;
use crate::limits::MAX_REFTABLE_BYTES;
use crate::meta::refcounts;
use crate::room;

/// Bytes of an entry of the L1 and refcount tables.
const ENTRY: u64 = 8;
/// The cluster of the first L2 table.
const FIRST_L2: u64 = 1;
/// The cluster of the first refcount block.
const FIRST_BLOCK: u64 = 2;
/// The first cluster of the L1 table.
const L1: u64 = 3;
/// The cluster of an empty image's refcount table.
const EMPTY_TABLE: u64 = 3;
/// Where that table was at first.
const OLD_TABLE: u64 = 1;

/// Where everything goes, in clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    geo: Geometry,
    /// Clusters of data.
    data_clusters: u64,
    l2_tables: u64,
    /// First of the further refcount blocks.
    blocks_start: u64,
    /// All refcount blocks, the first among them.
    blocks: u64,
    table_start: u64,
    table_clusters: u64,
    data_start: u64,
}

impl Plan {
    /// The layout for a disk of `size` bytes (not 0); `None` where one refcount block does not count everything up to
    /// the L1 table's end, or a limit would be exceeded.
    pub(crate) fn new(geo: Geometry, size: u64) -> Option<Self> {
        let data_clusters = geo.clusters_for(size);
        let l2_tables = geo.l1_entries_for(size);
        let blocks_start = L1 + geo.clusters_for(l2_tables * ENTRY);
        let (mut blocks, mut table_clusters) = (1, 1);
        loop {
            let end = blocks_start + (blocks - 1) + table_clusters + data_clusters + l2_tables + 1;
            let needed = end.div_ceil(geo.refblock_entries());
            let needed_table = geo.clusters_for(needed * ENTRY);
            if (needed, needed_table) == (blocks, table_clusters) {
                break;
            }
            (blocks, table_clusters) = (needed, needed_table);
        }
        let table_start = blocks_start + blocks - 1;
        let fits = blocks_start <= geo.refblock_entries()
            && table_clusters << geo.cluster_bits <= MAX_REFTABLE_BYTES;
        fits.then_some(Self {
            geo,
            data_clusters,
            l2_tables,
            blocks_start,
            blocks,
            table_start,
            table_clusters,
            data_start: table_start + table_clusters,
        })
    }

    /// The cluster of refcount block `index`.
    fn block(&self, index: u64) -> u64 {
        if index == 0 { FIRST_BLOCK } else { self.blocks_start + index - 1 }
    }

    /// The cluster of L2 table `index`.
    fn l2(&self, index: u64) -> u64 {
        if index == 0 { FIRST_L2 } else { self.data_end() + index - 1 }
    }

    fn data_end(&self) -> u64 {
        self.data_start + self.data_clusters
    }

    /// Clusters of the whole file.
    fn end(&self) -> u64 {
        self.data_end() + self.l2_tables - 1
    }

    fn offset(&self, cluster: u64) -> u64 {
        cluster << self.geo.cluster_bits
    }

    /// Completes `header` and writes the image; `mode` says how the data gets its space.
    ///
    /// # Errors
    /// The storage's; `NoSpace` if the header does not fit.
    pub(crate) fn write(&self, header: Header, storage: &dyn BlockDevice, mode: Prealloc) -> Result<()> {
        let geo = &self.geo;
        let header = Header {
            l1_size: u32::try_from(self.l2_tables).unwrap_or(u32::MAX),
            l1_offset: self.offset(L1),
            reftable_offset: self.offset(self.table_start),
            reftable_clusters: u32::try_from(self.table_clusters).unwrap_or(u32::MAX),
            ..header
        };
        header.write_to(storage).map_err(no_room_for_header)?;
        for index in 0..self.blocks {
            let failed = if index == 0 { no_room_for_table } else { no_room };
            storage.write_at(self.offset(self.block(index)), &self.refblock(index)).map_err(failed)?;
        }
        let l1: Vec<u64> =
            (0..self.l2_tables).map(|index| L1Entry::copied(self.offset(self.l2(index))).0).collect();
        storage.write_at(self.offset(L1), &be_bytes(&l1)).map_err(no_room)?;
        let mut table: Vec<u64> = (0..self.blocks).map(|index| self.offset(self.block(index))).collect();
        table.resize(to_usize(self.table_clusters * geo.cluster_size() / ENTRY), 0);
        storage.write_at(self.offset(self.table_start), &be_bytes(&table)).map_err(no_room)?;
        storage
            .set_len(self.offset(self.data_end()), mode)
            .map_err(|error| room::too_short(error).context(room::SIZE))?;
        for index in 0..self.l2_tables {
            storage.write_at(self.offset(self.l2(index)), &self.l2_table(index)).map_err(no_room)?;
        }
        storage.flush()
    }

    fn refblock(&self, index: u64) -> Vec<u8> {
        let geo = &self.geo;
        let mut block = vec![0; to_usize(geo.cluster_size())];
        let counted = self.end().saturating_sub(index * geo.refblock_entries()).min(geo.refblock_entries());
        for entry in 0..counted {
            refcounts::write_packed(&mut block, geo.refcount_order, to_usize(entry), 1);
        }
        block
    }

    fn l2_table(&self, index: u64) -> Vec<u8> {
        let geo = &self.geo;
        let first = index * geo.l2_entries();
        let mut table = Vec::with_capacity(to_usize(geo.cluster_size()));
        for cluster in first..self.data_clusters.min(first + geo.l2_entries()) {
            let entry = L2Entry::normal(geo, self.offset(self.data_start + cluster));
            table.extend_from_slice(&entry.descriptor.to_be_bytes());
            if geo.extended_l2 {
                // Reads still fall through; a subcluster is allocated when it is written.
                table.extend_from_slice(&0u64.to_be_bytes());
            }
        }
        table.resize(to_usize(geo.cluster_size()), 0);
        table
    }
}

/// Writes an image without data: the first refcount table has given its cluster up, and nothing has taken it.
///
/// # Errors
/// The storage's; `NoSpace` if the header does not fit.
pub(crate) fn write_empty(header: Header, storage: &dyn BlockDevice) -> Result<()> {
    let geo = header.geometry();
    let offset = |cluster: u64| cluster << geo.cluster_bits;
    let mut table = vec![0; to_usize(geo.cluster_size() / ENTRY)];
    if let Some(first) = table.first_mut() {
        *first = offset(FIRST_BLOCK);
    }
    let table = be_bytes(&table);
    let mut block = vec![0; to_usize(geo.cluster_size())];
    for cluster in [0, FIRST_BLOCK, EMPTY_TABLE] {
        refcounts::write_packed(&mut block, geo.refcount_order, to_usize(cluster), 1);
    }
    let header = Header { reftable_offset: offset(EMPTY_TABLE), ..header };
    header.write_to(storage).map_err(no_room_for_header)?;
    storage.write_at(offset(OLD_TABLE), &table).map_err(no_room_for_table)?;
    storage.write_at(offset(FIRST_BLOCK), &block).map_err(no_room_for_table)?;
    storage.write_at(offset(EMPTY_TABLE), &table).map_err(no_room)?;
    storage.flush()
}

fn no_room_for_header(error: Error) -> Error {
    error.summarised(room::HEADER)
}

fn no_room_for_table(error: Error) -> Error {
    error.summarised(room::REFTABLE)
}

fn no_room(error: Error) -> Error {
    error.summarised(room::REFCOUNTS).context(room::SIZE)
}

fn be_bytes(entries: &[u64]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.to_be_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(cluster_bits: u32, size: u64) -> Plan {
        Plan::new(Geometry { cluster_bits, refcount_order: 4, extended_l2: false }, size).unwrap()
    }

    #[test]
    fn known_images_end_where_they_are_known_to() {
        let found = plan(16, 64 << 20);
        assert_eq!((found.table_start, found.data_start, found.end() << 16), (4, 5, 0x405_0000));
        let found = plan(12, 64 << 20);
        assert_eq!((found.table_start << 12, found.end() << 12), (0xc000, 0x402_c000));
        let found = plan(9, 64 << 20);
        assert_eq!(
            (found.table_start << 9, found.table_clusters, found.end() << 9),
            (0x4_5a00, 9, 0x414_6a00)
        );
    }

    #[test]
    fn large_tables_are_left_to_growth() {
        let geo = Geometry { cluster_bits: 9, refcount_order: 4, extended_l2: false };
        assert_eq!(Plan::new(geo, 1 << 30), None);
    }
}
