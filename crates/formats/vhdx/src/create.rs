//! Creating images: log, block allocation table and metadata one after the other from 1 MiB on, then the blocks.

use diskimg_core::driver::CreateContext;
use diskimg_core::opener::{Mode, ReferenceKind};
use diskimg_core::options::{OptKind, OptSpec, ParsedOptions, RuntimeOptions};
use diskimg_core::{BlockDevice, ByteRange, Error, Prealloc, Result, align_up, errno, to_usize};
use uuid::Uuid;

use crate::bat::{Entry, Geometry, NOT_PRESENT, ZERO};
use crate::header::{HEADER_OFFSETS, Header, SIGNATURE};
use crate::limits::{LOG_SECTOR, MAX_BLOCK, MAX_DISK, MAX_LOG, MIB};
use crate::locator::Parent;
use crate::metadata::Metadata;
use crate::parent::Identity;
use crate::region::{Regions, TABLE_OFFSETS};

const SIZE: &str = "size";
const LOG_SIZE: &str = "log_size";
const BLOCK_SIZE: &str = "block_size";
const SUBFORMAT: &str = "subformat";
const BACKING_FILE: &str = "backing_file";
const BACKING_FMT: &str = "backing_fmt";
const BLOCK_STATE_ZERO: &str = "block_state_zero";

/// The create options.
pub(crate) const OPTIONS: &[OptSpec] = &[
    OptSpec::create(SIZE, OptKind::Size, "Virtual disk size; max of 64TB."),
    OptSpec::create(LOG_SIZE, OptKind::Size, "Log size; min 1MB.").or("1048576"),
    OptSpec::create(
        BLOCK_SIZE,
        OptKind::Size,
        "Block Size; min 1MB, max 256MB. 0 means auto-calculate based on image size.",
    )
    .or("0"),
    OptSpec::create(
        SUBFORMAT,
        OptKind::Str,
        "VHDX format type, can be either 'dynamic' or 'fixed'. Default is 'dynamic'.",
    ),
    OptSpec::create(
        BLOCK_STATE_ZERO,
        OptKind::Bool,
        "Force use of payload blocks of type 'ZERO'. Non-standard, but default.  Do not set to 'off' when using \
         'qemu-img convert' with subformat=dynamic.",
    ),
    OptSpec::hidden(BACKING_FILE),
    OptSpec::hidden(BACKING_FMT),
];

/// Who made the file: diagnostic only.
const CREATOR: &str = "diskimg";
/// Sectors of new disks, in bytes.
const SECTOR: u64 = 512;
/// Bytes of the metadata region.
const METADATA_LEN: u64 = MIB;
/// Bytes between the block allocation table and the first block: the metadata region and a reserve.
const BEFORE_BLOCKS: u64 = 5 * MIB;
/// Longest table that QEMU reads, in bytes. Only an empty disk with the largest blocks asks for more.
const MAX_BAT: u64 = (1 << 31) - 512;
/// How much of the table is made and written at a time, in bytes.
const STEP: u64 = 1 << 20;
/// Bytes of a block, by the greatest size of the disk.
const BLOCK_SIZES: [(u64, u64); 3] = [(1 << 30, 8 * MIB), (100 << 30, 16 * MIB), (32 << 40, 32 * MIB)];
/// For still larger disks.
const LARGEST_AUTO: u64 = 64 * MIB;

/// What was asked for, checked.
#[derive(Clone, Copy, Debug)]
struct Plan {
    geometry: Geometry,
    log_len: u32,
    physical_sector_size: u32,
    fixed: bool,
    /// What entries of blocks are that have no place.
    vacant: Entry,
}

/// Blocks have their place from the start, as the options say; `differencing` is for those with a parent.
fn is_fixed(options: &ParsedOptions) -> Result<bool> {
    let has_parent = options.get_str(BACKING_FILE).is_some();
    match options.get_str(SUBFORMAT).as_deref() {
        Some("fixed") if has_parent => Err(Error::invalid("A fixed disk can't have a backing file")),
        None | Some("dynamic") => Ok(false),
        Some("fixed") => Ok(true),
        Some("differencing") if has_parent => Ok(false),
        Some(other) => {
            Err(Error::invalid(format!("Parameter '{SUBFORMAT}' does not accept value '{other}'")))
        }
    }
}

impl Plan {
    /// What `options` ask for, over a parent.
    fn new(options: &ParsedOptions, parent: Option<&Identity>) -> Result<Self> {
        let number = |name| options.get_number(name).unwrap_or(0);
        let fixed = is_fixed(options)?;
        let sector_size = parent.map_or(SECTOR, |parent| parent.sector_size.into());
        let too_large = || Error::invalid("Image size too large; max of 64TB");
        let disk_size = align_up(number(SIZE), sector_size).filter(|size| *size <= MAX_DISK);
        let disk_size = disk_size.ok_or_else(too_large)?;
        let too_long = || Error::invalid("Log size must be smaller than 4 GB");
        let log_len = align_up(number(LOG_SIZE), MIB).filter(|len| *len <= MAX_LOG).ok_or_else(too_long)?;
        if log_len == 0 {
            return Err(Error::invalid("Log size must be a multiple of 1 MB"));
        }
        let block_size = match align_up(number(BLOCK_SIZE), MIB).unwrap_or(MAX_BLOCK) {
            0 => parent.map_or_else(|| auto_block_size(disk_size), |parent| parent.block_size),
            size => size.min(MAX_BLOCK),
        };
        if !block_size.is_power_of_two() {
            return Err(Error::invalid("Block size must be a power of two"));
        }
        let zero = options.get(BLOCK_STATE_ZERO).is_none() || options.get_bool(BLOCK_STATE_ZERO);
        Ok(Self {
            geometry: Geometry { disk_size, block_size, sector_size, has_parent: parent.is_some() },
            log_len: u32::try_from(log_len).map_err(|_| too_long())?,
            physical_sector_size: parent.map_or(512, |parent| parent.physical_sector_size),
            fixed,
            vacant: if zero && parent.is_none() { ZERO } else { NOT_PRESENT },
        })
    }

    fn regions(&self) -> Regions {
        // QEMU counts the blocks of an empty disk with a number that wraps around, and wants room for their entries.
        let empty = u64::from(u32::MAX) / self.geometry.ratio();
        let entries = if self.geometry.blocks() == 0 { empty } else { self.geometry.entries() };
        let len = (entries * 8).next_multiple_of(MIB);
        let bat = ByteRange::new(MIB + u64::from(self.log_len), len);
        Regions { bat, metadata: ByteRange::new(bat.end(), METADATA_LEN) }
    }

    /// File offset of the first block.
    fn blocks_start(&self) -> u64 {
        self.regions().bat.end() + BEFORE_BLOCKS
    }

    fn entry(&self, index: u64) -> Entry {
        match self.geometry.block_of(index) {
            Some(block) if block >= self.geometry.blocks() => NOT_PRESENT,
            Some(block) if self.fixed => {
                Entry::present(self.blocks_start() + block * self.geometry.block_size)
            }
            Some(_) => self.vacant,
            None => NOT_PRESENT,
        }
    }

    fn metadata(&self, locator: Option<Vec<u8>>) -> Metadata {
        Metadata {
            block_size: self.geometry.block_size,
            leave_allocated: self.fixed,
            disk_size: self.geometry.disk_size,
            page_83: Uuid::new_v4(),
            sector_size: if self.geometry.sector_size == 4096 { 4096 } else { 512 },
            physical_sector_size: self.physical_sector_size,
            locator,
        }
    }
}

fn auto_block_size(disk_size: u64) -> u64 {
    BLOCK_SIZES.iter().find(|(most, _)| disk_size <= *most).map_or(LARGEST_AUTO, |(_, size)| *size)
}

/// Checks what can be checked before a file is touched.
pub(crate) fn validate(options: &ParsedOptions) -> Result<()> {
    let mode = options.get_str("preallocation").unwrap_or_default();
    if Prealloc::from_name(&mode) == Some(Prealloc::Metadata) {
        return Err(Error::unsupported(format!("Unsupported preallocation mode: {mode}")));
    }
    if options.get_str(BACKING_FMT).is_some_and(|format| format != crate::DRIVER.name) {
        return Err(Error::invalid("the parent of a VHDX image is a VHDX image"));
    }
    Plan::new(options, None).map(|_| ())
}

/// Makes the image in an empty storage. The file identifier comes last, so that a file is an image when it is whole.
pub(crate) fn create(context: &CreateContext<'_>) -> Result<()> {
    let name = context.options.get_str(BACKING_FILE);
    let parent = name.as_deref().map(|name| parent_of(context, name)).transpose()?;
    let locator = name.zip(parent).map(|(name, parent)| Parent::encode(&name, parent.data_write));
    let plan = Plan::new(context.options, parent.as_ref())?;
    let storage = &*context.storage;
    let regions = plan.regions();
    if regions.bat.len > MAX_BAT {
        return Err(Error::from_errno(errno::EIO).context("Failed to write the BAT"));
    }
    let end = plan.blocks_start() + if plan.fixed { plan.geometry.disk_size } else { 0 };
    // Where nothing can be written it is told before anything else.
    let start = storage.write_at(0, &[0; SIGNATURE.len()]);
    start.map_err(|error| error.summarised("Failed to write file signature"))?;
    storage.set_len(end, Prealloc::Off)?;
    write_bat(storage, &plan).map_err(|error| error.summarised("Failed to write the BAT"))?;
    storage.write_at(regions.metadata.start, &plan.metadata(locator).encode())?;
    for offset in TABLE_OFFSETS {
        storage.write_at(offset, &regions.encode())?;
    }
    let (sequence, _) = Uuid::new_v4().as_u64_pair();
    let mut header = Header::new(sequence >> 32, plan.log_len);
    for offset in HEADER_OFFSETS {
        storage.write_at(offset, &header.encode())?;
        header.sequence += 1;
    }
    storage.flush()?;
    let mut identifier = SIGNATURE.to_vec();
    identifier.extend(CREATOR.encode_utf16().flat_map(u16::to_le_bytes));
    storage.write_at(0, &identifier)?;
    storage.flush()
}

/// Looks at the file that is to be the parent.
fn parent_of(context: &CreateContext<'_>, name: &str) -> Result<Identity> {
    let mode = Mode { write: false, create: false };
    let file = context.opener.open(ReferenceKind::Backing, name, mode, RuntimeOptions::new())?;
    Identity::read(&*file)
}

fn write_bat(storage: &dyn BlockDevice, plan: &Plan) -> Result<()> {
    let (start, entries) = (plan.regions().bat.start, plan.geometry.entries());
    if !plan.fixed && plan.vacant == NOT_PRESENT {
        return Ok(());
    }
    let len = (entries * 8).next_multiple_of(LOG_SECTOR);
    let mut at = 0;
    while at < len {
        let part = STEP.min(len - at);
        let mut bytes = Vec::with_capacity(to_usize(part));
        for index in at / 8..(at + part) / 8 {
            let entry = if index < entries { plan.entry(index) } else { NOT_PRESENT };
            bytes.extend(entry.0.to_le_bytes());
        }
        storage.write_at(start + at, &bytes)?;
        at += part;
    }
    Ok(())
}
