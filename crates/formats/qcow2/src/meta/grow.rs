//! Moving and growing the tables that are wholly in memory: rare, so these hold the lock over their I/O.
//!
//! Order: the new table in full | barrier | the header | barrier; the old place is freed by the next write-back. If the
//! header's write or the barrier behind it fails nobody knows which table the host uses, and nothing is written any more.

use diskimg_core::{Error, ErrorKind, Result, to_usize};

use super::alloc::Clusters;
use super::{Meta, Miss, State, refcounts};
use crate::limits::{MAX_L1_ENTRIES, MAX_REFTABLE_BYTES};
use crate::settings::Overlap;

/// Header offset of `l1_size` (4 bytes) and `l1_table_offset` (8).
const L1_FIELDS: u64 = 36;
/// Header offset of `refcount_table_offset` (8 bytes) and `refcount_table_clusters` (4).
const REFTABLE_FIELDS: u64 = 48;
/// Header offset of `size`.
const SIZE_FIELD: u64 = 24;

pub(super) fn as_u32(value: u64, what: &'static str) -> Result<u32> {
    u32::try_from(value).map_err(|_| Error::new(ErrorKind::Limit, what))
}

pub(super) fn table_bytes(entries: &[u64]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.to_be_bytes()).collect()
}

impl Meta {
    /// Makes the refcount table long enough for refcount block `block`.
    pub(super) fn grow_reftable(&self, block: u64) -> Result<()> {
        let _one_at_a_time = self.write_back.lock();
        let state = &mut *self.state.write();
        if block < state.reftable.len() {
            return Ok(());
        }
        self.write_back_held(state)?;
        let plan = ReftablePlan::for_block(state, block)?;
        let mut entries = state.reftable.entries().to_vec();
        entries.resize(to_usize(plan.table_entries), 0);
        for (number, entry) in
            entries.iter_mut().skip(to_usize(block)).take(to_usize(plan.blocks)).enumerate()
        {
            *entry = (plan.first_cluster + number as u64) << state.geo.cluster_bits;
        }
        let table_offset = (plan.first_cluster + plan.blocks) << state.geo.cluster_bits;
        let whole = Clusters { first: plan.first_cluster, count: plan.blocks + plan.table_clusters };
        self.check_held(state, whole.bytes(&state.geo), Overlap::empty())?;
        self.write_new_refblocks(state, &plan)?;
        self.storage.write_at(table_offset, &table_bytes(&entries))?;
        self.barrier()?;
        let mut fields = table_offset.to_be_bytes().to_vec();
        let clusters = as_u32(plan.table_clusters, "refcount table too large")?;
        fields.extend_from_slice(&clusters.to_be_bytes());
        self.switch_fields(REFTABLE_FIELDS, &fields)?;
        let old = Clusters {
            first: state.reftable.offset >> state.geo.cluster_bits,
            count: u64::from(state.header.reftable_clusters),
        };
        state.alloc.drop_later(old);
        state.header.reftable_offset = table_offset;
        state.header.reftable_clusters = clusters;
        state.reftable.replace(table_offset, entries);
        state.index.refblocks.extend(plan.first_cluster..plan.first_cluster + plan.blocks);
        Ok(())
    }

    fn write_new_refblocks(&self, state: &mut State, plan: &ReftablePlan) -> Result<()> {
        let cluster = to_usize(state.geo.cluster_size());
        let per_block = state.geo.refblock_entries();
        let mut left = plan.blocks + plan.table_clusters;
        for number in 0..plan.blocks {
            let mut block = vec![0; cluster];
            for index in 0..left.min(per_block) {
                refcounts::write_packed(&mut block, state.geo.refcount_order, to_usize(index), 1);
            }
            left = left.saturating_sub(per_block);
            let offset = (plan.first_cluster + number) << state.geo.cluster_bits;
            self.storage.write_at(offset, &block)?;
            for (at, slice) in block.chunks(to_usize(state.geo.slice_size())).enumerate() {
                let at = offset + at as u64 * state.geo.slice_size();
                // An attempt that failed may have left another one.
                state.refs.drop_slice(at);
                state.refs.insert_loaded(at, slice.to_vec());
            }
        }
        Ok(())
    }

    /// Makes the L1 table at least `entries` long.
    pub(crate) fn grow_l1(&self, entries: u64) -> Result<()> {
        if entries > MAX_L1_ENTRIES {
            let text = "Failed to grow the L1 table";
            return Err(Error::from_errno(diskimg_core::errno::EFBIG).context(text));
        }
        if entries <= self.state.read().l1.len() {
            return Ok(());
        }
        let geo = self.geo;
        let mut from = 0;
        let new = self
            .change(|state| state.allocate_exactly(geo.clusters_for(entries * 8), &mut from))
            .map_err(|error| error.summarised("Failed to grow the L1 table"))?;
        let moved = self.move_l1(entries, new);
        if moved.is_err() && self.check_usable().is_ok() {
            self.give_back(new);
        }
        moved
    }

    /// Moves the L1 table, which gets `entries` entries, to the clusters `new`.
    fn move_l1(&self, entries: u64, new: Clusters) -> Result<()> {
        let geo = self.geo;
        let _one_at_a_time = self.write_back.lock();
        let state = &mut *self.state.write();
        self.write_back_held(state)?;
        self.check_held(state, new.bytes(&geo), Overlap::empty())?;
        let mut table = state.l1.entries().to_vec();
        table.resize(to_usize(entries), 0);
        let offset = new.first << geo.cluster_bits;
        self.storage.write_at(offset, &table_bytes(&table))?;
        self.barrier()?;
        let size = as_u32(entries, "L1 table too large")?;
        let mut fields = size.to_be_bytes().to_vec();
        fields.extend_from_slice(&offset.to_be_bytes());
        self.switch_fields(L1_FIELDS, &fields)?;
        if state.l1.len() > 0 {
            let old = diskimg_core::ByteRange::new(state.l1.offset, state.l1.len() * 8);
            state.alloc.drop_later(Clusters::holding(&geo, old));
        }
        (state.header.l1_size, state.header.l1_offset) = (size, offset);
        state.l1.replace(offset, table);
        Ok(())
    }

    /// Stores a new disk size (bytes).
    pub(crate) fn store_size(&self, size: u64) -> Result<()> {
        self.write_back()?;
        self.barrier()?;
        let state = &mut *self.state.write();
        self.storage.write_at(SIZE_FIELD, &size.to_be_bytes()).inspect_err(|_| self.give_up())?;
        state.header.size = size;
        Ok(())
    }

    /// Changes fields of the header, which stand in one sector, durably.
    fn switch_fields(&self, offset: u64, fields: &[u8]) -> Result<()> {
        let written = self.storage.write_at(offset, fields).and_then(|()| self.barrier());
        written.inspect_err(|_| self.give_up())
    }
}

/// Where a longer refcount table and the blocks that count it go: from the first cluster that nothing counts yet.
struct ReftablePlan {
    first_cluster: u64,
    blocks: u64,
    table_clusters: u64,
    table_entries: u64,
}

impl ReftablePlan {
    fn for_block(state: &State, block: u64) -> Result<Self> {
        let geo = &state.geo;
        let per_block = geo.refblock_entries();
        let (mut blocks, mut table_clusters) = (2, 0);
        loop {
            let needed = block + blocks;
            let wanted = (needed + needed / 2 + 1) * 8;
            let bytes = wanted.min(MAX_REFTABLE_BYTES);
            if needed * 8 > bytes {
                return Err(Error::new(ErrorKind::Limit, "File too large"));
            }
            let clusters = geo.clusters_for(bytes);
            let fitting = (blocks + clusters).div_ceil(per_block);
            if fitting <= blocks && clusters == table_clusters {
                let table_entries = clusters * geo.cluster_size() / 8;
                return Ok(Self { first_cluster: block * per_block, blocks, table_clusters, table_entries });
            }
            blocks = blocks.max(fitting);
            table_clusters = clusters;
        }
    }
}

impl From<Error> for Miss {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}
