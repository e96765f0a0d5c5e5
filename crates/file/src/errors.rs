//! Host errors as the library's, with qemu-img's wording where it has one. Used within this crate only.

use std::io;

use diskimg_core::{Error, ErrorKind, errno};
use rustix::io::Errno;

/// The library's error for a failed system call.
pub(crate) fn from_os(error: Errno) -> Error {
    Error::from(io::Error::from(error))
}

/// A file that can't be opened.
pub(crate) fn cannot_open(filename: &str, error: Error) -> Error {
    error.context(format!("Could not open '{filename}'"))
}

/// A file that can't be created.
pub(crate) fn cannot_create(filename: &str, error: Error) -> Error {
    error.context(format!("Could not create '{filename}'"))
}

/// A request behind the last byte a file can have.
pub(crate) fn too_far() -> Error {
    Error::new(ErrorKind::OutOfRange, "request beyond the greatest file offset").with_errno(errno::EFBIG)
}

/// A file that turned out to be shorter than it was.
pub(crate) fn ended_early(offset: u64) -> Error {
    Error::new(
        ErrorKind::OutOfRange,
        format!("the file ends at byte {offset}, earlier than when it was opened"),
    )
}
