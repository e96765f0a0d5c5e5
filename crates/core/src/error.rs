//! The one error type of all layers.
//!
//! `Display` shows one level; [`Error::chain`] walks the sources, and a program that wants qemu-img's
//! shape joins them with `: `. Formats keep a private `thiserror` enum and convert it with its kind.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io;

/// The result of every fallible operation of the library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure it is: what a program decides on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The host refused an operation.
    Io,
    /// The bytes are not of the format that was asked for.
    NotThisFormat,
    /// The image contradicts its own format.
    Corrupt,
    /// Valid, but not something this build can do.
    Unsupported,
    /// A named limit of the format or of this library was exceeded.
    Limit,
    /// A write to something opened read-only.
    ReadOnly,
    /// A request beyond the end of the device.
    OutOfRange,
    /// A caller's argument makes no sense.
    InvalidArg,
    /// Another process holds a lock that excludes this use.
    Locked,
    /// A gate refused to open a referenced file.
    Denied,
    /// No space left on the host.
    NoSpace,
    /// A name that does not exist.
    NotFound,
    /// An earlier failure left the device in a state in which it refuses to work.
    Poisoned,
    /// The caller cancelled the operation.
    Cancelled,
}

/// Linux error numbers that messages and exit codes depend on.
pub mod errno {
    /// Operation not permitted.
    pub const EPERM: i32 = 1;
    /// No such file or directory.
    pub const ENOENT: i32 = 2;
    /// Input/output error.
    pub const EIO: i32 = 5;
    /// Resource temporarily unavailable.
    pub const EAGAIN: i32 = 11;
    /// Permission denied.
    pub const EACCES: i32 = 13;
    /// Invalid argument.
    pub const EINVAL: i32 = 22;
    /// File too large.
    pub const EFBIG: i32 = 27;
    /// No space left on device.
    pub const ENOSPC: i32 = 28;
    /// Read-only file system.
    pub const EROFS: i32 = 30;
    /// Operation canceled.
    pub const ECANCELED: i32 = 125;
    /// Operation not supported.
    pub const ENOTSUP: i32 = 95;
}

type Source = Box<dyn StdError + Send + Sync + 'static>;

struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    errno: Option<i32>,
    hint: Option<Cow<'static, str>>,
    remark: Option<Cow<'static, str>>,
    source: Option<Source>,
    /// The message says all that an outsider is told: the causes are details.
    summary: bool,
}

/// An error of any layer: a kind, one message, an optional hint, and what caused it.
pub struct Error(Box<Inner>);

impl Error {
    /// An error with a message of its own.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            errno: None,
            hint: None,
            remark: None,
            source: None,
            summary: false,
        }))
    }

    /// The host's error number `code` (see [`errno`]); its message is the C library's text.
    #[must_use]
    pub fn from_errno(code: i32) -> Self {
        Self::from(io::Error::from_raw_os_error(code))
    }

    /// [`ErrorKind::Corrupt`] with a message.
    pub fn corrupt(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    /// [`ErrorKind::Unsupported`] with a message.
    pub fn unsupported(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// [`ErrorKind::InvalidArg`] with a message.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::InvalidArg, message)
    }

    /// [`ErrorKind::Limit`] with a message.
    pub fn limit(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Limit, message)
    }

    /// This error below a new message of the same kind: `"MESSAGE: SELF"` when joined.
    #[must_use]
    pub fn context(self, message: impl Into<Cow<'static, str>>) -> Self {
        let mut outer = Self::new(self.kind(), message);
        outer.0.errno = self.0.errno;
        outer.0.source = Some(Box::new(self));
        outer
    }

    /// This error told from outside: `"MESSAGE: No space left on device"`, that is the text of its error number in
    /// place of its own messages and hint. They stay reachable through [`source`](StdError::source), and
    /// [`Error::chain`] does not show them.
    #[must_use]
    pub fn summarised(self, message: impl Into<Cow<'static, str>>) -> Self {
        let text = format!("{}: {}", message.into(), self.strerror());
        self.told_as(text)
    }

    /// The same with `message` alone.
    #[must_use]
    pub fn told_as(self, message: impl Into<Cow<'static, str>>) -> Self {
        let errno = self.errno();
        let mut outer = self.context(message);
        outer.0.errno = Some(errno);
        outer.0.summary = true;
        outer
    }

    /// Adds a hint: lines that a command prints after the message, behind those that are there already.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        let hint = hint.into();
        self.0.hint = Some(match self.0.hint.take() {
            Some(known) => format!("{known}\n{hint}").into(),
            None => hint,
        });
        self
    }

    /// Adds a remark: a line that qemu-img does not have, for a command to print after everything else.
    #[must_use]
    pub fn with_remark(mut self, remark: impl Into<Cow<'static, str>>) -> Self {
        self.0.remark = Some(remark.into());
        self
    }

    /// Sets the error number that [`Error::errno`] reports.
    #[must_use]
    pub fn with_errno(mut self, code: i32) -> Self {
        self.0.errno = Some(code);
        self
    }

    /// Sets the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What sort of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The hint of this level, or of the first cause that has one.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        if let Some(hint) = &self.0.hint {
            return Some(hint);
        }
        if self.0.summary {
            return None;
        }
        let source: &(dyn StdError + 'static) = self.0.source.as_deref()?;
        source.downcast_ref::<Self>()?.hint()
    }

    /// The remark of this level, or of the first cause that has one.
    #[must_use]
    pub fn remark(&self) -> Option<&str> {
        if let Some(remark) = &self.0.remark {
            return Some(remark);
        }
        let source: &(dyn StdError + 'static) = self.0.source.as_deref()?;
        source.downcast_ref::<Self>()?.remark()
    }

    /// The error number a C program would report: the host's own, else one that fits the kind.
    #[must_use]
    pub fn errno(&self) -> i32 {
        self.0.errno.unwrap_or(match self.0.kind {
            ErrorKind::Io | ErrorKind::Corrupt | ErrorKind::Poisoned | ErrorKind::OutOfRange => errno::EIO,
            ErrorKind::NotThisFormat | ErrorKind::InvalidArg => errno::EINVAL,
            ErrorKind::Unsupported => errno::ENOTSUP,
            ErrorKind::Limit => errno::EFBIG,
            ErrorKind::ReadOnly | ErrorKind::Denied => errno::EACCES,
            ErrorKind::Locked => errno::EAGAIN,
            ErrorKind::NoSpace => errno::ENOSPC,
            ErrorKind::NotFound => errno::ENOENT,
            ErrorKind::Cancelled => errno::ECANCELED,
        })
    }

    /// The C library's text for [`Error::errno`], such as `No space left on device`.
    #[must_use]
    pub fn strerror(&self) -> String {
        strerror(self.errno())
    }

    /// The messages from this level down to the root cause, or to a summary (see [`Error::summarised`]).
    pub fn chain(&self) -> impl Iterator<Item = String> + '_ {
        let mut next: Option<&(dyn StdError + 'static)> = Some(self);
        std::iter::from_fn(move || {
            let now = next?;
            let ends = now.downcast_ref::<Self>().is_some_and(|error| error.0.summary);
            next = if ends { None } else { now.source() };
            Some(now.to_string())
        })
    }

    /// All levels joined by `: `, as a command prints them.
    #[must_use]
    pub fn joined(&self) -> String {
        self.chain().collect::<Vec<_>>().join(": ")
    }
}

/// The C library's text for an error number.
#[must_use]
pub fn strerror(code: i32) -> String {
    let text = io::Error::from_raw_os_error(code).to_string();
    match text.rfind(" (os error") {
        Some(end) => text.get(..end).unwrap_or(&text).to_owned(),
        None => text,
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly,
            io::ErrorKind::Unsupported => ErrorKind::Unsupported,
            io::ErrorKind::InvalidInput => ErrorKind::InvalidArg,
            _ => ErrorKind::Io,
        };
        let errno = error.raw_os_error();
        let message = errno.map_or_else(|| error.to_string(), strerror);
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            errno,
            hint: None,
            remark: None,
            source: None,
            summary: false,
        }))
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::NoSpace => io::ErrorKind::StorageFull,
            ErrorKind::Denied => io::ErrorKind::PermissionDenied,
            ErrorKind::ReadOnly => io::ErrorKind::ReadOnlyFilesystem,
            ErrorKind::Unsupported => io::ErrorKind::Unsupported,
            ErrorKind::InvalidArg | ErrorKind::OutOfRange => io::ErrorKind::InvalidInput,
            ErrorKind::NotThisFormat | ErrorKind::Corrupt | ErrorKind::Limit => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.joined())
            .field("errno", &self.0.errno)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|s| -> &(dyn StdError + 'static) { s })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_join_in_order_and_keep_kind_and_errno() {
        let error =
            Error::from_errno(errno::ENOENT).context("Could not open 'b'").context("Could not open 'a'");
        assert_eq!(error.joined(), "Could not open 'a': Could not open 'b': No such file or directory");
        assert_eq!((error.kind(), error.errno()), (ErrorKind::NotFound, errno::ENOENT));
        assert_eq!(error.to_string(), "Could not open 'a'");
    }

    #[test]
    fn the_nearest_hint_is_found_through_the_causes() {
        let error = Error::corrupt("x").with_hint("try y").context("z");
        assert_eq!(error.hint(), Some("try y"));
    }

    #[test]
    fn a_summary_hides_its_causes_from_messages_but_not_from_programs() {
        let cause = Error::corrupt("cluster 5 is cut").with_hint("repair it");
        let error = cause.summarised("error while reading").context("a.qcow2");
        assert_eq!(error.joined(), "a.qcow2: error while reading: Input/output error");
        assert_eq!((error.kind(), error.errno(), error.hint()), (ErrorKind::Corrupt, errno::EIO, None));
        let summary = error.source().unwrap();
        assert_eq!(summary.source().unwrap().to_string(), "cluster 5 is cut");
    }

    #[test]
    fn errors_without_a_number_get_one_that_fits() {
        assert_eq!(Error::limit("too big").strerror(), "File too large");
        assert_eq!(Error::unsupported("no").strerror(), "Operation not supported");
    }
}
