//! The failure of a copy: what was being done, and to which of the two sides.

use diskimg_core::{ByteRange, Error};

use crate::told::failed;

/// One of the disks of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// What is read.
    Source,
    /// What the source tells of itself.
    Status,
    /// What the source is compared with.
    Compared,
    /// What is written.
    Target,
}

/// An error, and the side that it is about.
#[derive(Debug)]
pub(crate) struct CopyError {
    /// `None`: neither, or nobody says which.
    pub(crate) side: Option<Side>,
    /// In the words of a conversion.
    pub(crate) error: Error,
}

impl CopyError {
    /// `range` could not be read.
    pub(super) fn reading(range: ByteRange, cause: Error) -> Self {
        Self::of(Side::Source, format!("error while reading at byte {}", range.start), cause)
    }

    /// The source does not tell what is at byte `at`.
    pub(super) fn status(at: u64, cause: Error) -> Self {
        Self::of(Side::Status, format!("error while reading block status at offset {at}"), cause)
    }

    /// What `range` is compared with could not be read.
    pub(super) fn comparing(range: ByteRange, cause: Error) -> Self {
        Self::of(Side::Compared, format!("error while reading at byte {}", range.start), cause)
    }

    /// `range` could not be written.
    pub(super) fn writing(range: ByteRange, cause: Error) -> Self {
        Self::of(Side::Target, format!("error while writing at byte {}", range.start), cause)
    }

    fn of(side: Side, what: String, cause: Error) -> Self {
        Self { side: Some(side), error: failed(what, cause) }
    }
}

impl From<Error> for CopyError {
    fn from(error: Error) -> Self {
        Self { side: None, error }
    }
}

impl From<CopyError> for Error {
    fn from(failure: CopyError) -> Self {
        failure.error
    }
}
