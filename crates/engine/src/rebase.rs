//! Puts an image on another backing file, so that it reads as before; or only changes the name.
//!
//! ```no_run
//! use diskimg_chain::{Context, ImageSpec, Node, OpenOptions};
//! use diskimg_core::{BackingRef, Registry, Task};
//! use diskimg_engine::rebase::{RebaseOptions, open_backing, rebase};
//!
//! # let ctx = Context::new(Registry::new());
//! let top = Node::open(&ctx, &ImageSpec::name("top.qcow2"), &OpenOptions::write())?;
//! let onto = BackingRef { name: "other.raw".to_owned(), format: Some("raw".to_owned()) };
//! let other = open_backing(&ctx, &top, &onto, &OpenOptions::read())?;
//! rebase(&top, Some((&onto, &other)), &RebaseOptions::default(), &Task::quiet())?;
//! # Ok::<(), diskimg_core::Error>(())
//! ```
//!
//! Order: what the image does not hold and the new backing file has otherwise is copied into the image, and durable | the
//! name changes. At every moment the image reads as it did; a rebase that was interrupted is simply run again.

use std::num::NonZero;

use diskimg_chain::{Context, ImageSpec, Node, OpenOptions};
use diskimg_core::{BackingChange, BackingRef, BlockDevice as _, Error, ErrorKind, Result, Task, errno};

use crate::convert::{CopyError, Moving, Scope, Side, check_compression, move_layers};

/// How an image is rebased.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RebaseOptions {
    /// Clusters are written compressed; the format must be able to.
    pub compress: bool,
    /// The most bytes that are read in a second.
    pub rate_limit: Option<NonZero<u64>>,
}

/// Refuses options that the image's format does not have.
///
/// # Errors
/// `Unsupported`: `Compression not supported for this file format`.
pub fn can_rebase(top: &Node, options: &RebaseOptions) -> Result<()> {
    if options.compress { check_compression(top) } else { Ok(()) }
}

/// Refuses the name of a format that nobody knows.
///
/// # Errors
/// `Invalid format name: 'NAME'`.
pub fn check_format(ctx: &Context, name: Option<&str>) -> Result<()> {
    match name {
        Some(name) if !ctx.registry.knows(name) => {
            Err(Error::invalid(format!("Invalid format name: '{name}'")))
        }
        _ => Ok(()),
    }
}

/// Opens the future backing file of `top`; its name starts from `top`'s folder.
///
/// # Errors
/// `Could not open new backing file 'NAME'`, and as [`Node::open`].
pub fn open_backing(ctx: &Context, top: &Node, backing: &BackingRef, options: &OpenOptions) -> Result<Node> {
    let told = |error: Error| error.context(format!("Could not open new backing file '{}'", backing.name));
    let resolved = top.resolve(&backing.name).map_err(told)?;
    let options = OpenOptions { format: backing.format.clone(), ..options.clone() };
    Node::open_nested(ctx, &ImageSpec::name(resolved), &options).map_err(told)
}

/// Puts `top`, which is open for writing with its chain, on another backing file (`None`: on none), and leaves its
/// contents as they are. `top` is of no use afterwards: it shows what its old chain has.
///
/// # Errors
/// As [`set_backing`]; `error while reading from old backing file` (or `new`), `Error while writing to COW image: …`;
/// `Cancelled`. The image then has its old backing file.
pub fn rebase(
    top: &Node,
    onto: Option<(&BackingRef, &Node)>,
    options: &RebaseOptions,
    task: &Task<'_>,
) -> Result<u64> {
    let (name, disk) = onto.unzip();
    let change = backing_change(top, name)?;
    let target = top.over(disk.cloned());
    let moving = Moving {
        scope: Scope::Unlike(disk),
        zero_from: u64::MAX,
        // What the old backing file was too short for.
        look_from: top.backing().map_or(0, |old| old.device().len()),
        compress: options.compress,
        rate_limit: options.rate_limit,
    };
    let report = move_layers(top, &target, &moving, task).map_err(in_words)?;
    store(change, name)?;
    Ok(report.written)
}

/// The failure of a copy in the words of `rebase`, which does not say why it could not read.
fn in_words(CopyError { side, error }: CopyError) -> Error {
    match side {
        _ if error.kind() == ErrorKind::Cancelled => error,
        Some(Side::Source) => error.told_as("error while reading from old backing file"),
        Some(Side::Compared) => error.told_as("error while reading from new backing file"),
        Some(Side::Status) => error.summarised("error while reading image metadata"),
        Some(Side::Target) => error.summarised("Error while writing to COW image"),
        None => error,
    }
}

/// Only changes the name of the backing file (`None`: removes it). What the image does not hold reads as the new one
/// has it.
///
/// # Errors
/// `Could not change the backing file to 'NAME'` with the reason: `InvalidArg` for a file without a format,
/// `Unsupported` for an image whose format can't do it, `NoSpace`, the host's.
pub fn set_backing(top: &Node, backing: Option<&BackingRef>) -> Result<()> {
    store(backing_change(top, backing)?, backing)
}

/// The image's ability to change its backing file, if it can have this one.
pub(crate) fn backing_change<'a>(
    top: &'a Node,
    backing: Option<&BackingRef>,
) -> Result<&'a dyn BackingChange> {
    if backing.is_some_and(|backing| !backing.name.is_empty() && backing.format.is_none()) {
        return Err(refused(backing, Error::invalid("backing format must be specified")));
    }
    let change = top.image().as_backing_change();
    change.ok_or_else(|| refused(backing, Error::from_errno(errno::ENOTSUP)))
}

/// Changes the name, durably.
pub(crate) fn store(change: &dyn BackingChange, backing: Option<&BackingRef>) -> Result<()> {
    let backing = backing.filter(|backing| !backing.name.is_empty());
    change.set_backing(backing).map_err(|error| match error.kind() {
        ErrorKind::NoSpace => refused(backing, error.told_as("No space left in the file header")),
        _ => {
            let text = error.strerror();
            refused(backing, error.told_as(text))
        }
    })
}

fn refused(backing: Option<&BackingRef>, why: Error) -> Error {
    let name = backing.map_or("", |backing| backing.name.as_str());
    why.context(format!("Could not change the backing file to '{name}'"))
}
