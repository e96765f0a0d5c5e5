//! The footer: 512 bytes, big-endian, at the end of a file and, unless it is fixed, at its start too. Fields that nobody
//! looks at are kept as they are.

use diskimg_core::{Error, ErrorKind, Fields, Result, errno};

use crate::geometry::{Geometry, LARGEST};
use crate::limits::{MAX_DISK, SECTOR};

/// Bytes of the footer.
pub(crate) const FOOTER_LEN: usize = 512;
/// What it begins with.
pub(crate) const COOKIE: &[u8] = b"conectix";
/// Where its checksum is.
const CHECKSUM: usize = 64;
/// Versions of the footer and of the dynamic header.
const VERSION: u32 = 0x0001_0000;
/// The bit of the features that is always set.
const FEATURES: u32 = 2;
/// Seconds from 1970 to the year 2000, from which times are counted.
const EPOCH: u64 = 946_684_800;

/// A fixed image.
pub(crate) const FIXED: u32 = 2;
/// A dynamic image.
pub(crate) const DYNAMIC: u32 = 3;
/// A differencing image.
pub(crate) const DIFFERENCING: u32 = 4;

/// The checksum of a structure that has its own at byte `at`.
pub(crate) fn checksum(bytes: &[u8], at: usize) -> u32 {
    let own = at..at + 4;
    let counted = bytes.iter().enumerate().filter(|(index, _)| !own.contains(index));
    !counted.fold(0_u32, |sum, (_, byte)| sum.wrapping_add((*byte).into()))
}

/// Sets the checksum at byte `at`.
pub(crate) fn seal(bytes: &mut [u8], at: usize) {
    let sum = checksum(bytes, at);
    if let Some(field) = bytes.get_mut(at..at + 4) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
}

/// Which of a footer's sizes is the disk's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum SizeFrom {
    /// What the program that made the image goes by.
    #[default]
    Creator,
    /// The size in bytes.
    CurrentSize,
    /// The geometry.
    Geometry,
}

/// The footer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    /// All 512 bytes.
    pub bytes: Vec<u8>,
    /// Where the dynamic header is; all ones in fixed images.
    pub header_offset: u64,
    creator: [u8; 4],
    /// Bytes of the disk.
    size: u64,
    geometry: Geometry,
    /// [`FIXED`], [`DYNAMIC`] or [`DIFFERENCING`].
    pub kind: u32,
    /// The image's identity.
    pub uuid: [u8; 16],
}

impl Footer {
    /// Parses a footer whose cookie and checksum are right.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        if !bytes.starts_with(COOKIE) {
            return Err(Error::new(ErrorKind::NotThisFormat, "invalid VPC image"));
        }
        let (footer, sum) = Self::fields(bytes).ok_or_else(|| Error::corrupt("Unable to read VHD header"))?;
        if sum != checksum(bytes, CHECKSUM) {
            return Err(Error::corrupt("Incorrect header checksum").with_errno(errno::EINVAL));
        }
        Ok(footer)
    }

    fn fields(bytes: &[u8]) -> Option<(Self, u32)> {
        let bytes = bytes.get(..FOOTER_LEN)?;
        let mut fields = Fields::new(bytes);
        fields.bytes(16)?;
        let header_offset = fields.u64_be()?;
        fields.u32_be()?;
        let creator = fields.array()?;
        fields.bytes(16)?;
        let size = fields.u64_be()?;
        let cylinders = fields.u16_be()?;
        let (heads, track) = (fields.u8()?, fields.u8()?);
        let (kind, sum) = (fields.u32_be()?, fields.u32_be()?);
        let uuid = fields.array()?;
        let geometry = Geometry { cylinders, heads, track };
        Some((Self { bytes: bytes.to_vec(), header_offset, creator, size, geometry, kind, uuid }, sum))
    }

    /// Bytes of the disk.
    pub(crate) fn disk_len(&self, from: SizeFrom, filename: &str) -> Result<u64> {
        let by_geometry = match from {
            SizeFrom::Creator => matches!(&self.creator, b"vpc " | b"qemu"),
            SizeFrom::CurrentSize => false,
            SizeFrom::Geometry => true,
        };
        let sectors = if by_geometry && self.geometry != LARGEST {
            self.geometry.sectors()
        } else {
            self.size / SECTOR
        };
        sectors.checked_mul(SECTOR).filter(|len| *len <= MAX_DISK).ok_or_else(|| {
            Error::limit(format!("Could not open '{filename}': File too large")).with_errno(errno::EFBIG)
        })
    }
}

/// What is to be said of a new image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewFooter {
    /// [`FIXED`] or [`DYNAMIC`].
    pub kind: u32,
    /// Where the dynamic header is.
    pub header_offset: u64,
    /// Bytes of the disk.
    pub size: u64,
    pub geometry: Geometry,
    /// The size, not the geometry, says how long the disk is.
    pub exact: bool,
    pub uuid: [u8; 16],
    /// Seconds since 1970.
    pub time: u64,
}

impl NewFooter {
    /// All bytes of it.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = COOKIE.to_vec();
        bytes.extend(FEATURES.to_be_bytes());
        bytes.extend(VERSION.to_be_bytes());
        bytes.extend(self.header_offset.to_be_bytes());
        let time = u32::try_from(self.time.saturating_sub(EPOCH)).unwrap_or(u32::MAX);
        bytes.extend(time.to_be_bytes());
        bytes.extend(if self.exact { b"qem2" } else { b"qemu" });
        bytes.extend([0, 5, 0, 3]);
        bytes.extend(b"Wi2k");
        bytes.extend(self.size.to_be_bytes());
        bytes.extend(self.size.to_be_bytes());
        bytes.extend(self.geometry.cylinders.to_be_bytes());
        bytes.extend([self.geometry.heads, self.geometry.track]);
        bytes.extend(self.kind.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.uuid);
        bytes.resize(FOOTER_LEN, 0);
        seal(&mut bytes, CHECKSUM);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn footer(exact: bool, size: u64, geometry: Geometry) -> Footer {
        let new = NewFooter {
            kind: DYNAMIC,
            header_offset: 512,
            size,
            geometry,
            exact,
            uuid: [7; 16],
            time: EPOCH + 5,
        };
        Footer::parse(&new.encode()).unwrap()
    }

    #[test]
    fn a_new_footer_is_read_back() {
        let geometry = Geometry { cylinders: 302, heads: 4, track: 17 };
        let read = footer(false, 10 << 20, geometry);
        assert_eq!((read.kind, read.header_offset, read.uuid), (DYNAMIC, 512, [7; 16]));
        assert_eq!(&read.bytes[24..28], [0, 0, 0, 5]);
    }

    #[test]
    fn the_creator_says_which_size_counts() {
        let geometry = Geometry { cylinders: 302, heads: 4, track: 17 };
        let sizes = |footer: &Footer| {
            [SizeFrom::Creator, SizeFrom::CurrentSize, SizeFrom::Geometry]
                .map(|from| footer.disk_len(from, "f").unwrap())
        };
        assert_eq!(sizes(&footer(false, 10 << 20, geometry)), [10_514_432, 10 << 20, 10_514_432]);
        assert_eq!(sizes(&footer(true, 10 << 20, geometry)), [10 << 20, 10 << 20, 10_514_432]);
        assert_eq!(sizes(&footer(false, 10 << 20, LARGEST)), [10 << 20; 3]);
        let long = footer(true, MAX_DISK + 512, geometry).disk_len(SizeFrom::Creator, "f");
        assert_eq!(long.unwrap_err().to_string(), "Could not open 'f': File too large");
    }

    #[test]
    fn damage_is_seen() {
        let mut bytes = footer(false, 0, LARGEST).bytes;
        bytes[100] = 1;
        assert_eq!(Footer::parse(&bytes).unwrap_err().to_string(), "Incorrect header checksum");
        bytes[0] = 0;
        assert_eq!(Footer::parse(&bytes).unwrap_err().to_string(), "invalid VPC image");
    }
}
