//! Printing: results on standard output, messages with the program's name on standard error, exit codes.
//!
//! The name in messages is the last part of the name the program was called by; messages about options and the
//! `Try '…'` line show it in full. Failed writes to either stream are ignored, as qemu-img does.

use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use diskimg::core::Secrets;
use diskimg::core::filter::Objects;
use diskimg::file::Pipe;

use crate::getopt::UsageError;
use crate::output::Output;
use crate::references::References;

/// The program ends with this code; whatever there was to say has been printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit(pub(crate) u8);

impl Exit {
    /// All is well.
    pub(crate) const OK: Self = Self(0);
    /// The usual failure.
    pub(crate) const FAILURE: Self = Self(1);
}

/// Pipes that are read, by the names that they were given by.
pub(crate) type Pipes = Vec<(String, Arc<Pipe>)>;

/// Where messages go and under which name, and what else holds for the whole run.
#[derive(Clone, Debug)]
pub(crate) struct Ui {
    called: OsString,
    command: Option<&'static str>,
    /// Which files that an image names may be opened.
    pub references: References,
    secrets: Arc<Mutex<Secrets>>,
    objects: Arc<Mutex<Objects>>,
    json_progress: Arc<AtomicBool>,
    /// Standard output has an image to itself.
    output_taken: Arc<AtomicBool>,
    pipes: Arc<Mutex<Pipes>>,
    output: Output,
}

impl Ui {
    /// Messages of a program called `called`.
    pub(crate) fn new(called: OsString) -> Self {
        Self {
            called,
            command: None,
            references: References::default(),
            secrets: Arc::default(),
            objects: Arc::default(),
            json_progress: Arc::default(),
            output_taken: Arc::default(),
            pipes: Arc::default(),
            output: Output::default(),
        }
    }

    /// The same for the subcommand `name`.
    pub(crate) fn for_command(&self, name: &'static str) -> Self {
        Self { command: Some(name), ..self.clone() }
    }

    /// Works on the secrets that were given so far.
    pub(crate) fn with_secrets<T>(&self, work: impl FnOnce(&mut Secrets) -> T) -> T {
        work(&mut self.secrets.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the value of `--progress`.
    pub(crate) fn set_progress(&self, format: &str) -> Result<(), Exit> {
        match format {
            "json" => self.json_progress.store(true, Ordering::Relaxed),
            "human" => self.json_progress.store(false, Ordering::Relaxed),
            other => return Err(self.usage(format!("--progress expects 'human' or 'json' not '{other}'"))),
        }
        Ok(())
    }

    /// True if progress is told in JSON.
    pub(crate) fn tells_progress_in_json(&self) -> bool {
        self.json_progress.load(Ordering::Relaxed)
    }

    /// Gives standard output to an image: nothing else goes there.
    pub(crate) fn take_output(&self) {
        self.output_taken.store(true, Ordering::Relaxed);
    }

    /// True if an image goes to standard output.
    pub(crate) fn is_output_taken(&self) -> bool {
        self.output_taken.load(Ordering::Relaxed)
    }

    /// Works on the pipes that are read, by the names that they were given by.
    pub(crate) fn with_pipes<T>(&self, work: impl FnOnce(&mut Pipes) -> T) -> T {
        work(&mut self.pipes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Works on the other objects that were given so far.
    pub(crate) fn with_objects<T>(&self, work: impl FnOnce(&mut Objects) -> T) -> T {
        work(&mut self.objects.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The name in messages.
    pub(crate) fn program(&self) -> &OsStr {
        let bytes = self.called.as_bytes();
        OsStr::from_bytes(bytes.rsplit(|byte| *byte == b'/').next().unwrap_or_default())
    }

    /// The full name with the subcommand, as getopt shows it.
    fn full_name(&self) -> Vec<u8> {
        let mut name = self.called.as_bytes().to_vec();
        if let Some(command) = self.command {
            name.push(b' ');
            name.extend_from_slice(command.as_bytes());
        }
        name
    }

    /// Prints to standard output.
    pub(crate) fn print(&self, text: &str) {
        self.output.print(text);
    }

    /// Standard output, to flush it.
    pub(crate) fn output(&self) -> &Output {
        &self.output
    }

    /// Prints to standard error.
    pub(crate) fn complain(&self, bytes: &[u8]) {
        let _ = std::io::stderr().lock().write_all(bytes);
    }

    /// Prints `PROGRAM: TEXT`.
    pub(crate) fn error(&self, text: impl AsRef<[u8]>) {
        self.complain(&[self.program().as_bytes(), b": ", text.as_ref(), b"\n"].concat());
    }

    /// Prints `PROGRAM: warning: TEXT`.
    pub(crate) fn warn(&self, text: &str) {
        self.error(format!("warning: {text}"));
    }

    /// Prints an error; the program ends with 1.
    pub(crate) fn fail(&self, text: impl AsRef<[u8]>) -> Exit {
        self.error(text);
        Exit::FAILURE
    }

    /// Prints an error of the library with its causes, then its hint; the program ends with 1.
    pub(crate) fn library_error(&self, error: &diskimg::core::Error) -> Exit {
        let mut text = error.joined();
        if let Some(hint) = error.hint() {
            text.push('\n');
            text.push_str(hint);
        }
        let exit = self.fail(text);
        if let Some(remark) = error.remark().filter(|_| self.says_more()) {
            self.complain(format!("{remark}\n").as_bytes());
        }
        exit
    }

    /// Prints what qemu-img prints without an end of line.
    pub(crate) fn hint(&self, text: &str) {
        let end = if self.says_more() { "\n" } else { "" };
        self.complain(format!("{text}{end}").as_bytes());
    }

    /// True where a line that qemu-img does not have is in nobody's way: programs that parse what `qemu-img` says call
    /// it by that name, and do not show it on a terminal.
    fn says_more(&self) -> bool {
        self.program() != "qemu-img" || std::io::stderr().is_terminal()
    }

    /// Prints an error and where help is; the program ends with 1.
    pub(crate) fn usage(&self, text: impl AsRef<[u8]>) -> Exit {
        self.error(text);
        self.try_help()
    }

    /// Prints a message of the option parser and where help is; the program ends with 1.
    pub(crate) fn option_error(&self, error: &UsageError) -> Exit {
        self.complain(&[&self.full_name(), b": ".as_slice(), &error.0, b"\n"].concat());
        self.try_help()
    }

    fn try_help(&self) -> Exit {
        self.complain(&[b"Try '", self.full_name().as_slice(), b" --help' for more info\n"].concat());
        Exit::FAILURE
    }

    /// An argument as text.
    pub(crate) fn text(&self, arg: OsString) -> Result<String, Exit> {
        arg.into_string().map_err(|arg| {
            let name = arg.to_string_lossy();
            self.fail(format!("'{name}': arguments and file names have to be valid UTF-8"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_the_last_part_of_the_name() {
        let ui = Ui::new("/x/y/foo".into());
        assert_eq!(ui.program(), "foo");
        assert_eq!(ui.for_command("info").full_name(), b"/x/y/foo info");
        assert_eq!(Ui::new("a/b/".into()).program(), "");
    }
}
