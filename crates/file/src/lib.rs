//! Host files and block devices for diskimg: positional I/O, holes, locks, O_DIRECT, copies within the host.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]
