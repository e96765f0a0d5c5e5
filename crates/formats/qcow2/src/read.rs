//! Reading: look the mapping up, leave the lock, move or decompress the bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use diskimg_core::{ByteRange, Result, len_u64, read_zero_padded, to_usize};
use parking_lot::Mutex;

use crate::compress::{Decoder, codec_of};
use crate::crypt::Place;
use crate::entry::L2Entry;
use crate::image::Qcow2;
use crate::map::RunKind;

/// Decompressed clusters that are kept, for readers of less than a cluster.
const KEPT: usize = 4;

/// A decompressed cluster, as it was in a generation of compressed clusters.
#[derive(Clone)]
struct Kept {
    generation: u64,
    entry: L2Entry,
    cluster: Arc<Vec<u8>>,
}

/// Decoders and a few decompressed clusters; shared by all readers of an image.
#[derive(Default)]
pub(crate) struct Decompression {
    idle: Mutex<Vec<Decoder>>,
    kept: Mutex<Vec<Kept>>,
    /// Changes whenever compressed clusters come or go: what was kept before may be something else now.
    generation: AtomicU64,
}

impl std::fmt::Debug for Decompression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decompression").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl Decompression {
    /// Compressed clusters were written or dropped.
    pub(crate) fn forget(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.kept.lock().clear();
    }
}

impl Qcow2 {
    /// Fills `buf` from guest byte `offset` on; what this layer does not hold reads as zeros.
    pub(crate) fn read_guest(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let range = ByteRange::new(offset, len_u64(buf));
        let _running = self.meta.epochs.enter();
        let mut at = range.start;
        while at < range.end() {
            let run = self.run_at(ByteRange::from_bounds(at, range.end()))?;
            let from = to_usize(at - range.start);
            let Some(part) = buf.get_mut(from..from + to_usize(run.len)) else { break };
            match run.kind {
                RunKind::Absent | RunKind::Reserved { .. } | RunKind::Zero { .. } => part.fill(0),
                RunKind::Data { host, .. } => self.read_data(Place { guest: at, host }, part)?,
                RunKind::Compressed { entry } => {
                    self.read_compressed(entry, self.meta.geo.in_cluster(at), part)?
                }
            }
            at += run.len;
        }
        Ok(())
    }

    /// Fills `part` with the bytes of a compressed cluster from its byte `within` on.
    fn read_compressed(&self, entry: L2Entry, within: u64, part: &mut [u8]) -> Result<()> {
        let cluster_size = self.meta.geo.cluster_size();
        if len_u64(part) == cluster_size {
            return self.decode_cluster(entry, part);
        }
        let generation = self.decompression.generation.load(Ordering::Acquire);
        let wanted = |kept: &&Kept| kept.generation == generation && kept.entry == entry;
        let known = self.decompression.kept.lock().iter().find(wanted).map(|kept| Arc::clone(&kept.cluster));
        let cluster = match known {
            Some(cluster) => cluster,
            None => {
                let mut cluster = vec![0; to_usize(cluster_size)];
                self.decode_cluster(entry, &mut cluster)?;
                let cluster = Arc::new(cluster);
                let mut all = self.decompression.kept.lock();
                if all.len() >= KEPT {
                    all.remove(0);
                }
                all.push(Kept { generation, entry, cluster: Arc::clone(&cluster) });
                cluster
            }
        };
        let from = to_usize(within);
        if let Some(bytes) = cluster.get(from..from + part.len()) {
            part.copy_from_slice(bytes);
        }
        Ok(())
    }

    /// Decompresses a whole cluster.
    pub(crate) fn decode_cluster(&self, entry: L2Entry, cluster: &mut [u8]) -> Result<()> {
        let mut payload = Vec::new();
        self.read_payload(entry, &mut payload)?;
        let idle = self.decompression.idle.lock().pop();
        let mut decoder = match (idle, codec_of(self.meta.compression_type())) {
            (Some(decoder), _) => decoder,
            (None, Some(codec)) => Decoder::new(codec)?,
            (None, None) => return Err(diskimg_core::Error::unsupported("unknown compression type")),
        };
        let result = decoder.decode(&payload, cluster);
        self.decompression.idle.lock().push(decoder);
        result
    }

    /// The stored bytes of a compressed cluster, up to the end of their last sector.
    pub(crate) fn read_payload(&self, entry: L2Entry, payload: &mut Vec<u8>) -> Result<()> {
        let stored = entry.compressed_ref(&self.meta.geo);
        payload.clear();
        payload.resize(to_usize(stored.len), 0);
        read_zero_padded(&*self.storage, stored.offset, payload)
    }
}
