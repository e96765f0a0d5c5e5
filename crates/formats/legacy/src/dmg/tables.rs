//! The tables of chunks (`mish` blocks): found in the property list or in the resource fork, then merged into one.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use diskimg_core::driver::{NoticeLevel, Notices};
use diskimg_core::{BlockDevice, Fields, Result, read_zero_padded, to_usize};

use super::chunk::{Chunk, Coding};
use super::trailer::{Trailer, checksum};
use crate::SECTOR;

const MAGIC: &[u8] = b"mish";
/// Bytes of a table before its entries.
const HEAD_LEN: usize = 204;
/// Bytes of an entry.
const ENTRY_LEN: usize = 40;
/// Longest property list or resource fork, in bytes.
const MAX_LIST_BYTES: u64 = 16 << 20;
/// Most sectors of a stored chunk: 64 MiB.
const MAX_CHUNK_SECTORS: u64 = 131_072;
/// Most bytes of a stored chunk on the host.
const MAX_CHUNK_BYTES: u64 = 64 << 20;

/// Padding has been taken away, bits behind the end are not looked at.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A table's own checksum, and which chunks are its.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TableSum {
    /// CRC-32 of what its chunks hold, if recorded.
    pub checksum: Option<u32>,
    /// An entry was skipped: the sum can't be computed.
    pub incomplete: bool,
}

/// All chunks.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// Ascending by sector.
    chunks: Vec<Chunk>,
    /// In the order of the image.
    pub sums: Vec<TableSum>,
}

/// Why a table is not read.
struct Bad;

impl Tables {
    /// Reads all tables; `None` if the image contradicts itself (what is wrong may have been told).
    pub(super) fn read(
        storage: &dyn BlockDevice,
        trailer: &Trailer,
        notices: &Notices,
    ) -> Result<Option<Self>> {
        let ((offset, len), is_fork) = match (trailer.resource_fork, trailer.plist) {
            ((_, 0), (_, 0)) => return Ok(None),
            ((_, 0), plist) => (plist, false),
            (fork, _) => (fork, true),
        };
        if len > MAX_LIST_BYTES {
            return Ok(None);
        }
        let mut list = vec![0; to_usize(len)];
        read_zero_padded(storage, offset, &mut list)?;
        let mut tables = Self::default();
        let mut reader = Reader { trailer, notices, tables: &mut tables, warned: false };
        let read = if is_fork { reader.resource_fork(&list) } else { reader.plist(&list) };
        if read.is_err() {
            return Ok(None);
        }
        // One without sectors would hide the one that begins where it stands.
        tables.chunks.retain(|chunk| chunk.sectors > 0);
        tables.chunks.sort_by_key(|chunk| chunk.sector);
        Ok(Some(tables))
    }

    /// The chunk that holds byte `offset` of the disk, and its number.
    pub(super) fn chunk_at(&self, offset: u64) -> Option<(usize, &Chunk)> {
        let sector = offset / SECTOR;
        let index = self.chunks.partition_point(|chunk| chunk.sector <= sector).checked_sub(1)?;
        let chunk = self.chunks.get(index)?;
        (sector - chunk.sector < chunk.sectors).then_some((index, chunk))
    }

    /// All chunks, ascending by sector.
    pub(super) fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }
}

/// Collects tables.
struct Reader<'a> {
    trailer: &'a Trailer,
    notices: &'a Notices,
    tables: &'a mut Tables,
    /// One unknown type was told of.
    warned: bool,
}

impl Reader<'_> {
    /// Every `<data>` of the list that decodes to a table is one.
    fn plist(&mut self, list: &[u8]) -> Result<(), Bad> {
        // Text ends at a NUL.
        let mut rest = list.split(|byte| *byte == 0).next().unwrap_or_default();
        while let Some(start) = find(rest, b"<data>") {
            let Some(data) = rest.get(start + b"<data>".len()..) else { break };
            let end = find(data, b"</data>").ok_or(Bad)?;
            self.table(&decode_base64(data.get(..end).unwrap_or_default()).ok_or(Bad)?)?;
            rest = data.get(end..).unwrap_or_default();
        }
        Ok(())
    }

    /// The resources of the fork's data area, each with its length before it.
    fn resource_fork(&mut self, fork: &[u8]) -> Result<(), Bad> {
        let mut head = Fields::new(fork);
        let data = head.u32_be().ok_or(Bad)?;
        head.u32_be().ok_or(Bad)?;
        let len = head.u32_be().ok_or(Bad)?;
        if len == 0 {
            return Err(Bad);
        }
        let (start, len) = (to_usize(data.into()), to_usize(len.into()));
        let end = start.checked_add(len).filter(|end| *end <= fork.len()).ok_or(Bad)?;
        let mut at = start;
        // The last resource may reach behind the area with four bytes, as many as its length takes.
        while at < end {
            let mut area = Fields::new(fork.get(at..).unwrap_or_default());
            let fits = |len: &u32| *len != 0 && to_usize((*len).into()) <= end - at;
            let len = area.u32_be().filter(fits).ok_or(Bad)?;
            self.table(area.bytes(to_usize(len.into())).ok_or(Bad)?)?;
            at += area.position();
        }
        Ok(())
    }

    /// Takes the chunks of one table; other contents are passed over. Places that make no sense are found when they are
    /// read.
    fn table(&mut self, bytes: &[u8]) -> Result<(), Bad> {
        if bytes.len() < HEAD_LEN + ENTRY_LEN || !bytes.starts_with(MAGIC) {
            return Ok(());
        }
        let mut head = Fields::new(bytes);
        head.bytes(8).ok_or(Bad)?;
        let first_sector = head.u64_be().ok_or(Bad)?;
        head.u64_be().ok_or(Bad)?;
        let data_offset = head.u64_be().ok_or(Bad)?;
        head.bytes(32).ok_or(Bad)?;
        let mut sum = TableSum { checksum: checksum(&mut head).ok_or(Bad)?, incomplete: false };
        let table = u32::try_from(self.tables.sums.len()).map_err(|_| Bad)?;
        let entries = bytes.get(HEAD_LEN..).unwrap_or_default();
        let base = self.trailer.data_fork.wrapping_add(data_offset);
        for entry in entries.chunks_exact(ENTRY_LEN) {
            let Some(entry) = Entry::parse(entry) else { break };
            match Coding::of(entry.kind) {
                Some(Some(coding)) => {
                    self.check(coding, &entry)?;
                    self.tables.chunks.push(Chunk {
                        table,
                        coding,
                        sector: entry.sector.wrapping_add(first_sector),
                        sectors: entry.sectors,
                        host_offset: entry.offset.wrapping_add(base),
                        host_len: entry.len,
                    });
                }
                Some(None) => {}
                None => {
                    sum.incomplete = true;
                    self.warn_of(entry.kind);
                }
            }
        }
        self.tables.sums.push(sum);
        Ok(())
    }

    fn check(&self, coding: Coding, entry: &Entry) -> Result<(), Bad> {
        let number = self.tables.chunks.len();
        let complain = |text: String| {
            self.notices.say(NoticeLevel::Error, &text);
            Err(Bad)
        };
        if !coding.is_zero() && entry.sectors > MAX_CHUNK_SECTORS {
            return complain(format!(
                "sector count {} for chunk {number} is larger than max ({MAX_CHUNK_SECTORS})",
                entry.sectors
            ));
        }
        if entry.len > MAX_CHUNK_BYTES {
            return complain(format!(
                "length {} for chunk {number} is larger than max ({MAX_CHUNK_BYTES})",
                entry.len
            ));
        }
        Ok(())
    }

    fn warn_of(&mut self, kind: u32) {
        if !std::mem::replace(&mut self.warned, true) {
            self.notices.warn(&format!(
                "Image contains chunks of unknown type {kind:x}, accessing them will result in I/O errors"
            ));
        }
    }
}

/// An entry as it stands.
struct Entry {
    kind: u32,
    sector: u64,
    sectors: u64,
    offset: u64,
    len: u64,
}

impl Entry {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        let kind = fields.u32_be()?;
        fields.u32_be()?;
        let [sector, sectors, offset, len] =
            [fields.u64_be()?, fields.u64_be()?, fields.u64_be()?, fields.u64_be()?];
        Some(Self { kind, sector, sectors, offset, len })
    }
}

/// Decodes as tools do: whatever is not of the alphabet is passed over, a lone last digit too.
fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let mut digits: Vec<u8> = text.iter().copied().filter(is_digit).collect();
    if digits.len() % 4 == 1 {
        digits.pop();
    }
    BASE64.decode(digits).ok()
}

/// Where `wanted` begins in `bytes`.
fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use diskimg_core::MemDevice;

    use super::*;

    /// A table of raw chunks: first sector, sectors.
    fn mish(first: u64, chunks: &[(u64, u64)]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(1_u32.to_be_bytes());
        bytes.extend(first.to_be_bytes());
        bytes.resize(HEAD_LEN, 0);
        for (sector, sectors) in chunks {
            bytes.extend([1_u32.to_be_bytes(), [0; 4]].concat());
            let fields = [*sector, *sectors, (first + sector) * SECTOR, sectors * SECTOR];
            bytes.extend(fields.iter().flat_map(|field| field.to_be_bytes()));
        }
        bytes
    }

    #[test]
    fn a_chunk_of_no_length_hides_none() {
        let tables = [mish(8, &[(0, 8)]), mish(0, &[(0, 8), (8, 0)])];
        let mut data: Vec<u8> = Vec::new();
        for table in &tables {
            data.extend(u32::try_from(table.len()).unwrap().to_be_bytes());
            data.extend(table);
        }
        let len = u32::try_from(data.len()).unwrap();
        let mut fork: Vec<u8> = [16, 16 + len, len, 0].iter().flat_map(|field| field.to_be_bytes()).collect();
        fork.extend(data);
        let (offset, fork_len) = (0, fork.len() as u64);
        let trailer = Trailer {
            offset: fork_len,
            resource_fork: (offset, fork_len),
            sectors: 16,
            ..Trailer::default()
        };
        let storage = MemDevice::read_only(fork);
        let read = Tables::read(&storage, &trailer, &Notices::default()).unwrap().unwrap();
        for sector in 0..16 {
            let (_, chunk) = read.chunk_at(sector * SECTOR).unwrap();
            assert_eq!(chunk.sector, sector / 8 * 8);
        }
        assert!(read.chunk_at(16 * SECTOR).is_none());
    }
}
