//! Writing: in place where a cluster has one, else into new space; zeroing and discarding.

use super::bytes::Spot;
use super::read::Part;
use super::{ClusterMap, MappedImage, Place, Space};
use crate::device::ZeroMode;
use crate::error::Result;
use crate::extend::extend_to;
use crate::range::{ByteRange, len_u64, to_usize};
use crate::zero::is_zero;

/// Most guest bytes that are given a place at a time.
const MAX_STEP: u64 = 8 << 20;
/// Zeros that are written at a time, in bytes.
const ZEROS: u64 = 1 << 20;

/// Space that is given back unless its entries were published.
pub(super) struct Unpublished<'a, M: ClusterMap> {
    pub(super) map: &'a M,
    pub(super) space: Option<Space>,
}

impl<M: ClusterMap> Drop for Unpublished<'_, M> {
    fn drop(&mut self) {
        if let Some(space) = self.space.take() {
            self.map.give_back(space);
        }
    }
}

impl<M: ClusterMap> MappedImage<M> {
    pub(super) fn write_clusters(&self, offset: u64, buf: &[u8]) -> Result<()> {
        let range = ByteRange::new(offset, len_u64(buf));
        let mut at = range.start;
        while at < range.end() {
            let rest = ByteRange::from_bounds(at, range.end());
            let bytes = buf.get(to_usize(at - offset)..).unwrap_or_default();
            let part = self.part_at(rest)?;
            at += match part.host() {
                Some(host) => self.write_host(Spot { guest: at, host }, bytes, part.len)?,
                None => self.write_new(rest, bytes)?,
            };
        }
        Ok(())
    }

    /// Writes `len` of `bytes` to where they are stored; how many.
    fn write_host(&self, spot: Spot, bytes: &[u8], len: u64) -> Result<u64> {
        let clusters = self.clusters_of(ByteRange::new(spot.guest, len));
        self.map.before_overwrite(clusters.start, clusters.len)?;
        self.write_stored(spot, bytes.get(..to_usize(len)).unwrap_or(bytes))?;
        Ok(len)
    }

    /// Clusters `range` touches, as a range of cluster numbers.
    pub(super) fn clusters_of(&self, range: ByteRange) -> ByteRange {
        let size = self.map.cluster_size();
        ByteRange::from_bounds(range.start / size, range.end().div_ceil(size))
    }

    /// Writes the first bytes of `range` into new space; how many.
    fn write_new(&self, range: ByteRange, buf: &[u8]) -> Result<u64> {
        let size = self.map.cluster_size();
        let end = range.end().min((range.start / size * size).saturating_add(MAX_STEP.max(size)));
        let range = ByteRange::from_bounds(range.start, end);
        let _claim = self.claims.lock(self.clusters_of(range));
        let part = self.part_at(range)?;
        if let Some(host) = part.host() {
            // Somebody else has just given it a place.
            return self.write_host(Spot { guest: range.start, host }, buf, part.len);
        }
        let range = ByteRange::new(range.start, part.len);
        let clusters = self.clusters_of(range);
        let space = self.map.allocate(clusters.start, clusters.len)?;
        let mut unpublished = Unpublished { map: &self.map, space: Some(space) };
        let whole = ByteRange::new(clusters.start * size, space.count.min(clusters.len) * size);
        let range = range.intersect(whole);
        let bytes = buf.get(..to_usize(range.len)).unwrap_or(buf);
        self.fill(&part, ByteRange::from_bounds(whole.start, range.start), whole.start, space)?;
        let spot = Spot { guest: whole.start, host: space.offset };
        self.write_stored(spot.advance(range.start - whole.start), bytes)?;
        self.fill(&part, ByteRange::from_bounds(range.end(), whole.end()), whole.start, space)?;
        extend_to(self.map.storage(), space.offset + whole.len)?;
        if let Err(error) = self.map.publish(clusters.start, whole.len / size, Place::Stored(space.offset)) {
            if !self.holds(whole, part.place) {
                // Some entries may refer to it: better lost than given to somebody else as well.
                unpublished.space = None;
            }
            return Err(error);
        }
        unpublished.space = None;
        if matches!(part.place, Place::Packed { .. }) {
            self.unpacked.clear();
        }
        self.settle()?;
        Ok(range.len)
    }

    /// True if all of `range` is known to have the place `place`, which is none of its own.
    fn holds(&self, range: ByteRange, place: Place) -> bool {
        let mut at = range.start;
        while at < range.end() {
            match self.part_at(ByteRange::from_bounds(at, range.end())) {
                Ok(part) if part.place == place => at += part.len.max(1),
                _ => return false,
            }
        }
        true
    }

    /// Fills guest range `range` of new space, whose first byte is guest byte `start`, with what it holds in this layer.
    fn fill(&self, part: &Part, range: ByteRange, start: u64, space: Space) -> Result<()> {
        let reads_as_zeros = space.fresh && !self.is_encrypted();
        if range.is_empty() || (reads_as_zeros && !matches!(part.place, Place::Packed { .. })) {
            return Ok(());
        }
        let spot = Spot { guest: start, host: space.offset }.advance(range.start - start);
        if range.len > MAX_STEP && !matches!(part.place, Place::Packed { .. }) {
            return self.zero_stored(spot, range.len);
        }
        let mut bytes = vec![0; to_usize(range.len)];
        if matches!(part.place, Place::Packed { .. }) {
            self.read_clusters(range.start, &mut bytes)?;
        }
        if reads_as_zeros && is_zero(&bytes) {
            return Ok(());
        }
        self.write_stored(spot, &bytes)
    }

    pub(super) fn zero_clusters(&self, range: ByteRange, how: ZeroMode) -> Result<()> {
        let mut at = range.start;
        while at < range.end() {
            let rest = ByteRange::from_bounds(at, range.end());
            let part = self.part_at(rest)?;
            let whole = self.whole_entries(ByteRange::new(at, part.len));
            let new = self.map.zeroed(part.place, how);
            at += match (new, part.host()) {
                (Some(new), _) if new == part.place => part.len,
                (Some(new), _) if whole.start == at && whole.len > 0 => {
                    self.replace(ByteRange::new(at, whole.len), part.place, new)?
                }
                (Some(_), _) if whole.len > 0 => self.zero_data(rest.clipped(whole.start - at), None)?,
                (None, host) => self.zero_data(rest.clipped(part.len), host)?,
                (_, host) => self.zero_data(rest.clipped(part.len.min(self.to_entry_end(at))), host)?,
            };
        }
        Ok(())
    }

    /// Bytes from `at` to the end of what its entry stands for.
    fn to_entry_end(&self, at: u64) -> u64 {
        let size = self.map.entry_size();
        size - at % size
    }

    /// What whole entries stand for in `range`; one that the end of the disk cuts is whole.
    fn whole_entries(&self, range: ByteRange) -> ByteRange {
        let size = self.map.entry_size();
        let end = if range.end() == self.disk_len() { range.end() } else { range.end() / size * size };
        ByteRange::from_bounds(range.start.next_multiple_of(size), end.max(range.start))
    }

    /// Replaces whole entries that all are as `old`; how many bytes they stand for.
    fn replace(&self, range: ByteRange, old: Place, new: Place) -> Result<u64> {
        let clusters = self.clusters_of(range);
        let _claim = self.claims.lock(clusters);
        let part = self.part_at(range)?;
        let whole = self.whole_entries(ByteRange::new(range.start, part.len));
        if part.place != old || whole.is_empty() {
            // Somebody was faster: look again.
            return Ok(0);
        }
        self.map.publish(clusters.start, self.clusters_of(whole).len, new)?;
        self.unpacked.clear();
        self.settle()?;
        Ok(whole.len)
    }

    /// Makes bytes zero that have to be zeros in some space: in place (at `host`) or as a write.
    fn zero_data(&self, range: ByteRange, host: Option<u64>) -> Result<u64> {
        if let Some(host) = host {
            let clusters = self.clusters_of(range);
            self.map.before_overwrite(clusters.start, clusters.len)?;
            self.zero_stored(Spot { guest: range.start, host }, range.len)?;
            return Ok(range.len);
        }
        let len = range.len.min(ZEROS);
        self.write_clusters(range.start, &vec![0; to_usize(len)])?;
        Ok(len)
    }

    pub(super) fn discard_clusters(&self, range: ByteRange) -> Result<()> {
        let mut at = range.start;
        while at < range.end() {
            let part = self.part_at(ByteRange::from_bounds(at, range.end()))?;
            let whole = self.whole_entries(ByteRange::new(at, part.len));
            at += match self.map.discarded(part.place) {
                Some(new) if new != part.place && !whole.is_empty() && whole.start == at => {
                    self.replace(whole, part.place, new)?
                }
                Some(new) if new != part.place && !whole.is_empty() => whole.start - at,
                _ => part.len,
            };
        }
        Ok(())
    }
}

impl ByteRange {
    /// The first `len` bytes of it at most.
    const fn clipped(self, len: u64) -> Self {
        Self::new(self.start, if self.len < len { self.len } else { len })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use parking_lot::Mutex;

    use super::*;
    use crate::device::BlockDevice;
    use crate::driver::{Caps, FormatDriver};
    use crate::error::{Error, errno};
    use crate::mapped::{Cut, Run};
    use crate::mem::MemDevice;

    const CLUSTER: u64 = 512;

    static DRIVER: FormatDriver = FormatDriver {
        name: "map",
        extensions: &[],
        caps: Caps::empty(),
        options: &[],
        strong_options: &[],
        probe: |_| 0,
        open: |_| Err(Error::unsupported("never opened")),
        creator: None,
        measure: None,
    };

    /// A map that gives space away again that it got back, and whose publishing can fail half-way.
    #[derive(Debug)]
    struct Map {
        storage: Arc<dyn BlockDevice>,
        entries: Mutex<Vec<Place>>,
        end: Mutex<u64>,
        fails: AtomicBool,
    }

    impl ClusterMap for Map {
        fn driver(&self) -> &'static FormatDriver {
            &DRIVER
        }

        fn storage(&self) -> &Arc<dyn BlockDevice> {
            &self.storage
        }

        fn filename(&self) -> &str {
            ""
        }

        fn cluster_size(&self) -> u64 {
            CLUSTER
        }

        fn run_at(&self, cluster: u64, most: u64) -> Result<Run> {
            let entries = self.entries.lock();
            let rest = &entries[to_usize(cluster)..];
            let place = rest[0];
            let same = |count: &u64| match place {
                Place::Stored(offset) => rest[to_usize(*count)] == Place::Stored(offset + count * CLUSTER),
                _ => rest[to_usize(*count)] == place,
            };
            let count = (1..most.min(rest.len() as u64)).take_while(same).count() as u64 + 1;
            Ok(Run { place, count })
        }

        fn allocate(&self, _: u64, most: u64) -> Result<Space> {
            let mut end = self.end.lock();
            *end += most * CLUSTER;
            Ok(Space { offset: *end - most * CLUSTER, count: most, fresh: false })
        }

        fn give_back(&self, space: Space) {
            *self.end.lock() = space.offset;
        }

        fn publish(&self, cluster: u64, count: u64, place: Place) -> Result<()> {
            let Place::Stored(offset) = place else { return Ok(()) };
            for step in 0..count {
                if step == count / 2 && self.fails.load(Ordering::SeqCst) {
                    return Err(Error::from_errno(errno::EIO));
                }
                self.entries.lock()[to_usize(cluster + step)] = Place::Stored(offset + step * CLUSTER);
            }
            Ok(())
        }

        fn take_dirty(&self) -> Cut {
            Vec::new()
        }

        fn not_written(&self, _: Cut) {}
    }

    #[test]
    fn space_that_an_entry_may_refer_to_is_not_given_away_again() {
        let map = Map {
            storage: Arc::new(MemDevice::new(0)),
            entries: Mutex::new(vec![Place::Absent; 20]),
            end: Mutex::new(0),
            fails: AtomicBool::new(true),
        };
        let image = MappedImage::new(map, 20 * CLUSTER, true);
        // Half of it is published, then nothing of a single cluster.
        assert!(image.write_at(0, &[1; 4 * 512]).is_err());
        assert!(image.write_at(6 * CLUSTER, &[2; 512]).is_err());
        image.map.fails.store(false, Ordering::SeqCst);
        image.write_at(10 * CLUSTER, &[3; 4 * 512]).unwrap();
        let mut found = [9; 4 * 512];
        image.read_at(0, &mut found).unwrap();
        assert!(!found.contains(&3), "two clusters have the same place");
        assert_eq!(*image.map.end.lock(), 8 * CLUSTER, "what nothing refers to is used again");
    }
}
