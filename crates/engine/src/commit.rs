//! Commits an overlay: what it holds goes into its backing file, or into an image further down its chain.
//!
//! ```no_run
//! use diskimg_chain::{Context, ImageSpec, Node, OpenOptions};
//! use diskimg_core::{Registry, Task};
//! use diskimg_engine::{CommitOptions, commit};
//!
//! # let ctx = Context::new(Registry::new());
//! let top = Node::open(&ctx, &ImageSpec::name("top.qcow2"), &OpenOptions::write())?;
//! commit(&ctx, top, &CommitOptions::default(), &Task::quiet())?;
//! # Ok::<(), diskimg_core::Error>(())
//! ```
//!
//! Order: the base grows | data and its metadata are durable in the base | the overlay is emptied. At every moment the
//! overlay reads as it did; a commit that was interrupted is simply run again. (An overlay whose format records the
//! identity of its base does not accept it while it is changed, and records the new one before it is emptied.)

use std::num::NonZero;

use diskimg_chain::name::{has_protocol, resolve_backing};
use diskimg_chain::{Context, Node};
use diskimg_core::{BlockDevice as _, Error, Prealloc, Result, Task};

use crate::convert::{Moving, Scope, move_layers, same_file};
use crate::told::failed;

/// How an overlay is committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitOptions {
    /// How many layers down the image lies that it is committed to; `None`: its backing file. See [`find_layer`].
    pub depth: Option<NonZero<usize>>,
    /// The overlay keeps what it holds. To be chosen where it is thrown away, or where there are images between it and
    /// the base: these read otherwise afterwards.
    pub keep: bool,
    /// The most bytes that are read in a second.
    pub rate_limit: Option<NonZero<u64>>,
}

/// What a commit did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitReport {
    /// Bytes that were written to the base as data.
    pub written: u64,
    /// The overlay was emptied.
    pub emptied: bool,
}

/// Commits `top`, which is open for writing with its chain. The base is opened anew for writing, and made as long as
/// `top` where it is shorter; other overlays of the base are worthless afterwards.
///
/// # Errors
/// `InvalidArg` for an image without a backing file; what opening the base for writing says (`Locked` if anybody else
/// uses it); `Block job failed` with the cause; `Cancelled`. `top` then reads as before.
pub fn commit(ctx: &Context, top: Node, options: &CommitOptions, task: &Task<'_>) -> Result<CommitReport> {
    if top.backing().is_none() {
        return Err(Error::invalid("Image does not have a backing file"));
    }
    let depth = options.depth.map_or(1, NonZero::get);
    let top = top.with_writable_layer(ctx, depth)?;
    let base = top.layers().nth(depth).ok_or_else(|| Error::invalid("no such layer"))?;
    let job_failed = |error| failed("Block job failed", error);
    if depth == 1 && top.image().accepts_backing(&**base.image()).is_ok() {
        // What changes with the base's first change is known to the overlay before the copy: a crash during it leaves
        // a chain that is read, and committed again.
        top.image().adopt_backing(&**base.image()).map_err(job_failed)?;
    }
    if base.device().len() < top.device().len() {
        base.device().set_len(top.device().len(), Prealloc::Off).map_err(job_failed)?;
    }
    let moving = Moving {
        scope: Scope::Above(depth),
        zero_from: u64::MAX,
        look_from: u64::MAX,
        compress: false,
        rate_limit: options.rate_limit,
    };
    let report = move_layers(&top, base, &moving, task).map_err(|failure| job_failed(failure.into()))?;
    if depth == 1 {
        base.device()
            .flush()
            .and_then(|()| top.image().adopt_backing(&**base.image()))
            .map_err(job_failed)?;
    }
    let emptied = !options.keep && empty(&top)?;
    Ok(CommitReport { written: report.written, emptied })
}

/// Empties the overlay, where its format can.
fn empty(top: &Node) -> Result<bool> {
    let Some(emptying) = top.image().as_emptying() else { return Ok(false) };
    let text = || format!("Could not empty {}", top.name());
    emptying.make_empty().and_then(|()| top.device().flush()).map_err(|error| failed(text(), error))?;
    Ok(true)
}

/// How many layers below `top` the image `name` lies, which is named as a backing file: from the folder of the image
/// that is over it.
///
/// # Errors
/// `InvalidArg` if the chain has no such image.
pub fn find_layer(top: &Node, name: &str) -> Result<NonZero<usize>> {
    let is_meant = |upper: &Node| {
        let Some(lower) = upper.backing() else { return false };
        if upper.backing_name().is_some_and(|known| known.stored == name) {
            return true;
        }
        if has_protocol(name) {
            return lower.name() == name;
        }
        let wanted = resolve_backing(Some(upper.filename()), name);
        wanted.is_some_and(|wanted| same_file(&wanted, lower.filename()))
    };
    let found = top.layers().position(is_meant).and_then(|above| NonZero::new(above + 1));
    found.filter(|_| !name.is_empty()).ok_or_else(|| {
        Error::invalid(format!("Did not find '{name}' in the backing chain of '{}'", top.label()))
    })
}
