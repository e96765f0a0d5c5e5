//! Creating an image: header, refcount table and first refcount block, then growth to the wanted size.
//!
//! Order: everything is validated before a file is touched; the three first clusters are written; the image is opened
//! on them and grown, which allocates the L1 table and what is preallocated and stores the size last.

use std::sync::Arc;

use diskimg_core::driver::{CreateContext, Notices, OpenMode};
use diskimg_core::opener::{Mode, ReferenceKind};
use diskimg_core::options::{OptUse, ParsedOptions, RuntimeOptions};
use diskimg_core::{BlockDevice, Error, Prealloc, Result, to_usize};

use crate::extensions::Extensions;
use crate::header::{Header, V2_LEN, V3_LEN};
use crate::image::Qcow2;
use crate::open::Parts;
use crate::options::{OPTIONS, Wanted, needs_key};
use crate::settings::Settings;
use crate::snapshot_table::SnapshotTable;

/// Header, refcount table, first refcount block.
const FIRST_CLUSTERS: u64 = 3;
/// The protocol prefix that is not stored with a data file's name.
const FILE_PREFIX: &str = "file:";

/// Checks options against each other; nothing is touched.
///
/// # Errors
/// `InvalidArg`, `Limit` or `Unsupported`, with the wording that users of the format know.
pub(crate) fn validate(options: &ParsedOptions) -> Result<()> {
    let foreign =
        OPTIONS.iter().find(|spec| !spec.usage.contains(OptUse::CREATE) && options.is_given(spec.name));
    if let Some(spec) = foreign {
        return Err(Error::invalid(format!("Invalid parameter '{}'", spec.name)));
    }
    let wanted = Wanted::parse(options)?;
    fresh_header(&wanted).encode().map_err(|error| backing_error(&wanted, error))?;
    if wanted.crypt_method != 0 {
        return needs_key(options);
    }
    Ok(())
}

/// Makes an image in an empty storage.
///
/// # Errors
/// As [`validate`], and the storage's.
pub(crate) fn create(ctx: &CreateContext<'_>) -> Result<()> {
    validate(ctx.options)?;
    let wanted = Wanted::parse(ctx.options)?;
    let data_file = match &wanted.data_file {
        Some(name) => Some(make_data_file(ctx, name)?),
        None => None,
    };
    let header = fresh_header(&wanted);
    let geo = wanted.geo;
    let mut reftable = vec![0; to_usize(geo.cluster_size() / 8)];
    if let Some(first) = reftable.first_mut() {
        *first = 2 * geo.cluster_size();
    }
    write_first_clusters(&*ctx.storage, &header, &reftable)?;
    let image = Qcow2::new(Parts {
        storage: Arc::clone(&ctx.storage),
        data_file: data_file.clone(),
        header,
        l1: Vec::new(),
        reftable,
        snapshots: SnapshotTable::default(),
        bitmaps: Vec::new(),
        mode: OpenMode { write: true, ..OpenMode::default() },
        settings: Settings::default(),
        notices: Notices::default(),
        filename: ctx.filename.to_owned(),
    });
    let prealloc = match wanted.prealloc {
        Prealloc::Off if wanted.data_file_raw => Prealloc::Metadata,
        mode => mode,
    };
    if wanted.size > 0 {
        image.set_len(wanted.size, prealloc)?;
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

fn write_first_clusters(storage: &dyn BlockDevice, header: &Header, reftable: &[u64]) -> Result<()> {
    let geo = header.geometry();
    let mut bytes = header.encode()?;
    bytes.extend(reftable.iter().flat_map(|entry| entry.to_be_bytes()));
    let block_start = bytes.len();
    bytes.resize(to_usize(FIRST_CLUSTERS * geo.cluster_size()), 0);
    for index in 0..FIRST_CLUSTERS {
        let block = bytes.get_mut(block_start..).unwrap_or_default();
        crate::meta::refcounts::write_packed(block, geo.refcount_order, to_usize(index), 1);
    }
    storage.write_at(0, &bytes)
}
