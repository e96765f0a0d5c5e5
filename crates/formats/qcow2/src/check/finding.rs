//! What a check can find, as types, with the wording that users of the format know.
//!
//! A repair acts on these values; printing them is all that a plain check does.

use std::fmt;

use diskimg_core::strerror;

use crate::limits::MAX_SNAPSHOT_EXTRA;

/// How a finding is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Can harm data.
    Corruption,
    /// Only takes space.
    Leak,
    /// The check could not look.
    CheckError,
    /// Goes with another finding that counts.
    Remark,
}

/// One finding. Offsets are host bytes, entries are as stored, clusters are host clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Extra data that version 3 demands is missing.
    IncompleteSnapshot { index: usize },
    /// More snapshots than there may be.
    OverhangingSnapshots { count: u32 },
    /// Snapshots behind the longest table there may be.
    SnapshotsTooLong { count: u32 },
    /// A snapshot with more extra data than there may be.
    SnapshotExtra { index: usize, len: u32 },
    /// Something is said to be a cluster or more behind the end of the file.
    RegionBeyondEnd { offset: u64, len: u64 },
    /// More references than a refcount can hold.
    Overflow { offset: u64 },
    /// An L1 entry with reserved bits.
    L1Reserved { entry: u64 },
    /// An L2 table that does not start at a cluster.
    L2TableUnaligned { offset: u64 },
    /// A snapshot's L1 table that does not start at a cluster.
    SnapshotL1Unaligned { id: String, name: String, offset: u64 },
    /// A snapshot's L1 table with too many entries.
    SnapshotL1TooLarge { id: String, name: String, entries: u32 },
    /// A snapshot's L1 table where no file has anything: the end of the check.
    L1Unreadable,
    /// An L2 entry with reserved bits.
    L2Reserved { entry: u64 },
    /// A compressed cluster with the COPIED flag; `payload` is where it stands.
    CompressedCopied { payload: u64 },
    /// A compressed cluster in an image whose data stands elsewhere.
    CompressedWithDataFile { index: u64, entry: u64 },
    /// A compressed cluster with a subcluster bitmap.
    CompressedWithBitmap { index: u64, entry: u64 },
    /// Subclusters that are both data and zeros.
    BitmapOfAllocated { offset: u64 },
    /// Subclusters with data in a cluster that has no place.
    BitmapOfUnallocated,
    /// Data that does not start at a cluster.
    DataUnaligned { offset: u64 },
    /// A preallocated cluster that does not start at a cluster.
    PreallocatedUnaligned { offset: u64 },
    /// A refcount table entry with reserved bits.
    ReftableReserved { index: u64 },
    /// A refcount block that does not start at a cluster.
    RefblockUnaligned { index: u64 },
    /// A refcount block behind the end of the file.
    RefblockOutside { index: u64 },
    /// A refcount block that something else uses too.
    RefblockShared { index: u64, references: u64 },
    /// The first use of a refcount block that does not start at a cluster.
    RefblockUnusable { index: u64, offset: u64 },
    /// A refcount that can't be read.
    RefcountUnreadable { cluster: u64, errno: i32 },
    /// A refcount above the number of references.
    Leaked { cluster: u64, refcount: u64, references: u64 },
    /// A refcount below the number of references.
    RefcountTooLow { cluster: u64, refcount: u64, references: u64 },
    /// An L1 entry whose COPIED flag contradicts the refcount.
    L1Copied { index: usize, entry: u64, refcount: u64 },
    /// An L2 entry whose COPIED flag contradicts the refcount.
    L2Copied { entry: u64, refcount: u64 },
    /// Damaged tables that are used again and again are not looked at each time.
    Repetitive,
}

impl Finding {
    /// How many it counts for.
    pub(crate) fn weight(&self) -> u64 {
        match self {
            Self::OverhangingSnapshots { count } | Self::SnapshotsTooLong { count } => (*count).into(),
            _ => 1,
        }
    }

    /// How it is counted.
    pub(crate) const fn class(&self) -> Class {
        match self {
            Self::Leaked { .. } => Class::Leak,
            Self::RefcountUnreadable { .. } | Self::L1Unreadable => Class::CheckError,
            Self::RefblockUnusable { .. } => Class::Remark,
            _ => Class::Corruption,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IncompleteSnapshot { .. }
            | Self::OverhangingSnapshots { .. }
            | Self::SnapshotsTooLong { .. }
            | Self::SnapshotExtra { .. }
            | Self::SnapshotL1Unaligned { .. }
            | Self::SnapshotL1TooLarge { .. }
            | Self::L1Unreadable => self.write_snapshot(f),
            Self::L1Reserved { .. }
            | Self::L2TableUnaligned { .. }
            | Self::L1Copied { .. }
            | Self::L2Copied { .. }
            | Self::L2Reserved { .. } => self.write_entry(f),
            Self::RegionBeyondEnd { .. } | Self::Overflow { .. } | Self::Repetitive => self.write_region(f),
            Self::ReftableReserved { .. }
            | Self::RefblockUnaligned { .. }
            | Self::RefblockOutside { .. }
            | Self::RefblockShared { .. }
            | Self::RefblockUnusable { .. } => self.write_refblock(f),
            Self::RefcountUnreadable { .. } | Self::Leaked { .. } | Self::RefcountTooLow { .. } => {
                self.write_refcount(f)
            }
            _ => self.write_cluster(f),
        }
    }
}

impl Finding {
    fn write_snapshot(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IncompleteSnapshot { index } => {
                write!(f, "ERROR snapshot table entry {index} is incomplete")
            }
            Self::OverhangingSnapshots { count } => write!(f, "Discarding {count} overhanging snapshots"),
            Self::SnapshotsTooLong { count } => {
                write!(f, "Discarding {count} overhanging snapshots (snapshot table is too big)")
            }
            Self::SnapshotExtra { index, len } => write!(
                f,
                "Discarding too much extra metadata in snapshot table entry {index} ({len} > {MAX_SNAPSHOT_EXTRA})"
            ),
            Self::L1Unreadable => f.write_str("ERROR: I/O error in check_refcounts_l1"),
            Self::SnapshotL1Unaligned { id, name, offset } => write!(
                f,
                "ERROR snapshot {id} ({name}) l1_offset={offset:#x}: L1 table is not cluster aligned; snapshot table \
                 entry corrupted"
            ),
            Self::SnapshotL1TooLarge { id, name, entries } => write!(
                f,
                "ERROR snapshot {id} ({name}) l1_size={entries:#x}: L1 table is too large; snapshot table entry \
                 corrupted"
            ),
            _ => Ok(()),
        }
    }

    fn write_entry(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::L1Reserved { entry } => write!(f, "ERROR found L1 entry with reserved bits set: {entry:x}"),
            Self::L2Reserved { entry } => write!(f, "ERROR found l2 entry with reserved bits set: {entry:x}"),
            Self::L2TableUnaligned { offset } => {
                write!(f, "ERROR l2_offset={offset:x}: Table is not cluster aligned; L1 entry corrupted")
            }
            Self::L1Copied { index, entry, refcount } => write!(
                f,
                "ERROR OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={entry:x} refcount={refcount}"
            ),
            Self::L2Copied { entry, refcount } => {
                write!(f, "ERROR OFLAG_COPIED data cluster: l2_entry={entry:x} refcount={refcount}")
            }
            _ => Ok(()),
        }
    }

    fn write_region(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RegionBeyondEnd { offset, len } => write!(
                f,
                "ERROR: counting reference for region exceeding the end of the file by one cluster or more: offset \
                 0x{offset:x} size 0x{len:x}"
            ),
            Self::Overflow { offset } => write!(
                f,
                "ERROR: overflow cluster offset=0x{offset:x}\nUse qemu-img amend to increase the refcount entry \
                 width or qemu-img convert to create a clean copy if the image cannot be opened for writing"
            ),
            Self::Repetitive => f.write_str(
                "ERROR tables are referenced over and over; the findings of their further uses are left out",
            ),
            _ => Ok(()),
        }
    }

    fn write_cluster(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CompressedCopied { payload } => write!(
                f,
                "ERROR: coffset=0x{payload:x}: copied flag must never be set for compressed clusters"
            ),
            Self::CompressedWithDataFile { index, entry } => {
                write!(f, "ERROR compressed cluster {index} with data file, entry=0x{entry:x}")
            }
            Self::CompressedWithBitmap { index, entry } => write!(
                f,
                "ERROR compressed cluster {index} with non-zero subcluster allocation bitmap, entry=0x{entry:x}"
            ),
            Self::BitmapOfAllocated { offset } => write!(
                f,
                "ERROR offset={offset:x}: Allocated cluster has corrupted subcluster allocation bitmap"
            ),
            Self::BitmapOfUnallocated => {
                f.write_str("ERROR: Unallocated cluster has non-zero subcluster allocation map")
            }
            Self::DataUnaligned { offset } => {
                write!(
                    f,
                    "ERROR offset={offset:x}: Data cluster is not properly aligned; L2 entry corrupted."
                )
            }
            Self::PreallocatedUnaligned { offset } => write!(
                f,
                "ERROR offset={offset:x}: Preallocated cluster is not properly aligned; L2 entry corrupted."
            ),
            _ => Ok(()),
        }
    }

    fn write_refblock(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReftableReserved { index } => {
                write!(f, "ERROR refcount table entry {index} has reserved bits set")
            }
            Self::RefblockUnaligned { index } => write!(
                f,
                "ERROR refcount block {index} is not cluster aligned; refcount table entry corrupted"
            ),
            Self::RefblockOutside { index } => write!(f, "ERROR refcount block {index} is outside image"),
            Self::RefblockShared { index, references } => {
                write!(f, "ERROR refcount block {index} refcount={references}")
            }
            Self::RefblockUnusable { index, offset } => write!(
                f,
                "qcow2: Image is corrupt: Refblock offset {offset:#x} unaligned (reftable index: {}{index:x}); \
                 further non-fatal corruption events will be suppressed",
                if *index == 0 { "" } else { "0x" }
            ),
            _ => Ok(()),
        }
    }

    fn write_refcount(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RefcountUnreadable { cluster, errno } => {
                write!(f, "Can't get refcount for cluster {cluster}: {}", strerror(*errno))
            }
            Self::Leaked { cluster, refcount, references } => {
                write!(f, "Leaked cluster {cluster} refcount={refcount} reference={references}")
            }
            Self::RefcountTooLow { cluster, refcount, references } => {
                write!(f, "ERROR cluster {cluster} refcount={refcount} reference={references}")
            }
            _ => Ok(()),
        }
    }
}
