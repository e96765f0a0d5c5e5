//! Two-phase writes of whole clusters that have no place yet.

use super::write::Unpublished;
use super::{ClusterMap, MappedImage, Place, Space};
use crate::error::Result;
use crate::extend::extend_to;
use crate::extent::HostRef;
use crate::range::ByteRange;
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
        Ok(())
    }

    fn abandon(self: Box<Self>) {
        for (_, space) in &self.spaces {
            self.image.map.give_back(*space);
        }
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
            if !space.fresh && part.len < guest.len {
                // The rest of the disk's last cluster, which a longer disk would show.
                let rest = crate::range::to_usize(guest.len - part.len);
                self.map.storage().write_at(space.offset + part.len, &vec![0; rest])?;
            }
            pieces.push(Piece {
                range: part,
                host: Some(HostRef { device: &**self.map.storage(), offset: space.offset }),
            });
            spaces.push((cluster, space));
            cluster += space.count.max(1);
        }
        taken.iter_mut().for_each(|space| space.space = None);
        let pending = Pending { image: self, spaces, _claim: claim };
        Ok(Some(Reservation::new(pieces, Box::new(pending))))
    }
}
