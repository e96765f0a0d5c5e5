//! [`Context`]: what every open needs, as one value that is cheap to clone.

use std::sync::Arc;

use diskimg_core::Registry;
use diskimg_core::driver::Notices;
use diskimg_core::opener::Gate;

use crate::gate::Permissive;

/// The drivers that are known, the gate that referenced files have to pass, and where notices go.
#[derive(Clone, Debug)]
pub struct Context {
    /// Formats and protocols.
    pub registry: Registry,
    /// Decides about every file that an image refers to.
    pub gate: Arc<dyn Gate>,
    /// Where warnings go.
    pub notices: Notices,
}

impl Context {
    /// The drivers of `registry`, every reference admitted (as qemu-img does), notices dropped.
    #[must_use]
    pub fn new(registry: Registry) -> Self {
        Self { registry, gate: Arc::new(Permissive), notices: Notices::default() }
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
}
