//! What is told where there is no room for a new image, or for what one is to grow by: qemu-img's words.

use diskimg_core::{Error, ErrorKind, errno};

/// The header had no room.
pub(crate) const HEADER: &str = "Could not write qcow2 header";
/// The first refcount structures had none.
pub(crate) const REFTABLE: &str = "Could not write refcount table";
/// In front of what a new image's size had no room for.
pub(crate) const SIZE: &str = "Could not resize image";
/// The L1 table had none.
pub(crate) const L1: &str = "Failed to grow the L1 table";
/// Tables or clusters on the host had none.
pub(crate) const REFCOUNTS: &str = "Failed to resize refcount structures";
/// The file could not be made so long.
pub(crate) const FILE: &str = "Failed to resize underlying file";
/// Clusters that are only counted had none.
pub(crate) const CLUSTERS: &str = "Allocating clusters failed";

/// `error`, told as `what` if it is for want of room.
pub(crate) fn lacking(error: Error, what: &'static str) -> Error {
    if error.errno() == errno::ENOSPC { error.summarised(what) } else { error }
}

/// The error of making the storage longer: a device node that is too short has no room for [`REFCOUNTS`].
pub(crate) fn too_short(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Unsupported => Error::from_errno(errno::ENOSPC).summarised(REFCOUNTS),
        _ => error.context(FILE),
    }
}
