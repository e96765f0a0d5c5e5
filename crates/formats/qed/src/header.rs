//! The header: 64 bytes at the start of the file, little-endian, and the name of the backing file behind them.

use diskimg_core::{
    BlockDevice, Error, ErrorKind, Fields, Result, align_down, errno, read_zero_padded, to_usize,
};

use crate::geometry::Geometry;
use crate::limits::{MAX_BACKING_NAME, MAX_HEADER_BYTES};

/// Bytes of the header.
pub(crate) const HEADER_LEN: usize = 64;
/// Bytes that are written as a whole or not at all, whatever happens.
const ATOMIC: usize = 512;
/// What an image begins with.
pub(crate) const MAGIC: [u8; 4] = *b"QED\0";

/// The image has a backing file.
pub(crate) const BACKING_FILE: u64 = 1;
/// The tables have to be checked before the image is written to.
pub(crate) const NEED_CHECK: u64 = 1 << 1;
/// The backing file is raw; otherwise its format is to be found out.
pub(crate) const BACKING_IS_RAW: u64 = 1 << 2;
const KNOWN_FEATURES: u64 = BACKING_FILE | NEED_CHECK | BACKING_IS_RAW;

/// The header's fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub geo: Geometry,
    pub features: u64,
    pub compat_features: u64,
    pub autoclear_features: u64,
    pub l1_offset: u64,
    /// Bytes of the disk.
    pub image_size: u64,
    pub backing_offset: u32,
    pub backing_size: u32,
}

/// Why a file is no image that can be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QedError {
    #[error("Image not in QED format")]
    Magic,
    #[error("Unsupported QED features: {0:x}")]
    Features(u64),
    #[error("QED cluster size is invalid")]
    ClusterSize,
    #[error("QED table size is invalid")]
    TableSize,
    #[error("QED image size is invalid")]
    ImageSize,
    #[error("QED table offset is invalid")]
    TableOffset,
    #[error("QED header size is too large")]
    HeaderSize,
    #[error("QED backing filename offset is invalid")]
    BackingOffset,
    #[error("Failed to read backing filename")]
    BackingName,
}

impl From<QedError> for Error {
    fn from(error: QedError) -> Self {
        let (kind, code) = match error {
            QedError::Magic => (ErrorKind::NotThisFormat, errno::EINVAL),
            QedError::Features(_) => (ErrorKind::Unsupported, errno::ENOTSUP),
            _ => (ErrorKind::Corrupt, errno::EINVAL),
        };
        Self::new(kind, error.to_string()).with_errno(code)
    }
}

impl Header {
    /// True if `bytes` begin as an image does.
    pub(crate) fn is_signed(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
    }

    /// Reads and checks the header.
    pub(crate) fn read(storage: &dyn BlockDevice) -> Result<Self> {
        let mut bytes = [0; HEADER_LEN];
        read_zero_padded(storage, 0, &mut bytes)
            .map_err(|error| error.told_as("Failed to read QED header"))?;
        if !Self::is_signed(&bytes) {
            return Err(QedError::Magic.into());
        }
        let header = Self::parse(&bytes).ok_or(QedError::Magic)?;
        header.check(storage.len())?;
        Ok(header)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        fields.u32_le()?;
        let (cluster_size, table_size, header_size) = (fields.u32_le()?, fields.u32_le()?, fields.u32_le()?);
        let (features, compat_features) = (fields.u64_le()?, fields.u64_le()?);
        Some(Self {
            geo: Geometry {
                cluster_size: cluster_size.into(),
                table_size: table_size.into(),
                header_size: header_size.into(),
            },
            features,
            compat_features,
            autoclear_features: fields.u64_le()?,
            l1_offset: fields.u64_le()?,
            image_size: fields.u64_le()?,
            backing_offset: fields.u32_le()?,
            backing_size: fields.u32_le()?,
        })
    }

    fn check(&self, file_len: u64) -> Result<(), QedError> {
        let geo = &self.geo;
        if self.features & !KNOWN_FEATURES != 0 {
            return Err(QedError::Features(self.features & !KNOWN_FEATURES));
        }
        if !geo.has_valid_cluster_size() {
            return Err(QedError::ClusterSize);
        }
        if !geo.has_valid_table_size() {
            return Err(QedError::TableSize);
        }
        if !geo.is_valid_disk_size(self.image_size) {
            return Err(QedError::ImageSize);
        }
        if !geo.is_table_offset(self.l1_offset, align_down(file_len, geo.cluster_size)) {
            return Err(QedError::TableOffset);
        }
        if geo.header_bytes() > MAX_HEADER_BYTES {
            return Err(QedError::HeaderSize);
        }
        let name_end = u64::from(self.backing_offset) + u64::from(self.backing_size);
        if self.features & BACKING_FILE != 0 && name_end > geo.header_bytes() {
            return Err(QedError::BackingOffset);
        }
        Ok(())
    }

    /// The name of the backing file, if there is one.
    pub(crate) fn read_backing(&self, storage: &dyn BlockDevice) -> Result<Option<String>> {
        if self.features & BACKING_FILE == 0 {
            return Ok(None);
        }
        let (offset, len) = (u64::from(self.backing_offset), u64::from(self.backing_size));
        if len > MAX_BACKING_NAME || offset + len > storage.len() {
            return Err(QedError::BackingName.into());
        }
        let mut name = vec![0; to_usize(len)];
        storage.read_at(offset, &mut name)?;
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        name.truncate(end);
        let name = String::from_utf8(name).map_err(|_| QedError::BackingName)?;
        Ok(Some(name).filter(|name| !name.is_empty()))
    }

    /// The header's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for field in [self.geo.cluster_size, self.geo.table_size, self.geo.header_size] {
            bytes.extend(u32::try_from(field).unwrap_or(u32::MAX).to_le_bytes());
        }
        for field in
            [self.features, self.compat_features, self.autoclear_features, self.l1_offset, self.image_size]
        {
            bytes.extend(field.to_le_bytes());
        }
        for field in [self.backing_offset, self.backing_size] {
            bytes.extend(field.to_le_bytes());
        }
        bytes
    }

    /// The header with `backing` (a name, and whether its file is raw), and the bytes of the name. It comes right behind
    /// the fields, if both are written at once or there is no name to spoil; else where the old one is not, if there is
    /// room. `None`: the name does not fit.
    pub(crate) fn with_backing(&self, backing: Option<(&str, bool)>) -> Option<(Self, Vec<u8>)> {
        let mut header = self.clone();
        header.features &= !(BACKING_FILE | BACKING_IS_RAW);
        header.backing_size = 0;
        let Some((name, is_raw)) = backing else { return Some((header, Vec::new())) };
        header.features |= BACKING_FILE | if is_raw { BACKING_IS_RAW } else { 0 };
        header.backing_size = u32::try_from(name.len()).ok()?;
        let behind_fields = u32::try_from(HEADER_LEN).ok()?;
        let fits = |offset: u32| u64::from(offset) + name.len() as u64 <= self.geo.header_bytes();
        let old_end = self.backing_offset.checked_add(self.backing_size)?.max(behind_fields);
        let at_once = HEADER_LEN + name.len() <= ATOMIC || self.features & BACKING_FILE == 0;
        header.backing_offset = if at_once || !fits(old_end) { behind_fields } else { old_end };
        fits(header.backing_offset).then(|| (header, name.as_bytes().to_vec()))
    }

    /// True if `name` stands right behind the fields.
    pub(crate) fn is_one_write(&self, name: &[u8]) -> bool {
        name.is_empty() || u64::from(self.backing_offset) == HEADER_LEN as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let geo = Geometry { cluster_size: 4096, table_size: 2, header_size: 1 };
        Header {
            geo,
            features: 0,
            compat_features: 0,
            autoclear_features: 0,
            l1_offset: 4096,
            image_size: 1 << 20,
            backing_offset: 0,
            backing_size: 0,
        }
    }

    #[test]
    fn a_header_is_read_back() {
        let (with, name) = header().with_backing(Some(("base", true))).unwrap();
        assert_eq!(Header::parse(&with.encode()).unwrap(), with);
        assert_eq!((with.features, with.backing_offset, name.as_slice()), (5, 64, b"base".as_slice()));
        let (without, name) = with.with_backing(None).unwrap();
        assert_eq!((without.features, without.backing_offset, without.backing_size), (0, 64, 0));
        assert!(name.is_empty() && without.is_one_write(&name));
        assert!(header().with_backing(Some((&"x".repeat(4033), false))).is_none());
    }

    #[test]
    fn a_long_name_comes_where_the_old_one_is_not() {
        let long = "x".repeat(1000);
        let (first, _) = header().with_backing(Some((&long, false))).unwrap();
        assert_eq!(first.backing_offset, 64);
        let (second, name) = first.with_backing(Some((&long, false))).unwrap();
        assert!(second.backing_offset == 1064 && !second.is_one_write(&name));
        let (third, _) = first.with_backing(Some(("short", false))).unwrap();
        assert_eq!(third.backing_offset, 64);
    }

    #[test]
    fn what_is_wrong_is_told() {
        let check = |change: fn(&mut Header)| {
            let mut header = header();
            change(&mut header);
            header.check(20_480).err().map_or(String::new(), |error| error.to_string())
        };
        assert_eq!(check(|_| ()), "");
        assert_eq!(check(|header| header.features = 0x1a), "Unsupported QED features: 18");
        assert_eq!(check(|header| header.geo.cluster_size = 5000), "QED cluster size is invalid");
        assert_eq!(check(|header| header.geo.table_size = 3), "QED table size is invalid");
        assert_eq!(check(|header| header.image_size = 1000), "QED image size is invalid");
        assert_eq!(check(|header| header.geo.table_size = 1), "QED table offset is invalid");
        assert_eq!(check(|header| header.l1_offset = 16_384), "QED table offset is invalid");
    }
}
