//! Writing bitmaps anew, each time all that changed with one change of the header.

use std::sync::atomic::Ordering;

use diskimg_core::{ByteRange, DirtyBitmap, Result, to_usize};

use super::Held;
use crate::bitmap_directory::{Bitmap, IN_USE, TABLE_ENTRY, data_bytes_for, encode};
use crate::extensions::BitmapsPointer;
use crate::features;
use crate::image::Qcow2;
use crate::limits::MAX_BITMAP_DIRECTORY_BYTES;
use crate::meta::Clusters;
use crate::settings::Overlap;

/// Most bits that are moved with waiting changes, over all bitmaps, in bytes.
const MAX_MOVED_BYTES: u64 = 256 << 20;

/// A bitmap as it is to be on the host.
#[derive(Debug)]
pub(super) struct Next {
    /// Its entry; table and size are filled in where the bits are written.
    pub(super) stored: Bitmap,
    /// Bits that are in use from then on.
    pub(super) bits: Option<DirtyBitmap>,
    /// Bits to write; `None`: those on the host stay.
    pub(super) write: Option<DirtyBitmap>,
    /// Those on the host are written elsewhere.
    move_it: bool,
}

impl Next {
    /// The bitmap as it is; bits that wait are written.
    pub(super) fn unchanged(held: &mut Held) -> Self {
        Self {
            stored: held.stored.clone(),
            bits: held.bits.take(),
            write: held.waiting.clone(),
            move_it: false,
        }
    }

    /// A new bitmap.
    pub(super) const fn new(stored: Bitmap, bits: Option<DirtyBitmap>, write: DirtyBitmap) -> Self {
        Self { stored, bits, write: Some(write), move_it: false }
    }
}

/// Clusters that are given back unless a header refers to them.
struct Unpublished<'a> {
    image: &'a Qcow2,
    areas: Vec<Clusters>,
}

impl Drop for Unpublished<'_> {
    fn drop(&mut self) {
        self.image.meta.drop_areas(self.areas.drain(..));
    }
}

impl Qcow2 {
    /// Writes every bitmap that is in use by this image; none is afterwards.
    pub(super) fn store_all(&self, list: &mut Vec<Held>) -> Result<()> {
        let waiting = self.bitmaps.is_waiting();
        if !(waiting || list.iter().any(Held::is_newer)) || !self.meta.header().is_v3() {
            return Ok(());
        }
        for bits in list.iter_mut().filter_map(|held| held.bits.as_mut()) {
            bits.resize(self.disk_len())?;
        }
        let mut next: Vec<Next> = list.iter_mut().map(Next::unchanged).collect();
        let mut room = MAX_MOVED_BYTES;
        for next in &mut next {
            if let Some(bits) = next.bits.take() {
                next.write = Some(bits);
                next.stored.flags &= !IN_USE;
            }
            let size = data_bytes_for(self.disk_len(), next.stored.granularity_bits);
            if let Some(rest) = room.checked_sub(size).filter(|_| waiting && !next.stored.is_in_use()) {
                (next.move_it, room) = (true, rest);
            }
        }
        self.publish_now(list, next)
    }

    /// Makes `next` the image's bitmaps, durably unless changes are to wait. After an error they are as they were before,
    /// but bits that `next` took out of `list` are back in it.
    pub(super) fn publish(&self, list: &mut Vec<Held>, next: Vec<Next>) -> Result<()> {
        let set = &self.bitmaps;
        if !set.deferring.load(Ordering::SeqCst) || set.recording.load(Ordering::SeqCst) {
            return self.publish_now(list, next);
        }
        set.check_sure()?;
        let on_host = set.stored_of(list);
        *set.on_host.lock() = Some(on_host);
        let held = |next: Next| Held { stored: next.stored, bits: next.bits, waiting: next.write };
        *list = next.into_iter().map(held).collect();
        Ok(())
    }

    fn publish_now(&self, list: &mut Vec<Held>, mut next: Vec<Next>) -> Result<()> {
        let on_host = self.bitmaps.stored_of(list);
        match self.write_all(&on_host, &mut next) {
            Ok(()) => {
                let held = |next: Next| Held { stored: next.stored, bits: next.bits, waiting: None };
                *list = next.into_iter().map(held).collect();
                *self.bitmaps.on_host.lock() = None;
                Ok(())
            }
            Err(error) => {
                for next in next {
                    let bits = next.bits.or(next.write);
                    let same = |held: &&mut Held| held.stored.raw_name == next.stored.raw_name;
                    // Bits of a bitmap that is not in use on the host are those on the host.
                    if let Some(held) = list.iter_mut().find(same).filter(|held| held.is_inconsistent()) {
                        held.bits = bits;
                    }
                }
                Err(error)
            }
        }
    }

    fn write_all(&self, old: &[Bitmap], next: &mut [Next]) -> Result<()> {
        self.bitmaps.check_sure()?;
        let mut unpublished = Unpublished { image: self, areas: Vec::new() };
        for next in next.iter_mut() {
            let moved = match &next.write {
                // What can't be read stays as it is.
                None if next.move_it => self.load_bits(&next.stored).ok(),
                _ => None,
            };
            if let Some(bits) = next.write.as_ref().or(moved.as_ref()) {
                let (offset, size) = self.write_bits(bits, &mut unpublished.areas)?;
                (next.stored.table_offset, next.stored.table_size) = (offset, size);
            }
        }
        let directory = encode(next.iter().map(|next| &next.stored));
        let len = diskimg_core::len_u64(&directory);
        if len > MAX_BITMAP_DIRECTORY_BYTES {
            return Err(diskimg_core::Error::limit("The bitmap directory is too large"));
        }
        let mut place = ByteRange::default();
        let count = u32::try_from(next.len()).unwrap_or(u32::MAX);
        if count > 0 {
            let area = self.meta.allocate_area(len)?;
            unpublished.areas.push(area);
            place = ByteRange::new(area.bytes(&self.meta.geo).start, len);
            self.meta.write_area(place.start, &directory, Overlap::empty())?;
        }
        let mut freed = self.no_longer_used(old, next);
        freed.extend(self.directory_range().map(|old| Clusters::holding(&self.meta.geo, old)));
        let pointer = BitmapsPointer { count, directory_size: place.len, directory_offset: place.start };
        // From here on the host may refer to them, also after an error.
        unpublished.areas.clear();
        let changed = self.meta.change_header(|header| {
            header.extensions.bitmaps = (count > 0).then_some(pointer);
            header.extensions.stale_bitmaps = false;
            header.autoclear &= !features::BITMAPS;
            header.autoclear |= if count > 0 { features::BITMAPS } else { 0 };
        });
        if changed.is_err() {
            self.bitmaps.unsure.store(true, Ordering::SeqCst);
            self.bitmaps.recording.store(false, Ordering::SeqCst);
            return changed;
        }
        self.guard_directory(Some(place));
        self.meta.drop_areas(freed);
        Ok(())
    }

    /// The clusters of bitmaps whose tables `next` does not have any more.
    fn no_longer_used(&self, old: &[Bitmap], next: &[Next]) -> Vec<Clusters> {
        let stays: std::collections::HashSet<(&[u8], u64)> =
            next.iter().map(|next| (next.stored.raw_name.as_slice(), next.stored.table_offset)).collect();
        old.iter()
            .filter(|old| !stays.contains(&(old.raw_name.as_slice(), old.table_offset)))
            .flat_map(|old| self.clusters_of(old))
            .collect()
    }

    /// Writes bits into new clusters, noted in `areas`: data where any are set, and the table. The table's place (host
    /// bytes) and its entries.
    fn write_bits(&self, bits: &DirtyBitmap, areas: &mut Vec<Clusters>) -> Result<(u64, u32)> {
        let geo = self.meta.geo;
        let per_cluster = (geo.cluster_size() * 8).saturating_mul(bits.granularity());
        // A disk of no bytes has a table nevertheless.
        let count = geo.clusters_for(bits.bits().div_ceil(8)).max(1);
        let mut table = vec![0u8; to_usize(count * TABLE_ENTRY)];
        let mut dirty = Vec::new();
        let mut at = 0;
        while let Some(run) = bits.next_dirty(at) {
            let index = run.start.max(at) / per_cluster;
            dirty.push(index);
            at = (index + 1).saturating_mul(per_cluster);
        }
        let mut rest = dirty.as_slice();
        let mut data = vec![0; to_usize(geo.cluster_size())];
        while !rest.is_empty() {
            let run = self.meta.allocate(rest.len() as u64)?.clusters;
            areas.push(run);
            let (now, later) = rest.split_at(rest.len().min(to_usize(run.count)));
            for (cluster, index) in (run.first..).zip(now) {
                bits.store_bytes(index * geo.cluster_size(), &mut data);
                let offset = cluster << geo.cluster_bits;
                self.meta.write_area(offset, &data, Overlap::empty())?;
                let entry = to_usize(index * TABLE_ENTRY);
                if let Some(entry) = table.get_mut(entry..entry + to_usize(TABLE_ENTRY)) {
                    entry.copy_from_slice(&offset.to_be_bytes());
                }
            }
            rest = later;
        }
        let area = self.meta.allocate_area(diskimg_core::len_u64(&table))?;
        areas.push(area);
        let offset = area.bytes(&geo).start;
        self.meta.write_area(offset, &table, Overlap::empty())?;
        Ok((offset, u32::try_from(count).unwrap_or(u32::MAX)))
    }
}
