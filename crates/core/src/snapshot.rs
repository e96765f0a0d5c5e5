//! [`Snapshots`]: states of the disk kept inside an image, with the state of a machine where one was saved.

use std::sync::Arc;

use crate::error::Result;
use crate::image::Image;
use crate::info::SnapshotInfo;

/// Which snapshot is meant. Where several fit, the first of the table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotKey<'a> {
    /// Its identifier has to be this.
    pub id: Option<&'a str>,
    /// Its name has to be this.
    pub name: Option<&'a str>,
}

impl<'a> SnapshotKey<'a> {
    /// The snapshot with this identifier.
    #[must_use]
    pub const fn id(id: &'a str) -> Self {
        Self { id: Some(id), name: None }
    }

    /// The first snapshot with this name.
    #[must_use]
    pub const fn name(name: &'a str) -> Self {
        Self { id: None, name: Some(name) }
    }

    /// True if `snapshot` is meant; a key that says nothing fits none.
    #[must_use]
    pub fn fits(&self, snapshot: &SnapshotInfo) -> bool {
        (self.id.is_some() || self.name.is_some())
            && self.id.is_none_or(|id| snapshot.id == id)
            && self.name.is_none_or(|name| snapshot.name == name)
    }
}

/// A snapshot that is to be made of the disk as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewSnapshot {
    /// Its name; cut to what the format can hold. Empty and double names are allowed.
    pub name: String,
    /// When it is made: seconds since 1970.
    pub date_sec: u32,
    /// Nanoseconds of that second.
    pub date_nsec: u32,
    /// Bytes of the state area that belong to it (see [`Snapshots::write_vm_state`]); 0: none.
    pub vm_state_size: u64,
    /// The guest's clock, in nanoseconds.
    pub vm_clock_nsec: u64,
    /// Guest instructions executed, if recorded.
    pub icount: Option<u64>,
}

/// Snapshots inside an image. Other requests to the image may run meanwhile, from any thread: each falls wholly before
/// or behind the call.
///
/// The state of a machine is kept with its disk in four steps (`examples/savevm.rs` is a program that does it):
///
/// - *save*: stop the machine; [`write_vm_state`](Self::write_vm_state) from offset 0 on; then
///   [`create_snapshot`](Self::create_snapshot) with the number of bytes as `vm_state_size`, the present time, and the
///   machine's clock (and instruction count, if it has one). The snapshot has taken the state over: the area is empty.
/// - *load*: stop the machine; [`apply_snapshot`](Self::apply_snapshot); then
///   [`read_vm_state`](Self::read_vm_state) of the snapshot's [`vm_state_size`](SnapshotInfo::vm_state_size) bytes; set
///   its clock.
/// - *delete*: [`delete_snapshot`](Self::delete_snapshot); the state goes with it.
/// - *look*: [`open_snapshot`](Self::open_snapshot) gives the disk as it was, read-only, while the machine runs on; the
///   state is read through the `Snapshots` of what is opened.
///
/// Where a machine has several disks each gets a snapshot of the same name, and one of them the state. The state area
/// lies behind the disk, so it is lost when the disk is resized.
pub trait Snapshots {
    /// All of them, in the order of their table.
    fn snapshots(&self) -> Vec<SnapshotInfo>;

    /// Keeps the disk as it is, and the first `vm_state_size` bytes of the state area, which is empty afterwards.
    /// What was flushed before stays, also over a power cut; the call is durable when it returns. After an error of the
    /// host the snapshot may be there nevertheless: [`snapshots`](Self::snapshots) tells.
    ///
    /// # Errors
    /// `ReadOnly`; `Unsupported` where the image can't have snapshots; `Limit`; the host's.
    fn create_snapshot(&self, new: &NewSnapshot) -> Result<SnapshotInfo>;

    /// Makes the disk (its size too) and the state area what they were. The present state is lost.
    ///
    /// # Errors
    /// `InvalidArg` with errno `ENOENT` if there is no such snapshot; as `create_snapshot`; `Corrupt`.
    fn apply_snapshot(&self, which: &SnapshotKey<'_>) -> Result<()>;

    /// Forgets a snapshot and gives its space back.
    ///
    /// # Errors
    /// As `apply_snapshot`.
    fn delete_snapshot(&self, which: &SnapshotKey<'_>) -> Result<()>;

    /// The snapshot as a read-only image of its own, which is valid as long as the snapshot exists. It has the same
    /// backing file as the image.
    ///
    /// # Errors
    /// As `apply_snapshot`.
    fn open_snapshot(&self, which: &SnapshotKey<'_>) -> Result<Arc<dyn Image>>;

    /// Reads the state area from byte `offset` on; what was never written reads as zeros.
    ///
    /// # Errors
    /// `OutOfRange` beyond what can be addressed; the host's.
    fn read_vm_state(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// Writes the state area from byte `offset` on. It is no part of the disk; a snapshot takes it over.
    ///
    /// # Errors
    /// As `read_vm_state`; `ReadOnly`; `NoSpace`.
    fn write_vm_state(&self, offset: u64, buf: &[u8]) -> Result<()>;
}
