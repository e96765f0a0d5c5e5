//! The subcommands, one file each: option table, help page, typed arguments, and the call of the library.

mod amend;
mod bench;
mod bitmap;
mod check;
mod commit;
mod compare;
mod convert;
mod create;
mod dd;
mod info;
mod map;
mod measure;
mod rebase;
mod resize;
mod snapshot;
mod stream;

use crate::command::Command;

/// All subcommands of qemu-img.
pub(crate) const COMMANDS: &[&Command] = &[
    &amend::COMMAND,
    &bench::COMMAND,
    &bitmap::COMMAND,
    &check::COMMAND,
    &commit::COMMAND,
    &compare::COMMAND,
    &convert::COMMAND,
    &create::COMMAND,
    &dd::COMMAND,
    &info::COMMAND,
    &map::COMMAND,
    &measure::COMMAND,
    &rebase::COMMAND,
    &resize::COMMAND,
    &snapshot::COMMAND,
];

/// Subcommands that qemu-img does not have: the help page of the program, which is qemu-img's, does not list them.
pub(crate) const MORE_COMMANDS: &[&Command] = &[&stream::COMMAND];
