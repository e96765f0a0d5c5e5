//! `-` as a file name of `convert`: standard input and standard output. A file that is called `-` goes before.
//!
//! What comes through a pipe has no length and can't be read twice, and most formats are written in no order: both go
//! through a file in a folder of the program's own below `$TMPDIR`, which goes with the program.

use std::fs::{DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::ui::{Exit, Ui};

/// True for a name that stands for a stream.
pub(crate) fn is_stream(name: &str) -> bool {
    name == "-" && !Path::new(name).exists()
}

/// A folder with a file in it; dropping it removes both.
#[derive(Debug)]
pub(crate) struct Spool {
    folder: PathBuf,
    file: PathBuf,
}

impl Spool {
    /// An empty place for a file that ends in `extension`.
    fn new(ui: &Ui, extension: &str) -> Result<Self, Exit> {
        let base = std::env::temp_dir();
        for number in 0..1000 {
            let folder = base.join(format!("qemu-img-rs.{}.{number}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&folder) {
                Ok(()) => {
                    let file = folder.join(format!("disk.{extension}"));
                    return Ok(Self { folder, file });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(ui.fail(format!("{}: {error}", folder.display()))),
            }
        }
        Err(ui.fail(format!("{}: no folder can be made", base.display())))
    }

    /// Everything that standard input has.
    pub(crate) fn of_input(ui: &Ui) -> Result<Self, Exit> {
        let spool = Self::new(ui, "img")?;
        let copied =
            File::create_new(&spool.file).and_then(|mut to| io::copy(&mut io::stdin().lock(), &mut to));
        copied.map_err(|error| ui.fail(format!("standard input: {error}")))?;
        Ok(spool)
    }

    /// A place for a new image in `format`.
    pub(crate) fn for_output(ui: &Ui, format: &str) -> Result<Self, Exit> {
        Self::new(ui, format)
    }

    /// The name of the file.
    pub(crate) fn name(&self) -> String {
        self.file.to_string_lossy().into_owned()
    }

    /// Writes the file to standard output.
    pub(crate) fn send(&self, ui: &Ui) -> Result<(), Exit> {
        let mut out = io::stdout().lock();
        let sent = File::open(&self.file).and_then(|mut from| io::copy(&mut from, &mut out));
        sent.and_then(|_| out.flush()).map_err(|error| ui.fail(format!("standard output: {error}")))
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // Nothing more can be done about what stays.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
