//! [`Context`]: what every open needs, as one value that is cheap to clone.

use std::collections::BTreeMap;
use std::sync::Arc;

use diskimg_core::driver::Notices;
use diskimg_core::filter::Objects;
use diskimg_core::opener::{Gate, Opener};
use diskimg_core::{BlockDevice, CancelToken, Registry, Secrets};

use crate::OpenOptions;
use crate::gate::Permissive;
use crate::opener::ChainOpener;
use crate::request::Usage;

/// The drivers that are known, the gate that referenced files have to pass, secrets, and where notices go.
#[derive(Clone, Debug)]
pub struct Context {
    /// Formats and protocols.
    pub registry: Registry,
    /// Decides about every file that an image refers to.
    pub gate: Arc<dyn Gate>,
    /// Where warnings go.
    pub notices: Notices,
    /// Passwords and keys that options name.
    pub secrets: Arc<Secrets>,
    /// Other objects that options name.
    pub objects: Arc<Objects>,
    /// Set when whatever takes long in opening and creating files, and in giving them space, is to end.
    pub cancel: CancelToken,
    /// Files that are open already, by the names that the user calls them by.
    pub(crate) opened: BTreeMap<String, Arc<dyn BlockDevice>>,
}

impl Context {
    /// The drivers of `registry`, every reference admitted (as qemu-img does), notices dropped, no secrets.
    #[must_use]
    pub fn new(registry: Registry) -> Self {
        Self {
            registry,
            gate: Arc::new(Permissive),
            notices: Notices::default(),
            secrets: Arc::default(),
            objects: Arc::default(),
            cancel: CancelToken::default(),
            opened: BTreeMap::new(),
        }
    }

    /// The same with another gate.
    #[must_use]
    pub fn with_gate(mut self, gate: impl Gate + 'static) -> Self {
        self.gate = Arc::new(gate);
        self
    }

    /// The same with notices going to `notices`.
    #[must_use]
    pub fn with_notices(mut self, notices: Notices) -> Self {
        self.notices = notices;
        self
    }

    /// The same, whose files are no longer waited for once `cancel` is set.
    #[must_use]
    pub fn with_cancel(mut self, cancel: CancelToken) -> Self {
        self.cancel = cancel;
        self
    }

    /// What opens the files that the image in the file `filename` refers to, through the gate.
    #[must_use]
    pub fn opener(&self, filename: &str) -> impl Opener + use<> {
        ChainOpener::new(self, filename, Usage::new(&OpenOptions::write()))
    }

    /// The same with `secrets`.
    #[must_use]
    pub fn with_secrets(mut self, secrets: Secrets) -> Self {
        self.secrets = Arc::new(secrets);
        self
    }

    /// The same, where the file `name` is `device`, which is open already: a pipe, for instance. That holds for what the
    /// user names, not for what an image refers to.
    #[must_use]
    pub fn with_opened(mut self, name: &str, device: Arc<dyn BlockDevice>) -> Self {
        self.opened.insert(name.to_owned(), device);
        self
    }

    /// The same with `objects`.
    #[must_use]
    pub fn with_objects(mut self, objects: Objects) -> Self {
        self.objects = Arc::new(objects);
        self
    }
}
