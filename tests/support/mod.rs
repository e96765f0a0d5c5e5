//! What the tests that run the installed `qemu-img` beside our command share.
//!
//! - [`oracle`]: finds the installed tools and our binary, and reads the oracle's version.
//! - [`process`]: runs a command with a time limit and keeps what it said.
//! - [`script`]: the small language in which test images are set up.
//! - [`folder`]: set-ups made once and copied hole by hole, and the comparison of two folders.
//! - [`case`]: one command line (or a few) run by both, and everything compared.
//! - [`drawn`]: what of two images made alike differs by chance.
//! - [`samples`]: images in the formats that are only read.
//! - [`suite`]: turns cases into tests that can be reported as ignored, and keeps the report.
//!
//! A missing oracle is counted as *ignored*, never as *ok*; `DISKIMG_REQUIRE_ORACLE=1` makes it a failure.
//! Environment: `DISKIMG_ORACLE` (another `qemu-img`), `DISKIMG_TEST_BINARY` (another binary in our place),
//! `DISKIMG_TEST_DIR` (where folders are made), `DISKIMG_DIFF_REPORT` (a file for JSON lines of differences),
//! `DISKIMG_KEEP=1` (leave the folders of failed cases in place), `DISKIMG_TIMES=1` (say how long each case took),
//! `DISKIMG_SLOW=1` (run the cases that take the oracle seconds too).
#![allow(dead_code, unreachable_pub, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

pub mod case;
pub mod drawn;
pub mod folder;
pub mod oracle;
pub mod process;
pub mod samples;
pub mod script;
pub mod suite;
