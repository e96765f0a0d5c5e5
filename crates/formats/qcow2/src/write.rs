//! Writing guest data: in place where a cluster is this image's alone, else into new clusters.
//!
//! A new cluster is filled up with what its guest range held before *in this layer* (its data, its decompressed
//! contents, zeros), so that it is defined throughout; what a backing file holds is brought along by the chain.
//! Order: bytes first, then the entry, so that a reader sees either the old or the new contents.

use diskimg_core::{ByteRange, Result, extend_to, len_u64, to_usize};

use crate::crypt::Place;
use crate::entry::{COPIED, ClusterKind, L2Entry};
use crate::geometry::Geometry;
use crate::image::Qcow2;
use crate::map::RunKind;
use crate::meta::{Clusters, NewEntry};

/// Most guest bytes that are mapped anew at a time.
const MAX_STEP: u64 = 8 << 20;

/// Where the bytes of a guest cluster go.
#[derive(Clone, Copy, Debug)]
struct Target {
    cluster: u64,
    old: L2Entry,
    /// Host offset of the cluster.
    host: u64,
    /// The host cluster is this write's own until it is published.
    new: bool,
    /// It reads as zeros.
    fresh: bool,
}

impl Target {
    /// Where guest byte `at` of its cluster goes.
    fn place(&self, geo: &Geometry, at: u64) -> Place {
        Place { guest: at, host: self.host + geo.in_cluster(at) }
    }
}

/// Host clusters that are given back unless their entries were published.
pub(crate) struct Unpublished<'a> {
    pub(crate) image: &'a Qcow2,
    pub(crate) runs: Vec<Clusters>,
}

impl Drop for Unpublished<'_> {
    fn drop(&mut self) {
        for run in &self.runs {
            self.image.meta.give_back(*run);
        }
    }
}

impl Qcow2 {
    /// Writes `buf` at guest byte `offset`; only `asked` of it is new.
    pub(crate) fn write_guest(&self, offset: u64, buf: &[u8], asked: ByteRange) -> Result<()> {
        let _recorded = self.before_write(asked)?;
        self.write_bytes(offset, buf)
    }

    /// The same without what a change of the disk asks for: also for what is not part of it.
    pub(crate) fn write_bytes(&self, offset: u64, buf: &[u8]) -> Result<()> {
        let range = ByteRange::new(offset, len_u64(buf));
        let mut at = range.start;
        while at < range.end() {
            let rest = ByteRange::from_bounds(at, range.end());
            let bytes = buf.get(to_usize(at - range.start)..).unwrap_or_default();
            at += match self.write_in_place(rest, bytes)? {
                0 => self.write_mapping(rest, bytes)?,
                written => written,
            };
        }
        Ok(())
    }

    /// Writes the first bytes of `range` if they have clusters of their own; how many.
    fn write_in_place(&self, range: ByteRange, buf: &[u8]) -> Result<u64> {
        let _running = self.meta.epochs.enter();
        let run = self.run_at(range)?;
        let RunKind::Data { host, copied: true } = run.kind else { return Ok(0) };
        let place = Place { guest: range.start, host };
        self.write_data(place, buf.get(..to_usize(run.len)).unwrap_or(buf))?;
        Ok(run.len)
    }

    /// Writes the first bytes of `range`, giving them clusters; how many.
    fn write_mapping(&self, range: ByteRange, buf: &[u8]) -> Result<u64> {
        let geo = self.meta.geo;
        let end = range.end().min(geo.cluster_start(range.start).saturating_add(MAX_STEP));
        let range = ByteRange::from_bounds(range.start, end);
        let clusters = range.start >> geo.cluster_bits..end.div_ceil(geo.cluster_size());
        let _claim = self.meta.inflight.lock(clusters);
        self.write_claimed(range, buf)
    }

    /// The same for at most [`MAX_STEP`] bytes, whose clusters the caller has claimed.
    pub(crate) fn write_claimed(&self, range: ByteRange, buf: &[u8]) -> Result<u64> {
        let geo = self.meta.geo;
        let clusters = range.start >> geo.cluster_bits..range.end().div_ceil(geo.cluster_size());
        let entries = self.meta.prepare(clusters.clone())?;
        let wanted = entries.iter().take_while(|entry| !self.is_complete(**entry)).count() as u64;
        if wanted == 0 {
            // Somebody else has just mapped it: in place after all.
            return self.write_in_place(range, buf);
        }
        let mut unpublished = Unpublished { image: self, runs: Vec::new() };
        let targets = self.choose_targets(
            clusters.start,
            entries.get(..to_usize(wanted)).unwrap_or(&entries),
            &mut unpublished,
        )?;
        let end = range.end().min((clusters.start + wanted) << geo.cluster_bits);
        let range = ByteRange::from_bounds(range.start, end);
        let buf = buf.get(..to_usize(range.len)).unwrap_or(buf);
        self.write_targets(&targets, range, buf)?;
        let new: Vec<NewEntry> = targets.iter().map(|target| self.entry_after(target, range)).collect();
        self.meta.publish(&new)?;
        unpublished.runs.clear();
        if targets
            .iter()
            .any(|target| target.old.kind(&geo, self.data_file.is_some()) == ClusterKind::Compressed)
        {
            self.decompression.forget();
        }
        Ok(range.len)
    }

    /// True if every byte of the cluster can be written in place.
    fn is_complete(&self, entry: L2Entry) -> bool {
        let geo = &self.meta.geo;
        entry.kind(geo, self.data_file.is_some()) == ClusterKind::Normal
            && entry.is_copied()
            && (!geo.extended_l2 || entry.allocated_mask() == u32::MAX)
    }

    /// A host cluster for each guest cluster from `first` on.
    fn choose_targets(
        &self,
        first: u64,
        entries: &[L2Entry],
        unpublished: &mut Unpublished<'_>,
    ) -> Result<Vec<Target>> {
        let geo = &self.meta.geo;
        let mut targets = Vec::with_capacity(entries.len());
        while let Some(old) = entries.get(targets.len()).copied() {
            let cluster = first + targets.len() as u64;
            if let Some(host) = self.own_host(cluster, old) {
                targets.push(Target { cluster, old, host, new: false, fresh: false });
                continue;
            }
            let rest = entries.get(targets.len()..).unwrap_or_default();
            let want =
                rest.iter().take_while(|entry| self.own_host(cluster, **entry).is_none()).count() as u64;
            let run = self.meta.allocate(want)?;
            unpublished.runs.push(run.clusters);
            for (step, old) in (0..run.clusters.count).zip(rest) {
                let host = (run.clusters.first + step) << geo.cluster_bits;
                targets.push(Target {
                    cluster: cluster + step,
                    old: *old,
                    host,
                    new: true,
                    fresh: run.fresh,
                });
            }
        }
        Ok(targets)
    }

    /// The host cluster that guest cluster `cluster` has to itself already.
    fn own_host(&self, cluster: u64, entry: L2Entry) -> Option<u64> {
        if self.data_file.is_some() {
            return Some(cluster << self.meta.geo.cluster_bits);
        }
        match entry.kind(&self.meta.geo, false) {
            ClusterKind::Normal | ClusterKind::ZeroAllocated if entry.is_copied() => Some(entry.offset()),
            _ => None,
        }
    }

    /// The bytes of a target's cluster that have to be written for a write of `range`: whole subclusters.
    fn span(&self, target: &Target, range: ByteRange) -> ByteRange {
        let geo = &self.meta.geo;
        let cluster = geo.cluster_run(target.cluster, 1);
        if target.old.kind(geo, self.data_file.is_some()) == ClusterKind::Compressed {
            return cluster;
        }
        cluster.intersect(range.align_outwards(geo.subcluster_size()))
    }

    fn write_targets(&self, targets: &[Target], range: ByteRange, buf: &[u8]) -> Result<()> {
        let geo = &self.meta.geo;
        for target in targets {
            let cluster = geo.cluster_run(target.cluster, 1);
            let (span, part) = (self.span(target, range), cluster.intersect(range));
            self.fill(target, ByteRange::from_bounds(span.start, part.start))?;
            self.fill(target, ByteRange::from_bounds(part.end(), span.end()))?;
            self.copy_subclusters(target, span)?;
        }
        let mut rest = targets;
        while let Some(first) = rest.first() {
            let same_run =
                |(step, target): &(u64, &Target)| target.host == first.host + (step << geo.cluster_bits);
            let count = (0..).zip(rest).take_while(same_run).count();
            let guest = geo.cluster_run(first.cluster, count as u64).intersect(range);
            let from = to_usize(guest.start - range.start);
            let bytes = buf.get(from..from + to_usize(guest.len)).unwrap_or_default();
            self.write_data(first.place(geo, guest.start), bytes)?;
            rest = rest.get(count..).unwrap_or_default();
        }
        targets.last().map_or(Ok(()), |last| self.extend_to_end(last))
    }

    /// The file goes on to the end of a cluster that was filled in part and is its last.
    fn extend_to_end(&self, target: &Target) -> Result<()> {
        let end = target.host + self.meta.geo.cluster_size();
        if target.fresh && self.storage.len() < end {
            return extend_to(&self.storage, end);
        }
        Ok(())
    }

    /// Fills guest bytes `part` of a target's cluster with what they hold now.
    fn fill(&self, target: &Target, part: ByteRange) -> Result<()> {
        let geo = &self.meta.geo;
        if part.is_empty() {
            return Ok(());
        }
        let mut bytes = vec![0; to_usize(part.len)];
        // What stands behind the disk is not to be seen, unless it is the state area that is written to.
        let disk = ByteRange::new(0, self.disk_len());
        let inside = if part.start < self.state_start() { part.intersect(disk) } else { part };
        if let Some(inside) = bytes.get_mut(..to_usize(inside.len)) {
            self.read_guest(part.start, inside)?;
        }
        if target.fresh && !self.is_encrypted() && diskimg_core::is_zero(&bytes) {
            return Ok(());
        }
        self.write_data(target.place(geo, part.start), &bytes)
    }

    /// Brings the data of other subclusters along when a cluster moves.
    fn copy_subclusters(&self, target: &Target, span: ByteRange) -> Result<()> {
        let geo = &self.meta.geo;
        if !geo.extended_l2 || !target.new || target.old.kind(geo, false) != ClusterKind::Normal {
            return Ok(());
        }
        let (size, start) = (geo.subcluster_size(), target.cluster << geo.cluster_bits);
        for index in 0..geo.subclusters() {
            let part = ByteRange::new(start + u64::from(index) * size, size);
            if target.old.allocated_mask() >> index & 1 == 1 && !part.overlaps(&span) {
                self.fill(target, part)?;
            }
        }
        Ok(())
    }

    /// The entry of a target after `range` was written.
    fn entry_after(&self, target: &Target, range: ByteRange) -> NewEntry {
        let geo = &self.meta.geo;
        let mut entry = L2Entry::normal(geo, target.host);
        let kind = target.old.kind(geo, self.data_file.is_some());
        if geo.extended_l2 && kind != ClusterKind::Compressed {
            let span = self.span(target, range);
            let first = geo.in_cluster(span.start) / geo.subcluster_size();
            let count = span.len / geo.subcluster_size();
            let touched = mask(first, count);
            let old = if kind == ClusterKind::Normal { target.old.allocated_mask() } else { 0 };
            entry.bitmap = L2Entry::bitmap_of(old | touched, target.old.zero_mask() & !touched);
        }
        entry.descriptor |= COPIED;
        NewEntry { cluster: target.cluster, entry }
    }
}

/// `count` bits from bit `first` on.
pub(crate) fn mask(first: u64, count: u64) -> u32 {
    let ones = if count >= 32 { u32::MAX } else { (1u32 << count) - 1 };
    ones.checked_shl(u32::try_from(first).unwrap_or(32)).unwrap_or(0)
}
