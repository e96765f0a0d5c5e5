//! [`Request`]: one node that is to be opened, and how it is going to be used.

use diskimg_core::filter::Opened;
use diskimg_core::opener::{Reference, ReferenceKind};
use diskimg_core::options::RuntimeOptions;
use diskimg_core::protocol::{CacheMode, LockSpec, Permissions};
use diskimg_core::{Error, Result};

use crate::{Context, OpenOptions};

/// The deepest nesting of formats inside formats (`file.file.file…`).
const MAX_NESTING: usize = 32;

/// Who named what is opened.
#[derive(Clone, Debug)]
pub(crate) enum Trust {
    /// The user: no gate.
    User,
    /// An image: everything that is opened for it has to pass the gate.
    Image {
        /// Why it is opened.
        kind: ReferenceKind,
        /// The file that holds the referring image.
        from: String,
        /// The name as stored.
        name: String,
    },
}

impl Trust {
    /// Asks the gate whether `resolved` may be opened.
    pub(crate) fn admit(&self, ctx: &Context, resolved: &str) -> Result<()> {
        match self {
            Self::User => Ok(()),
            Self::Image { kind, from, name } => {
                ctx.gate.admit(&Reference { kind: *kind, name, from, resolved })
            }
        }
    }
}

/// What a node is going to be used for.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools)]
pub(crate) struct Usage {
    pub(crate) write: bool,
    pub(crate) describe_only: bool,
    pub(crate) check: bool,
    pub(crate) force_share: bool,
    pub(crate) cache: CacheMode,
    pub(crate) backing: bool,
    pub(crate) convert_source: bool,
    pub(crate) unmap: bool,
    pub(crate) native_aio: bool,
    /// The bytes are those of a format around this node: whatever this node is, its file is that format's file.
    pub(crate) inside_format: bool,
}

impl Usage {
    pub(crate) fn new(opts: &OpenOptions) -> Self {
        Self {
            write: opts.write,
            describe_only: opts.describe_only,
            check: opts.check,
            force_share: opts.force_share,
            cache: opts.cache,
            backing: opts.backing,
            convert_source: opts.convert_source,
            unmap: opts.unmap,
            native_aio: opts.native_aio,
            inside_format: false,
        }
    }

    /// For the backing file of a node that is used this way.
    pub(crate) fn of_backing(self) -> Self {
        Self { write: false, check: false, inside_format: false, ..self }
    }

    /// The lock on the file of a node (§6); `raw`: it shows the file's bytes as they are.
    pub(crate) fn lock(&self, raw: bool) -> LockSpec {
        let lock = match (raw && !self.inside_format, self.write) {
            _ if self.force_share => return LockSpec::SHARED_READ,
            (true, true) => LockSpec::RAW_WRITE,
            (true, false) => LockSpec::SHARED_READ,
            (false, true) => LockSpec::FORMAT_WRITE,
            (false, false) => LockSpec::FORMAT_READ,
        };
        self.narrowed(lock)
    }

    /// The lock on an external data file: nobody else may change its length.
    pub(crate) fn data_lock(&self, write: bool) -> LockSpec {
        if self.force_share {
            return LockSpec::SHARED_READ;
        }
        let need = if write { LockSpec::FORMAT_WRITE.need } else { LockSpec::FORMAT_READ.need };
        self.narrowed(LockSpec { need, share: Permissions::all().difference(Permissions::RESIZE) })
    }

    fn narrowed(&self, lock: LockSpec) -> LockSpec {
        let changes = Permissions::WRITE.union(Permissions::RESIZE);
        let denied = if self.convert_source { changes } else { Permissions::empty() };
        LockSpec { share: lock.share.difference(denied), ..lock }
    }
}

/// One node that is to be opened.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// A file name whose protocol's prefix counts, if the node is opened by a name.
    pub(crate) name: Option<String>,
    /// Options.
    pub(crate) options: RuntimeOptions,
    pub(crate) usage: Usage,
    pub(crate) trust: Trust,
    /// How many formats are around it.
    pub(crate) nesting: usize,
    /// Becomes true when all is open.
    pub(crate) opened: Opened,
}

impl Request {
    /// The request for the node that holds this one: the child `file`.
    ///
    /// # Errors
    /// `Limit` if the nesting is too deep.
    pub(crate) fn inner(&self, name: Option<String>, options: RuntimeOptions, usage: Usage) -> Result<Self> {
        if self.nesting >= MAX_NESTING {
            return Err(Error::limit(format!("more than {MAX_NESTING} formats inside each other")));
        }
        Ok(Self {
            name,
            options,
            usage,
            trust: self.trust.clone(),
            nesting: self.nesting + 1,
            opened: self.opened.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_those_of_the_table() {
        let usage = |write, force_share, convert_source| {
            Usage::new(&OpenOptions { write, force_share, convert_source, ..OpenOptions::default() })
        };
        let unshared = |lock: LockSpec| Permissions::all().difference(lock.share);
        assert_eq!(usage(true, false, false).lock(false), LockSpec::FORMAT_WRITE);
        assert_eq!(usage(false, false, false).lock(false), LockSpec::FORMAT_READ);
        assert_eq!(usage(true, false, false).lock(true), LockSpec::RAW_WRITE);
        assert_eq!(usage(false, false, false).lock(true), LockSpec::SHARED_READ);
        assert_eq!(usage(false, true, false).lock(false), LockSpec::SHARED_READ);
        let source = usage(false, false, true).lock(true);
        assert_eq!(unshared(source), Permissions::WRITE | Permissions::RESIZE);
        let inside = Usage { inside_format: true, ..usage(true, false, false) };
        assert_eq!(inside.lock(true), LockSpec::FORMAT_WRITE);
        let data = usage(true, false, false).data_lock(true);
        assert_eq!(unshared(data), Permissions::RESIZE);
    }
}
