//! Errors in qemu-img's words.

use diskimg_core::{Error, ErrorKind};

/// What was being done, then the host's text for the cause and no more, as qemu-img tells it: what else a driver
/// knows of the cause has gone to its notices, and is there as the error's source. A stop that was asked for stays
/// what it is.
pub(crate) fn failed(what: impl Into<std::borrow::Cow<'static, str>>, cause: Error) -> Error {
    if cause.kind() == ErrorKind::Cancelled { cause } else { cause.summarised(what) }
}
