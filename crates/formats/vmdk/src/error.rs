//! What can be wrong with a VMDK file, in the words that users know from qemu-img.

use diskimg_core::{Error, ErrorKind, errno};

/// Why an image is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VmdkError {
    #[error("Unsupported VMDK version {0}")]
    Version(u32),
    #[error("VMDK version 3 must be read only")]
    Version3Write,
    #[error("L2 table size too big")]
    TableSize,
    #[error("L1 entry size is invalid")]
    TableReach,
    #[error("L1 size too big")]
    DirectorySize,
    #[error("Invalid granularity, image may be corrupt")]
    Grain,
    #[error("File truncated, expecting at least {0} bytes")]
    Truncated(u64),
    #[error("Invalid footer")]
    Footer,
    #[error("File is too small, not a valid image")]
    TooSmall,
    #[error("Image not in VMDK format")]
    NotVmdk,
    #[error("invalid VMDK image descriptor")]
    NoCreateType,
    #[error("Unsupported image type '{0}'")]
    CreateType(String),
    #[error("Invalid extent line: {0}")]
    ExtentLine(String),
    #[error("The descriptor names no extent")]
    NoExtents,
    #[error("The descriptor names more than {0} extents")]
    TooManyExtents(usize),
    #[error("The extents are too large together")]
    TooLarge,
    #[error("An extent can't be the file of the descriptor itself: '{0}'")]
    OwnExtent(String),
    #[error("Unsupported compression method {0}")]
    Compression(u16),
    /// qemu-img has no words for it but the error number's.
    #[error("Invalid argument")]
    Invalid,
    #[error("No write support for seSparse images available")]
    SeSparseWrite,
    #[error("{0}")]
    SeSparse(String),
}

impl VmdkError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotVmdk | Self::NoCreateType | Self::TooSmall => ErrorKind::NotThisFormat,
            Self::Version(_) | Self::CreateType(_) | Self::Compression(_) | Self::SeSparseWrite => {
                ErrorKind::Unsupported
            }
            Self::Version3Write => ErrorKind::ReadOnly,
            Self::TableSize | Self::DirectorySize | Self::TooManyExtents(_) | Self::TooLarge => {
                ErrorKind::Limit
            }
            Self::OwnExtent(_) => ErrorKind::Denied,
            _ => ErrorKind::Corrupt,
        }
    }

    fn errno(&self) -> i32 {
        match self {
            Self::DirectorySize | Self::TooManyExtents(_) | Self::TooLarge => errno::EFBIG,
            Self::Version(_) | Self::CreateType(_) | Self::Compression(_) | Self::SeSparseWrite => {
                errno::ENOTSUP
            }
            _ => errno::EINVAL,
        }
    }
}

impl From<VmdkError> for Error {
    fn from(error: VmdkError) -> Self {
        Self::new(error.kind(), error.to_string()).with_errno(error.errno())
    }
}
