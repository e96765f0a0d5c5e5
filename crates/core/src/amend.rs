//! [`Amend`]: changing what an image was created with.

use crate::error::Result;
use crate::opener::Opener;
use crate::options::ParsedOptions;
use crate::progress::Task;

/// What an amendment gets.
#[derive(Clone, Debug)]
pub struct AmendInput<'a> {
    /// The amend options; those that were not given have no value.
    pub options: &'a ParsedOptions,
    /// Do what is refused because it can make the contents unreadable.
    pub force: bool,
    /// For secrets and referenced files.
    pub opener: &'a dyn Opener,
    /// Where progress goes, and whether to stop.
    pub task: Task<'a>,
}

/// Formats whose images can be amended.
pub trait Amend {
    /// Changes what the options say. A power cut at any moment leaves an image that opens with all its data.
    ///
    /// # Errors
    /// `InvalidArg` and `Unsupported` for what can't be changed (what comes before it in the order of changes is
    /// done then); the host's.
    fn amend(&self, input: &AmendInput<'_>) -> Result<()>;
}
