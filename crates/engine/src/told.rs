//! Errors in qemu-img's words.

use diskimg_core::{Error, ErrorKind};

/// What was being done, then the host's text for the cause and no more, as qemu-img tells it: what else a driver
/// knows of the cause has gone to its notices. A stop that was asked for stays what it is.
pub(crate) fn failed(what: impl Into<std::borrow::Cow<'static, str>>, cause: &Error) -> Error {
    if cause.kind() == ErrorKind::Cancelled {
        return Error::new(ErrorKind::Cancelled, cause.to_string());
    }
    Error::new(cause.kind(), cause.strerror()).with_errno(cause.errno()).context(what)
}
