//! The format extension: one cluster with features, of which dirty bitmaps are the only known one. They are not used:
//! they are checked when an image is opened to be read, and the clusters that they take are known, so that nobody takes
//! these for leaked or free.

use diskimg_core::{BlockDevice, ByteRange, Error, Fields, Result, read_zero_padded, to_usize};
use md5::{Digest, Md5};

use crate::header::Header;
use crate::limits::{MAX_EXTENSION, SECTOR};

const MAGIC: u64 = 0xab23_4cef_23dc_ea87;
const BITMAP: u64 = 0x2038_5fae_252c_b34a;
/// Bytes of the extension's own header: magic and MD5.
const HEAD: usize = 24;
/// Bytes of a feature's header.
const FEATURE: usize = 24;
/// Bytes of a bitmap's fixed fields.
const BITMAP_HEAD: usize = 32;

/// A feature's header and its data.
struct Feature<'a> {
    magic: u64,
    flags: u64,
    len: usize,
    data: Option<&'a [u8]>,
}

fn next<'a>(fields: &mut Fields<'a>) -> Option<Feature<'a>> {
    let (magic, flags, len) = (fields.u64_le()?, fields.u64_le()?, to_usize(fields.u32_le()?.into()));
    fields.u32_le()?;
    let data = fields.rest().get(..len);
    if data.is_some() {
        fields.bytes(len.next_multiple_of(8).min(fields.rest().len()))?;
    }
    Some(Feature { magic, flags, len, data })
}

/// The cluster of the extension.
fn read(storage: &dyn BlockDevice, header: &Header) -> Result<Vec<u8>> {
    if header.cluster_size > MAX_EXTENSION {
        return Err(Error::limit("the Format Extension is too long"));
    }
    let mut bytes = vec![0; to_usize(header.cluster_size)];
    let told = |error: Error| error.context("Failed to read Format Extension cluster");
    read_zero_padded(storage, header.extension, &mut bytes).map_err(told)?;
    Ok(bytes)
}

/// Checks the extension.
pub(crate) fn check(storage: &dyn BlockDevice, header: &Header) -> Result<()> {
    let bytes = read(storage, header)?;
    let mut fields = Fields::new(&bytes);
    let magic = fields.u64_le().unwrap_or(0);
    if magic != MAGIC {
        let text = format!("Wrong parallels Format Extension magic: {magic:#x}, expected: {MAGIC:#x}");
        return Err(Error::corrupt(text));
    }
    let sum: Option<[u8; 16]> = fields.array();
    if sum.is_none_or(|sum| Md5::digest(fields.rest())[..] != sum) {
        let text = "Wrong checksum in Format Extension header. Format extension is corrupted.";
        return Err(Error::corrupt(text));
    }
    let mut names = Vec::new();
    loop {
        let left = fields.rest().len();
        let Some(feature) = next(&mut fields) else {
            return Err(Error::corrupt(format!(
                "Can not read feature header, as remaining bytes ({left}) in Format Extension is less than Feature header size ({FEATURE})"
            )));
        };
        if feature.flags != 0 {
            return Err(Error::unsupported("Flags for extension feature are unsupported"));
        }
        let Some(data) = feature.data else {
            return Err(Error::corrupt("Feature data_size exceedes Format Extension cluster"));
        };
        match feature.magic {
            0 => return Ok(()),
            BITMAP => names.push(check_bitmap(data, feature.len, header)?),
            other => return Err(Error::unsupported(format!("Unknown feature: {other:#x}"))),
        }
        let name = names.last().copied().unwrap_or_default();
        if names.iter().filter(|known| **known == name).count() > 1 {
            return Err(Error::corrupt(format!("Bitmap already exists: {}", uuid_text(name))));
        }
    }
}

/// A UUID as text.
fn uuid_text(id: [u8; 16]) -> String {
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let part = |from, to| hex.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

/// Checks a bitmap; its id.
fn check_bitmap(data: &[u8], len: usize, header: &Header) -> Result<[u8; 16]> {
    let mut fields = Fields::new(data);
    let mut head = || Some((fields.u64_le()?, fields.array()?, fields.u32_le()?, fields.u32_le()?));
    let Some((sectors, id, granularity, count)) = head() else {
        return Err(Error::corrupt(format!(
            "Too small Bitmap Feature area in Parallels Format Extension: {len} bytes, expected at least {BITMAP_HEAD} bytes"
        )));
    };
    let disk = header.disk_size / SECTOR;
    if sectors != disk {
        let text = format!("Bitmap size (in sectors) {sectors} differs from disk size in sectors {disk}");
        return Err(Error::corrupt(text));
    }
    if u64::from(count) * 8 > fields.rest().len() as u64 {
        return Err(Error::corrupt("Bitmaps feature corrupted: l1 table exceeds extension data_size"));
    }
    if !granularity.is_power_of_two() || granularity > 1 << 21 {
        return Err(Error::corrupt(format!("Bitmap granularity {granularity} is not supported")));
    }
    let bytes = disk.div_ceil(granularity.into()).div_ceil(8);
    let expected = bytes.div_ceil(header.cluster_size);
    if u64::from(count) != expected {
        return Err(Error::corrupt(format!(
            "Bitmap table size {count} does not correspond to bitmap size and cluster size. Expected {expected}"
        )));
    }
    Ok(id)
}

/// Host ranges that the extension and its bitmaps take, as far as it makes sense.
pub(crate) fn used(storage: &dyn BlockDevice, header: &Header) -> Vec<ByteRange> {
    let file_len = storage.len().next_multiple_of(SECTOR);
    let cluster = |offset: u64| {
        let end = offset.checked_add(header.cluster_size)?;
        (end <= file_len).then_some(ByteRange::new(offset, header.cluster_size))
    };
    let Some(own) = (header.extension > 0).then(|| cluster(header.extension)).flatten() else {
        return Vec::new();
    };
    let mut ranges = vec![own];
    let Ok(bytes) = read(storage, header) else { return ranges };
    let mut fields = Fields::new(&bytes);
    if fields.u64_le() != Some(MAGIC) || fields.bytes(HEAD - 8).is_none() {
        return ranges;
    }
    while let Some(Feature { magic, data: Some(data), .. }) = next(&mut fields) {
        if magic == 0 {
            break;
        }
        let pieces = data.get(BITMAP_HEAD..).filter(|_| magic == BITMAP).unwrap_or_default().as_chunks().0;
        // 0 and 1 stand for pieces that are not stored.
        let sectors = pieces.iter().map(|piece| u64::from_le_bytes(*piece)).filter(|sector| *sector > 1);
        ranges.extend(sectors.filter_map(|sector| sector.checked_mul(SECTOR)).filter_map(cluster));
    }
    ranges
}
