//! The subcommands, one file each: option table, help page, typed arguments, and the call of the library.

mod amend;
mod bitmap;
mod check;
mod compare;
mod convert;
mod create;
mod info;
mod map;
mod measure;
mod resize;
mod snapshot;

use crate::command::Command;

/// All subcommands.
pub(crate) const COMMANDS: &[&Command] = &[
    &amend::COMMAND,
    &bitmap::COMMAND,
    &check::COMMAND,
    &compare::COMMAND,
    &convert::COMMAND,
    &create::COMMAND,
    &info::COMMAND,
    &map::COMMAND,
    &measure::COMMAND,
    &resize::COMMAND,
    &snapshot::COMMAND,
];
