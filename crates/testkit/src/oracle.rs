//! [`Oracle`]: the installed `qemu-img` and `qemu-io`, asked about images that ours wrote.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The installed tools.
#[derive(Clone, Debug)]
pub struct Oracle {
    /// Path of `qemu-img`.
    pub img: PathBuf,
    /// Path of `qemu-io`.
    pub io: PathBuf,
    /// Version, such as `10.0.2`.
    pub version: String,
}

/// What `qemu-img check` says of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckVerdict {
    /// Nothing found.
    Clean,
    /// Leaked clusters only.
    Leaks,
    /// Damage, or it could not be checked; with what was printed.
    Bad(String),
}

impl Oracle {
    /// The tools, looked for once; `None` where one is missing.
    #[must_use]
    pub fn find() -> Option<&'static Self> {
        static FOUND: OnceLock<Option<Oracle>> = OnceLock::new();
        FOUND.get_or_init(Self::look).as_ref()
    }

    fn look() -> Option<Self> {
        let img = std::env::var_os("DISKIMG_ORACLE").map(PathBuf::from).or_else(|| in_path("qemu-img"))?;
        let beside = img.with_file_name("qemu-io");
        let io = if beside.is_file() { beside } else { in_path("qemu-io")? };
        let output = Command::new(&img).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.split_once(" version ")?.1.split([' ', '\n']).next()?.to_owned();
        Some(Self { img, io, version })
    }

    /// True if a missing oracle is a failure: `DISKIMG_REQUIRE_ORACLE=1`, as set in CI.
    #[must_use]
    pub fn is_required() -> bool {
        std::env::var_os("DISKIMG_REQUIRE_ORACLE").is_some_and(|value| value == "1")
    }

    /// Runs `qemu-img` in `folder`.
    ///
    /// # Panics
    /// If it can't be started.
    #[must_use]
    pub fn run(&self, folder: &Path, args: &[&str]) -> Output {
        Command::new(&self.img).args(args).current_dir(folder).output().expect("qemu-img runs")
    }

    /// Runs `qemu-img` in `folder`; it must succeed.
    ///
    /// # Panics
    /// If it does not.
    pub fn must(&self, folder: &Path, args: &[&str]) -> String {
        let output = self.run(folder, args);
        assert!(output.status.success(), "qemu-img {}: {}", args.join(" "), text_of(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs `qemu-io` commands on `image` in `folder`; they must succeed.
    ///
    /// # Panics
    /// If they do not.
    pub fn qemu_io(&self, folder: &Path, format: &str, image: &str, commands: &[&str]) {
        let mut command = Command::new(&self.io);
        command.current_dir(folder).args(["-f", format]);
        for one in commands {
            command.args(["-c", one]);
        }
        let output = command.arg(image).output().expect("qemu-io runs");
        assert!(output.status.success(), "qemu-io {commands:?}: {}", text_of(&output));
    }

    /// `qemu-img check` of the file `name` in `folder`.
    #[must_use]
    pub fn check(&self, folder: &Path, format: &str, name: &str) -> CheckVerdict {
        let output = self.run(folder, &["check", "-f", format, name]);
        match output.status.code() {
            Some(0) => CheckVerdict::Clean,
            Some(3) => CheckVerdict::Leaks,
            _ => CheckVerdict::Bad(text_of(&output)),
        }
    }

    /// Whether `qemu-img compare` finds image `a` (of `format`) and the raw file `b` equal, both in `folder`.
    ///
    /// # Errors
    /// What it printed, if not.
    pub fn compare_raw(&self, folder: &Path, format: &str, a: &str, b: &str) -> Result<(), String> {
        let output = self.run(folder, &["compare", "-f", format, "-F", "raw", a, b]);
        // A different length with zeros behind the end is only a warning for it.
        let same_len = !String::from_utf8_lossy(&output.stdout).contains("size mismatch");
        if output.status.success() && same_len { Ok(()) } else { Err(text_of(&output)) }
    }
}

fn text_of(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let text: String = format!("{}: {out}{err}", output.status);
    text.chars().take(2000).collect()
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|candidate| candidate.is_file())
}
