//! What is done with images in diskimg: convert, dd, compare, commit, rebase, stream, map, measure, check, resize,
//! create, amend, bitmap, describe, bench.
//!
//! One module per verb. An engine takes open [`Node`](diskimg_chain::Node)s and a [`Task`](diskimg_core::Task)
//! (progress and cancellation), returns facts as plain data, and never prints. It names no format: what a
//! format can do it asks of the image's driver.
//!
//! Engines that move data start their own threads, as many as there are processors unless told otherwise, and
//! end them before they return.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

pub mod amend;
pub mod backup;
pub mod bench;
pub mod bitmap;
pub mod check;
pub mod commit;
pub mod compare;
pub mod convert;
pub mod create;
pub mod dd;
pub mod info;
pub mod map;
pub mod measure;
mod parallel;
pub mod rebase;
pub mod resize;
pub mod snapshot;
pub mod stream;
mod told;

pub use amend::{AmendOptions, AmendPlan, amend_options};
pub use bench::{BenchKind, BenchOptions, BenchReport, bench};
pub use bitmap::{BitmapAction, change_bitmap};
pub use check::check;
pub use commit::{CommitOptions, CommitReport, commit};
pub use compare::{CompareError, CompareOptions, CompareReport, CompareStage, Difference, compare};
pub use convert::{ConvertOptions, ConvertReport, convert};
pub use create::{CreatePlan, CreateRequest, Maker};
pub use dd::{DdOptions, DdRange, dd};
pub use info::{ImageReport, describe, describe_chain};
pub use map::{MapEntry, map};
pub use measure::measure;
pub use rebase::{RebaseOptions, rebase};
pub use resize::{NewSize, ResizeOptions, resize};
pub use snapshot::SnapshotName;
pub use stream::{StreamOptions, stream};
