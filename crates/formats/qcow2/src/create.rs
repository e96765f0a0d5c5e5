//! Creating an image: header, refcount table, first refcount block, L1 table.
//!
//! Everything is validated before a file is touched. Then, most often, one write makes the image. Where data gets its
//! space at once, [`crate::preallocate`] lays it out. In the other cases (more refcount blocks, preallocated metadata) an
//! image of size 0 is made and grown, in the order of all growth.

use std::sync::Arc;

use diskimg_core::driver::{CreateContext, Notices, OpenMode};
use diskimg_core::opener::{Mode, ReferenceKind};
use diskimg_core::options::{ParsedOptions, RuntimeOptions};
use diskimg_core::{BlockDevice, Error, ErrorKind, Prealloc, Result, errno, to_usize};

use crate::crypt::{METHOD_LUKS, key_required, new_volume};
use crate::extensions::{CryptoPointer, Extensions};
use crate::geometry::Geometry;
use crate::header::{Header, V2_LEN, V3_LEN};
use crate::image::Qcow2;
use crate::meta::refcounts;
use crate::open::{self, Parts};
use crate::options::Wanted;
use crate::preallocate::{self, Plan};
use crate::room;
use crate::settings::Settings;
use crate::snapshot_table::SnapshotTable;

/// Header, refcount table, first refcount block.
const FIRST_CLUSTERS: u64 = 3;
/// Bytes of an entry of the L1 and refcount tables.
const ENTRY: u64 = 8;
/// The protocol prefix that is not stored with a data file's name.
const FILE_PREFIX: &str = "file:";

/// Checks options against each other; nothing is touched.
///
/// # Errors
/// `InvalidArg`, `Limit` or `Unsupported`, with the wording that users of the format know.
pub(crate) fn validate(options: &ParsedOptions) -> Result<()> {
    let wanted = Wanted::parse(options)?;
    let mut header = fresh_header(&wanted);
    if wanted.crypt_method == METHOD_LUKS {
        header.extensions.crypto = Some(CryptoPointer { offset: 0, len: 0 });
    }
    header.encode().map_err(|error| backing_error(&wanted, error))?;
    if wanted.crypt_method != 0 && options.get_str("encrypt.key-secret").is_none() {
        return Err(key_required());
    }
    Ok(())
}

/// Makes an image in an empty storage.
///
/// # Errors
/// As [`validate`], and the storage's.
pub(crate) fn create(ctx: &CreateContext<'_>) -> Result<()> {
    validate(ctx.options)?;
    let mut wanted = Wanted::parse(ctx.options)?;
    let volume = new_volume(&wanted, ctx.options, ctx.opener)?;
    if volume.is_some() {
        // The image gets its LUKS header, and says so, when all else is there.
        wanted.crypt_method = 0;
    }
    let data_file = match &wanted.data_file {
        Some(name) => Some(make_data_file(ctx, name)?),
        None => None,
    };
    create_plain(ctx, &wanted, data_file.clone())?;
    match volume {
        Some(volume) => volume.install(&open::reopen(&ctx.storage, data_file, ctx.filename)?),
        None => Ok(()),
    }
}

/// Makes the image without a LUKS header.
fn create_plain(
    ctx: &CreateContext<'_>,
    wanted: &Wanted,
    data_file: Option<Arc<dyn BlockDevice>>,
) -> Result<()> {
    let prealloc = match wanted.prealloc {
        Prealloc::Off if wanted.data_file_raw => Prealloc::Metadata,
        mode => mode,
    };
    let provided = matches!(prealloc, Prealloc::Falloc | Prealloc::Full) && data_file.is_none();
    if prealloc == Prealloc::Off
        && let Some(header) = plain_header(wanted)
    {
        return create_at_once(ctx, &header, data_file.as_deref());
    }
    if provided && wanted.size == 0 {
        return preallocate::write_empty(fresh_header(wanted), &*ctx.storage);
    }
    if provided && let Some(plan) = Plan::new(wanted.geo, wanted.size) {
        let header = Header { size: wanted.size, ..fresh_header(wanted) };
        return plan.write(header, &*ctx.storage, prealloc);
    }
    create_and_grow(ctx, wanted, prealloc, data_file)
}

/// The header of the finished image, if one refcount block counts all its clusters.
fn plain_header(wanted: &Wanted) -> Option<Header> {
    let entries = wanted.geo.l1_entries_for(wanted.size);
    let clusters = FIRST_CLUSTERS + wanted.geo.clusters_for(entries * ENTRY);
    if clusters > wanted.geo.refblock_entries() {
        return None;
    }
    let l1_offset = if entries > 0 { FIRST_CLUSTERS * wanted.geo.cluster_size() } else { 0 };
    let l1_size = u32::try_from(entries).ok()?;
    Some(Header { size: wanted.size, l1_size, l1_offset, ..fresh_header(wanted) })
}

/// Writes all of an image without preallocation: nothing was there before, so nothing has to wait for anything.
fn create_at_once(
    ctx: &CreateContext<'_>,
    header: &Header,
    data_file: Option<&dyn BlockDevice>,
) -> Result<()> {
    let geo = header.geometry();
    let l1_len = u64::from(header.l1_size) * ENTRY;
    let mut bytes = first_clusters(header, &first_reftable(&geo), FIRST_CLUSTERS + geo.clusters_for(l1_len))?;
    bytes.resize(bytes.len() + to_usize(l1_len), 0);
    write_new(&*ctx.storage, &bytes, geo)?;
    if let Some(data_file) = data_file {
        data_file.set_len(header.size, Prealloc::Off)?;
        data_file.flush()?;
    }
    ctx.storage.flush()
}

/// Writes the first bytes of a new image. Which of its parts had no room is found out when they had none together.
fn write_new(storage: &dyn BlockDevice, bytes: &[u8], geo: Geometry) -> Result<()> {
    let Err(error) = storage.write_at(0, bytes) else { return Ok(()) };
    let cluster = to_usize(geo.cluster_size());
    let first = bytes.get(..cluster).unwrap_or(bytes);
    if storage.write_at(0, first).is_err() {
        return Err(error.summarised(room::HEADER));
    }
    let tables = bytes.get(cluster..cluster.saturating_mul(to_usize(FIRST_CLUSTERS))).unwrap_or_default();
    if storage.write_at(geo.cluster_size(), tables).is_err() {
        return Err(error.summarised(room::REFTABLE));
    }
    Err(error.summarised(room::L1).context(room::SIZE))
}

/// Makes an image without size and grows it.
fn create_and_grow(
    ctx: &CreateContext<'_>,
    wanted: &Wanted,
    prealloc: Prealloc,
    data_file: Option<Arc<dyn BlockDevice>>,
) -> Result<()> {
    let header = fresh_header(wanted);
    let geo = wanted.geo;
    let reftable = first_reftable(&geo);
    write_new(&*ctx.storage, &first_clusters(&header, &reftable, FIRST_CLUSTERS)?, geo)?;
    let image = Qcow2::new(Parts {
        storage: Arc::clone(&ctx.storage),
        data_file: data_file.clone(),
        header,
        l1: Vec::new(),
        reftable,
        snapshots: SnapshotTable::default(),
        bitmaps: Vec::new(),
        crypt: None,
        mode: OpenMode { write: true, ..OpenMode::default() },
        settings: Settings::default(),
        notices: Notices::default(),
        filename: ctx.filename.to_owned(),
    });
    if wanted.size > 0 {
        image.set_len(wanted.size, prealloc).map_err(|error| match (prealloc, error.kind()) {
            _ if error.errno() == errno::ENOSPC => error.context(room::SIZE),
            (Prealloc::Off, _) => error,
            // A storage of fixed length that is too short.
            (_, ErrorKind::Unsupported) => error.context(room::SIZE),
            _ => error,
        })?;
    }
    if let Some(data_file) = data_file.filter(|_| prealloc != Prealloc::Off) {
        // What is preallocated ends with a whole subcluster, as everyone else leaves it.
        let end = wanted.size.next_multiple_of(geo.subcluster_size());
        if end > data_file.len() {
            data_file.set_len(end, Prealloc::Off)?;
        }
    }
    image.flush()
}

/// The data file, empty: growing the image gives it its length.
fn make_data_file(ctx: &CreateContext<'_>, name: &str) -> Result<Arc<dyn BlockDevice>> {
    let mode = Mode { write: true, create: true };
    let device = ctx.opener.open(ReferenceKind::DataFile, name, mode, RuntimeOptions::new())?;
    if !device.is_empty() {
        device.set_len(0, Prealloc::Off)?;
    }
    Ok(device)
}

/// The header of the image while its size is still 0.
fn fresh_header(wanted: &Wanted) -> Header {
    let cluster_size = wanted.geo.cluster_size();
    let (name, format) = wanted.backing.clone().unzip();
    let data_file = wanted.data_file.as_deref();
    Header {
        version: wanted.version,
        backing_name: name,
        cluster_bits: wanted.geo.cluster_bits,
        size: 0,
        crypt_method: wanted.crypt_method,
        l1_size: 0,
        l1_offset: 0,
        reftable_offset: cluster_size,
        reftable_clusters: 1,
        snapshot_count: 0,
        snapshots_offset: 0,
        incompatible: wanted.incompatible(),
        compatible: wanted.compatible(),
        autoclear: wanted.autoclear(),
        refcount_order: wanted.geo.refcount_order,
        header_length: if wanted.version < 3 { V2_LEN } else { V3_LEN },
        compression_type: wanted.compression_type,
        unknown_fields: Vec::new(),
        extensions: Extensions {
            backing_format: format.flatten(),
            data_file: data_file.map(|name| name.strip_prefix(FILE_PREFIX).unwrap_or(name).to_owned()),
            ..Extensions::default()
        },
        raw_texts: Vec::new(),
    }
}

/// A header that does not fit is too long because of the backing name.
fn backing_error(wanted: &Wanted, error: Error) -> Error {
    match &wanted.backing {
        Some((name, format)) => error.context(format!(
            "Could not assign backing file '{name}' with format '{}'",
            format.as_deref().unwrap_or_default()
        )),
        None => error,
    }
}

/// The refcount table that knows the first block.
fn first_reftable(geo: &Geometry) -> Vec<u64> {
    let mut reftable = vec![0; to_usize(geo.cluster_size() / ENTRY)];
    if let Some(first) = reftable.first_mut() {
        *first = 2 * geo.cluster_size();
    }
    reftable
}

/// The bytes of header, refcount table and a block that counts the first `counted` clusters.
fn first_clusters(header: &Header, reftable: &[u64], counted: u64) -> Result<Vec<u8>> {
    let geo = header.geometry();
    let mut bytes = header.encode()?;
    bytes.extend(reftable.iter().flat_map(|entry| entry.to_be_bytes()));
    let block_start = bytes.len();
    bytes.resize(to_usize(FIRST_CLUSTERS * geo.cluster_size()), 0);
    let block = bytes.get_mut(block_start..).unwrap_or_default();
    for index in 0..counted {
        refcounts::write_packed(block, geo.refcount_order, to_usize(index), 1);
    }
    Ok(bytes)
}
