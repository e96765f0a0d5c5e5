//! The consistency check: every block lies within the file and clear of its structures. Replaying the log when an image
//! is opened to be repaired counts as a repair.

use std::sync::atomic::Ordering;

use diskimg_core::{Check, CheckReport, Repair, Result, Task};

use crate::bat;
use crate::map::BlockMap;

impl Check for BlockMap {
    fn check(&self, repair: Repair, say: &mut dyn FnMut(&str), task: &Task<'_>) -> Result<CheckReport> {
        task.check()?;
        let mut report = CheckReport::default();
        if repair != Repair::Nothing && self.replayed.swap(false, Ordering::AcqRel) {
            report.corruptions_fixed = 1;
        }
        let file_len = bat::file_len(&*self.storage);
        self.with_entries(|entries| {
            let checked = bat::check(entries, &self.geometry, &self.taken, file_len, |damage| {
                report.corruptions += 1;
                say(&damage.to_string());
                Ok(())
            });
            debug_assert!(checked.is_ok());
        });
        Ok(report)
    }
}
