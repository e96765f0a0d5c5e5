//! Guest data on its way from and to the host: encrypted if the image is.

use diskimg_core::{
    BlockDevice as _, ByteRange, Device, Result, ZeroMode, len_u64, read_zero_padded, to_usize,
};

use super::Place;
use crate::header::SECTOR;
use crate::image::Qcow2;

impl Qcow2 {
    /// True if the bytes on the host are not those of the guest.
    pub(crate) const fn is_encrypted(&self) -> bool {
        self.crypt.is_some()
    }

    /// Reads guest data; what lies behind the end of the host reads as zeros *there*.
    pub(crate) fn read_data(&self, place: Place, buf: &mut [u8]) -> Result<()> {
        read_zero_padded(&**self.data_device(), place.host, buf)?;
        match &self.crypt {
            Some(crypt) => crypt.decrypt(place, buf),
            None => Ok(()),
        }
    }

    /// Writes guest data, unless that would hit metadata.
    pub(crate) fn write_data(&self, place: Place, bytes: &[u8]) -> Result<()> {
        if self.data_file.is_none() {
            self.meta.check_overlap(ByteRange::new(place.host, len_u64(bytes)))?;
        }
        match &self.crypt {
            Some(crypt) => crypt.write(place, bytes, &**self.data_device()),
            None => self.data_device().write_at(place.host, bytes),
        }
    }

    /// Zeros of the guest, for clusters that become visible without being written throughout.
    pub(crate) fn zero_data(&self, place: Place, len: u64) -> Result<()> {
        match &self.crypt {
            _ if len == 0 => Ok(()),
            Some(crypt) => crypt.write_zeros(place, to_usize(len), &**self.data_device()),
            None => self.zero_host(ByteRange::new(place.host, len)),
        }
    }

    /// Zeros on the host.
    pub(crate) fn zero_host(&self, range: ByteRange) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        Device::new(self.data_device().clone()).write_zeroes(range, ZeroMode::KeepAllocated)
    }

    /// Reads from any guest offset: sectors at the ends, if only parts of them are wanted, through a copy.
    pub(crate) fn read_sectors(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if !self.is_encrypted() {
            return self.read_guest(offset, buf);
        }
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let within = at % SECTOR;
            let whole = len_u64(rest) / SECTOR * SECTOR;
            let len = if within == 0 && whole > 0 { whole } else { (SECTOR - within).min(len_u64(rest)) };
            let (part, behind) = rest.split_at_mut(to_usize(len));
            if within == 0 && whole > 0 {
                self.read_guest(at, part)?;
            } else {
                let mut sector = [0; SECTOR as usize];
                self.read_guest(at - within, &mut sector)?;
                let from = to_usize(within);
                if let Some(bytes) = sector.get(from..from + part.len()) {
                    part.copy_from_slice(bytes);
                }
            }
            at += len;
            rest = behind;
        }
        Ok(())
    }
}
