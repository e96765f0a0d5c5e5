//! What chain operations ask of a layer: another backing file, and emptiness.

use crate::error::Result;
use crate::image::BackingRef;

/// Formats whose images can be put on another backing file.
pub trait BackingChange: Send + Sync {
    /// Names another backing file (`None`: there is none any more), durably. The file is not looked at, and no data
    /// is moved: what the image does not hold reads as the new one has it. A power cut leaves the old name or the new.
    ///
    /// # Errors
    /// `InvalidArg` for a name or a combination of features that the format can't store; `NoSpace` if there is no room
    /// for the name; the host's.
    fn set_backing(&self, backing: Option<&BackingRef>) -> Result<()>;
}

/// Formats whose images can forget all that they hold.
pub trait Emptying: Send + Sync {
    /// Gives up everything that the image holds of its disk, so that all of it reads as its backing file has it (zeros
    /// where there is none), and gives space back to the host. Snapshots, bitmaps and the size stay. A power cut
    /// leaves some of it done; what is not done yet reads as before.
    ///
    /// # Errors
    /// The host's.
    fn make_empty(&self) -> Result<()>;
}
