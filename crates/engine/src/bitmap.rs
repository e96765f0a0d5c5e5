//! Dirty bitmaps of images: what the `bitmap` command does, and their copying with a converted image.

use diskimg_chain::Node;
use diskimg_core::driver::Notices;
use diskimg_core::{
    BitmapInfo, Bitmaps, BlockDevice as _, DirtyBitmap, Error, NewBitmap, Result, errno, inconsistent_bitmap,
    strerror, unknown_bitmap,
};

/// Something to do with a bitmap.
#[derive(Clone, Copy, Debug)]
pub enum BitmapAction<'a> {
    /// Makes it; it records writes.
    Add {
        /// Bytes of the disk that a bit stands for; `None`: what suits the format.
        granularity: Option<u64>,
    },
    /// Removes it, also if it is inconsistent.
    Remove,
    /// Takes all marks off.
    Clear,
    /// It records writes from now on.
    Enable,
    /// It records writes no more.
    Disable,
    /// Marks what another bitmap marks.
    Merge {
        /// Its name.
        name: &'a str,
        /// The image that has it; `None`: the same one.
        source: Option<&'a Node>,
    },
}

impl BitmapAction<'_> {
    /// Its name in messages.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Add { .. } => "add",
            Self::Remove => "remove",
            Self::Clear => "clear",
            Self::Enable => "enable",
            Self::Disable => "disable",
            Self::Merge { .. } => "merge",
        }
    }
}

/// Does `actions` with the bitmap `name` of the image, one after the other; they become durable together. If one fails,
/// those before it are done.
///
/// # Errors
/// `Operation ACTION on bitmap NAME failed` with its cause, of the kinds of [`Bitmaps`]; what storing them says.
pub fn change_bitmap(node: &Node, name: &str, actions: &[BitmapAction<'_>]) -> Result<()> {
    let bitmaps = node.image().as_bitmaps();
    bitmaps.inspect(|bitmaps| bitmaps.defer_bitmap_changes());
    let failed = |action: &BitmapAction<'_>, error: Error| {
        error.context(format!("Operation {} on bitmap {name} failed", action.name()))
    };
    let done = actions
        .iter()
        .try_for_each(|action| apply(node, name, action).map_err(|error| failed(action, error)));
    let stored = bitmaps.map_or(Ok(()), Bitmaps::store_bitmaps);
    done.and(stored)
}

fn apply(node: &Node, name: &str, action: &BitmapAction<'_>) -> Result<()> {
    let Some(bitmaps) = node.image().as_bitmaps() else {
        return Err(match action {
            BitmapAction::Add { .. } if name.is_empty() => Error::invalid("Bitmap name cannot be empty"),
            BitmapAction::Add { granularity } => {
                DirtyBitmap::new(0, granularity.unwrap_or(512))?;
                Error::unsupported(strerror(errno::ENOTSUP))
                    .context(format!("Can't store persistent bitmaps to {}", node.filename()))
            }
            _ => unknown_bitmap(name),
        });
    };
    match action {
        BitmapAction::Add { granularity } => {
            bitmaps.add_bitmap(&NewBitmap { name: name.to_owned(), granularity: *granularity, enabled: true })
        }
        BitmapAction::Remove => bitmaps.remove_bitmap(name),
        BitmapAction::Clear => bitmaps.clear_bitmap(name),
        BitmapAction::Enable => bitmaps.enable_bitmap(name, true),
        BitmapAction::Disable => bitmaps.enable_bitmap(name, false),
        BitmapAction::Merge { name: source_name, source } => {
            check_usable(bitmaps, name)?;
            let source = source.unwrap_or(node).image().as_bitmaps();
            let bits = source.ok_or_else(|| unknown_bitmap(source_name))?.read_bitmap(source_name)?;
            bitmaps.merge_bitmap(name, &bits)
        }
    }
}

fn check_usable(bitmaps: &dyn Bitmaps, name: &str) -> Result<()> {
    match bitmaps.bitmaps().into_iter().find(|info| info.name == name) {
        None => Err(unknown_bitmap(name)),
        Some(info) if info.inconsistent => Err(inconsistent_bitmap(name)),
        Some(_) => Ok(()),
    }
}

/// True if the image can have persistent bitmaps, whether it has any or not.
#[must_use]
pub fn can_hold_bitmaps(node: &Node) -> bool {
    node.image().as_bitmaps().is_some_and(|bitmaps| bitmaps.can_add_bitmaps().is_ok())
}

/// The bitmaps of the image itself, not of its backing files.
fn bitmaps_of(node: &Node) -> Vec<BitmapInfo> {
    node.image().as_bitmaps().map(Bitmaps::bitmaps).unwrap_or_default()
}

/// Refuses to copy the bitmaps of `source` if one is inconsistent.
///
/// # Errors
/// `InvalidArg`, with a hint.
pub fn check_bitmaps_consistent(source: &Node) -> Result<()> {
    match bitmaps_of(source).iter().rev().find(|info| info.inconsistent) {
        None => Ok(()),
        Some(info) => Err(Error::invalid(format!("Cannot copy inconsistent bitmap '{}'", info.name))
            .with_hint("Try --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it")),
    }
}

/// Copies the bitmaps of `source` to `target`, which holds the same disk, with their names, granularities and bits, and
/// whether they record. Inconsistent ones are left out with a warning.
///
/// # Errors
/// `Failed to create bitmap …` and `Failed to populate bitmap …` with their cause; the target then has only those
/// that were copied before.
pub fn copy_bitmaps(source: &Node, target: &Node, notices: &Notices) -> Result<()> {
    let infos = bitmaps_of(source);
    let (Some(from), Some(to)) = (source.image().as_bitmaps(), target.image().as_bitmaps()) else {
        return if infos.is_empty() { Ok(()) } else { Err(Error::unsupported(strerror(errno::ENOTSUP))) };
    };
    let known = to.bitmaps();
    let (old, new) = (source.device().len(), target.device().len());
    // What can't be copied is looked for first, in the order in which qemu-img copies.
    for info in infos.iter().rev() {
        if info.inconsistent {
            notices.warn(&format!("Skipping inconsistent bitmap '{}'", info.name));
        } else if known.iter().any(|known| known.name == info.name) {
            let error = Error::invalid(format!("Bitmap already exists: {}", info.name));
            return Err(error.context(format!("Failed to create bitmap {}", info.name)));
        } else if old != new {
            let populate = |error: Error| error.context(format!("Failed to populate bitmap {}", info.name));
            let shape = |len| DirtyBitmap::new(len, info.granularity);
            shape(new).and_then(|to| to.merge(&shape(old)?)).map_err(populate)?;
        }
    }
    for info in infos.iter().filter(|info| !info.inconsistent) {
        let populate = |error: Error| error.context(format!("Failed to populate bitmap {}", info.name));
        let (name, granularity) = (info.name.clone(), Some(info.granularity));
        to.add_bitmap(&NewBitmap { name, granularity, enabled: info.enabled })
            .map_err(|error| error.context(format!("Failed to create bitmap {}", info.name)))?;
        let bits = from.read_bitmap(&info.name).map_err(populate)?;
        to.merge_bitmap(&info.name, &bits).map_err(populate)?;
    }
    Ok(())
}
