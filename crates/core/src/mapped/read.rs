//! Reading, and what is known of a range.

use super::bytes::Spot;
use super::{ClusterMap, MappedImage, Place};
use crate::error::Result;
use crate::extent::{Extent, ExtentFlags};
use crate::range::{ByteRange, len_u64, to_usize};
use crate::read::read_zero_padded;

/// Guest bytes of one kind.
pub(super) struct Part {
    pub place: Place,
    /// Bytes, counted from the start of the range that was asked for.
    pub len: u64,
    /// Of these, bytes of the first cluster that lie before the range.
    pub within: u64,
}

impl Part {
    /// Host offset of the first byte, where bytes are stored as they are.
    pub(super) fn host(&self) -> Option<u64> {
        match self.place {
            Place::Stored(offset) => offset.checked_add(self.within),
            _ => None,
        }
    }
}

impl<M: ClusterMap> MappedImage<M> {
    /// What is at the start of `range`, which is not empty.
    pub(super) fn part_at(&self, range: ByteRange) -> Result<Part> {
        let size = self.map.cluster_size();
        let (cluster, within) = (range.start / size, range.start % size);
        let most = range.end().div_ceil(size) - cluster;
        let run = self.map.run_at(cluster, most.max(1))?;
        let len = run.count.max(1).saturating_mul(size).saturating_sub(within).min(range.len);
        Ok(Part { place: run.place, len, within })
    }

    pub(super) fn extent(&self, range: ByteRange) -> Result<Extent<'_>> {
        let part = self.part_at(range)?;
        let told = self.map.present_flags();
        let extent = match part.place {
            Place::Absent => return Ok(Extent::absent(part.len)),
            Place::Zero => Extent::zero(part.len),
            Place::Stored(_) => {
                let host = part.host().and_then(|offset| self.host_ref(offset));
                let extent = Extent::data(part.len, host);
                Extent { flags: extent.flags | self.map.stored_flags(), ..extent }
            }
            Place::Packed { .. } => {
                let extent = Extent::data(self.packed_len(range, part.len), None);
                Extent { flags: extent.flags | ExtentFlags::COMPRESSED, ..extent }
            }
        };
        Ok(Extent { flags: extent.flags | told, ..extent })
    }

    /// Packed clusters that follow each other are one extent. `len`: of the first.
    fn packed_len(&self, range: ByteRange, mut len: u64) -> u64 {
        while len < range.len {
            match self.part_at(ByteRange::from_bounds(range.start + len, range.end())) {
                Ok(Part { place: Place::Packed { .. }, len: more, .. }) => len += more,
                _ => break,
            }
        }
        len
    }

    /// Fills `buf`; what this layer does not hold reads as zeros.
    pub(super) fn read_clusters(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let (mut rest, mut at) = (buf, offset);
        while !rest.is_empty() {
            let part = self.part_at(ByteRange::new(at, len_u64(rest)))?;
            let Some((target, behind)) = rest.split_at_mut_checked(to_usize(part.len)) else { break };
            match (part.place, part.host()) {
                (Place::Packed { offset, len }, _) => {
                    self.read_packed((at, offset, len), part.within, target)?
                }
                (_, Some(host)) => self.read_stored(Spot { guest: at, host }, target)?,
                _ => target.fill(0),
            }
            (rest, at) = (behind, at + part.len);
        }
        Ok(())
    }

    /// Bytes of a packed cluster from its byte `within` on.
    fn read_packed(&self, (at, offset, len): (u64, u64, u64), within: u64, target: &mut [u8]) -> Result<()> {
        let size = to_usize(self.map.cluster_size());
        let unpack = |out: &mut [u8]| {
            let mut payload = vec![0; to_usize(len)];
            read_zero_padded(&**self.map.storage(), offset, &mut payload)?;
            self.map.unpack(&payload, out)
        };
        if target.len() == size {
            return unpack(target);
        }
        let cluster = self.unpacked.get(at / self.map.cluster_size(), size, unpack)?;
        let within = to_usize(within);
        target.copy_from_slice(cluster.get(within..within + target.len()).unwrap_or_default());
        Ok(())
    }
}
