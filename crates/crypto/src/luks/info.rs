//! What `info` tells of a LUKS header (§5 of the LUKS notes). No key is needed.

use diskimg_core::InfoValue;

use super::header::{Header, KeySlot, Placement};
use crate::limits::STRIPES;
use crate::names::IvGen;

impl Header {
    /// The rows of `info`, in their order. With `format` there is a row of that name in front of the cipher mode, as qcow2
    /// shows it.
    #[must_use]
    pub fn info(&self, format: Option<&str>) -> Vec<(&'static str, InfoValue)> {
        let spec = self.spec();
        let mut rows = vec![
            ("ivgen-alg", spec.ivgen.name().into()),
            ("detached-header", (self.placement() == Placement::Detached).into()),
            ("hash-alg", self.hash().name().into()),
            ("cipher-alg", spec.alg.name().into()),
            ("uuid", self.uuid().into()),
        ];
        if let Some(hash) = spec.ivgen_hash.filter(|_| spec.ivgen == IvGen::Essiv) {
            rows.push(("ivgen-hash-alg", hash.name().into()));
        }
        if let Some(format) = format {
            rows.push(("format", format.into()));
        }
        rows.push(("cipher-mode", spec.mode.name().into()));
        rows.push(("slots", InfoValue::List(self.slots().iter().map(slot_info).collect())));
        rows.push(("payload-offset", self.payload_offset().into()));
        rows.push(("master-key-iters", self.key_iterations.into()));
        rows
    }
}

fn slot_info(slot: &KeySlot) -> InfoValue {
    let mut rows = vec![("active", slot.active.into())];
    if slot.active {
        rows.push(("iters", slot.iterations.into()));
    }
    rows.push(("key-offset", slot.material_offset().into()));
    if slot.active {
        rows.push(("stripes", STRIPES.into()));
    }
    InfoValue::Map(rows)
}
