//! Set-ups that several tables use.

use crate::support::case::Fixture;

/// Files that overlays can be put on, and targets that exist.
pub const BASES: Fixture = Fixture {
    name: "bases",
    script: "create -f raw base.raw 4M
             fill base.raw 0 64k 0x11
             create -f qcow2 base.qcow2 8M
             io base.qcow2 'write -P 0x22 1M 256k'
             mkdir sub
             create -f raw sub/inner.raw 2M
             link base.qcow2 to-base
             create -f qcow2 broken.qcow2 1M
             be32 broken.qcow2 20 5",
};
