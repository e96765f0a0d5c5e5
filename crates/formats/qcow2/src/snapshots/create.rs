//! Creating a snapshot: the active tree is shared with it.

use diskimg_core::{ByteRange, NewSnapshot, Result, SnapshotInfo};

use super::{as_u32, table, too_large};
use crate::entry::COPIED;
use crate::features::DIRTY;
use crate::image::Qcow2;
use crate::limits::MAX_SNAPSHOTS;
use crate::meta::Shift;
use crate::snapshot_table::Snapshot;

/// Longest name that is stored, in bytes.
const MAX_NAME: usize = 255;

impl Qcow2 {
    /// See [`diskimg_core::Snapshots::create_snapshot`]; no change of the image runs.
    pub(super) fn create_alone(&self, new: &NewSnapshot) -> Result<SnapshotInfo> {
        let mut list = self.snapshots.read().clone();
        if list.len() as u64 >= u64::from(MAX_SNAPSHOTS) {
            return Err(too_large());
        }
        let snapshot = self.new_entry(new, &list)?;
        list.push(snapshot);
        let mut started = Started::default();
        let result = self.share_active(&mut list, &mut started).and_then(|()| {
            let old_table = self.table_area();
            self.meta.switch_header(|header| {
                header.snapshot_count += 1;
                header.snapshots_offset = started.table.start;
                if started.set_dirty {
                    header.incompatible &= !DIRTY;
                }
            })?;
            Ok(old_table)
        });
        let old_table = match result {
            Ok(old_table) => old_table,
            Err(error) => {
                // What can't be undone is leaked, and repaired where the dirty bit stays.
                let _ = self.undo_create(&started);
                return Err(error);
            }
        };
        let info = list.last().map(Snapshot::info).unwrap_or_default();
        self.adopt_snapshots(list);
        self.meta.free_table(old_table)?;
        self.drop_vm_state()?;
        self.meta.flush()?;
        Ok(info)
    }

    /// The place of the snapshot table as the header has it.
    pub(super) fn table_area(&self) -> ByteRange {
        ByteRange::new(self.meta.header().snapshots_offset, table::stored_len(&self.snapshots.read()))
    }

    fn new_entry(&self, new: &NewSnapshot, others: &[Snapshot]) -> Result<Snapshot> {
        let name = new.name.as_bytes();
        let l1_size = self.meta.with_tables(|tables| tables.l1.len() as u64);
        Ok(Snapshot {
            l1_size: as_u32(l1_size)?,
            id: next_id(others).into_bytes(),
            name: name.get(..MAX_NAME).unwrap_or(name).to_vec(),
            date_sec: new.date_sec,
            date_nsec: new.date_nsec,
            vm_clock_nsec: new.vm_clock_nsec,
            vm_state_size: new.vm_state_size,
            disk_size: self.disk_len(),
            icount: new.icount,
            ..Snapshot::default()
        })
    }

    /// Counts the active tree twice and writes the tables of the new snapshot, the last of `list`.
    fn share_active(&self, list: &mut [Snapshot], started: &mut Started) -> Result<()> {
        let l1 = self.meta.with_tables(|tables| tables.l1.to_vec());
        started.l1 = self.meta.allocate_table(l1.len() as u64 * 8)?;
        if let Some(new) = list.last_mut() {
            new.l1_offset = started.l1.start;
        }
        let bytes = table::encode(list)?;
        started.table = self.meta.allocate_table(bytes.len() as u64)?;
        started.set_dirty = self.meta.set_dirty(true)?;
        started.flags_changed = true;
        self.meta.shift_tree(&l1, Shift::Up)?;
        started.shared = true;
        self.meta.clear_copied_in_l1();
        let plain: Vec<u64> = l1.iter().map(|entry| entry & !COPIED).collect();
        self.meta.write_l1(started.l1, &plain)?;
        self.meta.write_table(started.table, bytes)
    }

    fn undo_create(&self, started: &Started) -> Result<()> {
        if started.shared {
            let l1 = self.meta.with_tables(|tables| tables.l1.to_vec());
            self.meta.shift_tree(&l1, Shift::Down)?;
        }
        self.meta.free_table(started.l1)?;
        self.meta.free_table(started.table)?;
        if started.flags_changed {
            self.meta.refresh_copied()?;
        }
        if started.set_dirty {
            self.meta.set_dirty(false)?;
        }
        Ok(())
    }
}

/// What has been done for a snapshot that is not in the table yet.
#[derive(Debug, Default)]
struct Started {
    l1: ByteRange,
    table: ByteRange,
    set_dirty: bool,
    flags_changed: bool,
    shared: bool,
}

/// The decimal number behind the greatest identifier; what begins with no digit counts as 0.
fn next_id(snapshots: &[Snapshot]) -> String {
    let number = |snapshot: &Snapshot| {
        let digits = snapshot.id.trim_ascii_start().iter().take_while(|byte| byte.is_ascii_digit());
        digits.fold(0u64, |value, digit| value.saturating_mul(10).saturating_add(u64::from(digit - b'0')))
    };
    let greatest = snapshots.iter().map(number).max().unwrap_or(0);
    greatest.wrapping_add(1).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_go_on_from_the_greatest_number() {
        let named = |ids: &[&str]| -> Vec<Snapshot> {
            ids.iter().map(|id| Snapshot { id: id.as_bytes().to_vec(), ..Snapshot::default() }).collect()
        };
        assert_eq!(next_id(&named(&[])), "1");
        assert_eq!(next_id(&named(&["3", "10", "x"])), "11");
        assert_eq!(next_id(&named(&["7abc", "", " 8"])), "9");
    }
}
