//! Streams: an image takes over what lies below it, down to a base or wholly, and no longer depends on the images in
//! between. The reverse of a commit, for overlays that are to be kept.
//!
//! ```no_run
//! use diskimg_chain::{Context, ImageSpec, Node, OpenOptions};
//! use diskimg_core::{Registry, Task};
//! use diskimg_engine::{StreamOptions, stream};
//!
//! # let ctx = Context::new(Registry::new());
//! let image = Node::open(&ctx, &ImageSpec::name("image.qcow2"), &OpenOptions::write())?;
//! stream(&image, &StreamOptions::default(), &Task::quiet())?;
//! # Ok::<(), diskimg_core::Error>(())
//! ```
//!
//! The image may be in the midst of a longer chain: those over it read as before. Order: the data are durable in the
//! image | the name of its backing file changes. At every moment it reads as it did; a stream that was interrupted is
//! simply run again.

use std::num::NonZero;

use diskimg_chain::Node;
use diskimg_chain::name::{has_protocol, resolve_backing};
use diskimg_core::{BackingRef, BlockDevice as _, Error, Result, Task};

use crate::convert::{Moving, Scope, move_layers};
use crate::rebase::{backing_change, store};

/// How an image is streamed into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamOptions {
    /// How many layers down the image lies that becomes the backing file; `None`: there is none afterwards. See
    /// [`find_layer`](crate::commit::find_layer).
    pub depth: Option<NonZero<usize>>,
    /// Clusters are written compressed; the format must be able to.
    pub compress: bool,
    /// The most bytes that are read in a second.
    pub rate_limit: Option<NonZero<u64>>,
}

/// Pulls into `image`, which is open for writing with its chain, what the layers between it and its future backing file
/// hold, and changes its backing file. Returns the bytes that were written as data.
///
/// # Errors
/// As [`rebase`](crate::rebase::rebase); `InvalidArg` for a depth that the chain does not have. The image then has its
/// old backing file.
pub fn stream(image: &Node, options: &StreamOptions, task: &Task<'_>) -> Result<u64> {
    let depth = options.depth.map(NonZero::get);
    let layer = |depth| image.layers().nth(depth).ok_or_else(|| Error::invalid("no such layer"));
    let base = depth.map(layer).transpose()?;
    let name = depth.zip(base).and_then(|(depth, base)| name_from(image, depth, base));
    let change = backing_change(image, name.as_ref())?;
    let moving = Moving {
        scope: Scope::Between(depth),
        zero_from: base.map_or(0, |base| base.device().len()),
        look_from: 0,
        compress: options.compress,
        rate_limit: options.rate_limit,
    };
    let report = move_layers(image, &image.over(base.cloned()), &moving, task)?;
    if depth != Some(1) {
        store(change, name.as_ref())?;
    }
    Ok(report.written)
}

/// The backing file `base`, `depth` layers down, as `image` has to name it.
fn name_from(image: &Node, depth: usize, base: &Node) -> Option<BackingRef> {
    let upper = image.layers().nth(depth.checked_sub(1)?)?;
    let format = Some(base.format().to_owned());
    let is_fixed = |name: &str| name.starts_with('/') || has_protocol(name);
    let Some(known) = upper.backing_name() else {
        return Some(BackingRef { name: absolute(base.name()), format });
    };
    let from_here = resolve_backing(Some(image.filename()), &known.stored);
    if is_fixed(&known.stored) || from_here == known.resolved {
        return Some(BackingRef { name: known.stored, format });
    }
    let resolved = known.resolved.unwrap_or_else(|| base.name().to_owned());
    let folder = image.filename().rfind('/').and_then(|end| image.filename().get(..=end));
    let name = match resolved.strip_prefix(folder.unwrap_or_default()) {
        Some(inside) if !is_fixed(&resolved) || folder.is_some() => inside.to_owned(),
        _ => absolute(&resolved),
    };
    Some(BackingRef { name, format })
}

/// The same file, named from the root.
fn absolute(name: &str) -> String {
    let path = (!has_protocol(name)).then(|| std::fs::canonicalize(name).ok()).flatten();
    path.and_then(|path| path.into_os_string().into_string().ok()).unwrap_or_else(|| name.to_owned())
}
