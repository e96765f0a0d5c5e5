//! Makes images: extents first, then the descriptor, which makes an image of them.

use std::sync::Arc;

use diskimg_core::driver::{CreateContext, WriteOrder};
use diskimg_core::opener::{Mode, ReferenceKind};
use diskimg_core::options::{ParsedOptions, RuntimeOptions};
use diskimg_core::{BlockDevice, Error, Prealloc, Result, len_u64, read_zero_padded, to_usize};

use crate::descriptor;
use crate::descriptor_write::{NewDescriptor, new_cid, split_name};
use crate::error::VmdkError;
use crate::header::{AT_END, HEADER_LEN, Header, KDMV, flags};
use crate::limits::{EMBEDDED_DESCRIPTOR, MAX_DESCRIPTOR, MAX_STREAM_TABLES, MAX_TABLES, SECTOR};
use crate::options::{NewImage, Subformat};
use crate::sparse::any_alignment;
use crate::stream::trailer;

/// Sectors of a grain.
const GRAIN: u64 = 128;
/// Entries of a grain table.
const TABLE: u64 = 512;
/// Sectors of a grain table.
const TABLE_SECTORS: u64 = TABLE * 4 / SECTOR;
/// Bytes of an extent of a split disk.
const SPLIT: u64 = 2 << 30;
/// Sectors of the embedded descriptor.
const DESCRIPTOR_SECTORS: u64 = EMBEDDED_DESCRIPTOR / SECTOR;
/// Directory entries that are written at once.
const ENTRIES_AT_ONCE: u64 = 1 << 16;
/// Hexadecimal digits of a new content identifier.
const CID_DIGITS: usize = 8;

/// Checks options against each other.
pub(crate) fn validate(options: &ParsedOptions) -> Result<()> {
    NewImage::from_options(options).map(|_| ())
}

/// In which order an image can be written: a stream has its tables behind its grains.
pub(crate) fn write_order(options: &ParsedOptions) -> WriteOrder {
    match NewImage::from_options(options) {
        Ok(new) if new.subformat == Subformat::StreamOptimized => {
            WriteOrder::Appended { front: GRAIN * SECTOR }
        }
        _ => WriteOrder::Any,
    }
}

/// Makes an image.
pub(crate) fn create(ctx: &CreateContext<'_>) -> Result<()> {
    let new = NewImage::from_options(ctx.options)?;
    let parent_cid = new.backing.as_deref().map(|name| parent_cid(ctx, name)).transpose()?;
    let lines = if new.subformat.is_flat() || new.subformat.is_split() {
        make_extents(ctx, &new)?
    } else {
        let (_, name) = base_name(ctx.filename);
        let sectors = new.len / SECTOR;
        let access = if new.subformat == Subformat::StreamOptimized { "RDONLY" } else { "RW" };
        format!("{access} {sectors} SPARSE \"{name}\"\n")
    };
    let text = NewDescriptor {
        cid: new_cid(CID_DIGITS, descriptor::NO_PARENT),
        parent: parent_cid.zip(new.backing.as_deref()),
        create_type: new.subformat.name(),
        extents: &lines,
        hardware_version: &new.hardware_version,
        tools_version: &new.tools_version,
        adapter_type: new.adapter,
        heads: new.heads,
        disk_len: new.len,
    }
    .text();
    let io = any_alignment(&ctx.storage);
    match new.subformat {
        Subformat::MonolithicSparse => make_sparse(&*io, new.len, new.zeroed_grains, &text)?,
        Subformat::StreamOptimized => make_stream(&*io, &new, &text)?,
        _ => io.write_at(0, text.as_bytes())?,
    }
    io.flush()
}

/// The folder and the name of a file.
fn base_name(filename: &str) -> (&str, &str) {
    let at = ['/', '\\', ':'].iter().find_map(|mark| filename.rfind(*mark)).map_or(0, |at| at + 1);
    filename.split_at_checked(at).unwrap_or(("", filename))
}

/// The parent's content identifier.
fn parent_cid(ctx: &CreateContext<'_>, name: &str) -> Result<u32> {
    let parent = ctx.opener.open(ReferenceKind::Backing, name, Mode::default(), RuntimeOptions::new())?;
    let io = any_alignment(&parent);
    let mut head = vec![0; HEADER_LEN];
    read_zero_padded(&*io, 0, &mut head)?;
    let start = if head.starts_with(&KDMV) {
        Header::parse(&head).map_or(SECTOR, |header| header.descriptor.max(1).saturating_mul(SECTOR))
    } else {
        0
    };
    let mut bytes = vec![0; to_usize(io.len().saturating_sub(start).min(MAX_DESCRIPTOR))];
    read_zero_padded(&*io, start, &mut bytes)?;
    let identity = descriptor::identity(&descriptor::text_of(&bytes));
    identity.map(|identity| identity.cid).map_err(|_| Error::corrupt("Failed to read parent CID"))
}

/// Makes the files of a disk that is not all in one, and the lines that name them.
fn make_extents(ctx: &CreateContext<'_>, new: &NewImage) -> Result<String> {
    let (prefix, suffix) = split_name(ctx.filename);
    let mut lines = String::new();
    let mut start = 0;
    let mut number = 1;
    while start < new.len || number == 1 {
        let (name, len) = match new.subformat {
            Subformat::MonolithicFlat => (format!("{prefix}-flat{suffix}"), new.len),
            Subformat::SplitFlat => (format!("{prefix}-f{number:03}{suffix}"), SPLIT.min(new.len - start)),
            _ => (format!("{prefix}-s{number:03}{suffix}"), SPLIT.min(new.len - start)),
        };
        let access = Mode { write: true, create: true };
        let file = ctx.opener.open(ReferenceKind::Extent, &name, access, RuntimeOptions::new())?;
        let io: Arc<dyn BlockDevice> = any_alignment(&file);
        let sectors = len / SECTOR;
        if new.subformat.is_flat() {
            io.set_len(len, Prealloc::Off)?;
            lines.push_str(&format!("RW {sectors} FLAT \"{name}\" 0\n"));
        } else {
            make_sparse(&*io, len, new.zeroed_grains, "")?;
            lines.push_str(&format!("RW {sectors} SPARSE \"{name}\"\n"));
        }
        io.flush()?;
        start += len;
        number += 1;
        if len == 0 {
            break;
        }
    }
    Ok(lines)
}

/// The header of a new extent whose tables are in front.
fn front_header(len: u64, zeroed_grains: bool) -> Result<Header> {
    let capacity = len / SECTOR;
    let tables = capacity.div_ceil(GRAIN * TABLE);
    let directory_sectors = (tables * 4).div_ceil(SECTOR);
    let redundant = 1 + DESCRIPTOR_SECTORS;
    let directory = redundant + directory_sectors + tables * TABLE_SECTORS;
    let end = directory + directory_sectors + tables * TABLE_SECTORS;
    if tables > MAX_TABLES {
        return Err(VmdkError::DirectorySize.into());
    }
    Ok(Header {
        version: if zeroed_grains { 2 } else { 1 },
        flags: flags::NEWLINES | flags::REDUNDANT | if zeroed_grains { flags::ZEROED_GRAINS } else { 0 },
        capacity,
        grain: GRAIN,
        descriptor: 1,
        descriptor_len: DESCRIPTOR_SECTORS,
        table_entries: u32::try_from(TABLE).unwrap_or(0),
        redundant,
        directory,
        overhead: end.next_multiple_of(GRAIN),
        unclean: false,
        compression: 0,
    })
}

/// An extent with all of its tables in front.
fn make_sparse(io: &dyn BlockDevice, len: u64, zeroed_grains: bool, text: &str) -> Result<()> {
    let header = front_header(len, zeroed_grains)?;
    io.set_len(header.overhead * SECTOR, Prealloc::Off)?;
    let tables = header.capacity.div_ceil(GRAIN * TABLE);
    let directory_sectors = (tables * 4).div_ceil(SECTOR);
    for directory in [header.redundant, header.directory] {
        let first_table = directory + directory_sectors;
        let mut done = 0;
        while done < tables {
            let some = ENTRIES_AT_ONCE.min(tables - done);
            let mut bytes = Vec::new();
            for table in done..done + some {
                let sector = u32::try_from(first_table + table * TABLE_SECTORS);
                let sector = sector.map_err(|_| Error::from(VmdkError::DirectorySize))?;
                bytes.extend_from_slice(&sector.to_le_bytes());
            }
            io.write_at(directory * SECTOR + done * 4, &bytes)?;
            done += some;
        }
    }
    write_descriptor(io, text)?;
    io.write_at(0, &header.to_bytes())
}

/// A stream without grains.
fn make_stream(io: &dyn BlockDevice, new: &NewImage, text: &str) -> Result<()> {
    let front = front_header(new.len, new.zeroed_grains)?;
    let tables = front.capacity.div_ceil(GRAIN * TABLE);
    if tables > MAX_STREAM_TABLES {
        return Err(VmdkError::DirectorySize.into());
    }
    let header = Header {
        version: 3,
        flags: (front.flags & !flags::REDUNDANT) | flags::COMPRESSED | flags::MARKERS,
        redundant: 0,
        directory: AT_END,
        overhead: GRAIN,
        compression: 1,
        ..front
    };
    let start = header.overhead * SECTOR;
    let end = trailer(&header, &vec![0; to_usize(tables)], start);
    io.set_len(start + len_u64(&end), Prealloc::Off)?;
    io.write_at(start, &end)?;
    write_descriptor(io, text)?;
    io.write_at(0, &header.to_bytes())
}

fn write_descriptor(io: &dyn BlockDevice, text: &str) -> Result<()> {
    if text.len() > to_usize(EMBEDDED_DESCRIPTOR) {
        return Err(Error::limit("The descriptor does not fit into its place"));
    }
    if text.is_empty() { Ok(()) } else { io.write_at(SECTOR, text.as_bytes()) }
}
