//! Compresses the clusters of what was read; takes over payloads that the source stores already.

use diskimg_core::{ByteRange, ClusterEncoder, CompressedClusters, Result, align_down, len_u64, to_usize};

use super::pipeline::{Content, Segment};
use super::source::Sources;

/// One thread's means to compress.
pub(super) struct Encoder<'a> {
    clusters: &'a dyn CompressedClusters,
    encoder: Box<dyn ClusterEncoder>,
    /// Payloads of the source may be taken over: what was read is what they hold.
    pass_on: bool,
    payload: Vec<u8>,
    /// The last cluster of the disk, filled up with zeros.
    padded: Vec<u8>,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(clusters: &'a dyn CompressedClusters, pass_on: bool) -> Result<Self> {
        Ok(Self { clusters, encoder: clusters.encoder()?, pass_on, payload: Vec::new(), padded: Vec::new() })
    }

    /// Cuts the data of `range`, which is `bytes`, into clusters. Payloads are put at the end of `payloads`;
    /// a cluster that does not become smaller stays data. `at`: where `bytes` starts in the unit's buffer.
    pub(super) fn encode(
        &mut self,
        sources: &Sources<'_>,
        range: ByteRange,
        bytes: &[u8],
        at: usize,
        payloads: &mut Vec<u8>,
        emit: &mut impl FnMut(Segment),
    ) -> Result<()> {
        let cluster_len = self.clusters.cluster_len().max(1);
        let mut start = range.start;
        while start < range.end() {
            let end = range.end().min(align_down(start, cluster_len).saturating_add(cluster_len));
            let cluster = ByteRange::from_bounds(start, end);
            let from = to_usize(start - range.start);
            let plain = bytes.get(from..from + to_usize(cluster.len)).unwrap_or_default();
            // A cluster that is there in part can't be replaced by a compressed one.
            let fits = !sources.target_holds_part(cluster)?;
            let smaller = fits
                && (self.pass_on && sources.payload(cluster, self.clusters, &mut self.payload)?
                    || self.compress(plain, to_usize(cluster_len))?);
            let of_use = self.payload.len() < to_usize(cluster_len) || self.clusters.only_encoded();
            let content = if smaller && of_use {
                let at = payloads.len();
                payloads.extend_from_slice(&self.payload);
                Content::Payload { at, len: self.payload.len() }
            } else {
                Content::Bytes { at: at + from }
            };
            emit(Segment { range: cluster, content });
            start = end;
        }
        Ok(())
    }

    fn compress(&mut self, plain: &[u8], cluster_len: usize) -> Result<bool> {
        if plain.len() == cluster_len {
            return self.encoder.encode(plain, &mut self.payload);
        }
        debug_assert!(len_u64(plain) < self.clusters.cluster_len(), "more than a cluster");
        self.padded.clear();
        self.padded.extend_from_slice(plain);
        self.padded.resize(cluster_len, 0);
        self.encoder.encode(&self.padded, &mut self.payload)
    }
}
