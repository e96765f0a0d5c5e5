//! What can be done with bitmaps: [`Bitmaps`] of a qcow2 image.

use std::sync::atomic::Ordering;

use diskimg_core::{
    BitmapInfo, Bitmaps, BlockDevice as _, DirtyBitmap, Error, NewBitmap, Result, inconsistent_bitmap,
    unknown_bitmap,
};

use super::Held;
use super::record::flags;
use super::store::Next;
use crate::bitmap_directory::{Bitmap, data_bytes_for};
use crate::image::Qcow2;
use crate::limits::{MAX_BITMAP_DATA_BYTES, MAX_BITMAP_GRANULARITY, MAX_BITMAP_NAME, MAX_BITMAPS};

/// Bounds of the granularity of a bitmap for which none is asked, in bytes; between them it is the cluster size.
const DEFAULT_GRANULARITY: (u64, u64) = (4096, 65536);

/// The index of the bitmap `name`, if it can be used.
fn find(list: &[Held], name: &str) -> Result<usize> {
    match list.iter().position(|held| held.stored.name == name) {
        None => Err(unknown_bitmap(name)),
        Some(at) if list.get(at).is_some_and(Held::is_inconsistent) => Err(inconsistent_bitmap(name)),
        Some(at) => Ok(at),
    }
}

impl Qcow2 {
    /// The bits of a bitmap that can be used.
    pub(super) fn bits_of(&self, held: &Held) -> Result<DirtyBitmap> {
        match held.bits.as_ref().or(held.waiting.as_ref()) {
            Some(bits) => Ok(bits.clone()),
            None => self.load_bits(&held.stored),
        }
    }

    /// Gives bitmap number `at` the bits `bits`; in memory if it is in use, else on the host.
    fn put_bits(&self, list: &mut Vec<Held>, at: usize, bits: DirtyBitmap) -> Result<()> {
        if let Some(place) = list.get_mut(at).and_then(|held| held.bits.as_mut()) {
            *place = bits;
            return Ok(());
        }
        self.change_one(list, at, |next| next.write = Some(bits))
    }

    fn change_one(&self, list: &mut Vec<Held>, at: usize, change: impl FnOnce(&mut Next)) -> Result<()> {
        let mut next: Vec<Next> = list.iter_mut().map(Next::unchanged).collect();
        if let Some(next) = next.get_mut(at) {
            change(next);
        }
        self.publish(list, next)
    }

    /// The empty bits of a bitmap that can be added.
    fn check_new(&self, list: &[Held], new: &NewBitmap) -> Result<DirtyBitmap> {
        if new.name.is_empty() {
            return Err(Error::invalid("Bitmap name cannot be empty"));
        }
        let (least, most) = DEFAULT_GRANULARITY;
        let granularity = new.granularity.unwrap_or(self.meta.geo.cluster_size().clamp(least, most));
        if granularity > MAX_BITMAP_GRANULARITY {
            return Err(Error::invalid("Granularity must be power of 2 and at least 512"));
        }
        // Its own limit on the number of bits is that of the format.
        let bits = DirtyBitmap::new(0, granularity)?;
        if list.iter().any(|held| held.stored.name == new.name) {
            return Err(Error::invalid(format!("Bitmap already exists: {}", new.name)));
        }
        self.check_storable(list, new, bits).map_err(|error| {
            let file = self.describe().filename;
            error.context(format!("Can't make bitmap '{}' persistent in '{file}'", new.name))
        })
    }

    fn check_storable(&self, list: &[Held], new: &NewBitmap, mut bits: DirtyBitmap) -> Result<DirtyBitmap> {
        self.can_add_bitmaps()?;
        if new.name.len() > usize::from(MAX_BITMAP_NAME) {
            let text = format!("Name length exceeds maximum ({MAX_BITMAP_NAME} characters)");
            return Err(Error::invalid(text));
        }
        let granularity_bits = bits.granularity().trailing_zeros();
        if data_bytes_for(self.disk_len(), u8::try_from(granularity_bits).unwrap_or(u8::MAX))
            > MAX_BITMAP_DATA_BYTES
        {
            return Err(Error::limit(
                "Too much space will be occupied by the bitmap. Use larger granularity",
            ));
        }
        if list.len() >= diskimg_core::to_usize(MAX_BITMAPS.into()) {
            return Err(Error::limit("Maximum number of persistent bitmaps is already reached"));
        }
        bits.resize(self.disk_len())?;
        Ok(bits)
    }
}

impl Bitmaps for Qcow2 {
    fn bitmaps(&self) -> Vec<BitmapInfo> {
        let info = |held: &Held| BitmapInfo {
            name: held.stored.name.clone(),
            granularity: held.stored.granularity(),
            enabled: held.is_enabled(),
            inconsistent: held.is_inconsistent(),
        };
        self.bitmaps.list.read().iter().map(info).collect()
    }

    fn can_add_bitmaps(&self) -> Result<()> {
        if self.meta.header().is_v3() {
            return Ok(());
        }
        Err(Error::unsupported("Cannot store dirty bitmaps in qcow2 v2 files"))
    }

    fn add_bitmap(&self, new: &NewBitmap) -> Result<()> {
        self.check_writable()?;
        let mut list = self.bitmaps.list.write();
        let bits = self.check_new(&list, new)?;
        // Writes may be running already.
        let in_use = new.enabled && self.bitmaps.recording.load(Ordering::SeqCst);
        let stored = Bitmap {
            name: new.name.clone(),
            raw_name: new.name.clone().into_bytes(),
            flags: flags(new.enabled, in_use),
            granularity_bits: u8::try_from(bits.granularity().trailing_zeros()).unwrap_or(u8::MAX),
            table_offset: 0,
            table_size: 0,
        };
        let mut next: Vec<Next> = list.iter_mut().map(Next::unchanged).collect();
        next.push(Next::new(stored, in_use.then(|| bits.clone()), bits));
        self.publish(&mut list, next)
    }

    fn remove_bitmap(&self, name: &str) -> Result<()> {
        self.check_writable()?;
        let mut list = self.bitmaps.list.write();
        let at = list.iter().position(|held| held.stored.name == name).ok_or_else(|| unknown_bitmap(name))?;
        let mut next: Vec<Next> = Vec::with_capacity(list.len());
        for (number, held) in list.iter_mut().enumerate() {
            if number != at {
                next.push(Next::unchanged(held));
            }
        }
        self.publish(&mut list, next)
    }

    fn clear_bitmap(&self, name: &str) -> Result<()> {
        self.check_writable()?;
        let mut list = self.bitmaps.list.write();
        let at = find(&list, name)?;
        let Some(held) = list.get(at) else { return Err(unknown_bitmap(name)) };
        let empty = DirtyBitmap::new(self.disk_len(), held.stored.granularity())?;
        self.put_bits(&mut list, at, empty)
    }

    fn enable_bitmap(&self, name: &str, enabled: bool) -> Result<()> {
        self.check_writable()?;
        let mut list = self.bitmaps.list.write();
        let at = find(&list, name)?;
        let Some(held) = list.get(at) else { return Err(unknown_bitmap(name)) };
        if held.is_enabled() == enabled {
            return Ok(());
        }
        let in_use = enabled && self.bitmaps.recording.load(Ordering::SeqCst);
        let loaded = if in_use && held.bits.is_none() { Some(self.bits_of(held)?) } else { None };
        self.change_one(&mut list, at, |next| {
            next.stored.flags = flags(enabled, in_use);
            if in_use {
                next.bits = next.bits.take().or(loaded);
            } else {
                next.write = next.bits.take().or(next.write.take());
            }
        })
    }

    fn read_bitmap(&self, name: &str) -> Result<DirtyBitmap> {
        let list = self.bitmaps.list.read();
        let held = find(&list, name).map(|at| list.get(at))?;
        self.bits_of(held.ok_or_else(|| unknown_bitmap(name))?)
    }

    fn merge_bitmap(&self, name: &str, bits: &DirtyBitmap) -> Result<()> {
        self.check_writable()?;
        let mut list = self.bitmaps.list.write();
        let at = find(&list, name)?;
        let Some(held) = list.get(at) else { return Err(unknown_bitmap(name)) };
        let merged = self.bits_of(held)?;
        merged.merge(bits)?;
        self.put_bits(&mut list, at, merged)
    }

    fn take_bitmap(&self, name: &str) -> Result<DirtyBitmap> {
        self.check_writable()?;
        let mut list = self.bitmaps.list.write();
        find(&list, name)?;
        self.bitmaps.check_sure()?;
        // Whoever takes the marks has yet to make use of them: a crash until then must not leave a bitmap that lacks them.
        self.take_into_use(&mut list, |held| held.stored.name == name)?;
        let at = find(&list, name)?;
        let Some(held) = list.get(at) else { return Err(unknown_bitmap(name)) };
        let taken = self.bits_of(held)?;
        let empty = DirtyBitmap::new(taken.len(), taken.granularity())?;
        self.put_bits(&mut list, at, empty)?;
        Ok(taken)
    }

    fn defer_bitmap_changes(&self) {
        self.bitmaps.deferring.store(true, Ordering::SeqCst);
    }

    fn store_bitmaps(&self) -> Result<()> {
        if self.is_read_only() { Ok(()) } else { self.store_now() }
    }
}
