//! Copies one or more disks into another image.
//!
//! The pipeline: threads claim the next runs of the sources' extents in guest order, read them (which decompresses),
//! look for zeros, compress if asked to; then the runs are *placed* in guest order (the target says where the bytes
//! go), written outside of that order, and made visible. So the layout of the target, and with it every byte of its
//! file, is the same from run to run and for any number of threads; [`ConvertOptions::out_of_order`] gives that up.
//!
//! Holes, zero clusters and ranges that no layer holds cost a look at metadata and nothing else.
//!
//! Memory: each thread has two buffers in flight of at most [`UNIT`] bytes (or one cluster of the target, or
//! `sparse_size`, if that is more), with compression a payload buffer of the same size beside each; where the host copies,
//! the places of at most 32768 clusters in place of the bytes. There are at most 64 threads.

mod append;
mod digest;
mod emit;
mod encode;
mod failure;
mod layout;
mod manner;
mod outflow;
mod pen;
mod pipeline;
mod place;
mod plan;
mod rate;
mod source;
mod steps;
mod zero_detect;

use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};

use diskimg_chain::Node;
use diskimg_core::driver::{Caps, Notices};
use diskimg_core::{BlockDevice as _, ByteRange, Error, ErrorKind, Extent, ExtentFlags, Result, Task};

use digest::Running;
pub(crate) use failure::{CopyError, Side};
use manner::Manner;
pub use outflow::{FIRST_LEN, Outflow, convert_to_stream, follows_source};
use pipeline::Zeros;
pub(crate) use source::Scope;
use source::Sources;
pub use source::is_endless;

/// Bytes that are read and written at once: few enough to stay in a processor's own cache between the two, and for the
/// last units of a compression to keep all processors busy; many enough for system calls not to count.
pub const UNIT: u64 = 256 << 10;

/// Bytes that the host is asked to copy at once: as much as the longest extent of btrfs, and little enough that a disk
/// without sharing ends soon when the conversion is cancelled.
const COPY_UNIT: u64 = 128 << 20;

/// The target's clusters in that unit at most: bounds what is held of their places.
const COPY_CLUSTERS: u64 = 32 << 10;

/// How images are converted.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools)]
pub struct ConvertOptions {
    /// Clusters are written compressed; the target's format must be able to.
    pub compress: bool,
    /// Runs of zeros of at least so many bytes become holes. 0: zeros are not looked for and everything is
    /// written, also what the source knows to be zeros, so that the target is fully allocated.
    pub sparse_size: u64,
    /// The target is known to read as zeros everywhere: zeros need not be written.
    pub target_is_zero: bool,
    /// The target has a backing file whose contents are those of the source's own backing file (or of the
    /// image of that name further down in the source's chain): only what lies above that is copied.
    pub over_backing: bool,
    /// The order of the data in the target is of no interest.
    pub out_of_order: bool,
    /// Threads, at most 64; `None`: as many as there are processors.
    pub workers: Option<NonZero<usize>>,
    /// The host copies the bytes where it can, and shares their blocks where its file system can: the time then depends on
    /// the metadata alone. Zeros are not looked for, but those known are left out.
    pub copy_range: bool,
    /// What can't be read becomes zeros, with a warning.
    pub salvage: bool,
    /// The most bytes that are read in a second.
    pub rate_limit: Option<NonZero<u64>>,
    /// The SHA-256 of what is converted is computed meanwhile.
    pub digest: bool,
    /// The target was made for this conversion: where nobody knows how long a source is ([`is_endless`]), it grows as the
    /// bytes come, and is cut where they ended. Its format has to be able to ([`follows_source`]).
    pub fit_target: bool,
    /// Where warnings of `salvage` go.
    pub notices: Notices,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self {
            compress: false,
            sparse_size: 4096,
            target_is_zero: false,
            over_backing: false,
            out_of_order: false,
            workers: None,
            copy_range: false,
            salvage: false,
            rate_limit: None,
            digest: false,
            fit_target: false,
            notices: Notices::default(),
        }
    }
}

/// What a conversion did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConvertReport {
    /// Length of the sources together, in bytes.
    pub total: u64,
    /// Bytes that were written as data.
    pub written: u64,
    /// What could not be read and is zeros now, ascending; only with `salvage`.
    pub unreadable: Vec<ByteRange>,
    /// SHA-256 of the sources, one behind the other, as their guests see them; only if it was asked for.
    pub digest: Option<[u8; 32]>,
}

/// Copies the disks `sources`, one behind the other, to the start of the disk `target`, and flushes it. What lies
/// behind them in a longer target stays as it is.
///
/// # Errors
/// `InvalidArg` for options that exclude each other, for several sources over a backing file, and if the target is
/// too short; `Unsupported` if the target can't be compressed; `error while reading at byte …` and
/// `error while writing at byte …` with their cause; `Cancelled`. The target then holds a part of the data.
pub fn convert(
    sources: &[&Node],
    target: &Node,
    options: &ConvertOptions,
    task: &Task<'_>,
) -> Result<ConvertReport> {
    check(sources, target, options)?;
    let report = copy(sources, target, options, Manner::default(), task)?;
    target.device().flush()?;
    Ok(report)
}

/// Copies all of `sources`, and computes the digest if that is wanted.
fn copy(
    sources: &[&Node],
    target: &Node,
    options: &ConvertOptions,
    manner: Manner<'_>,
    task: &Task<'_>,
) -> Result<ConvertReport> {
    let options = &suited(options, target);
    let base_depth =
        if options.over_backing { sources.first().and_then(|top| base_depth(top, target)) } else { None };
    let sources = &Sources::new(sources, base_depth.map_or(Scope::All, Scope::Above));
    let zeros = zeros(target, options);
    if !options.digest {
        return Ok(pipeline::run(sources, target, options, zeros, manner, task)?);
    }
    if sources.in_order() {
        let options = &ConvertOptions { copy_range: false, ..options.clone() };
        let running = Running::default();
        let manner = Manner { digest: Some(&running), ..manner };
        let report = pipeline::run(sources, target, options, zeros, manner, task)?;
        return Ok(ConvertReport { digest: Some(running.finish(report.total)), ..report });
    }
    with_digest(sources, options.salvage, || {
        Ok(pipeline::run(sources, target, options, zeros, manner, task)?)
    })
}

/// Runs `work`, and computes the digest on a thread of its own.
fn with_digest(
    sources: &Sources<'_>,
    salvage: bool,
    work: impl FnOnce() -> Result<ConvertReport>,
) -> Result<ConvertReport> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let digest = scope.spawn(|| digest::digest(sources, salvage, &stop));
        let report = work();
        stop.store(report.is_err(), Ordering::Relaxed);
        let panicked = |_| Err(Error::new(ErrorKind::Io, "the thread of the digest panicked"));
        let digest = digest.join().unwrap_or_else(panicked);
        let report = report?;
        Ok(ConvertReport { digest: digest?, ..report })
    })
}

/// What of zeros the target needs.
fn zeros(target: &Node, options: &ConvertOptions) -> Zeros {
    let backing_len = match target.backing() {
        Some(backing) => backing.device().len(),
        None if target.image().backing().is_some() => u64::MAX,
        None => 0,
    };
    Zeros {
        known_from: if options.target_is_zero { backing_len } else { u64::MAX },
        fill: options.sparse_size == 0 && !options.copy_range,
        look_from: if options.sparse_size > 0 && !options.copy_range { 0 } else { u64::MAX },
    }
}

/// How layers of a chain are copied into one of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moving<'a> {
    /// What is copied.
    pub scope: Scope<'a>,
    /// From this byte on the target reads as zeros where nothing is written.
    pub zero_from: u64,
    /// Zeros are looked for in data from this byte on.
    pub look_from: u64,
    /// Clusters are written compressed.
    pub compress: bool,
    /// The most bytes that are read in a second.
    pub rate_limit: Option<NonZero<u64>>,
}

/// Copies a part of the chain of `source` into `target`, which is one of its layers or shares its top, and flushes that.
/// What is written a reader of the chain sees as it was before, at every moment.
///
/// # Errors
/// As [`convert`].
pub(crate) fn move_layers(
    source: &Node,
    target: &Node,
    moving: &Moving<'_>,
    task: &Task<'_>,
) -> Result<ConvertReport, CopyError> {
    let Moving { scope, compress, rate_limit, .. } = *moving;
    if compress {
        check_compression(target)?;
    }
    let options = ConvertOptions { compress, rate_limit, ..ConvertOptions::default() };
    let zeros = Zeros { known_from: moving.zero_from, fill: false, look_from: moving.look_from };
    let sources = Sources::new(&[source], scope);
    let report = pipeline::run(&sources, target, &suited(&options, target), zeros, Manner::default(), task)?;
    target.device().flush()?;
    Ok(report)
}

/// Copies the bytes `window` of the disk `source` to the start of the disk `target`, all of them, and flushes it.
///
/// # Errors
/// As [`convert`], with the side that failed.
pub(crate) fn copy_window(
    source: &Node,
    window: ByteRange,
    target: &Node,
    task: &Task<'_>,
) -> Result<ConvertReport, CopyError> {
    let options = ConvertOptions { sparse_size: 0, ..ConvertOptions::default() };
    let options = suited(&options, target);
    let zeros = zeros(target, &options);
    let sources = Sources::window(source, window);
    let report = pipeline::run(&sources, target, &options, zeros, Manner::default(), task)?;
    target.device().flush()?;
    Ok(report)
}

/// Refuses compression where the format has none.
pub(crate) fn check_compression(target: &Node) -> Result<()> {
    match target.image().driver().caps.contains(Caps::COMPRESS) {
        true => Ok(()),
        false => Err(Error::unsupported(COMPRESSION_REFUSED)),
    }
}

const COMPRESSION_REFUSED: &str = "Compression not supported for this file format";

/// `options` as `target` can follow them: one that takes nothing but encoded clusters gets such, in order; one of a kind
/// that has none gets plain ones, where others of its format have them.
fn suited(options: &ConvertOptions, target: &Node) -> ConvertOptions {
    match target.image().as_compressed() {
        Some(clusters) if clusters.only_encoded() => {
            ConvertOptions { compress: true, out_of_order: false, copy_range: false, ..options.clone() }
        }
        Some(_) => options.clone(),
        None => ConvertOptions { compress: false, ..options.clone() },
    }
}

/// Refuses what can't work.
fn check(sources: &[&Node], target: &Node, options: &ConvertOptions) -> Result<()> {
    let too_long = || Error::invalid("the images are too large together");
    let total = sources.iter().try_fold(0u64, |sum, node| sum.checked_add(node.device().len()));
    let total = total.ok_or_else(too_long)?;
    if options.over_backing && sources.len() > 1 {
        let text =
            "Having a backing file for the target makes no sense when concatenating multiple input images";
        return Err(Error::invalid(text));
    }
    if options.copy_range && options.compress {
        return Err(Error::invalid("Cannot enable copy offloading when -c is used"));
    }
    if options.copy_range && options.salvage {
        return Err(Error::invalid("Cannot use copy offloading in salvaging mode"));
    }
    let can_compress = target.image().driver().caps.contains(Caps::COMPRESS);
    if options.compress && !can_compress && target.image().as_compressed().is_none() {
        return Err(Error::unsupported(COMPRESSION_REFUSED));
    }
    if sources.iter().rev().skip(1).any(|node| is_endless(node)) {
        return Err(Error::invalid("a source whose end is not known can't be followed by another one"));
    }
    let endless = sources.last().is_some_and(|node| is_endless(node));
    if !endless && target.device().len() < total {
        return Err(too_short());
    }
    Ok(())
}

fn too_short() -> Error {
    Error::invalid("output file is smaller than input file")
}

/// How many layers of `top` lie above the image that is `target`'s backing file. Where that is none of them, its
/// contents are taken to be those of `top`'s own backing file; `None` where that has none either, so that nothing
/// can be left to the target's.
fn base_depth(top: &Node, target: &Node) -> Option<usize> {
    let base = target.backing_name().and_then(|backing| backing.resolved);
    let is_base = |node: &Node| base.as_deref().is_some_and(|base| same_file(base, node.filename()));
    let found = top.layers().position(is_base).filter(|depth| *depth > 0);
    found.or_else(|| (top.layers().count() > 1).then_some(1))
}

/// True if both names lead to one file.
pub(crate) fn same_file(a: &str, b: &str) -> bool {
    let real = |name: &str| std::fs::canonicalize(name).ok();
    a == b || real(a).is_some_and(|a| real(b) == Some(a))
}

/// True if a target of that kind, just created, reads as zeros everywhere: all do but bare block devices and exports,
/// which hold what was there before, and encrypted images whose clusters were allocated in advance (their zeros on the
/// host are noise for the guest).
#[must_use]
pub fn new_image_is_zero(node: &Node) -> bool {
    if node.image().info().is_ok_and(|info| info.encrypted) {
        let all = ByteRange::new(0, node.device().len());
        let has_data = |extent: Extent<'_>| extent.flags.contains(ExtentFlags::DATA);
        return all.is_empty() || node.device().extent_at(all).is_ok_and(|extent| !has_data(extent));
    }
    let has_clusters = node.limits().write_unit > 1 && node.image().has_places().is_ok_and(|has| has);
    let keeps_old = |driver: &str| matches!(driver, "host_device" | "host_cdrom" | "nbd");
    let file = node.image().children().into_iter().next();
    has_clusters || file.is_none_or(|file| !keeps_old(file.device.describe().driver))
}
