//! The command line before the subcommand: the program's own options, then the choice of the subcommand.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use diskimg::core::options::split_options;

use crate::command::{Key, Value, flag, value};
use crate::commands::{COMMANDS, MORE_COMMANDS};
use crate::getopt::{Getopt, Item, Opt, Order};
use crate::options::HELP;
use crate::references::References;
use crate::ui::{Exit, Ui};
use crate::{generate, help};

const OPTIONS: &[Opt<Key>] = &[
    HELP,
    flag(Key::Version, "V", &["version"]),
    value(Key::Trace, "T", &["trace"]),
    value(Key::References, "", &["references"]),
];

/// Never abbreviated.
const OWN_OPTIONS: &[Opt<Key>] = &[value(Key::Generate, "", &["generate"])];

/// Runs the program, called as `called` with `args`.
pub(crate) fn run(called: OsString, args: &[OsString]) -> Exit {
    let ui = Ui::new(called);
    let exit = run_command(&ui, args).err().unwrap_or(Exit::OK);
    ui.output().flush();
    exit
}

fn run_command(ui: &Ui, args: &[OsString]) -> Result<(), Exit> {
    let mut getopt = Getopt::new(args, OPTIONS, Order::Strict).with_own(OWN_OPTIONS);
    let mut ui = ui.clone();
    while let Some(item) = getopt.next().map_err(|error| ui.option_error(&error))? {
        match item {
            Item::Option(Key::Trace, text) => check_trace(&ui, Value(text))?,
            Item::Option(Key::References, text) => {
                let text = Value(text).text(&ui)?;
                let policies = "permissive, same-dir, deny or a list of files (FILE,...)";
                ui.references = References::parse(&text)
                    .ok_or_else(|| ui.usage(format!("--references expects {policies}, not '{text}'")))?;
            }
            Item::Option(Key::Generate, text) => {
                return generate(&ui, &Value(text).text(&ui)?, getopt.operands());
            }
            Item::Option(Key::Version, _) => {
                ui.print(help::VERSION);
                return Ok(());
            }
            _ => {
                ui.print(&help::page(&driver_names()));
                return Ok(());
            }
        }
    }
    let operands = getopt.operands();
    let Some((name, rest)) = operands.split_first() else {
        return Err(ui.usage("Not enough arguments"));
    };
    let mut all = COMMANDS.iter().chain(MORE_COMMANDS);
    let Some(command) = all.find(|command| OsStr::new(command.name) == name) else {
        return Err(ui.usage([b"Command not found: ", name.as_bytes()].concat()));
    };
    (command.run)(&ui.for_command(command.name), rest)
}

/// `--generate=completions SHELL` and `--generate=man FOLDER`.
fn generate(ui: &Ui, what: &str, operands: Vec<OsString>) -> Result<(), Exit> {
    let usage = "expected --generate=completions bash|zsh|fish or --generate=man FOLDER";
    let [operand] = operands.as_slice() else { return Err(ui.usage(usage)) };
    match what {
        "completions" => {
            let script = operand.to_str().and_then(generate::completions);
            ui.print(&script.ok_or_else(|| ui.usage(usage))?);
            Ok(())
        }
        "man" => generate::write_man_pages(Path::new(operand))
            .map_err(|error| ui.fail(format!("{}: {error}", operand.display()))),
        _ => Err(ui.usage(usage)),
    }
}

/// Checks the argument of `--trace`. There are no trace events, so plain names are warned of and patterns fit none.
fn check_trace(ui: &Ui, text: Value) -> Result<(), Exit> {
    for (at, (name, value)) in split_options(&text.text(ui)?).into_iter().enumerate() {
        let event = match (name.as_str(), value) {
            ("enable", Some(event)) => event,
            ("file" | "events", Some(_)) => continue,
            (_, None) if at == 0 => name,
            _ => return Err(ui.fail(format!("Invalid parameter '{name}'"))),
        };
        if event == "help" || event == "?" {
            return Err(Exit::OK);
        }
        if !event.is_empty() && !event.contains(['*', '?']) {
            ui.warn(&format!("trace event '{event}' does not exist"));
        }
    }
    Ok(())
}

/// The names of all formats, protocols and filters.
fn driver_names() -> Vec<&'static str> {
    let formats = diskimg::FORMATS.iter().map(|driver| driver.name);
    let filters = diskimg::FILTERS.iter().map(|driver| driver.node.name);
    formats.chain(diskimg::PROTOCOLS.iter().map(|driver| driver.name)).chain(filters).collect()
}
