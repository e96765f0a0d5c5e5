//! The header in cluster 0 (specification, "Header"): reading it with every check that opening makes, in its order.
//!
//! Invariants of a [`Header`] that was read: every offset and size is within the limits of [`crate::limits`] and aligned
//! as the format demands, so that layout arithmetic on it can't overflow. Writing is in [`crate::header_write`].

use diskimg_core::driver::OpenMode;
use diskimg_core::{BlockDevice, Error, ErrorKind, Fields, Result, read_zero_padded, to_usize};

use crate::extensions::{self, Extensions};
use crate::features;
use crate::geometry::Geometry;
use crate::limits::{
    MAX_BACKING_NAME, MAX_CLUSTER_BITS, MAX_L1_ENTRIES, MAX_REFCOUNT_ORDER, MAX_REFTABLE_BYTES,
    MAX_SNAPSHOTS, MIN_CLUSTER_BITS,
};

/// `QFI` and 0xfb.
pub(crate) const MAGIC: u32 = 0x5146_49fb;
/// Length of a version 2 header, in bytes.
pub(crate) const V2_LEN: u32 = 72;
/// Shortest version 3 header, in bytes.
pub(crate) const V3_MIN_LEN: u32 = 104;
/// Length of a version 3 header with all fields that are known, in bytes: what is written.
pub(crate) const V3_LEN: u32 = 112;
/// Bytes of all fields that are known.
const KNOWN_LEN: usize = 112;
/// Refcount order of every version 2 image.
const V2_REFCOUNT_ORDER: u32 = 4;
/// Smallest subcluster, in bytes.
const MIN_SUBCLUSTER: u64 = 512;
/// Encryption method numbers end here.
const MAX_CRYPT_METHOD: u32 = 2;
/// The method that has a header of its own.
pub(crate) const CRYPT_LUKS: u32 = 2;
/// Compression types end here: 0 deflate, 1 zstd.
const MAX_COMPRESSION_TYPE: u8 = 1;
/// Bytes of a disk sector: the virtual size is counted in them.
pub(crate) const SECTOR: u64 = 512;

/// The header and its extensions. Offsets and sizes are host bytes unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// 2 or 3.
    pub version: u32,
    /// The backing file's name; bytes that are not UTF-8 are replaced here, and kept for writing.
    pub backing_name: Option<String>,
    /// log2 of the cluster size.
    pub cluster_bits: u32,
    /// Virtual size as stored, in bytes. See [`Header::disk_size`].
    pub size: u64,
    /// 0 none, 1 AES, 2 LUKS.
    pub crypt_method: u32,
    /// Entries of the active L1 table.
    pub l1_size: u32,
    /// Where it is.
    pub l1_offset: u64,
    /// Where the refcount table is.
    pub reftable_offset: u64,
    /// Clusters of the refcount table.
    pub reftable_clusters: u32,
    /// Number of snapshots.
    pub snapshot_count: u32,
    /// Where the snapshot table is.
    pub snapshots_offset: u64,
    /// Bits of [`crate::features`].
    pub incompatible: u64,
    /// Bits of [`crate::features`].
    pub compatible: u64,
    /// Bits of [`crate::features`].
    pub autoclear: u64,
    /// log2 of a refcount's width in bits.
    pub refcount_order: u32,
    /// Length of the header as stored.
    pub header_length: u32,
    /// 0 deflate, 1 zstd.
    pub compression_type: u8,
    /// Fields behind those that are known.
    pub unknown_fields: Vec<u8>,
    /// The extensions.
    pub extensions: Extensions,
    /// Texts that are not UTF-8, as shown and as stored.
    pub raw_texts: Vec<(String, Vec<u8>)>,
}

/// Why a header is refused. The texts are those that users of the format know.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum HeaderError {
    #[error("Image is not in qcow2 format")]
    Magic,
    #[error("Unsupported qcow2 version {0}")]
    Version(u32),
    #[error("Unsupported cluster size: 2^{0}")]
    ClusterSize(u32),
    #[error("qcow2 header too short")]
    TooShort,
    #[error("qcow2 header exceeds cluster size")]
    TooLong,
    #[error("Invalid backing file offset")]
    BackingOffset,
    #[error("qcow2: unknown compression type: {0}")]
    CompressionType(u8),
    #[error("qcow2: Compression type incompatible feature bit must not be set")]
    CompressionBitSet,
    #[error("qcow2: Compression type incompatible feature bit must be set")]
    CompressionBitMissing,
    #[error("Unsupported qcow2 feature(s): {0}")]
    Features(String),
    #[error("qcow2: Image is corrupt; cannot be opened read/write")]
    Corrupt,
    #[error("Unsupported subcluster size: {0}")]
    SubclusterSize(u64),
    #[error("Reference count entry width too large; may not exceed 64 bits")]
    RefcountOrder,
    #[error("Unsupported encryption method {0}")]
    CryptMethod(i32),
    #[error("Image does not contain a reference count table")]
    NoRefcountTable,
    #[error("Reference count table too large")]
    RefcountTableSize,
    #[error("Reference count table offset invalid")]
    RefcountTableOffset,
    #[error("Snapshot table too large")]
    SnapshotCount,
    #[error("Snapshot table offset invalid")]
    SnapshotOffset,
    #[error("Active L1 table too large")]
    L1Size,
    #[error("Active L1 table offset invalid")]
    L1Offset,
    #[error("Image is too big")]
    TooBig,
    #[error("Could not refresh total sector count")]
    SectorCount,
    #[error("L1 table is too small")]
    L1TooSmall,
    #[error("Header extension too large")]
    ExtensionTooLarge,
    #[error("ERROR: ext_backing_format: len={0} too large (>=16)")]
    BackingFormatTooLong(u32),
    #[error("CRYPTO header extension only expected with LUKS encryption method")]
    CryptoUnexpected,
    #[error("CRYPTO header extension size {0}, but expected size 16")]
    CryptoLength(u32),
    #[error("Encryption header offset '{offset}' is not a multiple of cluster size '{cluster_size}'")]
    CryptoOffset { offset: u64, cluster_size: u64 },
    #[error("bitmaps_ext: Invalid extension length")]
    BitmapsLength,
    #[error("bitmaps_ext: Reserved field is not zero")]
    BitmapsReserved,
    #[error("found bitmaps extension with zero bitmaps")]
    BitmapsNone,
    #[error("bitmaps_ext: Image has {0} bitmaps, exceeding the QEMU supported maximum of {MAX_BITMAPS}", MAX_BITMAPS = crate::limits::MAX_BITMAPS)]
    BitmapsCount(u32),
    #[error("bitmaps_ext: invalid bitmap directory offset")]
    BitmapsOffset,
    #[error("bitmaps_ext: bitmap directory size ({0}) exceeds the maximum supported size ({MAX})", MAX = crate::limits::MAX_BITMAP_DIRECTORY_BYTES)]
    BitmapsDirectorySize(u64),
    #[error("Missing CRYPTO header for crypt method 2")]
    CryptoMissing,
    #[error("Backing file name too long")]
    BackingNameTooLong,
}

impl HeaderError {
    /// What sort of error it is.
    pub(crate) const fn kind(&self) -> ErrorKind {
        match self {
            Self::Magic => ErrorKind::NotThisFormat,
            Self::Version(_) | Self::Features(_) | Self::CryptMethod(_) | Self::CompressionType(_) => {
                ErrorKind::Unsupported
            }
            Self::RefcountTableSize
            | Self::SnapshotCount
            | Self::L1Size
            | Self::TooBig
            | Self::SectorCount
            | Self::BitmapsCount(_)
            | Self::BitmapsDirectorySize(_) => ErrorKind::Limit,
            _ => ErrorKind::Corrupt,
        }
    }
}

impl From<HeaderError> for Error {
    fn from(error: HeaderError) -> Self {
        match error {
            HeaderError::SectorCount => {
                let cause = diskimg_core::strerror(diskimg_core::errno::EFBIG);
                Self::limit(cause).context(error.to_string())
            }
            other => Self::new(other.kind(), other.to_string()),
        }
    }
}

/// The fields of a header as they stand, plus where the backing name is. Nothing is checked yet.
#[derive(Debug)]
struct RawHeader {
    backing_offset: u64,
    backing_len: u32,
    header: Header,
}

impl RawHeader {
    /// Parses the start of the image; `None` if `bytes` is shorter than the known fields.
    fn parse(bytes: &[u8]) -> Option<Result<Self, HeaderError>> {
        let mut fields = Fields::new(bytes);
        if fields.u32_be()? != MAGIC {
            return Some(Err(HeaderError::Magic));
        }
        let version = fields.u32_be()?;
        if !matches!(version, 2 | 3) {
            return Some(Err(HeaderError::Version(version)));
        }
        let (backing_offset, backing_len) = (fields.u64_be()?, fields.u32_be()?);
        let mut header = Header {
            version,
            backing_name: None,
            cluster_bits: fields.u32_be()?,
            size: fields.u64_be()?,
            crypt_method: fields.u32_be()?,
            l1_size: fields.u32_be()?,
            l1_offset: fields.u64_be()?,
            reftable_offset: fields.u64_be()?,
            reftable_clusters: fields.u32_be()?,
            snapshot_count: fields.u32_be()?,
            snapshots_offset: fields.u64_be()?,
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            refcount_order: V2_REFCOUNT_ORDER,
            header_length: V2_LEN,
            compression_type: 0,
            unknown_fields: Vec::new(),
            extensions: Extensions::default(),
            raw_texts: Vec::new(),
        };
        if header.is_v3() {
            header.incompatible = fields.u64_be()?;
            header.compatible = fields.u64_be()?;
            header.autoclear = fields.u64_be()?;
            header.refcount_order = fields.u32_be()?;
            header.header_length = fields.u32_be()?;
            let compression_type = fields.u8()?;
            if header.header_length > V3_MIN_LEN {
                header.compression_type = compression_type;
            }
        }
        Some(Ok(Self { backing_offset, backing_len, header }))
    }

    /// Where the extensions end: at the backing name, or with the cluster.
    fn area_end(&self) -> u64 {
        if self.backing_offset == 0 { self.header.geometry().cluster_size() } else { self.backing_offset }
    }

    /// The bytes of the extensions: all that are needed to find their end.
    fn read_area(&self, storage: &dyn BlockDevice) -> Result<Vec<u8>> {
        let start = u64::from(self.header.header_length);
        let len = self.area_end().saturating_sub(start);
        let mut area = vec![0; to_usize(len.min(FIRST_AREA_READ))];
        read_zero_padded(storage, start, &mut area)?;
        if len > FIRST_AREA_READ && !extensions::has_end(&area) {
            area.resize(to_usize(len), 0);
            read_zero_padded(storage, start, &mut area)?;
        }
        Ok(area)
    }

    /// The checks of shape: up to those of the feature bits.
    fn check_shape(&self) -> Result<(), HeaderError> {
        let header = &self.header;
        if !(MIN_CLUSTER_BITS..=MAX_CLUSTER_BITS).contains(&header.cluster_bits) {
            return Err(HeaderError::ClusterSize(header.cluster_bits));
        }
        let cluster_size = header.geometry().cluster_size();
        if header.is_v3() && header.header_length < V3_MIN_LEN {
            return Err(HeaderError::TooShort);
        }
        if u64::from(header.header_length) > cluster_size {
            return Err(HeaderError::TooLong);
        }
        if self.backing_offset > cluster_size {
            return Err(HeaderError::BackingOffset);
        }
        if header.compression_type > MAX_COMPRESSION_TYPE {
            return Err(HeaderError::CompressionType(header.compression_type));
        }
        match (header.compression_type, header.incompatible & features::COMPRESSION) {
            (0, 0) => Ok(()),
            (0, _) => Err(HeaderError::CompressionBitSet),
            (_, 0) => Err(HeaderError::CompressionBitMissing),
            _ => Ok(()),
        }
    }
}

/// How much of the extension area is read before it is known to be longer, in bytes.
const FIRST_AREA_READ: u64 = 4096;

/// A header that is read step by step; opening looks at tables, options and the data file between the steps.
#[derive(Debug)]
pub(crate) struct Draft {
    raw: RawHeader,
    area: Vec<u8>,
}

impl Draft {
    /// First step: the fields, with the checks of opening in `mode`.
    ///
    /// # Errors
    /// The first violation, or the storage's.
    pub(crate) fn read(storage: &dyn BlockDevice, mode: OpenMode) -> Result<Self> {
        let mut bytes = [0; KNOWN_LEN];
        read_zero_padded(storage, 0, &mut bytes)
            .map_err(|error| error.summarised("Could not read qcow2 header"))?;
        let mut raw = RawHeader::parse(&bytes).unwrap_or(Err(HeaderError::Magic))?;
        raw.check_shape()?;
        let header = &mut raw.header;
        let unknown_len = header.header_length.saturating_sub(V3_LEN);
        header.unknown_fields = vec![0; to_usize(unknown_len.into())];
        read_zero_padded(storage, V3_LEN.into(), &mut header.unknown_fields)?;
        let area = raw.read_area(storage)?;
        let unknown = raw.header.incompatible & !features::KNOWN_INCOMPATIBLE;
        if unknown != 0 {
            let names = extensions::find_feature_names(&area);
            return Err(HeaderError::Features(features::describe_unknown(unknown, &names)).into());
        }
        raw.header.check_features(mode)?;
        raw.header.check_tables(mode)?;
        raw.header.check_size()?;
        Ok(Self { raw, area })
    }

    /// Second step: the extensions.
    ///
    /// # Errors
    /// The first violation.
    pub(crate) fn parse_extensions(&mut self) -> Result<()> {
        let header = &mut self.raw.header;
        let rules = extensions::Rules {
            cluster_bits: header.cluster_bits,
            crypt_method: header.crypt_method,
            bitmaps_valid: header.autoclear & features::BITMAPS != 0,
        };
        let raw_texts = &mut header.raw_texts;
        header.extensions = extensions::parse(&self.area, &rules, &mut |text, bytes| {
            if text.as_bytes() != bytes {
                raw_texts.push((text.to_owned(), bytes.to_vec()));
            }
        })?;
        Ok(())
    }

    /// What is known so far.
    pub(crate) fn header(&self) -> &Header {
        &self.raw.header
    }

    /// Last step: the encryption header's presence and the backing name.
    ///
    /// # Errors
    /// The first violation, or the storage's.
    pub(crate) fn finish(self, storage: &dyn BlockDevice) -> Result<Header> {
        let RawHeader { backing_offset, backing_len, mut header } = self.raw;
        if header.crypt_method == CRYPT_LUKS && header.extensions.crypto.is_none() {
            return Err(HeaderError::CryptoMissing.into());
        }
        if backing_offset == 0 {
            return Ok(header);
        }
        let room = header.geometry().cluster_size().saturating_sub(backing_offset);
        if backing_len > MAX_BACKING_NAME || u64::from(backing_len) > room {
            return Err(HeaderError::BackingNameTooLong.into());
        }
        let mut name = vec![0; to_usize(backing_len.into())];
        read_zero_padded(storage, backing_offset, &mut name)?;
        let name = extensions::until_nul(&name);
        if name.is_empty() {
            return Ok(header);
        }
        let text = String::from_utf8_lossy(name).into_owned();
        if text.as_bytes() != name {
            header.raw_texts.push((text.clone(), name.to_vec()));
        }
        header.backing_name = Some(text);
        Ok(header)
    }
}

impl Header {
    /// Reads header, extensions and backing name from `storage` with all checks of opening in `mode`.
    #[cfg(test)]
    pub(crate) fn read(storage: &dyn BlockDevice, mode: OpenMode) -> Result<Self> {
        let mut draft = Draft::read(storage, mode)?;
        draft.header().check_crypt_method()?;
        draft.parse_extensions()?;
        draft.finish(storage)
    }

    /// True for version 3 and above.
    pub(crate) const fn is_v3(&self) -> bool {
        self.version >= 3
    }

    /// True if guest data stands in another file.
    pub(crate) const fn has_data_file(&self) -> bool {
        self.incompatible & features::DATA_FILE != 0
    }

    /// The layout that follows from the header.
    pub(crate) const fn geometry(&self) -> Geometry {
        Geometry {
            cluster_bits: self.cluster_bits,
            refcount_order: self.refcount_order,
            extended_l2: self.incompatible & features::EXTENDED_L2 != 0,
        }
    }

    /// Virtual size in bytes: whole sectors, an unaligned tail is no part of the disk.
    pub(crate) const fn disk_size(&self) -> u64 {
        self.size / SECTOR * SECTOR
    }

    /// The bytes that `text`, read from this header, was stored as.
    pub(crate) fn stored_bytes<'a>(&'a self, text: &'a str) -> &'a [u8] {
        let raw = self.raw_texts.iter().find(|(shown, _)| shown == text);
        raw.map_or(text.as_bytes(), |(_, bytes)| bytes)
    }

    /// The encryption method is one that exists. Opening looks at it after tables and options.
    pub(crate) fn check_crypt_method(&self) -> Result<(), HeaderError> {
        if self.crypt_method > MAX_CRYPT_METHOD {
            return Err(HeaderError::CryptMethod(self.crypt_method.cast_signed()));
        }
        Ok(())
    }

    fn check_features(&self, mode: OpenMode) -> Result<(), HeaderError> {
        if self.incompatible & features::CORRUPT != 0 && mode.write && !mode.check {
            return Err(HeaderError::Corrupt);
        }
        let subcluster = self.geometry().subcluster_size();
        if subcluster < MIN_SUBCLUSTER {
            return Err(HeaderError::SubclusterSize(subcluster));
        }
        if self.refcount_order > MAX_REFCOUNT_ORDER {
            return Err(HeaderError::RefcountOrder);
        }
        Ok(())
    }

    fn check_tables(&self, mode: OpenMode) -> Result<(), HeaderError> {
        if self.reftable_clusters == 0 && !mode.check {
            return Err(HeaderError::NoRefcountTable);
        }
        let reftable_len = u64::from(self.reftable_clusters) << self.cluster_bits;
        if reftable_len > MAX_REFTABLE_BYTES {
            return Err(HeaderError::RefcountTableSize);
        }
        if !self.is_table_place(self.reftable_offset, reftable_len) {
            return Err(HeaderError::RefcountTableOffset);
        }
        // A check reports these two itself.
        if self.snapshot_count > MAX_SNAPSHOTS && !mode.check {
            return Err(HeaderError::SnapshotCount);
        }
        if !self.is_snapshot_table_placed() && !mode.check {
            return Err(HeaderError::SnapshotOffset);
        }
        if u64::from(self.l1_size) > MAX_L1_ENTRIES {
            return Err(HeaderError::L1Size);
        }
        if !self.is_table_place(self.l1_offset, u64::from(self.l1_size) * 8) {
            return Err(HeaderError::L1Offset);
        }
        Ok(())
    }

    fn check_size(&self) -> Result<(), HeaderError> {
        let geo = self.geometry();
        let needed = geo.l1_entries_for(self.size);
        if self.size.checked_add(geo.l2_coverage()).is_none() {
            return Err(HeaderError::SectorCount);
        }
        if needed > MAX_L1_INDEX {
            return Err(HeaderError::TooBig);
        }
        if u64::from(self.l1_size) < needed {
            return Err(HeaderError::L1TooSmall);
        }
        if self.size > MAX_FILE_SIZE {
            return Err(HeaderError::SectorCount);
        }
        Ok(())
    }

    /// The snapshot table can be where the header says.
    pub(crate) fn is_snapshot_table_placed(&self) -> bool {
        self.is_table_place(self.snapshots_offset, u64::from(self.snapshot_count) * SNAPSHOT_HEAD_LEN)
    }

    /// A table of `len` bytes can be at `offset`.
    fn is_table_place(&self, offset: u64, len: u64) -> bool {
        self.geometry().is_aligned(offset) && offset.checked_add(len).is_some_and(|end| end <= MAX_FILE_SIZE)
    }
}

/// Bytes of a snapshot table entry without its variable parts.
pub(crate) const SNAPSHOT_HEAD_LEN: u64 = 40;
/// No offset or size exceeds it, in bytes.
const MAX_FILE_SIZE: u64 = i64::MAX as u64;
/// An L1 table that needs more entries is not even looked at.
const MAX_L1_INDEX: u64 = i32::MAX as u64;

#[cfg(test)]
pub(crate) mod tests;
