//! What is done with images in diskimg: convert, compare, map, measure, check, resize, create.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]
