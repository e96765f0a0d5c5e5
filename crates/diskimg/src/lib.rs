//! Virtual disk images: open, read, write, create, check, convert and compare.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]
