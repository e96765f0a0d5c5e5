//! Opening images by name for diskimg: specifications, probing, backing chains, the layered device.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]
