//! `qemu-img-rs`: a drop-in for qemu-img 10.0.2 on top of the `diskimg` library. It parses arguments, calls the
//! library, prints, and ends with qemu-img's exit codes; what is done with images is done there.
//!
//! Start-up is lean: nothing is read or allocated that the subcommand does not need.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod changed;
mod check_report;
mod command;
mod commands;
mod generate;
mod getopt;
mod help;
mod human;
mod image_report;
mod interrupt;
mod json;
mod objects;
mod operation;
mod option_help;
mod options;
mod output;
mod program;
mod progress;
mod references;
mod snapshot;
mod source;
mod streams;
mod ui;
mod values;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args: Vec<_> = std::env::args_os().collect();
    let called = if args.is_empty() { Default::default() } else { args.remove(0) };
    ExitCode::from(program::run(called, &args).0)
}
