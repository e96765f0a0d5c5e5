//! Devices and suites that test diskimg: memory that fails, crashes and remembers, the format contract.
//!
//! - [`RecordDevice`] and [`Trace`]: what was written and flushed, and every state a crash could have left of it.
//! - [`FaultDevice`]: fails the N-th request.
//! - [`SlowDevice`]: delays requests, so that races show. [`CappedDevice`]: is full at some length.
//! - [`Session`] and [`History`]: operations on a disk beside a flat model, and what a reader may see after a failure.
//! - [`Play`] and [`Act`]: the same with snapshots, dirty bitmaps and amendments.
//! - [`Subject`]: how a disk under test is created and opened, with [`FormatSubject`] for a single image
//!   and [`OverlaySubject`] for one over a backing file.
//! - [`crash`] and [`faults`]: the explorations built from these.
//! - [`contract`]: the suite that every format driver passes.
//! - [`exchange`]: images that ours writes and the installed `qemu-img` reads, and the other way round.
//! - [`layouts`]: images in the formats that nothing but these tests writes.
//! - [`Oracle`] and [`suite`]: the installed `qemu-img`, and tests that are ignored where it is missing.
//!
//! Everything here is for tests: a broken expectation is a panic with the whole story in its message.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod acts;
mod capped;
pub mod contract;
pub mod crash;
pub mod exchange;
mod fault;
pub mod faults;
mod history;
pub mod layouts;
mod ops;
mod oracle;
mod overlay;
mod record;
mod replay;
mod rng;
mod session;
mod shrink;
mod slow;
mod subject;
pub mod suite;

pub use acts::{Act, Play, amend};
pub use capped::CappedDevice;
pub use fault::{FaultDevice, FaultKinds, FaultPlan, FaultSpec};
pub use history::History;
pub use ops::{Op, OpMix, pattern};
pub use oracle::{CheckVerdict, Oracle};
pub use overlay::{OverlaySubject, plain_node};
pub use record::{Change, Event, RecordDevice, Recorder, Trace};
pub use replay::{CrashState, Sampling};
pub use rng::{Rng, asked, rounds};
pub use session::{Applied, Session};
pub use shrink::{panics, run_shrinking};
pub use slow::SlowDevice;
pub use subject::{FormatSubject, MemOpener, Opened, Subject, open_image, open_image_with, shared};
