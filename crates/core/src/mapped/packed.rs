//! Packed clusters: a place for a payload, then its entry.

use super::{ClusterMap, MappedImage, Place};
use crate::error::{Error, ErrorKind, Result, errno};
use crate::extent::HostRef;
use crate::image::{ClusterEncoder, Codec, CompressedClusters};
use crate::range::{ByteRange, to_usize};
use crate::range_lock::RangeGuard;
use crate::read::read_zero_padded;
use crate::reserve::{Piece, Publish, Reservation};

/// A map's side of writing packed clusters.
pub trait Packing: Send + Sync {
    /// The method of payloads.
    fn codec(&self) -> Codec;

    /// A worker's own encoder.
    ///
    /// # Errors
    /// No memory.
    fn encoder(&self) -> Result<Box<dyn ClusterEncoder>>;

    /// The host offset of a place for a payload of `len` bytes, for cluster `cluster`. Losing it is allowed.
    ///
    /// # Errors
    /// `Limit` where the format has no more room; the storage's.
    fn place_payload(&self, cluster: u64, len: u64) -> Result<u64>;
}

struct Pending<'a, M: ClusterMap> {
    image: &'a MappedImage<M>,
    cluster: u64,
    place: Place,
    _claim: RangeGuard<'a>,
}

impl<M: ClusterMap> Publish for Pending<'_, M> {
    fn commit(self: Box<Self>) -> Result<()> {
        self.image.map.publish(self.cluster, 1, self.place)?;
        self.image.settle()
    }

    fn abandon(self: Box<Self>) {}
}

impl<M: ClusterMap> MappedImage<M> {
    fn packing(&self) -> Result<&dyn Packing> {
        self.map.packing().ok_or_else(|| Error::unsupported("Operation not supported"))
    }
}

impl<M: ClusterMap> CompressedClusters for MappedImage<M> {
    fn codec(&self) -> Codec {
        self.map.packing().map_or(Codec::Deflate, Packing::codec)
    }

    fn cluster_len(&self) -> u64 {
        self.map.cluster_size()
    }

    fn encoder(&self) -> Result<Box<dyn ClusterEncoder>> {
        self.packing()?.encoder()
    }

    fn reserve_encoded(&self, offset: u64, payload_len: u64) -> Result<Reservation<'_>> {
        let (packing, size) = (self.packing()?, self.map.cluster_size());
        if !offset.is_multiple_of(size) || payload_len == 0 || payload_len >= size {
            return Err(Error::invalid("a compressed payload belongs to a whole cluster and is shorter"));
        }
        let _change = self.changes.read();
        self.before_change()?;
        let cluster = offset / size;
        let claim = self.claims.lock(ByteRange::new(cluster, 1));
        if !matches!(self.map.run_at(cluster, 1)?.place, Place::Absent | Place::Zero) {
            return Err(Error::new(ErrorKind::Io, "Input/output error").with_errno(errno::EIO));
        }
        let host = packing.place_payload(cluster, payload_len)?;
        let place = Place::Packed { offset: host, len: payload_len };
        let pending = Box::new(Pending { image: self, cluster, place, _claim: claim });
        let piece = Piece {
            range: ByteRange::new(0, payload_len),
            host: Some(HostRef { device: &**self.map.storage(), offset: host }),
            fresh: false,
        };
        Ok(Reservation::new(vec![piece], pending))
    }

    fn read_encoded(&self, offset: u64, payload: &mut Vec<u8>) -> Result<bool> {
        let _request = self.requests.enter();
        match self.map.run_at(offset / self.map.cluster_size().max(1), 1)?.place {
            Place::Packed { offset, len } => {
                payload.clear();
                payload.resize(to_usize(len), 0);
                read_zero_padded(&**self.map.storage(), offset, payload)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}
