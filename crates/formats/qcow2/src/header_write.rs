//! Writing the header: always the whole of cluster 0, as the format's usual implementation lays it out.
//!
//! Order: fields, backing format, data file, LUKS pointer, feature names, bitmaps, unknown extensions, end marker, and
//! right behind it the backing name. The rest of the cluster is zeros.

use diskimg_core::{BlockDevice, Error, ErrorKind, Result, to_usize};

use crate::extensions::{self, push};
use crate::features;
use crate::header::{Header, MAGIC, V2_LEN, V3_LEN};
use crate::limits::MAX_BACKING_NAME;

/// Clusters up to this size (bytes) hold no feature name table.
const NO_FEATURE_NAMES: u64 = 4096;

impl Header {
    /// The contents of cluster 0.
    ///
    /// # Errors
    /// `NoSpace` if it does not fit in a cluster; `InvalidArg` for a backing name that is too long.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let cluster_size = self.geometry().cluster_size();
        let mut body = self.encode_extensions();
        let fields_len = self.encoded_fields_len();
        let backing = self.backing_name.as_deref().filter(|name| !name.is_empty());
        let backing = backing.map(|name| self.stored_bytes(name)).unwrap_or_default();
        let backing_len = u32::try_from(backing.len()).ok().filter(|len| *len <= MAX_BACKING_NAME);
        let backing_len = backing_len.ok_or_else(|| Error::from_errno(diskimg_core::errno::EINVAL))?;
        let backing_offset = fields_len + body.len() as u64;
        body.extend_from_slice(backing);
        if fields_len + body.len() as u64 > cluster_size {
            return Err(no_space());
        }
        let place = if backing.is_empty() { (0, 0) } else { (backing_offset, backing_len) };
        let mut cluster = self.encode_fields(place);
        cluster.append(&mut body);
        cluster.resize(to_usize(cluster_size), 0);
        Ok(cluster)
    }

    /// Writes cluster 0.
    ///
    /// # Errors
    /// As [`Header::encode`], and the storage's.
    pub(crate) fn write_to(&self, storage: &dyn BlockDevice) -> Result<()> {
        storage.write_at(0, &self.encode()?)
    }

    /// Rewrites the header if a writer must not leave it as it is: without autoclear bits that are not known, and
    /// without bitmaps that somebody else made stale.
    ///
    /// # Errors
    /// As [`Header::write_to`].
    pub(crate) fn forget_what_is_stale(&mut self, storage: &dyn BlockDevice) -> Result<()> {
        let known = self.autoclear & features::KNOWN_AUTOCLEAR;
        if known == self.autoclear && !self.extensions.stale_bitmaps {
            return Ok(());
        }
        self.autoclear = known;
        self.extensions.stale_bitmaps = false;
        self.write_to(storage)?;
        storage.flush()
    }

    /// Length of the fields once written, in bytes.
    fn encoded_fields_len(&self) -> u64 {
        if self.is_v3() { u64::from(V3_LEN) + self.unknown_fields.len() as u64 } else { V2_LEN.into() }
    }

    fn encode_fields(&self, (backing_offset, backing_len): (u64, u32)) -> Vec<u8> {
        let mut out = Vec::with_capacity(to_usize(self.geometry().cluster_size()));
        let u32_be = |out: &mut Vec<u8>, value: u32| out.extend_from_slice(&value.to_be_bytes());
        let u64_be = |out: &mut Vec<u8>, value: u64| out.extend_from_slice(&value.to_be_bytes());
        u32_be(&mut out, MAGIC);
        u32_be(&mut out, self.version);
        u64_be(&mut out, backing_offset);
        u32_be(&mut out, backing_len);
        u32_be(&mut out, self.cluster_bits);
        u64_be(&mut out, self.size);
        u32_be(&mut out, self.crypt_method);
        u32_be(&mut out, self.l1_size);
        u64_be(&mut out, self.l1_offset);
        u64_be(&mut out, self.reftable_offset);
        u32_be(&mut out, self.reftable_clusters);
        u32_be(&mut out, self.snapshot_count);
        u64_be(&mut out, self.snapshots_offset);
        if !self.is_v3() {
            return out;
        }
        u64_be(&mut out, self.incompatible);
        u64_be(&mut out, self.compatible);
        u64_be(&mut out, self.autoclear);
        u32_be(&mut out, self.refcount_order);
        // Unknown fields came out of one cluster.
        u32_be(&mut out, u32::try_from(self.encoded_fields_len()).unwrap_or(u32::MAX));
        out.push(self.compression_type);
        out.resize(to_usize(V3_LEN.into()), 0);
        out.extend_from_slice(&self.unknown_fields);
        out
    }

    fn encode_extensions(&self) -> Vec<u8> {
        let found = &self.extensions;
        let mut out = Vec::new();
        if let Some(format) = &found.backing_format {
            push(&mut out, extensions::BACKING_FORMAT, self.stored_bytes(format));
        }
        if let Some(name) = found.data_file.as_ref().filter(|_| self.has_data_file()) {
            push(&mut out, extensions::DATA_FILE, self.stored_bytes(name));
        }
        if let Some(crypto) = &found.crypto {
            let data = [crypto.offset.to_be_bytes(), crypto.len.to_be_bytes()].concat();
            push(&mut out, extensions::CRYPTO, &data);
        }
        if self.is_v3() && self.geometry().cluster_size() > NO_FEATURE_NAMES {
            push(&mut out, extensions::FEATURE_NAMES, &features::name_table());
        }
        if let Some(bitmaps) = &found.bitmaps {
            let mut data = bitmaps.count.to_be_bytes().to_vec();
            data.extend_from_slice(&[0; 4]);
            data.extend_from_slice(&bitmaps.directory_size.to_be_bytes());
            data.extend_from_slice(&bitmaps.directory_offset.to_be_bytes());
            push(&mut out, extensions::BITMAPS, &data);
        }
        for (magic, data) in &found.unknown {
            push(&mut out, *magic, data);
        }
        push(&mut out, extensions::END, &[]);
        out
    }
}

fn no_space() -> Error {
    Error::new(ErrorKind::NoSpace, diskimg_core::strerror(diskimg_core::errno::ENOSPC))
        .with_errno(diskimg_core::errno::ENOSPC)
}
