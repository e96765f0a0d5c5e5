//! [`Bitmaps`]: which parts of a disk were written, kept inside its image.

use crate::dirty::DirtyBitmap;
use crate::error::{Error, Result};

/// A bitmap of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BitmapInfo {
    /// Its name, unique in the image.
    pub name: String,
    /// Bytes of the disk that a bit stands for: a power of two.
    pub granularity: u64,
    /// It records writes.
    pub enabled: bool,
    /// It was not closed cleanly: its contents can't be trusted, and it can only be removed.
    pub inconsistent: bool,
}

/// A bitmap that is to be made, with no bit set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBitmap {
    /// Its name.
    pub name: String,
    /// Bytes of the disk that a bit stands for; `None`: what suits the format.
    pub granularity: Option<u64>,
    /// It records writes from now on.
    pub enabled: bool,
}

/// Persistent dirty bitmaps inside an image. Enabled ones record every write made through the image.
///
/// What a call did is durable when it returns, but for changes that wait and for the bits of a bitmap that records writes of this session: they are
/// in memory, and stored when the image is closed or by [`Bitmaps::store_bitmaps`]. Until then the image says that they
/// are in use: after a crash such a bitmap is inconsistent, and never claims that nothing was written where something was.
///
/// All but [`Bitmaps::bitmaps`] fail with `InvalidArg` for a name that is unknown and for an inconsistent bitmap
/// (which [`Bitmaps::remove_bitmap`] takes), `ReadOnly` where they change something, `Limit`, and the host's errors.
pub trait Bitmaps {
    /// All of them, in the order of their directory.
    fn bitmaps(&self) -> Vec<BitmapInfo>;

    /// Tells whether bitmaps can be added at all.
    ///
    /// # Errors
    /// `Unsupported`, with the reason why not.
    fn can_add_bitmaps(&self) -> Result<()>;

    /// Makes a bitmap.
    ///
    /// # Errors
    /// `InvalidArg` for a name that is taken, empty or too long and for a bad granularity; `Unsupported`; `ReadOnly`;
    /// `Limit`; the host's.
    fn add_bitmap(&self, new: &NewBitmap) -> Result<()>;

    /// Removes a bitmap, also an inconsistent one.
    ///
    /// # Errors
    /// See the trait.
    fn remove_bitmap(&self, name: &str) -> Result<()>;

    /// Takes all marks off a bitmap.
    ///
    /// # Errors
    /// See the trait.
    fn clear_bitmap(&self, name: &str) -> Result<()>;

    /// Lets a bitmap record writes from now on, or no more.
    ///
    /// # Errors
    /// See the trait.
    fn enable_bitmap(&self, name: &str, enabled: bool) -> Result<()>;

    /// A copy of a bitmap's bits as they are now.
    ///
    /// # Errors
    /// See the trait.
    fn read_bitmap(&self, name: &str) -> Result<DirtyBitmap>;

    /// Marks in a bitmap all that is marked in `bits`, whatever its granularity.
    ///
    /// # Errors
    /// See the trait; `InvalidArg` too if `bits` is about a disk of another length.
    fn merge_bitmap(&self, name: &str, bits: &DirtyBitmap) -> Result<()>;

    /// A copy of a bitmap's bits, which are taken off in the same moment: a write is marked in the one or the other. Until
    /// the bitmap is stored (see [`Bitmaps::store_bitmaps`]) a crash leaves it inconsistent, never without the marks.
    ///
    /// # Errors
    /// See the trait.
    fn take_bitmap(&self, name: &str) -> Result<DirtyBitmap>;

    /// Lets the changes that follow wait until [`Bitmaps::store_bitmaps`] or the closing of the image, where they become
    /// durable together: after a crash, all were made or none. A write ends the waiting.
    fn defer_bitmap_changes(&self);

    /// Stores the bits of all bitmaps, and changes that wait: from then on, until the next write, they are not in use.
    /// Closing the image does it too, but can't tell of errors.
    ///
    /// # Errors
    /// The host's; `InvalidArg` while writes are running. The bitmaps are then still in use.
    fn store_bitmaps(&self) -> Result<()>;
}

/// The error of a bitmap that does not exist.
#[must_use]
pub fn unknown_bitmap(name: &str) -> Error {
    Error::invalid(format!("Dirty bitmap '{name}' not found"))
}

/// The error of a bitmap whose contents can't be trusted.
#[must_use]
pub fn inconsistent_bitmap(name: &str) -> Error {
    Error::invalid(format!("Bitmap '{name}' is inconsistent and cannot be used"))
        .with_hint("Try block-dirty-bitmap-remove to delete this bitmap from disk")
}
