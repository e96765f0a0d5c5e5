//! The consistency check: each block number is used once, within the image, and as many as the header says.
//!
//! Memory: one bit a block.

use diskimg_core::{Check, CheckReport, Error, Repair, Result, Task, to_usize};

use crate::map::{BlockMap, Entry};

impl Check for BlockMap {
    fn check(&self, repair: Repair, say: &mut dyn FnMut(&str), task: &Task<'_>) -> Result<CheckReport> {
        if repair != Repair::Nothing {
            return Err(Error::unsupported("This image format does not support checks"));
        }
        task.check()?;
        let mut report = CheckReport::default();
        let allocated = self.with_entries(|entries| count(entries, say, &mut report));
        let counted = self.counted();
        if allocated != u64::from(counted) {
            say(&format!("ERROR: allocated blocks mismatch, is {allocated}, should be {counted}"));
            report.corruptions += 1;
        }
        Ok(report)
    }
}

/// Blocks that have a place in the image.
fn count(entries: &[Entry], say: &mut dyn FnMut(&str), report: &mut CheckReport) -> u64 {
    let blocks = entries.len();
    let mut used = vec![0_u64; blocks.div_ceil(64)];
    let mut allocated = 0;
    for (block, entry) in entries.iter().enumerate() {
        if !entry.is_allocated() {
            continue;
        }
        let number = to_usize(entry.0.into());
        if number >= blocks {
            say(&format!("ERROR: block index {block} too large, is {number}"));
            report.corruptions += 1;
            continue;
        }
        allocated += 1;
        let Some(word) = used.get_mut(number / 64) else { continue };
        if *word >> (number % 64) & 1 != 0 {
            say(&format!("ERROR: block index {number} also used by {number}"));
            report.corruptions += 1;
        }
        *word |= 1 << (number % 64);
    }
    allocated
}
