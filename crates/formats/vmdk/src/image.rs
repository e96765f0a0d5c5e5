//! [`Vmdk`]: an open image. It finds the part that a request means, and passes it on.
//!
//! Metadata is written by [`crate::tables`] and [`crate::stream`] alone, in the order stated there; the descriptor by
//! [`crate::descriptor_file`].

use std::any::Any;
use std::sync::Arc;

use diskimg_core::driver::OpenMode;
use diskimg_core::{
    BackingRef, BlockDevice, ByteRange, Check, CheckReport, Child, ClusterEncoder, Codec, CompressedClusters,
    Description, Error, Extent, ExtentFlags, FormatDriver, HostRef, Image, ImageInfo, Limits, Piece,
    Prealloc, Publish, Repair, Reservation, Result, Task, ZeroMode, len_u64, read_only_error,
    read_zero_padded, to_usize,
};
use parking_lot::Mutex;

use crate::codec::{Encoder, MARKER};
use crate::descriptor_file::DescriptorFile;
use crate::error::VmdkError;
use crate::limits::SECTOR;
use crate::parts::{Body, FlatExtent, Part, Parts};
use crate::sparse::SparseExtent;
use crate::sparse_write::{NewGrains, NewPayload};

/// The best size of a large transfer, in bytes.
const BEST_TRANSFER: u64 = 2 << 20;

/// An open image.
#[derive(Debug)]
pub(crate) struct Vmdk {
    pub storage: Arc<dyn BlockDevice>,
    pub parts: Parts,
    pub descriptor: DescriptorFile,
    pub create_type: String,
    pub filename: String,
    pub mode: OpenMode,
    /// Held by writers of an image whose grains and units do not coincide.
    pub unaligned: Mutex<()>,
}

impl Vmdk {
    /// The parent's name, if there is one.
    fn parent(&self) -> Option<String> {
        self.descriptor.identity().parent
    }

    /// The unit of writes, and whether its borders are those of grains.
    fn unit(&self) -> (u64, bool) {
        self.parts.grain().unwrap_or((1, true))
    }

    /// Called before every change of `range`.
    fn before_change(&self, range: ByteRange) -> Result<()> {
        if !self.mode.write {
            return Err(read_only_error());
        }
        self.parts.each(range, |part, _| if part.writable { Ok(()) } else { Err(read_only_error()) })?;
        self.descriptor.touch()
    }

    /// Keeps writers apart where the units that they exclude each other by are not those of grains.
    fn alone(&self) -> Option<impl Sized + '_> {
        let (_, aligned) = self.unit();
        (!aligned).then(|| self.unaligned.lock())
    }

    /// The extent that is written as a row of compressed grains.
    fn compressed(&self) -> Option<&SparseExtent> {
        self.parts.only_sparse().filter(|extent| extent.geo.compressed)
    }
}

fn slice(buf: &[u8], start: u64, part: ByteRange) -> &[u8] {
    let from = to_usize(part.start - start);
    buf.get(from..from.saturating_add(to_usize(part.len))).unwrap_or_default()
}

fn flat_extent<'a>(flat: &'a FlatExtent, within: ByteRange) -> Extent<'a> {
    let offset = flat.offset.saturating_add(within.start);
    let mut extent = Extent::data(within.len, Some(HostRef { device: &*flat.storage, offset }));
    extent.flags |= ExtentFlags::ASK_HOST;
    extent
}

fn write_part(part: &Part, within: ByteRange, bytes: &[u8]) -> Result<()> {
    match &part.body {
        Body::Flat(flat) => flat.io.write_at(flat.offset.saturating_add(within.start), bytes),
        Body::Sparse(extent) => extent.write(within.start, bytes),
        Body::Zero => Err(read_only_error()),
    }
}

impl BlockDevice for Vmdk {
    fn len(&self) -> u64 {
        self.parts.len()
    }

    fn limits(&self) -> Limits {
        let (unit, aligned) = self.unit();
        Limits {
            write_unit: if aligned { unit } else { 1 },
            best_transfer: BEST_TRANSFER,
            ..Limits::default()
        }
    }

    fn is_read_only(&self) -> bool {
        !self.mode.write
    }

    fn describe(&self) -> Description<'_> {
        Description { driver: crate::DRIVER.name, filename: &self.filename }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let range = ByteRange::new(offset, len_u64(buf));
        range.check_within(self.len())?;
        self.parts.each(range, |part, common| {
            let from = to_usize(common.start - offset);
            let Some(bytes) = buf.get_mut(from..from + to_usize(common.len)) else { return Ok(()) };
            let within = part.within(common);
            match &part.body {
                Body::Flat(flat) => {
                    read_zero_padded(&*flat.io, flat.offset.saturating_add(within.start), bytes)
                }
                Body::Sparse(extent) => extent.read(within.start, bytes),
                Body::Zero => {
                    bytes.fill(0);
                    Ok(())
                }
            }
        })
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        let range = ByteRange::new(offset, len_u64(buf));
        range.check_within(self.len())?;
        if range.is_empty() {
            return Ok(());
        }
        self.before_change(range)?;
        let _alone = self.alone();
        self.parts
            .each(range, |part, common| write_part(part, part.within(common), slice(buf, offset, common)))
    }

    fn write_zeroes(&self, range: ByteRange, how: ZeroMode) -> Result<()> {
        range.check_within(self.len())?;
        if range.is_empty() {
            return Ok(());
        }
        self.before_change(range)?;
        let (below, _alone) = (self.parent().is_some(), self.alone());
        self.parts.each(range, |part, common| {
            let within = part.within(common);
            match &part.body {
                Body::Flat(flat) => {
                    let place = ByteRange::new(flat.offset.saturating_add(within.start), within.len);
                    flat.io.write_zeroes(place, how)
                }
                Body::Sparse(extent) => {
                    if !extent.geo.is_border(within.start) || !extent.geo.is_border(within.end()) {
                        return Err(Error::unsupported("Zeros have to be written"));
                    }
                    extent.zero(within, how, below)
                }
                Body::Zero => Ok(()),
            }
        })
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        range.check_within(self.len())?;
        Err(Error::unsupported("Operation not supported"))
    }

    fn flush(&self) -> Result<()> {
        if !self.mode.write {
            return Ok(());
        }
        for part in self.parts.iter() {
            match &part.body {
                Body::Flat(flat) => flat.io.flush()?,
                Body::Sparse(extent) if part.writable => extent.flush()?,
                Body::Sparse(_) | Body::Zero => {}
            }
        }
        self.storage.flush()
    }

    fn set_len(&self, _len: u64, _prealloc: Prealloc) -> Result<()> {
        Err(Error::unsupported("Image format driver does not support resize"))
    }

    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        range.check_within(self.len())?;
        if range.is_empty() {
            return Err(Error::invalid("an empty range has no extent"));
        }
        let part = self.parts.at(range.start)?;
        let within = part.within(range);
        match &part.body {
            Body::Flat(flat) => Ok(flat_extent(flat, within)),
            Body::Sparse(extent) => extent.extent(within),
            Body::Zero => Ok(Extent::zero(within.len)),
        }
    }

    fn reserve(&self, range: ByteRange) -> Result<Option<Reservation<'_>>> {
        range.check_within(self.len())?;
        let (unit, aligned) = self.unit();
        let is_border = |at: u64| at.is_multiple_of(unit) || at == self.len();
        if unit <= 1 || !aligned || range.is_empty() || !is_border(range.start) || !is_border(range.end()) {
            return Ok(None);
        }
        self.before_change(range)?;
        self.reserve_grains(range)
    }

    fn copy_from(&self, offset: u64, source: HostRef<'_>, len: u64) -> Result<u64> {
        let range = ByteRange::new(offset, len);
        range.check_within(self.len())?;
        if range.is_empty() {
            return Ok(0);
        }
        let part = self.parts.at(offset)?;
        let Body::Flat(flat) = &part.body else { return Ok(0) };
        self.before_change(range)?;
        let within = part.within(range);
        flat.io.copy_from(flat.offset.saturating_add(within.start), source, within.len)
    }

    fn allocated_len(&self) -> Result<Option<u64>> {
        let Some(mut sum) = self.storage.allocated_len()? else { return Ok(None) };
        for part in self.parts.iter().filter(|part| part.own_file) {
            let Some(storage) = part.storage() else { continue };
            let Some(len) = storage.allocated_len()? else { return Ok(None) };
            sum = sum.saturating_add(len);
        }
        Ok(Some(sum))
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

/// Grains that wait to be published.
struct Pending<'a>(Vec<(&'a SparseExtent, NewGrains)>);

impl Publish for Pending<'_> {
    fn commit(self: Box<Self>) -> Result<()> {
        self.0.iter().try_for_each(|(extent, new)| extent.publish(*new))
    }

    fn abandon(self: Box<Self>) {
        for (extent, new) in self.0.iter().rev() {
            extent.abandon(*new);
        }
    }
}

impl Vmdk {
    /// Places for whole grains, none of which has one yet; `None` if some have.
    fn reserve_grains(&self, range: ByteRange) -> Result<Option<Reservation<'_>>> {
        let mut wanted = Vec::new();
        let mut at = range.start;
        while at < range.end() {
            let part = self.parts.at(at)?;
            let common = ByteRange::from_bounds(at, range.end()).intersect(part.range);
            let Some(extent) = part.sparse().filter(|extent| !extent.geo.compressed) else { return Ok(None) };
            let within = part.within(common);
            let first = extent.geo.grain_of(within.start);
            let count = within.end().div_ceil(extent.geo.grain) - first;
            if !extent.has_no_places(first, count)? {
                return Ok(None);
            }
            wanted.push((extent, common, first, count));
            at = common.end();
        }
        let mut pending = Box::new(Pending(Vec::new()));
        let mut pieces = Vec::new();
        for (extent, common, first, count) in wanted {
            let placed = extent.place(first, count).and_then(|new| {
                pending.0.push((extent, new));
                extent.zero_tail(new)?;
                Ok(new)
            });
            match placed {
                Ok(new) => {
                    let host = HostRef { device: &*extent.storage, offset: new.place };
                    pieces.push(Piece { range: common, host: Some(host), fresh: false });
                }
                Err(error) => {
                    pending.abandon();
                    return Err(error);
                }
            }
        }
        Ok(Some(Reservation::new(pieces, pending)))
    }
}

/// A compressed grain that waits to be published.
struct PendingPayload<'a>(&'a SparseExtent, NewPayload);

impl Publish for PendingPayload<'_> {
    fn commit(self: Box<Self>) -> Result<()> {
        self.0.publish_payload(self.1)
    }

    fn abandon(self: Box<Self>) {
        self.0.abandon_payload(self.1);
    }
}

impl CompressedClusters for Vmdk {
    fn codec(&self) -> Codec {
        Codec::Zlib
    }

    fn cluster_len(&self) -> u64 {
        self.compressed().map_or(SECTOR, |extent| extent.geo.grain)
    }

    fn only_encoded(&self) -> bool {
        true
    }

    fn encoder(&self) -> Result<Box<dyn ClusterEncoder>> {
        Ok(Box::new(Encoder::new()))
    }

    fn reserve_encoded(&self, offset: u64, payload_len: u64) -> Result<Reservation<'_>> {
        let extent = self.compressed().ok_or_else(|| Error::unsupported("Operation not supported"))?;
        if !offset.is_multiple_of(extent.geo.grain) || offset >= self.len() {
            return Err(Error::invalid("a compressed payload belongs to a whole grain"));
        }
        self.before_change(ByteRange::new(offset, 1))?;
        let new = extent.place_payload(extent.geo.grain_of(offset), payload_len)?;
        let host = HostRef { device: &*extent.storage, offset: new.place + MARKER };
        let piece = Piece { range: ByteRange::new(0, payload_len), host: Some(host), fresh: false };
        Ok(Reservation::new(vec![piece], Box::new(PendingPayload(extent, new))))
    }

    fn read_encoded(&self, offset: u64, payload: &mut Vec<u8>) -> Result<bool> {
        let Some(extent) = self.compressed().filter(|extent| extent.geo.markers) else { return Ok(false) };
        match extent.entry(extent.geo.grain_of(offset))? {
            crate::geometry::GrainEntry::At(place) => {
                extent.read_payload(place, payload)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

impl Image for Vmdk {
    fn driver(&self) -> &'static FormatDriver {
        &crate::DRIVER
    }

    fn info(&self) -> Result<ImageInfo> {
        Ok(crate::info::image_info(&self.descriptor.identity(), &self.create_type, &self.parts))
    }

    fn backing(&self) -> Option<BackingRef> {
        let format = Some(crate::DRIVER.name.to_owned());
        self.parent().map(|name| BackingRef { name, format })
    }

    fn accepts_backing(&self, backing: &dyn Image) -> Result<()> {
        let parent = backing.as_any().and_then(|parent| parent.downcast_ref::<Self>());
        let cid = parent.map(|parent| parent.descriptor.identity().cid);
        if cid == Some(self.descriptor.identity().parent_cid) {
            Ok(())
        } else {
            Err(VmdkError::Invalid.into())
        }
    }

    fn adopt_backing(&self, backing: &dyn Image) -> Result<()> {
        let parent = backing.as_any().and_then(|parent| parent.downcast_ref::<Self>());
        if let Some(parent) = parent.filter(|parent| !parent.is_read_only()) {
            // The new identifier comes with the first change.
            parent.descriptor.touch()?;
        }
        match parent.map(|parent| parent.descriptor.identity().cid) {
            Some(cid) if !self.is_read_only() => self.descriptor.set_parent(cid),
            _ => Ok(()),
        }
    }

    fn children(&self) -> Vec<Child> {
        let mut children = vec![Child { role: "file", device: Arc::clone(&self.storage) }];
        let own = self.parts.iter().filter(|part| part.own_file);
        children.extend(
            own.filter_map(|part| Some(Child { role: "extents.", device: Arc::clone(part.storage()?) })),
        );
        children
    }

    fn as_check(&self) -> Option<&dyn Check> {
        Some(self)
    }

    fn as_compressed(&self) -> Option<&dyn CompressedClusters> {
        self.compressed().map(|_| self as &dyn CompressedClusters)
    }
}

impl Check for Vmdk {
    fn check(&self, repair: Repair, say: &mut dyn FnMut(&str), task: &Task<'_>) -> Result<CheckReport> {
        crate::check::check(self, repair, say, task)
    }
}

impl Drop for Vmdk {
    fn drop(&mut self) {
        if self.mode.write {
            let _ = BlockDevice::flush(self);
        }
    }
}
