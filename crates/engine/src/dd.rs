//! Copies blocks of a disk to the start of another one, as the tool `dd` counts them.
//!
//! Blocks only say which bytes: those are copied by the pipeline of [`convert`](crate::convert()), in units of its own and
//! on all processors. All bytes are written, also those that the source knows to be zeros.

use diskimg_chain::Node;
use diskimg_core::{BlockDevice as _, ByteRange, Error, ErrorKind, Result, Task};

use crate::ConvertReport;
use crate::convert::{CopyError, Side, copy_window, same_file};

/// Which blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DdOptions {
    /// Bytes of a block, at least 1.
    pub block_size: u64,
    /// The source ends after so many blocks, those that are skipped included; `None`: where it ends.
    pub count: Option<u64>,
    /// Blocks at the start of the source that are left out.
    pub skip: u64,
}

impl Default for DdOptions {
    fn default() -> Self {
        Self { block_size: 512, count: None, skip: 0 }
    }
}

/// What is copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DdRange {
    /// Bytes of the source; its length is that of the target.
    pub range: ByteRange,
    /// More is to be skipped than there is, so that nothing is left.
    pub beyond_end: bool,
}

impl DdOptions {
    /// The bytes that are meant of a source of `len` bytes.
    #[must_use]
    pub fn range(&self, len: u64) -> DdRange {
        let bytes = |blocks: u64| blocks.checked_mul(self.block_size.max(1));
        let end = self.count.and_then(bytes).map_or(len, |counted| counted.min(len));
        match bytes(self.skip).filter(|start| *start <= end) {
            Some(start) => DdRange { range: ByteRange::from_bounds(start, end), beyond_end: false },
            None => DdRange { range: ByteRange::default(), beyond_end: true },
        }
    }
}

/// Refuses a new file `name` that holds `source` or an image of its chain: making it would destroy what is to be read,
/// and the lock on raw contents does not keep us from that.
///
/// # Errors
/// `Locked`, as if another program used it.
pub fn check_distinct(source: &Node, name: &str) -> Result<()> {
    if source.layers().any(|layer| !layer.filename().is_empty() && same_file(layer.filename(), name)) {
        let error = Error::new(ErrorKind::Locked, "Failed to get \"write\" lock");
        return Err(error.with_hint(format!("Is another process using the image [{name}]?")));
    }
    Ok(())
}

/// Copies the bytes `range` of `source` to the start of `target`, which is at least as long, and flushes it.
///
/// # Errors
/// `OutOfRange` if `range` is not within `source`; `InvalidArg` if `target` is too short; those of reading and writing,
/// as `error while reading from input image file: …` and `error while writing to output image file: …`; `Cancelled`.
pub fn dd(source: &Node, range: ByteRange, target: &Node, task: &Task<'_>) -> Result<ConvertReport> {
    if range.end() > source.device().len() {
        return Err(Error::new(ErrorKind::OutOfRange, "the range lies beyond the end of the input"));
    }
    if target.device().len() < range.len {
        return Err(Error::invalid("output file is smaller than input file"));
    }
    copy_window(source, range, target, task).map_err(in_words)
}

/// The failure of a conversion in the words of `dd`.
fn in_words(CopyError { side, error }: CopyError) -> Error {
    match side {
        _ if error.kind() == ErrorKind::Cancelled => error,
        Some(Side::Source | Side::Status | Side::Compared) => {
            error.summarised("error while reading from input image file")
        }
        Some(Side::Target) | None => error.summarised("error while writing to output image file"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(block_size: u64, count: Option<u64>, skip: u64) -> Option<(u64, u64)> {
        let found = DdOptions { block_size, count, skip }.range(1_500_160);
        (!found.beyond_end).then_some((found.range.start, found.range.len))
    }

    #[test]
    fn blocks_are_counted_from_the_start_of_the_source() {
        assert_eq!(range(512, None, 0), Some((0, 1_500_160)));
        assert_eq!(range(1000, Some(7), 0), Some((0, 7000)));
        assert_eq!(range(512, Some(2), 1), Some((512, 512)));
        assert_eq!(range(1024, None, 1464), Some((1_499_136, 1024)));
        assert_eq!(range(1024, None, 1465), Some((1_500_160, 0)));
        assert_eq!(range(1024, None, 1466), None);
        assert_eq!(range(1024, Some(2), 3), None);
        assert_eq!(range(512, Some(u64::MAX), 0), Some((0, 1_500_160)));
        assert_eq!(range(512, None, u64::MAX), None);
    }
}
