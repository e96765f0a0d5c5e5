//! Opening: header, tables, options, data file, snapshots and bitmaps, in the order in which their errors are reported.
//!
//! A writable open may rewrite the header once: what a writer that does not know it must clear, it clears here.

use std::sync::Arc;

use diskimg_core::driver::{NoticeLevel, Notices, OpenContext, OpenMode};
use diskimg_core::opener::{Mode, Opener, ReferenceKind};
use diskimg_core::options::RuntimeOptions;
use diskimg_core::{BlockDevice, Error, Image, Result, read_zero_padded, to_usize};

use crate::bitmap_directory::{self, Bitmap};
use crate::check::{self, Repairable};
use crate::crypt::{Encryption, Unlocking};
use crate::cursor::check_reach;
use crate::features;
use crate::header::{Draft, Header};
use crate::image::Qcow2;
use crate::settings::Settings;
use crate::snapshot_table::{self, SnapshotTable};

/// Bytes of an entry of the L1 and refcount tables.
const ENTRY: u64 = 8;
/// How much of a table is read at a time, in bytes.
const TABLE_STEP: u64 = 1 << 20;

/// Everything that an open image is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    /// What holds the image.
    pub storage: Arc<dyn BlockDevice>,
    /// What holds the guest's data, if the image has a data file; `None` also when it is only described.
    pub data_file: Option<Arc<dyn BlockDevice>>,
    /// The header.
    pub header: Header,
    /// The active L1 table, as stored; empty when the image is only described.
    pub l1: Vec<u64>,
    /// The refcount table, as stored; empty when the image is only described.
    pub reftable: Vec<u64>,
    /// The snapshots; when a check is to come, none if the table is bad.
    pub snapshots: SnapshotTable,
    /// The bitmaps.
    pub bitmaps: Vec<Bitmap>,
    /// How its data is encrypted, if it is.
    pub crypt: Option<Arc<Encryption>>,
    /// What it is opened for.
    pub mode: OpenMode,
    /// Its options.
    pub settings: Settings,
    /// Where warnings go.
    pub notices: Notices,
    /// The displayed name.
    pub filename: String,
}

/// Opens an image.
pub(crate) fn open(ctx: OpenContext<'_>) -> Result<Arc<dyn Image>> {
    let image = Qcow2::new(load(ctx)?);
    image.guard_inactive_tables();
    Ok(Arc::new(image))
}

/// Reads what an open image is made of, with all checks.
pub(crate) fn load(ctx: OpenContext<'_>) -> Result<Parts> {
    let OpenContext { storage, filename, mode, options, opener, notices } = ctx;
    let device = &*storage;
    let mut draft = Draft::read(device, mode)?;
    let place = (draft.header().l1_offset, u64::from(draft.header().l1_size));
    let mut l1 =
        read_entries(device, place, mode).map_err(|error| error.context("Could not read L1 table"))?;
    let settings = Settings::take(options, draft.header())?;
    let data_reference = options.take_str("data-file")?;
    let data_options = options.take_child("data-file");
    let crypt_options = options.take_child("encrypt");
    let mut reftable = read_reftable(device, draft.header(), mode)?;
    draft.parse_extensions()?;
    let unlocking = Unlocking { mode, options: &crypt_options, opener };
    let luks = unlocking.luks(draft.header(), &storage)?;
    warn_of_stale_bitmaps(draft.header(), &notices);
    let data_file = open_data_file(draft.header(), (data_reference, data_options), mode, opener)?;
    let mut header = draft.finish(device)?;
    let crypt = luks.map_or_else(|| unlocking.aes(&header), |luks| Ok(Some(luks)))?;
    let mut snapshots = read_snapshots(device, &header, mode)?;
    let bitmaps = bitmap_directory::read(device, &header)?;
    if mode.write && !mode.check {
        let mut image = Repairable {
            storage: device,
            header: &mut header,
            l1: &mut l1,
            reftable: &mut reftable,
            bitmaps: &bitmaps,
            data_file: data_file.is_some(),
            snapshots: None,
            damaged_bitmaps: Vec::new(),
            unsure: false,
        };
        if prepare_for_writing(&mut image, &notices)? {
            snapshots = read_snapshots(device, &header, mode)?;
        }
    }
    let filename = filename.to_owned();
    Ok(Parts {
        storage,
        data_file,
        header,
        l1,
        reftable,
        snapshots,
        bitmaps,
        crypt: crypt.map(Arc::new),
        mode,
        settings,
        notices,
        filename,
    })
}

/// The image in `storage`, which was just made without encryption or snapshots, for its maker to go on with.
pub(crate) fn reopen(
    storage: &Arc<dyn BlockDevice>,
    data_file: Option<Arc<dyn BlockDevice>>,
    filename: &str,
) -> Result<Qcow2> {
    let mode = OpenMode { write: true, ..OpenMode::default() };
    let mut draft = Draft::read(&**storage, mode)?;
    let place = (draft.header().l1_offset, u64::from(draft.header().l1_size));
    let l1 = read_entries(&**storage, place, mode)?;
    let reftable = read_reftable(&**storage, draft.header(), mode)?;
    draft.parse_extensions()?;
    Ok(Qcow2::new(Parts {
        storage: Arc::clone(storage),
        data_file,
        header: draft.finish(&**storage)?,
        l1,
        reftable,
        snapshots: SnapshotTable::default(),
        bitmaps: Vec::new(),
        crypt: None,
        mode,
        settings: Settings::default(),
        notices: Notices::default(),
        filename: filename.to_owned(),
    }))
}

/// The entries of a table of `count` at `offset`; those behind the end of the file are 0 and cost nothing.
pub(crate) fn read_entries(
    device: &dyn BlockDevice,
    (offset, count): (u64, u64),
    mode: OpenMode,
) -> Result<Vec<u64>> {
    let len = count.saturating_mul(ENTRY);
    if count > 0 {
        check_reach(offset, len)?;
    }
    if mode.describe_only {
        return Ok(Vec::new());
    }
    let there = len.min(device.len().saturating_sub(offset));
    let mut entries = vec![0; to_usize(count)];
    let mut bytes = vec![0; to_usize(there.next_multiple_of(ENTRY).min(TABLE_STEP))];
    for (index, part) in entries.chunks_mut(to_usize(TABLE_STEP / ENTRY)).enumerate() {
        let at = index as u64 * TABLE_STEP;
        if at >= there {
            break;
        }
        read_zero_padded(device, offset + at, &mut bytes)?;
        for (entry, bytes) in part.iter_mut().zip(bytes.as_chunks().0) {
            *entry = u64::from_be_bytes(*bytes);
        }
    }
    Ok(entries)
}

fn read_reftable(device: &dyn BlockDevice, header: &Header, mode: OpenMode) -> Result<Vec<u64>> {
    let count = (u64::from(header.reftable_clusters) << header.cluster_bits) / ENTRY;
    read_entries(device, (header.reftable_offset, count), mode)
        .map_err(|error| error.context("Could not initialize refcount handling"))
}

/// Says that bitmaps are lost.
fn warn_of_stale_bitmaps(header: &Header, notices: &Notices) {
    if !header.extensions.stale_bitmaps {
        return;
    }
    notices.warn(if header.is_v3() {
        "a program lacking bitmap support modified this file, so all bitmaps are now considered inconsistent"
    } else {
        "This qcow2 v2 image contains bitmaps, but they may have been modified by a program without persistent \
         bitmap support; so now they must all be considered inconsistent"
    });
    notices.say(
        NoticeLevel::Hint,
        "Some clusters may be leaked, run 'qemu-img check -r' on the image file to fix.",
    );
}

/// The file of the guest's data, if the image has one and is not opened only to be described.
fn open_data_file(
    header: &Header,
    (node, options): (Option<String>, RuntimeOptions),
    mode: OpenMode,
    opener: &dyn Opener,
) -> Result<Option<Arc<dyn BlockDevice>>> {
    if mode.describe_only {
        return Ok(None);
    }
    if let Some(name) = node {
        return Err(Error::invalid(format!("Cannot find device='{name}' nor node-name='{name}'")));
    }
    if !header.has_data_file() {
        if !options.is_empty() {
            return Err(Error::invalid("'data-file' can only be set for images with an external data file"));
        }
        if header.autoclear & features::RAW_DATA_FILE != 0 {
            return Err(Error::corrupt("data-file-raw requires a data file"));
        }
        return Ok(None);
    }
    let name = header.extensions.data_file.as_deref().unwrap_or_default();
    if name.is_empty() && options.is_empty() {
        return Err(Error::invalid("'data-file' is required for this image"));
    }
    let access = Mode { write: mode.write, create: false };
    opener.open(ReferenceKind::DataFile, name, access, options).map(Some)
}

fn read_snapshots(device: &dyn BlockDevice, header: &Header, mode: OpenMode) -> Result<SnapshotTable> {
    match snapshot_table::read(device, header) {
        Err(_) if mode.check => Ok(SnapshotTable::default()),
        result => result,
    }
}

/// What a writer owes the image before anything else. True: it was repaired.
fn prepare_for_writing(image: &mut Repairable<'_>, notices: &Notices) -> Result<bool> {
    image.header.forget_what_is_stale(image.storage)?;
    let dirty = image.header.incompatible & features::DIRTY != 0;
    if dirty {
        let mut say = |text: &str| notices.say(NoticeLevel::Plain, text);
        check::repair_dirty(image, &mut say)?;
    }
    Ok(dirty)
}

#[cfg(test)]
mod tests;
