//! Guest bytes on their way from and to their place: encrypted, if the map has a cipher.

use super::{ClusterMap, MappedImage};
use crate::device::{BlockDevice as _, ZeroMode};
use crate::error::Result;
use crate::extent::HostRef;
use crate::front::Device;
use crate::range::{ByteRange, len_u64, to_usize};
use crate::read::read_zero_padded;

/// Bytes that are encrypted before they are written.
const STEP: usize = 256 << 10;

/// Encrypts what clusters store (not payloads), in whole sectors, by their guest offset.
pub trait DataCipher: Send + Sync {
    /// Encrypts the bytes at guest byte `offset`, in place.
    ///
    /// # Errors
    /// There is no key.
    fn encrypt(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// Decrypts the bytes at guest byte `offset`, in place.
    ///
    /// # Errors
    /// There is no key.
    fn decrypt(&self, offset: u64, buf: &mut [u8]) -> Result<()>;
}

/// Where guest bytes are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    pub guest: u64,
    pub host: u64,
}

impl Spot {
    pub(super) const fn advance(self, by: u64) -> Self {
        Self { guest: self.guest.saturating_add(by), host: self.host.saturating_add(by) }
    }
}

impl<M: ClusterMap> MappedImage<M> {
    pub(super) fn is_encrypted(&self) -> bool {
        self.map.cipher().is_some()
    }

    /// Where guest bytes stand as they are.
    pub(super) fn host_ref(&self, offset: u64) -> Option<HostRef<'_>> {
        let device = &**self.map.storage();
        (!self.is_encrypted()).then_some(HostRef { device, offset })
    }

    pub(super) fn read_stored(&self, spot: Spot, buf: &mut [u8]) -> Result<()> {
        read_zero_padded(&**self.map.storage(), spot.host, buf)?;
        match self.map.cipher() {
            Some(cipher) => cipher.decrypt(spot.guest, buf),
            None => Ok(()),
        }
    }

    pub(super) fn write_stored(&self, spot: Spot, bytes: &[u8]) -> Result<()> {
        let Some(cipher) = self.map.cipher() else { return self.map.storage().write_at(spot.host, bytes) };
        let (mut at, mut buf) = (spot, Vec::with_capacity(STEP.min(bytes.len())));
        for part in bytes.chunks(STEP) {
            buf.clear();
            buf.extend_from_slice(part);
            cipher.encrypt(at.guest, &mut buf)?;
            self.map.storage().write_at(at.host, &buf)?;
            at = at.advance(len_u64(part));
        }
        Ok(())
    }

    /// Zeros of the guest, in a place that keeps its space.
    pub(super) fn zero_stored(&self, spot: Spot, len: u64) -> Result<()> {
        if !self.is_encrypted() {
            let device = Device::new(self.map.storage().clone());
            return device.write_zeroes(ByteRange::new(spot.host, len), ZeroMode::KeepAllocated);
        }
        let zeros = vec![0; to_usize(len).min(STEP)];
        let (mut at, mut left) = (spot, len);
        while left > 0 {
            let part = zeros.get(..to_usize(left).min(STEP)).unwrap_or_default();
            self.write_stored(at, part)?;
            at = at.advance(len_u64(part));
            left = left.saturating_sub(len_u64(part).max(1));
        }
        Ok(())
    }
}
