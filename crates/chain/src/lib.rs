//! Opening images by name for diskimg: specifications, probing, backing chains, the layered device.
//!
//! This crate names no format: it works through the drivers of a [`Context`]'s registry. Engines, the command and
//! programs open everything through [`Node::open`].
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod context;
pub mod create;
pub mod gate;
mod generic;
mod json;
pub mod name;
mod node;
mod open;
mod opener;
mod options;
mod protocol_image;
mod range_lock;
mod request;
mod shown;
pub mod spec;
mod stack;
mod storage;
mod walk;

pub use context::Context;
pub use create::NewFile;
pub use gate::{Deny, Listed, Permissive, SameDirectory};
pub use node::{BackingName, Layers, Node, NodeMode, NodeParts, Status};
pub use options::OpenOptions;
pub use range_lock::{RangeGuard, RangeLock};
pub use spec::ImageSpec;
pub use stack::{DetectZeroes, Stack, StackOptions};

/// The greatest number of images in a backing chain; a longer one is refused (and a loop that hides behind
/// ever longer names ends here).
pub const MAX_CHAIN_DEPTH: usize = 1000;
