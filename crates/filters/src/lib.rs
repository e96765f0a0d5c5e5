//! Filters: devices over devices, which `--image-opts` and `json:` put in front of an image or between an image and
//! its file.
//!
//! | filter | what it does |
//! |---|---|
//! | [`BLKDEBUG`] | fails requests by rules, and asks for an alignment |
//! | [`BLKLOGWRITES`] | tells every write to a log |
//! | [`BLKVERIFY`] | reads two images and compares them; writes to both |
//! | [`COMPRESS`] | writes compressed clusters |
//! | [`COPY_ON_READ`] | stores what is read from a backing file |
//! | [`PREALLOCATE`] | nothing that shows: space behind the end is for its file to allocate |
//! | [`QUORUM`] | several copies of one disk, and a vote between them |
//! | [`REPLICATION`] | nothing: it waits for a replication |
//! | [`SNAPSHOT_ACCESS`] | nothing: it needs a running backup |
//! | [`THROTTLE`] | the rate limits of a group |
//!
//! A filter's children are opened by the chain and handed to it. It may be called by many threads at once, as any
//! device, and holds no lock while a child works.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod blkdebug;
mod blkverify;
mod compress;
mod config;
mod copy_on_read;
mod inert;
mod log_writes;
mod node;
mod preallocate;
mod quorum;
mod rules;
mod throttle;

pub use blkdebug::BLKDEBUG;
pub use blkverify::BLKVERIFY;
pub use compress::COMPRESS;
pub use copy_on_read::COPY_ON_READ;
pub use inert::{REPLICATION, SNAPSHOT_ACCESS};
pub use log_writes::BLKLOGWRITES;
pub use preallocate::PREALLOCATE;
pub use quorum::QUORUM;
pub use throttle::{THROTTLE, ThrottleGroup};
