//! Pipes as images of `convert`: `-` (standard input and output, unless a file is called so), and names of pipes.
//!
//! What can go straight through does ([`Outflow`](diskimg::engine::convert::Outflow)). The rest goes through a file in the
//! folder for temporary files (`$TMPDIR`): a source that its format does not let us read from front to end, or whose length
//! has to be known first; a target that is written in no order.

use std::fs::{DirBuilder, File};
use std::io::{self, Seek as _, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diskimg::chain::Context;
use diskimg::core::driver::{Caps, PROBE_LEN, ProbeInput};
use diskimg::core::options::{RuntimeOptions, RuntimeValue};
use diskimg::core::{CancelToken, Error};
use diskimg::file::{Pipe, is_pipe, pipe_output};

use crate::source::Source;
use crate::ui::{Exit, Ui};

/// Another name of standard input, under which a file is opened like any other.
const STANDARD_INPUT: &str = "/dev/stdin";

/// Opens the pipes among `sources`, so that they are found by their names. Those that can't be read from front to end
/// are copied to temporary files.
pub(crate) fn open_pipes(
    ui: &Ui,
    context: &Context,
    sources: &mut [Source],
    cancel: &CancelToken,
) -> Result<(), Exit> {
    let several = sources.len() > 1;
    for source in sources {
        if source.filename == "-" && is_pipe("-") && standard_input_is_file() {
            source.filename = STANDARD_INPUT.to_owned();
        }
        let (Some(name), format) = named(source) else { continue };
        if !is_pipe(&name) || ui.with_pipes(|pipes| pipes.iter().any(|(known, _)| *known == name)) {
            continue;
        }
        let pipe = Pipe::open(&name, cancel.clone()).and_then(|pipe| {
            if several || !goes_forward(context, &pipe, &name, format.as_deref())? {
                pipe.spool()?;
            }
            Ok(Arc::new(pipe))
        });
        let pipe = pipe.map_err(|error| ui.library_error(&error))?;
        ui.with_pipes(|pipes| pipes.push((name, pipe)));
    }
    Ok(())
}

/// The file that `source` names and the format it is said to have.
fn named(source: &Source) -> (Option<String>, Option<String>) {
    let parsed = match source.image_opts {
        true => diskimg::chain::spec::parse_image_opts(&source.filename).map(|parsed| parsed.options),
        false if source.filename.starts_with("json:") => diskimg::chain::spec::parse_json(&source.filename),
        false => return (Some(source.filename.clone()), source.format.clone()),
    };
    let Ok(options) = parsed else { return (None, None) };
    let text = |options: &RuntimeOptions, name: &str| match options.get(name) {
        Some(RuntimeValue::Str(text)) => Some(text.clone()),
        _ => None,
    };
    let format = text(&options, "driver").or_else(|| source.format.clone());
    (text(&options, "file.filename").or_else(|| text(&options, "filename")), format)
}

/// True if standard input is a file, from its start on.
fn standard_input_is_file() -> bool {
    let file = io::stdin().as_fd().try_clone_to_owned().map(File::from);
    file.is_ok_and(|mut file| {
        file.metadata().is_ok_and(|found| found.is_file()) && file.stream_position().is_ok_and(|at| at == 0)
    })
}

/// True if images of the format, which is found out if it was not given, can be read from front to end.
fn goes_forward(context: &Context, pipe: &Pipe, name: &str, format: Option<&str>) -> Result<bool, Error> {
    let driver = match format {
        Some(format) => context.registry.format(format),
        None => {
            let mut head = pipe.head(PROBE_LEN)?;
            head.resize(PROBE_LEN, 0);
            let input = ProbeInput { head: &head, filename: name };
            context.registry.probe(&input).map(|probed| probed.format)
        }
    };
    Ok(driver.is_some_and(|driver| driver.caps.contains(Caps::FORWARD)))
}

/// Copies all pipes that are not yet to temporary files; false if there was none.
pub(crate) fn spool_pipes(ui: &Ui) -> Result<bool, Exit> {
    let pipes = ui.with_pipes(|pipes| pipes.clone());
    let mut any = false;
    for (_, pipe) in pipes {
        any |= pipe.spool().map_err(|error| ui.library_error(&error))?;
    }
    Ok(any)
}

/// Where an image goes that is not written to a file.
pub(crate) fn open_output(ui: &Ui, name: &str) -> Result<Box<dyn Write + Send>, Exit> {
    let file = pipe_output(name).map_err(|error| ui.library_error(&error))?;
    Ok(Box::new(file))
}

/// A folder with a file in it; dropping it removes both.
#[derive(Debug)]
pub(crate) struct Spool {
    folder: PathBuf,
    file: PathBuf,
}

impl Spool {
    /// A place for a new image in `format`.
    pub(crate) fn for_output(ui: &Ui, format: &str) -> Result<Self, Exit> {
        let base = std::env::temp_dir();
        for number in 0..1000 {
            let folder = base.join(format!("qemu-img-rs.{}.{number}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&folder) {
                Ok(()) => {
                    let file = folder.join(format!("disk.{format}"));
                    return Ok(Self { folder, file });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Self::refused(ui, &base, &Error::from(error).strerror())),
            }
        }
        Err(Self::refused(ui, &base, "File exists"))
    }

    fn refused(ui: &Ui, base: &Path, why: &str) -> Exit {
        let folder = base.display();
        ui.fail(format!(
            "no temporary folder in '{folder}' for the image, which can't be written in order: {why}"
        ))
    }

    /// The name of the file.
    pub(crate) fn name(&self) -> String {
        self.file.to_string_lossy().into_owned()
    }

    /// Writes the file to `out`.
    pub(crate) fn send(&self, ui: &Ui, mut out: impl Write) -> Result<(), Exit> {
        let sent = File::open(&self.file).and_then(|mut from| io::copy(&mut from, &mut out));
        sent.and_then(|_| out.flush()).map_err(|error| {
            let why = Error::from(error).strerror();
            ui.fail(format!("error while writing to the output: {why}"))
        })
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // Nothing more can be done about what stays.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
