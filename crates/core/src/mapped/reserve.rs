//! Two-phase writes of whole clusters that have no place yet.

use super::bytes::Spot;
use super::write::Unpublished;
use super::{ClusterMap, MappedImage, Place, Space};
use crate::error::Result;
use crate::extend::extend_to;
use crate::range::{ByteRange, len_u64, to_usize};
use crate::range_lock::RangeGuard;
use crate::reserve::{Piece, Publish, Reservation};

/// Space that waits to be published: the first guest cluster of each.
struct Pending<'a, M: ClusterMap> {
    image: &'a MappedImage<M>,
    spaces: Vec<(u64, Space)>,
    _claim: RangeGuard<'a>,
}

impl<M: ClusterMap> Publish for Pending<'_, M> {
    fn commit(self: Box<Self>) -> Result<()> {
        let map = &self.image.map;
        for (cluster, space) in &self.spaces {
            extend_to(map.storage(), space.offset + space.count * map.cluster_size())?;
            map.publish(*cluster, space.count, Place::Stored(space.offset))?;
        }
        self.image.settle()
    }

    fn abandon(self: Box<Self>) {
        for (_, space) in self.spaces.iter().rev() {
            self.image.map.give_back(*space);
        }
    }

    /// Encrypts the bytes on their way, in the thread that has them.
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        let size = self.image.map.cluster_size();
        for (cluster, space) in &self.spaces {
            let guest = ByteRange::new(cluster * size, space.count * size);
            let part = guest.intersect(ByteRange::new(offset, len_u64(buf)));
            if !part.is_empty() {
                let from = to_usize(part.start - offset);
                let bytes = buf.get(from..from + to_usize(part.len)).unwrap_or_default();
                let spot = Spot { guest: guest.start, host: space.offset };
                self.image.write_stored(spot.advance(part.start - guest.start), bytes)?;
            }
        }
        Ok(())
    }
}

impl<M: ClusterMap> MappedImage<M> {
    pub(super) fn reserve_clusters(&self, range: ByteRange) -> Result<Option<Reservation<'_>>> {
        let size = self.map.cluster_size();
        let ends_well = range.end().is_multiple_of(size) || range.end() == self.disk_len();
        if range.is_empty() || !range.start.is_multiple_of(size) || !ends_well {
            return Ok(None);
        }
        let clusters = self.clusters_of(range);
        let claim = self.claims.lock(clusters);
        let mut at = range.start;
        while at < range.end() {
            let part = self.part_at(ByteRange::from_bounds(at, range.end()))?;
            if !matches!(part.place, Place::Absent | Place::Zero) {
                return Ok(None);
            }
            at += part.len;
        }
        let (mut pieces, mut spaces) = (Vec::new(), Vec::new());
        let mut cluster = clusters.start;
        let mut taken: Vec<Unpublished<'_, M>> = Vec::new();
        while cluster < clusters.end() {
            let space = self.map.allocate(cluster, clusters.end() - cluster)?;
            taken.push(Unpublished { map: &self.map, space: Some(space) });
            let guest = ByteRange::new(cluster * size, space.count * size);
            let part = guest.intersect(range);
            if part.len < guest.len && (!space.fresh || self.is_encrypted()) {
                // The rest of the disk's last cluster, which a longer disk would show.
                let spot = Spot { guest: guest.start, host: space.offset };
                self.zero_stored(spot.advance(part.len), guest.len - part.len)?;
            }
            pieces.push(Piece { range: part, host: self.host_ref(space.offset), fresh: space.fresh });
            spaces.push((cluster, space));
            cluster += space.count.max(1);
        }
        taken.iter_mut().for_each(|space| space.space = None);
        let pending = Pending { image: self, spaces, _claim: claim };
        Ok(Some(Reservation::new(pieces, Box::new(pending))))
    }
}
