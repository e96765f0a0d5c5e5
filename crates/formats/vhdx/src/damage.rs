//! [`Damage`]: why an image is refused, and how that is told.
//!
//! qemu-img names the error number alone for most damage; the details are in the error's sources.

use diskimg_core::driver::{NoticeLevel, Notices};
use diskimg_core::{ByteRange, Error, ErrorKind, errno};

/// What is wrong with an image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Damage {
    #[error("the file identifier is missing")]
    NotVhdx,
    #[error("No valid VHDX header found")]
    NoHeader,
    /// A structure contradicts the format.
    #[error("{0}")]
    Invalid(&'static str),
    /// A structure that has to be understood is not.
    #[error("{0}")]
    Unknown(&'static str),
    #[error(
        "VHDX region {}-{} overlaps with region {}-{}",
        .0.start, .0.end(), .1.start, .1.end()
    )]
    Overlap(ByteRange, ByteRange),
    #[error("VHDX BAT entry {0} offset overflow.")]
    Overflow(u64),
    #[error(
        "VHDX BAT entry {entry} {which} offset {offset} points after end of file ({file_len}). \
         Image has probably been truncated."
    )]
    BehindEnd { entry: u64, which: &'static str, offset: u64, file_len: u64 },
    #[error(transparent)]
    Storage(#[from] Error),
}

impl Damage {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::NotVhdx => ErrorKind::NotThisFormat,
            Self::Unknown(_) => ErrorKind::Unsupported,
            Self::Storage(error) => error.kind(),
            _ => ErrorKind::Corrupt,
        }
    }

    /// True for what is said in a line of its own before the error.
    fn is_said(&self) -> bool {
        matches!(self, Self::Overlap(..) | Self::Overflow(_) | Self::BehindEnd { .. })
    }

    /// The error of opening `filename`.
    pub(crate) fn told(self, filename: &str, notices: &Notices) -> Error {
        let code = match self {
            Self::Storage(error) => return error,
            Self::NoHeader => return Error::corrupt(self.to_string()).with_errno(errno::EINVAL),
            Self::Unknown(_) => errno::ENOTSUP,
            _ => errno::EINVAL,
        };
        if self.is_said() {
            notices.say(NoticeLevel::Error, &self.to_string());
        }
        Error::new(self.kind(), self.to_string())
            .with_errno(code)
            .summarised(format!("Could not open '{filename}'"))
    }
}
