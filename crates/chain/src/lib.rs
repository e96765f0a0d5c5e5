//! Opening images by name for diskimg: specifications, probing, backing chains, the layered device.
//!
//! This crate names no format: it works through the drivers of a [`Context`]'s registry. Engines, the command and
//! programs open everything through [`Node::open`].
//!
//! ```
//! use diskimg_chain::{Context, Deny, ImageSpec, Node, OpenOptions};
//! use diskimg_core::{BlockDevice, Registry};
//!
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("disk.raw");
//! # std::fs::write(&path, [7; 1024])?;
//! # let path = path.to_str().unwrap_or_default();
//! let registry = Registry::new().with_format(&diskimg_raw::DRIVER).with_protocol(&diskimg_file::FILE);
//! // Nothing that an image names is opened.
//! let ctx = Context::new(registry).with_gate(Deny);
//! let disk = Node::open(&ctx, &ImageSpec::name(path), &OpenOptions::read().with_format(Some("raw")))?;
//! let mut sector = [0; 512];
//! disk.read_at(0, &mut sector)?;
//! assert_eq!(sector, [7; 512]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod context;
pub mod create;
mod filter;
mod fresh;
pub mod gate;
mod generic;
mod growing;
mod json;
mod kept;
pub mod name;
mod node;
mod open;
mod opener;
mod options;
mod protocol_image;
mod request;
mod shown;
pub mod spec;
mod stack;
mod storage;
mod walk;
mod watched;

pub use context::Context;
pub use create::NewFile;
pub use gate::{Deny, Listed, Permissive, SameDirectory};
pub use node::{BackingName, Layers, Node, NodeMode, NodeParts, Status};
pub use options::OpenOptions;
pub use spec::ImageSpec;
pub use stack::{DetectZeroes, Stack, StackOptions};
pub use walk::{Asking, StatusWalk};

/// The greatest number of images in a backing chain; a longer one is refused (and a loop that hides behind
/// ever longer names ends here).
pub const MAX_CHAIN_DEPTH: usize = 1000;
