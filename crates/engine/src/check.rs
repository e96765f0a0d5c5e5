//! Consistency checks: asks the top image for the [`Check`](diskimg_core::Check) capability and runs it.

use diskimg_chain::Node;
use diskimg_core::{BlockDevice as _, CheckReport, Error, Repair, Result, Task};

/// Looks for contradictions in the metadata of `node`'s own layer (not of its backing files) and repairs what
/// `repair` allows. `say` gets each finding, one or more lines without a final newline.
///
/// # Errors
/// `Unsupported` if the format has no check; what keeps the check from going on at all; `Cancelled`.
pub fn check(node: &Node, repair: Repair, say: &mut dyn FnMut(&str), task: &Task<'_>) -> Result<CheckReport> {
    let unsupported = || Error::unsupported("This image format does not support checks");
    let report = node.image().as_check().ok_or_else(unsupported)?.check(repair, say, task)?;
    if repair != Repair::Nothing {
        node.device().flush()?;
    }
    Ok(report)
}
