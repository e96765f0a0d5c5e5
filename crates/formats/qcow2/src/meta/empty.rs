//! Forgetting all that the active tables map at once, for images in which nothing else refers to clusters.
//!
//! Order, with a barrier at each `|`: an empty L1 table in place of the old one | an empty tail of the refcount table |
//! the first refcount block, which counts the header and the tables that are left | the file's new length. From the
//! first write on no table refers to what it gave up, and a crash leaves counts that are too high: leaks.

use diskimg_core::{BlockDevice, ByteRange, Prealloc, Result, align_up, to_usize};

use super::Meta;
use super::overhaul::Overhaul;
use super::refcounts::write_packed;
use super::table::ENTRY;
use crate::entry::REFTABLE_RESERVED;
use crate::geometry::Geometry;

/// What is left of the image, if the first refcount block counts all of it.
struct Rest {
    refblock: u64,
    /// Header, refcount table, its first block, L1 table, in bytes.
    areas: [ByteRange; 4],
    end: u64,
}

impl Rest {
    fn of(parts: &Overhaul, geo: &Geometry) -> Option<Self> {
        let header = &parts.header;
        let cluster = geo.cluster_size();
        let refblock = parts.reftable.first().copied().unwrap_or(0) & !REFTABLE_RESERVED;
        let area = |offset: u64, len: u64| Some(ByteRange::new(offset, align_up(len.max(1), cluster)?));
        let areas = [
            area(0, cluster)?,
            area(header.reftable_offset, u64::from(header.reftable_clusters) << geo.cluster_bits)?,
            area(refblock, cluster)?,
            area(header.l1_offset, u64::from(header.l1_size) * ENTRY)?,
        ];
        let end = areas.iter().map(ByteRange::end).max()?;
        let counted = geo.refblock_entries() << geo.cluster_bits;
        // Areas in each other's place are damage, which is not for us.
        let apart = |a: &ByteRange| areas.iter().filter(|b| !a.intersect(**b).is_empty()).count() == 1;
        let sound = areas.iter().all(|area| geo.is_aligned(area.start) && apart(area));
        (sound && end <= counted && header.l1_size > 0).then_some(Self { refblock, areas, end })
    }

    /// The first refcount block.
    fn counts(&self, geo: &Geometry) -> Vec<u8> {
        let mut block = vec![0; to_usize(geo.cluster_size())];
        for area in &self.areas {
            for cluster in area.start >> geo.cluster_bits..area.end() >> geo.cluster_bits {
                write_packed(&mut block, geo.refcount_order, to_usize(cluster), 1);
            }
        }
        block
    }
}

impl Meta {
    /// Empties the active L1 table and gives back everything but the header and the tables in memory. The caller knows
    /// that nothing else refers to clusters, and keeps everybody else out. False, with nothing done, where the tables lie
    /// too far behind in the file.
    ///
    /// # Errors
    /// The storage's.
    pub(crate) fn forget_all(&self) -> Result<bool> {
        self.check_usable()?;
        let geo = self.geo;
        self.overhaul(|parts| {
            let Some(rest) = Rest::of(parts, &geo) else { return Ok(false) };
            let result = forget(&*self.storage, parts, &rest, &geo);
            parts.unsure = result.is_err();
            result.map(|()| true)
        })?
    }
}

fn forget(storage: &dyn BlockDevice, parts: &mut Overhaul, rest: &Rest, geo: &Geometry) -> Result<()> {
    zero(storage, parts.header.l1_offset, parts.l1.len() as u64 * ENTRY)?;
    parts.l1.fill(0);
    let tail = parts.reftable.get_mut(1..).unwrap_or_default();
    if tail.iter().any(|entry| *entry != 0) {
        zero(storage, parts.header.reftable_offset + ENTRY, tail.len() as u64 * ENTRY)?;
        tail.fill(0);
    }
    storage.write_at(rest.refblock, &rest.counts(geo))?;
    storage.flush()?;
    // A file that stays longer harms nothing.
    let _ = storage.set_len(rest.end, Prealloc::Off);
    Ok(())
}

/// Zeros, durably.
fn zero(storage: &dyn BlockDevice, offset: u64, len: u64) -> Result<()> {
    storage.write_at(offset, &vec![0; to_usize(len)])?;
    storage.flush()
}
