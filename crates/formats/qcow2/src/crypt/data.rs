//! Guest data on its way from and to the host: encrypted if the image is.

use diskimg_core::{
    BlockDevice as _, ByteRange, Device, Result, ZeroMode, len_u64, read_zero_padded, to_usize,
};

use diskimg_crypto::SECTOR_LEN;

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
            Some(crypt) => {
                if self.data_file.is_none() {
                    self.meta.check_overlap(ByteRange::new(place.host, len))?;
                }
                crypt.write_zeros(place, to_usize(len), &**self.data_device())
            }
            None => self.zero_host(ByteRange::new(place.host, len)),
        }
    }

    /// Zeros on the host.
    pub(crate) fn zero_host(&self, range: ByteRange) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        if self.data_file.is_none() {
            self.meta.check_overlap(range)?;
        }
        Device::new(self.data_device().clone()).write_zeroes(range, ZeroMode::KeepAllocated)
    }

    /// Reads from any guest offset: sectors of which only parts are wanted go through a copy.
    pub(crate) fn read_sectors(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if !self.is_encrypted() {
            return self.read_guest(offset, buf);
        }
        let mut rest = buf;
        for part in sectors(ByteRange::new(offset, len_u64(rest))) {
            let (now, behind) = rest.split_at_mut(to_usize(part.len).min(rest.len()));
            if is_whole(part) {
                self.read_guest(part.start, now)?;
            } else {
                let sector = self.read_sector(part.start)?;
                let from = to_usize(part.start % SECTOR);
                now.copy_from_slice(sector.get(from..from + now.len()).unwrap_or_default());
            }
            rest = behind;
        }
        Ok(())
    }

    /// Writes to any guest offset, which need not be on the disk; of a sector of which only a part is written the rest
    /// stays as it is, unless somebody else writes to it at the same time.
    pub(crate) fn write_sectors(&self, offset: u64, buf: &[u8]) -> Result<()> {
        if !self.is_encrypted() {
            return self.write_bytes(offset, buf);
        }
        let mut rest = buf;
        for part in sectors(ByteRange::new(offset, len_u64(rest))) {
            let (now, behind) = rest.split_at(to_usize(part.len).min(rest.len()));
            if is_whole(part) {
                self.write_bytes(part.start, now)?;
            } else {
                let mut sector = self.read_sector(part.start)?;
                let from = to_usize(part.start % SECTOR);
                if let Some(target) = sector.get_mut(from..from + now.len()) {
                    target.copy_from_slice(now);
                }
                self.write_bytes(part.start - part.start % SECTOR, &sector)?;
            }
            rest = behind;
        }
        Ok(())
    }

    /// The sector that guest byte `at` is in.
    fn read_sector(&self, at: u64) -> Result<[u8; SECTOR_LEN]> {
        let mut sector = [0; SECTOR_LEN];
        self.read_guest(at - at % SECTOR, &mut sector)?;
        Ok(sector)
    }
}

fn is_whole(part: ByteRange) -> bool {
    part.start.is_multiple_of(SECTOR) && part.len.is_multiple_of(SECTOR)
}

/// `range` in up to three parts: a sector that it starts within, whole sectors, a sector that it ends within.
fn sectors(range: ByteRange) -> impl Iterator<Item = ByteRange> {
    let first = range.start.next_multiple_of(SECTOR).min(range.end());
    let last = (range.end() - range.end() % SECTOR).max(first);
    let parts = [(range.start, first), (first, last), (last, range.end())];
    parts.into_iter().map(|(start, end)| ByteRange::from_bounds(start, end)).filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_at_sectors() {
        let cut = |start, end| {
            sectors(ByteRange::from_bounds(start, end))
                .map(|part| (part.start, part.end()))
                .collect::<Vec<_>>()
        };
        assert_eq!(cut(0, 1024), [(0, 1024)]);
        assert_eq!(cut(10, 20), [(10, 20)]);
        assert_eq!(cut(10, 512), [(10, 512)]);
        assert_eq!(cut(500, 1030), [(500, 512), (512, 1024), (1024, 1030)]);
        assert_eq!(cut(500, 600), [(500, 512), (512, 600)]);
        assert_eq!(cut(512, 513), [(512, 513)]);
        assert_eq!(cut(7, 7), []);
    }
}
