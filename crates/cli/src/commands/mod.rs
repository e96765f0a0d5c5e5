//! The subcommands, one file each: option table, help page, typed arguments, and the call of the library.

mod amend;
mod bench;
mod bitmap;
mod check;
mod compare;
mod convert;
mod create;
mod dd;
mod info;
mod map;
mod measure;
mod resize;
mod snapshot;

use crate::command::Command;

/// All subcommands.
pub(crate) const COMMANDS: &[&Command] = &[
    &amend::COMMAND,
    &bench::COMMAND,
    &bitmap::COMMAND,
    &check::COMMAND,
    &compare::COMMAND,
    &convert::COMMAND,
    &create::COMMAND,
    &dd::COMMAND,
    &info::COMMAND,
    &map::COMMAND,
    &measure::COMMAND,
    &resize::COMMAND,
    &snapshot::COMMAND,
];
