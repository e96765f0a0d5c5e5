//! The two traits of an image, on top of the paths in the other files.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{ClusterMap, MappedImage};
use crate::backing::{BackingChange, Emptying};
use crate::device::{BlockDevice, Description, Limits, Prealloc, ZeroMode, read_only_error};
use crate::driver::FormatDriver;
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::image::{BackingRef, Check, CheckReport, Child, CompressedClusters, Image, Repair};
use crate::info::ImageInfo;
use crate::progress::Task;
use crate::range::{ByteRange, len_u64};
use crate::reserve::Reservation;

/// The best size of a large transfer, in bytes.
const BEST_TRANSFER: u64 = 2 << 20;
/// What is encrypted at once, in bytes.
const SECTOR: u64 = 512;

/// Longest cluster that callers fill up from below, in bytes.
const MOST_FILLED: u64 = 64 << 20;

impl<M: ClusterMap> MappedImage<M> {
    /// Called before every change.
    pub(super) fn before_change(&self) -> Result<()> {
        if self.writable { self.map.before_change() } else { Err(read_only_error()) }
    }
}

impl<M: ClusterMap> BlockDevice for MappedImage<M> {
    fn len(&self) -> u64 {
        self.disk_len()
    }

    fn limits(&self) -> Limits {
        let align = if self.is_encrypted() { SECTOR } else { 1 };
        let size = self.map.cluster_size();
        // Where nothing lies below nobody has to fill up a cluster: one that is very long would be held in memory.
        let write_unit = if size > MOST_FILLED && self.map.backing().is_none() { 1 } else { size };
        Limits { align, write_unit, best_transfer: BEST_TRANSFER, ..Limits::default() }
    }

    fn is_read_only(&self) -> bool {
        !self.writable
    }

    fn describe(&self) -> Description<'_> {
        Description { driver: self.map.driver().name, filename: self.map.filename() }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        ByteRange::new(offset, len_u64(buf)).check_within(self.disk_len())?;
        let _request = self.requests.enter();
        self.read_clusters(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        ByteRange::new(offset, len_u64(buf)).check_within(self.disk_len())?;
        let _change = self.changes.read();
        let _request = self.requests.enter();
        self.before_change()?;
        self.write_clusters(offset, buf)
    }

    fn write_zeroes(&self, range: ByteRange, how: ZeroMode) -> Result<()> {
        range.check_within(self.disk_len())?;
        let _change = self.changes.read();
        let _request = self.requests.enter();
        self.before_change()?;
        self.zero_clusters(range, how)
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        range.check_within(self.disk_len())?;
        let _change = self.changes.read();
        let _request = self.requests.enter();
        self.before_change()?;
        self.discard_clusters(range)
    }

    fn flush(&self) -> Result<()> {
        if self.writable { self.write_tables() } else { Ok(()) }
    }

    fn set_len(&self, len: u64, prealloc: Prealloc) -> Result<()> {
        let _change = self.changes.read();
        self.before_change()?;
        let _claim = self.claims.lock(ByteRange::new(0, u64::MAX));
        let len = self.map.set_len(len, prealloc)?;
        self.len.store(len, Ordering::Release);
        self.write_tables()
    }

    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        range.check_within(self.disk_len())?;
        if range.is_empty() {
            return Err(Error::invalid("an empty range has no extent"));
        }
        self.extent(range)
    }

    fn reserve(&self, range: ByteRange) -> Result<Option<Reservation<'_>>> {
        range.check_within(self.disk_len())?;
        let _change = self.changes.read();
        self.before_change()?;
        self.reserve_clusters(range)
    }

    fn allocated_len(&self) -> Result<Option<u64>> {
        let mut total = self.map.storage().allocated_len()?;
        for child in self.map.more_children() {
            let more = child.device.allocated_len()?;
            total = total.map(|total| total + more.unwrap_or(0));
        }
        Ok(total)
    }
}

impl<M: ClusterMap> Image for MappedImage<M> {
    fn driver(&self) -> &'static FormatDriver {
        self.map.driver()
    }

    fn info(&self) -> Result<ImageInfo> {
        self.map.info()
    }

    fn has_places(&self) -> Result<bool> {
        Ok(true)
    }

    fn backing(&self) -> Option<BackingRef> {
        self.map.backing()
    }

    fn accepts_backing(&self, backing: &dyn Image) -> Result<()> {
        self.map.accepts_backing(backing)
    }

    fn adopt_backing(&self, backing: &dyn Image) -> Result<()> {
        self.before_change()?;
        self.map.adopt_backing(backing)
    }

    fn children(&self) -> Vec<Child> {
        let mut children = vec![Child { role: "file", device: Arc::clone(self.map.storage()) }];
        children.extend(self.map.more_children());
        children
    }

    fn as_compressed(&self) -> Option<&dyn CompressedClusters> {
        self.map.packing().is_some().then_some(self)
    }

    fn as_backing_change(&self) -> Option<&dyn BackingChange> {
        self.map.as_backing_change()
    }

    fn as_emptying(&self) -> Option<&dyn Emptying> {
        self.map.as_clearing().is_some().then_some(self)
    }

    fn as_check(&self) -> Option<&dyn Check> {
        self.map.as_check().is_some().then_some(self)
    }
}

impl<M: ClusterMap> Check for MappedImage<M> {
    fn check(&self, repair: Repair, say: &mut dyn FnMut(&str), task: &Task<'_>) -> Result<CheckReport> {
        self.flush()?;
        match self.map.as_check() {
            Some(check) => check.check(repair, say, task),
            None => Err(Error::unsupported("This image format does not support checks")),
        }
    }
}
