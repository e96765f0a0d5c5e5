//! Devices and suites that test diskimg: memory that fails, crashes and remembers, the format contract.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]
