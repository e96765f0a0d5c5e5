//! The consistency check and its repairs.
//!
//! Repairs, each step durable before the next: copies of clusters that two entries name | table | end of the file | data
//! offset and mark. So a crash at any moment leaves an image that the same repair can go on with.

use std::sync::atomic::Ordering;

use diskimg_core::mapped::ClusterMap;
use diskimg_core::{Check, CheckReport, Error, Prealloc, Repair, Result, Task, read_zero_padded, to_usize};

use crate::header::{DATA_OFFSET_OFFSET, IN_USE};
use crate::limits::SECTOR;
use crate::map::{BatMap, Entry};

impl Check for BatMap {
    fn check(&self, repair: Repair, say: &mut dyn FnMut(&str), task: &Task<'_>) -> Result<CheckReport> {
        let mut run = Checking { map: self, all: repair == Repair::All, report: CheckReport::default(), say };
        let unclean = run.found(self.unclean.load(Ordering::Acquire), "image was not closed correctly");
        let bad_offset =
            run.found(self.bad_data_offset.load(Ordering::Acquire), "data_off field has incorrect value");
        task.check()?;
        run.outside();
        let leaked = run.leaked(repair != Repair::Nothing);
        run.duplicates(task)?;
        if repair != Repair::Nothing {
            self.write_table()?;
        }
        let mut report = run.report;
        self.statistics(&mut report);
        if leaked || report.corruptions_fixed > 0 {
            if repair == Repair::All || report.leaks_fixed > 0 {
                self.cut_file(report.image_end_offset)?;
            }
            self.find_space();
        }
        if bad_offset {
            let sectors =
                u32::try_from(self.header.data_start(self.storage.len()) / SECTOR).unwrap_or(u32::MAX);
            self.storage.write_at(DATA_OFFSET_OFFSET, &sectors.to_le_bytes())?;
            self.storage.flush()?;
            self.bad_data_offset.store(false, Ordering::Release);
        }
        // Whatever the mark says of the image's past, it was changed by us.
        if unclean || (self.header.in_use != IN_USE && report.leaks_fixed + report.corruptions_fixed > 0) {
            self.write_mark(0)?;
            self.unclean.store(false, Ordering::Release);
        }
        Ok(report)
    }
}

impl BatMap {
    /// True if an image that is to be written needs a repair first.
    pub(crate) fn needs_repair(&self) -> bool {
        let entries = self.state.read();
        let entries = entries.table.entries();
        self.unclean.load(Ordering::Acquire)
            || self.bad_data_offset.load(Ordering::Acquire)
            || entries.iter().any(|entry| self.is_outside(*entry))
            || !self.find_duplicates(entries).is_empty()
    }

    /// The cluster is not wholly in the file, or lies in the metadata.
    fn is_outside(&self, entry: Entry) -> bool {
        let (start, file_end) = (self.host(entry), self.storage.len().next_multiple_of(SECTOR));
        entry.0 != 0
            && (start < self.header.table_end() || start.saturating_add(self.header.cluster_size) > file_end)
    }

    /// Guest clusters, in order, whose place an earlier guest cluster has.
    fn find_duplicates(&self, entries: &[Entry]) -> Vec<usize> {
        let start = self.header.data_start(self.storage.len());
        let place = |entry: &Entry| self.host(*entry).saturating_sub(start) / self.header.cluster_size;
        let inside =
            entries.iter().enumerate().filter(|(_, entry)| entry.0 != 0 && !self.is_outside(**entry));
        let mut places: Vec<(u64, usize)> = inside.map(|(index, entry)| (place(entry), index)).collect();
        places.sort_unstable();
        let pairs = places.iter().zip(places.iter().skip(1));
        let mut later: Vec<usize> = pairs.filter(|(a, b)| a.0 == b.0).map(|(_, b)| b.1).collect();
        later.sort_unstable();
        later
    }

    /// Writes what is dirty of the table: clusters | table.
    fn write_table(&self) -> Result<()> {
        let cut = self.take_dirty();
        if cut.is_empty() {
            return Ok(());
        }
        let write = || {
            self.storage.flush()?;
            for write in cut.iter().flatten() {
                self.storage.write_at(write.offset, &write.bytes)?;
            }
            self.storage.flush()
        };
        let written = write();
        if written.is_err() {
            self.not_written(cut);
        }
        written
    }

    fn cut_file(&self, end: u64) -> Result<()> {
        if end < self.storage.len() {
            self.storage.set_len(end, Prealloc::Off)?;
            self.storage.flush()?;
        }
        Ok(())
    }

    /// Clusters, and where everything ends.
    fn statistics(&self, report: &mut CheckReport) {
        let state = self.state.read();
        let entries = state.table.entries();
        report.total_clusters = entries.len() as u64;
        report.image_end_offset = self.image_end(entries);
        let mut expected = 0;
        for entry in entries {
            if entry.0 == 0 {
                expected = 0;
                continue;
            }
            let host = self.host(*entry);
            report.allocated_clusters += 1;
            report.fragmented_clusters += u64::from(expected != 0 && host != expected);
            expected = host.saturating_add(self.header.cluster_size);
        }
    }
}

/// A check on its way.
struct Checking<'a> {
    map: &'a BatMap,
    /// Corruptions are repaired.
    all: bool,
    report: CheckReport,
    say: &'a mut dyn FnMut(&str),
}

impl Checking<'_> {
    fn tell(&mut self, fixes: bool, text: &str) {
        (self.say)(&format!("{} {text}", if fixes { "Repairing" } else { "ERROR" }));
    }

    /// Reports a corruption if there is one; true if it is to be repaired.
    fn found(&mut self, is_there: bool, text: &str) -> bool {
        if !is_there {
            return false;
        }
        self.tell(self.all, text);
        self.report.corruptions += 1;
        self.report.corruptions_fixed += u64::from(self.all);
        self.all
    }

    fn outside(&mut self) {
        let map = self.map;
        let found: Vec<usize> = {
            let state = map.state.read();
            let entries = state.table.entries().iter().enumerate();
            entries.filter(|(_, entry)| map.is_outside(**entry)).map(|(index, _)| index).collect()
        };
        for index in found {
            if self.found(true, &format!("cluster {index} is outside image")) {
                map.state.write().table.set(index as u64, Entry(0));
            }
        }
    }

    /// True if the end of the file is to be cut off.
    fn leaked(&mut self, fixes: bool) -> bool {
        let end = self.map.image_end(self.map.state.read().table.entries());
        let bytes = self.map.storage.len().next_multiple_of(SECTOR).saturating_sub(end);
        // While it is written to, the end is not lost: the image is cut when it is closed.
        if bytes == 0 || self.map.is_marked() {
            return false;
        }
        self.tell(fixes, &format!("space leaked at the end of the image {bytes}"));
        let clusters = bytes.div_ceil(self.map.header.cluster_size);
        self.report.leaks += clusters;
        self.report.leaks_fixed += if fixes { clusters } else { 0 };
        fixes
    }

    /// Gives later ones a copy of their own in free space.
    fn duplicates(&mut self, task: &Task<'_>) -> Result<()> {
        let map = self.map;
        let found = map.find_duplicates(map.state.read().table.entries());
        if found.is_empty() {
            return Ok(());
        }
        map.find_space();
        for index in found {
            task.check()?;
            if !self.found(true, &format!("duplicate offset in BAT entry {index}")) {
                continue;
            }
            let (entry, space) = {
                let mut state = map.state.write();
                (state.table.get(index as u64), state.space.take(1, map.slot_limit()))
            };
            let slot = space.map(|(slot, _)| slot);
            let (Some(entry), Some(slot), Some(new)) =
                (entry, slot, slot.and_then(|slot| map.slot_entry(slot)))
            else {
                return Err(Error::limit("the image has no more clusters"));
            };
            let mut bytes = vec![0; to_usize(map.header.cluster_size)];
            read_zero_padded(&*map.storage, map.host(entry), &mut bytes)?;
            map.storage.write_at(map.slot_offset(slot), &bytes)?;
            map.state.write().table.set(index as u64, new);
        }
        Ok(())
    }
}
