//! Which bytes of a disk are stored where: the entries that `qemu-img map` prints.

use diskimg_chain::{Node, Status};
use diskimg_core::{BlockDevice as _, ByteRange, ExtentFlags, Result, Task};

use crate::told::failed;

/// A run of bytes of one nature. Entries tile the range without gaps; neighbours differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapEntry<'a> {
    /// First guest byte.
    pub start: u64,
    /// Number of bytes.
    pub length: u64,
    /// How many layers down the image is that answers for it; 0 is the top.
    pub depth: usize,
    /// A layer answers for it.
    pub present: bool,
    /// It reads as zeros.
    pub zero: bool,
    /// Bytes are stored for it.
    pub data: bool,
    /// The bytes are stored compressed.
    pub compressed: bool,
    /// Where in `filename` the bytes stand as they are.
    pub offset: Option<u64>,
    /// The file that `offset` is in.
    pub filename: Option<&'a str>,
}

impl<'a> MapEntry<'a> {
    fn new(start: u64, status: &Status<'a>) -> Self {
        let flags = status.flags.as_listed();
        let host = status.host.filter(|_| flags == status.flags);
        Self {
            start,
            length: status.len,
            depth: status.depth,
            present: flags.contains(ExtentFlags::PRESENT),
            zero: flags.contains(ExtentFlags::ZERO),
            data: flags.contains(ExtentFlags::DATA),
            compressed: flags.contains(ExtentFlags::COMPRESSED),
            offset: host.map(|host| host.offset),
            filename: host.map(|host| host.device.describe().filename),
        }
    }

    /// True if `next`, which follows it directly, belongs to the same entry.
    fn continues_as(&self, next: &Self) -> bool {
        let nature = |entry: &Self| {
            (entry.depth, entry.present, entry.zero, entry.data, entry.compressed, entry.offset.is_some())
        };
        nature(self) == nature(next)
            && self.filename == next.filename
            && self.offset.is_none_or(|offset| offset.checked_add(self.length) == next.offset)
    }
}

/// Calls `emit` with the entries of `range` (cut at the end of the disk) in guest order.
///
/// # Errors
/// `Could not read file metadata` with its cause; `emit`'s; `Cancelled`.
pub fn map<'a>(
    node: &'a Node,
    range: ByteRange,
    task: &Task<'_>,
    emit: &mut dyn FnMut(&MapEntry<'a>) -> Result<()>,
) -> Result<()> {
    let range = range.intersect(ByteRange::new(0, node.device().len()));
    let mut pending: Option<MapEntry<'a>> = None;
    let mut walk = node.status_walk();
    let mut at = range.start;
    while at < range.end() {
        task.check()?;
        let rest = ByteRange::from_bounds(at, range.end());
        let status = walk.status(rest).map_err(|error| failed("Could not read file metadata", error))?;
        let entry = MapEntry::new(at, &status);
        at += status.len;
        match &mut pending {
            Some(last) if last.continues_as(&entry) => last.length += entry.length,
            Some(last) => {
                emit(last)?;
                pending = Some(entry);
            }
            None => pending = Some(entry),
        }
        task.progress.update(at - range.start, range.len);
    }
    pending.map_or(Ok(()), |last| emit(&last))
}
