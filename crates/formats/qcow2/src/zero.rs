//! Zeroing and discarding: changes of entries alone (format note "Discard / write-zeroes").

use diskimg_core::{BlockDevice as _, ByteRange, Device, Error, Result, ZeroMode, to_usize};

use crate::entry::{ALL_ZERO, ClusterKind, L2Entry, ZERO};
use crate::features;
use crate::image::Qcow2;
use crate::meta::Freed;
use crate::write::mask;

/// Zeros written at a time where entries can't say it.
const CHUNK: u64 = 1 << 20;

impl Qcow2 {
    /// Makes guest range `range` read as zeros; outside of `asked` it does already.
    pub(crate) fn zero_guest(&self, range: ByteRange, how: ZeroMode, asked: ByteRange) -> Result<()> {
        let _recorded = self.before_write(asked)?;
        if self.meta.version() == 2 && self.has_backing() {
            return Err(Error::unsupported("a version 2 image can't hide its backing file with zeros"));
        }
        let geo = self.meta.geo;
        let whole = self.whole_units(range, geo.subcluster_size());
        if whole.is_empty() {
            return self.write_zero_bytes(range);
        }
        self.write_zero_bytes(ByteRange::from_bounds(range.start, whole.start))?;
        let unmap = how != ZeroMode::KeepAllocated;
        // Subclusters before the first whole cluster, whole clusters, subclusters behind them.
        let clusters = self.whole_units(whole, geo.cluster_size());
        if clusters.is_empty() {
            self.zero_subclusters(whole)?;
        } else {
            self.zero_subclusters(ByteRange::from_bounds(whole.start, clusters.start))?;
            self.zero_clusters(clusters, unmap)?;
            self.zero_subclusters(ByteRange::from_bounds(clusters.end(), whole.end()))?;
        }
        self.write_zero_bytes(ByteRange::from_bounds(whole.end(), range.end()))
    }

    /// The whole units within `range`; the last unit of the disk may be incomplete.
    fn whole_units(&self, range: ByteRange, unit: u64) -> ByteRange {
        let inner = range.align_inwards(unit);
        if range.end() == self.disk_len() && inner.start <= range.end() {
            return ByteRange::from_bounds(inner.start.min(range.end()), range.end());
        }
        inner
    }

    fn write_zero_bytes(&self, range: ByteRange) -> Result<()> {
        let zeros = vec![0; to_usize(CHUNK.min(range.len))];
        let mut at = range.start;
        while at < range.end() {
            let len = CHUNK.min(range.end() - at);
            self.write_bytes(at, zeros.get(..to_usize(len)).unwrap_or(&zeros))?;
            at += len;
        }
        Ok(())
    }

    fn cluster_indices(&self, range: ByteRange) -> std::ops::Range<u64> {
        let geo = &self.meta.geo;
        range.start >> geo.cluster_bits..range.end().div_ceil(geo.cluster_size())
    }

    fn zero_clusters(&self, range: ByteRange, unmap: bool) -> Result<()> {
        let clusters = self.cluster_indices(range);
        let _claim = self.meta.inflight.lock(clusters.clone());
        self.zero_raw_data_file(range)?;
        let (geo, data_file) = (self.meta.geo, self.data_file.is_some());
        let gives_back = unmap && data_file;
        let make_tables = self.meta.version() > 2;
        let result = self.meta.update_entries(clusters, make_tables, Freed::Request, |old| {
            let kind = old.kind(&geo, data_file);
            if self.meta.version() == 2 {
                return (kind != ClusterKind::Unallocated).then(L2Entry::default);
            }
            let keep = !unmap && matches!(kind, ClusterKind::Normal | ClusterKind::ZeroAllocated);
            Some(match (keep, geo.extended_l2) {
                (false, _) => L2Entry::zero_plain(&geo),
                (true, false) => L2Entry { descriptor: old.descriptor | ZERO, bitmap: 0 },
                (true, true) => L2Entry { descriptor: old.descriptor, bitmap: ALL_ZERO },
            })
        });
        self.decompression.forget();
        if gives_back && result.is_ok() {
            self.discard_data(range);
        }
        result
    }

    /// Zeros whole subclusters; `range` may go over several clusters, but covers none wholly.
    fn zero_subclusters(&self, range: ByteRange) -> Result<()> {
        let geo = self.meta.geo;
        let mut at = range.start;
        while at < range.end() {
            let part =
                ByteRange::from_bounds(at, range.end().min(geo.cluster_start(at) + geo.cluster_size()));
            self.zero_in_cluster(part)?;
            at = part.end();
        }
        Ok(())
    }

    fn zero_in_cluster(&self, part: ByteRange) -> Result<()> {
        let (geo, data_file) = (self.meta.geo, self.data_file.is_some());
        let clusters = self.cluster_indices(part);
        let claim = self.meta.inflight.lock(clusters.clone());
        let compressed = |entry: &L2Entry| entry.kind(&geo, data_file) == ClusterKind::Compressed;
        if self.meta.entries(clusters.clone())?.iter().any(compressed) {
            drop(claim);
            return self.write_zero_bytes(part);
        }
        self.zero_raw_data_file(part)?;
        let first = geo.in_cluster(part.start) / geo.subcluster_size();
        let touched = mask(first, part.len.div_ceil(geo.subcluster_size()));
        self.meta.update_entries(clusters, true, Freed::Request, |old| {
            let bitmap = L2Entry::bitmap_of(old.allocated_mask() & !touched, old.zero_mask() | touched);
            Some(L2Entry { descriptor: old.descriptor, bitmap })
        })
    }

    /// A raw data file has to hold the zeros itself.
    fn zero_raw_data_file(&self, range: ByteRange) -> Result<()> {
        match &self.data_file {
            Some(data) if self.has_autoclear(features::RAW_DATA_FILE) => {
                Device::new(data.clone()).write_zeroes(range, ZeroMode::MayUnmap)
            }
            _ => Ok(()),
        }
    }

    /// Gives back what a data file holds of whole clusters that read as zeros from now on. The caller has claimed them. A
    /// crash may bring their entries back: then they hold what they held, or zeros, as after any write that was not
    /// flushed.
    fn discard_data(&self, range: ByteRange) {
        let raw = self.has_autoclear(features::RAW_DATA_FILE);
        let Some(data) = self.data_file.as_ref().filter(|_| !raw) else { return };
        let there = range.intersect(ByteRange::new(0, data.len()));
        if self.settings.pass_discard_request.unwrap_or(true) && !there.is_empty() {
            // Space that stays taken is no harm.
            let _ = Device::new(data.clone()).discard(there);
        }
    }

    /// Forgets the contents of the whole clusters in `range`: they read as zeros afterwards.
    pub(crate) fn discard_guest(&self, range: ByteRange) -> Result<()> {
        let _recorded = self.before_write(range)?;
        if self.meta.version() == 2 && self.has_backing() {
            return Err(Error::unsupported("a version 2 image can't hide its backing file with zeros"));
        }
        let geo = self.meta.geo;
        let whole = self.whole_units(range, geo.cluster_size());
        if whole.is_empty() {
            return Ok(());
        }
        if self.settings.discard_no_unref && self.meta.version() > 2 {
            return self.zero_clusters(whole, false);
        }
        let clusters = self.cluster_indices(whole);
        let _claim = self.meta.inflight.lock(clusters.clone());
        let (data_file, hides) = (self.data_file.is_some(), self.has_backing());
        self.zero_raw_data_file(whole)?;
        let result = self.meta.update_entries(clusters, hides, Freed::Request, |old| {
            match old.kind(&geo, data_file) {
                ClusterKind::ZeroPlain => None,
                ClusterKind::Unallocated if old.bitmap == 0 && !hides => None,
                _ if self.meta.version() == 2 => Some(L2Entry::default()),
                _ => Some(L2Entry::zero_plain(&geo)),
            }
        });
        self.decompression.forget();
        if data_file && result.is_ok() {
            self.discard_data(whole);
        }
        result
    }
}
