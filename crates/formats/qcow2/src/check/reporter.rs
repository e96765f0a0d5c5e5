//! Findings on their way out: counted and said.

use std::fmt::Write as _;

use diskimg_core::CheckReport;

use super::finding::{Class, Finding};
use super::stored::{RefblockPlace, Stored};

/// Counts findings and passes their texts on.
pub(super) struct Reporter<'a> {
    say: &'a mut dyn FnMut(&str),
    /// What was found so far.
    pub report: CheckReport,
    said_unusable: bool,
    /// The text of one finding; there may be millions, one after the other.
    text: String,
}

impl<'a> Reporter<'a> {
    /// A reporter that tells `say`.
    pub(super) fn new(say: &'a mut dyn FnMut(&str)) -> Self {
        Self { say, report: CheckReport::default(), said_unusable: false, text: String::new() }
    }

    /// Takes a finding in.
    pub(super) fn find(&mut self, finding: &Finding) {
        let counter = match finding.class() {
            Class::Corruption => Some(&mut self.report.corruptions),
            Class::Leak => Some(&mut self.report.leaks),
            Class::CheckError => Some(&mut self.report.check_errors),
            Class::Remark => None,
        };
        if let Some(counter) = counter {
            *counter = counter.saturating_add(1);
        }
        self.put(finding);
        (self.say)(&self.text);
    }

    /// Takes in a finding that is corrected.
    pub(super) fn fix(&mut self, finding: &Finding) {
        let counter = match finding.class() {
            Class::Leak => &mut self.report.leaks_fixed,
            _ => &mut self.report.corruptions_fixed,
        };
        *counter = counter.saturating_add(finding.weight());
        self.put(finding);
        let text = &self.text;
        match text.strip_prefix("ERROR ").or_else(|| text.strip_prefix("Leaked ")) {
            Some(what) => (self.say)(&format!("Repairing {what}")),
            None => (self.say)(text),
        }
    }

    fn put(&mut self, finding: &Finding) {
        self.text.clear();
        // Writing to a string can't fail.
        let _ = write!(self.text, "{finding}");
    }

    /// Says something that is no finding.
    pub(super) fn say(&mut self, text: &str) {
        (self.say)(text);
    }

    /// The stored refcount of `cluster`; says once why one can't be had.
    ///
    /// # Errors
    /// The error number of the failed reading.
    pub(super) fn refcount(&mut self, stored: &Stored<'_>, cluster: u64) -> Result<u64, i32> {
        let refcount = stored.get(cluster);
        if refcount.is_err()
            && !self.said_unusable
            && let (index, RefblockPlace::Unaligned(offset)) = stored.place(cluster)
        {
            self.said_unusable = true;
            self.find(&Finding::RefblockUnusable { index, offset });
        }
        refcount
    }
}
