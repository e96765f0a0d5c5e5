//! Runtime options of a qcow2 node: parsing all of them, and the values that apply.

use bitflags::bitflags;

bitflags! {
    /// Metadata that a write is checked not to hit.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Overlap: u16 {
        const MAIN_HEADER = 1;
        const ACTIVE_L1 = 1 << 1;
        const ACTIVE_L2 = 1 << 2;
        const REFCOUNT_BLOCK = 1 << 3;
        const REFCOUNT_TABLE = 1 << 4;
        const SNAPSHOT_TABLE = 1 << 5;
        const INACTIVE_L1 = 1 << 6;
        const INACTIVE_L2 = 1 << 7;
        const BITMAP_DIRECTORY = 1 << 8;
        /// What can be told from the header and a few tables.
        const CONSTANT = Self::MAIN_HEADER.bits() | Self::ACTIVE_L1.bits() | Self::REFCOUNT_TABLE.bits()
            | Self::SNAPSHOT_TABLE.bits() | Self::BITMAP_DIRECTORY.bits();
        /// What can be told from tables that are in memory anyway.
        const CACHED = Self::CONSTANT.bits() | Self::ACTIVE_L2.bits() | Self::REFCOUNT_BLOCK.bits()
            | Self::INACTIVE_L1.bits();
    }
}

/// The runtime options that apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Refcount updates may be postponed; `None`: as the image says.
    pub lazy_refcounts: Option<bool>,
    /// A discard keeps cluster and refcount.
    pub discard_no_unref: bool,
    /// Discards by the guest reach the host; `None`: if the node was opened with `discard=unmap`.
    pub pass_discard_request: Option<bool>,
    /// Clusters freed with a snapshot are discarded on the host.
    pub pass_discard_snapshot: bool,
    /// Other freed clusters are discarded on the host.
    pub pass_discard_other: bool,
    /// What writes are checked against.
    pub overlap: Overlap,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lazy_refcounts: None,
            discard_no_unref: false,
            pass_discard_request: None,
            pass_discard_snapshot: true,
            pass_discard_other: false,
            overlap: Overlap::CACHED,
        }
    }
}
