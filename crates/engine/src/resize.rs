//! Growing and shrinking an image.

use diskimg_chain::Node;
use diskimg_core::size::MAX_IMAGE_SIZE;
use diskimg_core::{BlockDevice as _, Error, Prealloc, Result, Task};

/// The message of the error for an image that would become smaller without leave.
pub const SHRINK_REFUSED: &str = "Use the --shrink option to perform a shrink operation.";

/// What a program should warn of together with [`SHRINK_REFUSED`].
pub const SHRINK_WARNING: &str = "Shrinking an image will delete all data beyond the shrunken image's end. \
     Before performing such an operation, make sure there is no important data there.";

/// The size that an image shall get, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewSize {
    /// Exactly so many.
    Exact(u64),
    /// So many more.
    Grow(u64),
    /// So many less.
    Shrink(u64),
}

impl NewSize {
    /// The size of an image that now has `current` bytes; `None` if that is not above 0 and below 2^63.
    #[must_use]
    pub fn resolve(self, current: u64) -> Option<u64> {
        let size = match self {
            Self::Exact(size) => Some(size),
            Self::Grow(by) => current.checked_add(by),
            Self::Shrink(by) => current.checked_sub(by),
        };
        size.filter(|size| (1..=MAX_IMAGE_SIZE).contains(size))
    }
}

/// How an image is resized.
#[derive(Clone, Copy, Debug)]
pub struct ResizeOptions {
    /// The new size.
    pub size: NewSize,
    /// It may become smaller: the bytes behind the new end are lost.
    pub shrink: bool,
    /// How the space that it gains is provided for.
    pub prealloc: Prealloc,
}

/// Resizes the image. Returns its new length in bytes.
///
/// # Errors
/// `InvalidArg` with qemu-img's wording for a size that makes no sense, for shrinking without leave
/// ([`SHRINK_REFUSED`]) and for preallocation without growth; what the format refuses; the host's.
pub fn resize(node: &Node, options: &ResizeOptions, task: &Task<'_>) -> Result<u64> {
    let current = node.device().len();
    let new =
        options.size.resolve(current).ok_or_else(|| Error::invalid("New image size must be positive"))?;
    if new <= current && options.prealloc != Prealloc::Off {
        return Err(Error::invalid("Preallocation can only be used for growing images"));
    }
    if new < current && !options.shrink {
        return Err(Error::invalid(SHRINK_REFUSED));
    }
    task.check()?;
    node.device().set_len(new, options.prealloc)?;
    node.device().flush()?;
    task.progress.update(1, 1);
    Ok(node.device().len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_resolve_within_the_limits() {
        assert_eq!(NewSize::Grow(5).resolve(10), Some(15));
        assert_eq!(NewSize::Shrink(5).resolve(10), Some(5));
        assert_eq!(NewSize::Shrink(10).resolve(10), None);
        assert_eq!(NewSize::Shrink(11).resolve(10), None);
        assert_eq!(NewSize::Exact(0).resolve(10), None);
        assert_eq!(NewSize::Grow(MAX_IMAGE_SIZE).resolve(1), None);
        assert_eq!(NewSize::Exact(MAX_IMAGE_SIZE).resolve(1), Some(MAX_IMAGE_SIZE));
    }
}
