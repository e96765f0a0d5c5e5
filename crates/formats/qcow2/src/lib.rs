//! The qcow2 format (versions 2 and 3) for diskimg.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]
