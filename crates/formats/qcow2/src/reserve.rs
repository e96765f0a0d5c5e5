//! Two-phase writes and compressed payloads: a place first, the entry after the bytes.

use diskimg_core::{
    ByteRange, ClusterEncoder, Codec, CompressedClusters, Error, ErrorKind, HostRef, Piece, Publish,
    RangeGuard, Reservation, Result, errno, extend_to,
};

use crate::bitmaps::Recording;
use crate::compress::{Encoder, codec_of};
use crate::crypt::Place;
use crate::entry::{ClusterKind, L2Entry};
use crate::image::Qcow2;
use crate::meta::{Clusters, NewEntry};

/// Clusters that wait to be published.
struct Pending<'a> {
    image: &'a Qcow2,
    entries: Vec<NewEntry>,
    runs: Vec<Clusters>,
    /// End of the clusters that are nobody else's; 0 for a payload, which shares its cluster with others.
    own_end: u64,
    _claim: RangeGuard<'a>,
    _recorded: Recording<'a>,
}

impl Publish for Pending<'_> {
    fn commit(self: Box<Self>) -> Result<()> {
        // Zeros at the end of the last cluster may not have been written.
        let result = extend_to(&self.image.storage, self.own_end)
            .and_then(|()| self.image.meta.publish(&self.entries));
        if result.is_err() {
            self.abandon();
        }
        result
    }

    fn abandon(self: Box<Self>) {
        for run in &self.runs {
            self.image.meta.give_back(*run);
        }
    }

    /// Encrypts the bytes on their way, in the thread that has them.
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        let geo = &self.image.meta.geo;
        let cluster = offset >> geo.cluster_bits;
        let Some(new) = self.entries.iter().find(|new| new.cluster == cluster) else {
            return Err(Error::invalid("write outside of its reservation"));
        };
        let host = new.entry.offset() + geo.in_cluster(offset);
        self.image.write_data(Place { guest: offset, host }, buf)
    }
}

impl Qcow2 {
    /// Host clusters for whole guest clusters that have none yet; `None` if some have, if there are too many, or if
    /// `range` is not made of whole clusters.
    pub(crate) fn reserve_guest(&self, range: ByteRange) -> Result<Option<Reservation<'_>>> {
        let geo = self.meta.geo;
        let ends_well = geo.is_aligned(range.end()) || range.end() == self.disk_len();
        if self.data_file.is_some() || !geo.is_aligned(range.start) || !ends_well || range.is_empty() {
            return Ok(None);
        }
        let clusters = range.start >> geo.cluster_bits..range.end().div_ceil(geo.cluster_size());
        if clusters.end - clusters.start > self.meta.most_prepared() {
            return Ok(None);
        }
        let recorded = self.before_write(range)?;
        let claim = self.meta.inflight.lock(clusters.clone());
        let old = self.meta.prepare(clusters.clone())?;
        let has_none = |entry: &L2Entry| {
            matches!(entry.kind(&geo, false), ClusterKind::Unallocated | ClusterKind::ZeroPlain)
        };
        if !old.iter().all(has_none) {
            return Ok(None);
        }
        let (entries, runs) = (Vec::new(), Vec::new());
        let mut pending =
            Box::new(Pending { image: self, entries, runs, own_end: 0, _claim: claim, _recorded: recorded });
        match self.reserve_clusters(range, clusters, &mut pending) {
            Ok(pieces) => Ok(Some(Reservation::new(pieces, pending))),
            Err(error) => {
                pending.abandon();
                Err(error)
            }
        }
    }

    /// Host clusters for the guest clusters of `range`, noted in `pending`.
    fn reserve_clusters(
        &self,
        range: ByteRange,
        clusters: std::ops::Range<u64>,
        pending: &mut Pending<'_>,
    ) -> Result<Vec<Piece<'_>>> {
        let geo = self.meta.geo;
        let mut pieces = Vec::new();
        let mut cluster = clusters.start;
        while cluster < clusters.end {
            let run = self.meta.allocate(clusters.end - cluster)?;
            pending.runs.push(run.clusters);
            let host = run.clusters.bytes(&geo);
            pending.own_end = pending.own_end.max(host.end());
            let guest = geo.cluster_run(cluster, run.clusters.count);
            let part = guest.intersect(range);
            // The rest of the disk's last cluster, which a larger disk would show.
            let rest = Place { guest: part.end(), host: host.start + part.len };
            self.zero_data(rest, host.len - part.len)?;
            self.meta.check_overlap(host)?;
            let as_is = HostRef { device: &*self.storage, offset: host.start };
            let to = (!self.is_encrypted()).then_some(as_is);
            pieces.push(Piece { range: part, host: to, fresh: run.fresh });
            for step in 0..run.clusters.count {
                let entry = L2Entry::normal(&geo, host.start + (step << geo.cluster_bits));
                pending.entries.push(NewEntry { cluster: cluster + step, entry });
            }
            cluster += run.clusters.count;
        }
        Ok(pieces)
    }
}

impl CompressedClusters for Qcow2 {
    fn codec(&self) -> Codec {
        codec_of(self.meta.compression_type()).unwrap_or(Codec::Deflate)
    }

    fn cluster_len(&self) -> u64 {
        self.meta.geo.cluster_size()
    }

    fn encoder(&self) -> Result<Box<dyn ClusterEncoder>> {
        Ok(Box::new(Encoder::new(CompressedClusters::codec(self))?))
    }

    fn reserve_encoded(&self, offset: u64, payload_len: u64) -> Result<Reservation<'_>> {
        let geo = self.meta.geo;
        if self.data_file.is_some() {
            return Err(Error::unsupported("Operation not supported"));
        }
        if self.is_encrypted() {
            // They would stand there in the clear.
            return Err(Error::unsupported("Compression and encryption not supported at the same time"));
        }
        if !geo.is_aligned(offset) || payload_len == 0 || payload_len >= geo.cluster_size() {
            return Err(Error::invalid("a compressed payload belongs to a whole cluster and is shorter"));
        }
        let _shared = self.change_gate.read();
        let recorded = self.before_write(ByteRange::new(offset, geo.cluster_size()))?;
        let cluster = offset >> geo.cluster_bits;
        let claim = self.meta.inflight.lock(cluster..cluster + 1);
        let old = self.meta.prepare(cluster..cluster + 1)?.first().copied().unwrap_or_default();
        if old.offset() != 0 || old.kind(&geo, false) == ClusterKind::Compressed {
            return Err(Error::new(ErrorKind::Io, "Input/output error").with_errno(errno::EIO));
        }
        let host = self.meta.allocate_payload(payload_len)?;
        let stored = ByteRange::new(host, payload_len);
        let entries = vec![NewEntry { cluster, entry: L2Entry::compressed(&geo, host, payload_len) }];
        let runs = vec![Clusters::holding(&geo, stored)];
        let pending =
            Box::new(Pending { image: self, entries, runs, own_end: 0, _claim: claim, _recorded: recorded });
        self.meta.check_overlap(stored)?;
        self.wrote_compressed();
        let piece = Piece {
            range: ByteRange::new(0, payload_len),
            host: Some(HostRef { device: &*self.storage, offset: host }),
            fresh: false,
        };
        Ok(Reservation::new(vec![piece], pending))
    }

    fn read_encoded(&self, offset: u64, payload: &mut Vec<u8>) -> Result<bool> {
        let geo = self.meta.geo;
        let _running = self.meta.epochs.enter();
        match self.meta.entry(offset >> geo.cluster_bits)? {
            entry if entry.kind(&geo, self.data_file.is_some()) == ClusterKind::Compressed => {
                self.read_payload(entry, payload)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}
