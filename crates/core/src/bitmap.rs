//! [`Bitmaps`]: which parts of a disk were written, kept inside its image.

use crate::error::Result;

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
pub trait Bitmaps {
    /// All of them, in the order of their directory.
    fn bitmaps(&self) -> Vec<BitmapInfo>;

    /// Makes a bitmap.
    ///
    /// # Errors
    /// `InvalidArg` for a name that is taken, empty or too long and for a bad granularity; `Unsupported`; `ReadOnly`;
    /// `Limit`; the host's.
    fn add_bitmap(&self, new: &NewBitmap) -> Result<()>;
}
