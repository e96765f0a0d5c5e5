//! What becomes of bitmaps that a repair found damaged.

use std::sync::atomic::Ordering;

use diskimg_core::{ByteRange, DirtyBitmap, Repair, Result, Task};

use super::Held;
use crate::bitmap_directory::data_bytes_for;
use crate::check::DamagedBitmap;
use crate::image::Qcow2;

/// Most bits that are held until they are stored, over all bitmaps, in bytes. What exceeds it stays as it is.
const MAX_MENDED_BYTES: u64 = 32 << 20;

impl Qcow2 {
    /// Takes note of what a repair found. What damaged bitmaps still say is kept, all else of them counts as written
    /// to; the next store gives them clusters of their own.
    ///
    /// # Errors
    /// The storage's.
    pub(crate) fn mend_bitmaps(&self, damaged: &[DamagedBitmap]) -> Result<()> {
        let mut list = self.bitmaps.list.write();
        if self.bitmaps.is_waiting() {
            // They are all stored anew soon, and the list is another one by now.
            return Ok(());
        }
        let mut left = MAX_MENDED_BYTES;
        for damage in damaged {
            let Some(held) = list.get_mut(damage.index).filter(|held| !held.is_inconsistent()) else {
                continue;
            };
            if damage.shares() {
                self.bitmaps.shares.store(true, Ordering::SeqCst);
            }
            // One that records is stored anew in any case.
            if held.is_newer() {
                continue;
            }
            let size = data_bytes_for(self.disk_len(), held.stored.granularity_bits);
            let Some(rest) = left.checked_sub(size) else { continue };
            left = rest;
            held.waiting = Some(self.mended(held, damage)?);
        }
        Ok(())
    }

    fn mended(&self, held: &Held, damage: &DamagedBitmap) -> Result<DirtyBitmap> {
        if damage.table_shared {
            let all = DirtyBitmap::new(self.disk_len(), held.stored.granularity())?;
            all.set(ByteRange::new(0, self.disk_len()));
            return Ok(all);
        }
        self.load_trusted(&held.stored, |offset| !damage.shared.contains(&offset))
    }

    /// After damaged bitmaps were stored anew: what else stands in their old clusters has it alone again.
    pub(super) fn settle_shared(&self) {
        if self.bitmaps.shares.swap(false, Ordering::SeqCst) {
            // What can't be corrected is as the repair before left it, and told by the next check.
            let _ = self.repair_quietly(Repair::All, &Task::quiet());
        }
    }
}
