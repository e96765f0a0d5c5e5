//! The check: each entry refers to a cluster of the file, each cluster is referred to once.
//!
//! Entries that refer to nothing are taken out by a repair; clusters that are referred to twice or never stay as they
//! are. Memory: a bit for each cluster in use.

use diskimg_core::mapped::ClusterMap as _;
use diskimg_core::{Check, CheckReport, Repair, Result, Task};

use crate::map::QedMap;
use crate::marks::Marks;

struct Walk<'a> {
    map: &'a QedMap,
    fix: bool,
    /// Where whole clusters end.
    end: u64,
    marks: Marks,
    report: CheckReport,
}

impl Walk<'_> {
    /// Notes a reference to `count` clusters; false: something else refers to one of them.
    fn mark(&mut self, offset: u64, count: u64) -> bool {
        let first = offset / self.map.geo.cluster_size;
        let known = (first..first + count).filter(|cluster| !self.marks.mark(*cluster)).count() as u64;
        self.report.corruptions += known;
        known == 0
    }

    /// Takes out an entry that refers to nothing, if that is wanted.
    fn invalid(&mut self, table: u64, index: u64) -> Result<()> {
        if self.fix {
            self.map.storage().write_at(table + index * 8, &[0; 8])?;
            self.report.corruptions_fixed += 1;
        } else {
            self.report.corruptions += 1;
        }
        Ok(())
    }

    fn l1(&mut self, table: u64, task: &Task<'_>) -> Result<()> {
        let (map, geo) = (self.map, self.map.geo);
        self.mark(table, geo.table_size);
        map.tree.scan(table, geo.entries(), |index, offset| {
            task.check()?;
            if !geo.is_table_offset(offset, self.end) {
                return self.invalid(table, index);
            }
            // What stands in the place of something else is not taken for a table.
            if self.mark(offset, geo.table_size) && self.l2(offset).is_err() {
                self.report.check_errors += 1;
            }
            Ok(())
        })
    }

    fn l2(&mut self, table: u64) -> Result<()> {
        let (map, geo) = (self.map, self.map.geo);
        let mut last = None;
        map.tree.scan(table, geo.entries(), |index, offset| {
            if offset == 1 {
                return Ok(());
            }
            self.report.allocated_clusters += 1;
            if last.is_some_and(|last: u64| last.checked_add(geo.cluster_size) != Some(offset)) {
                self.report.fragmented_clusters += 1;
            }
            last = Some(offset);
            if !geo.is_cluster_offset(offset, self.end) {
                return self.invalid(table, index);
            }
            self.mark(offset, 1);
            Ok(())
        })
    }

    /// Clusters that nothing refers to.
    fn leaks(&mut self) {
        let all = (self.end / self.map.geo.cluster_size).saturating_sub(self.map.geo.header_size);
        self.report.leaks = all.saturating_sub(self.marks.count());
    }
}

impl QedMap {
    /// Checks the tables, which are as they stand in the file; `fix`: takes out entries that refer to nothing.
    pub(crate) fn check_tables(&self, fix: bool, task: &Task<'_>) -> Result<CheckReport> {
        let header = self.header();
        let report = CheckReport {
            total_clusters: header.image_size.div_ceil(self.geo.cluster_size),
            ..CheckReport::default()
        };
        let mut walk = Walk { map: self, fix, end: self.file_end(), marks: Marks::default(), report };
        walk.l1(header.l1_offset, task)?;
        walk.leaks();
        if fix {
            self.storage().flush()?;
            self.tree.clear();
            if walk.report.corruptions == 0 && walk.report.check_errors == 0 {
                self.unmark()?;
            }
        }
        Ok(walk.report)
    }
}

impl Check for QedMap {
    fn check(&self, repair: Repair, _: &mut dyn FnMut(&str), task: &Task<'_>) -> Result<CheckReport> {
        self.check_tables(repair != Repair::Nothing, task)
    }
}
