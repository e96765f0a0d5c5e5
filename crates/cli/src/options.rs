//! The options that several subcommands take, with one meaning and one spelling: rows of their option tables, and entries of
//! their help pages where these too are the same. Used by `commands` alone.

use crate::command::{Key, flag, value};
use crate::getopt::Opt;

/// `-h`.
pub(crate) const HELP: Opt<Key> = flag(Key::Help, "h", &["help"]);
/// `-q`.
pub(crate) const QUIET: Opt<Key> = flag(Key::Quiet, "q", &["quiet"]);
/// `-p`.
pub(crate) const PROGRESS: Opt<Key> = flag(Key::Progress, "p", &["progress"]);
/// `-f FMT`.
pub(crate) const FORMAT: Opt<Key> = value(Key::Format, "f", &["format"]);
/// `--image-opts`.
pub(crate) const IMAGE_OPTS: Opt<Key> = flag(Key::ImageOpts, "", &["image-opts"]);
/// `-U`.
pub(crate) const FORCE_SHARE: Opt<Key> = flag(Key::ForceShare, "U", &["force-share"]);
/// `--object OBJDEF`.
pub(crate) const OBJECT: Opt<Key> = value(Key::Object, "", &["object"]);
/// `--output human|json`.
pub(crate) const OUTPUT: Opt<Key> = value(Key::Output, "", &["output"]);
/// `-o OPTIONS`.
pub(crate) const OPTIONS: Opt<Key> = value(Key::Options, "o", &["options"]);
/// `-t CACHE`, of an image that is changed.
pub(crate) const CACHE: Opt<Key> = value(Key::Cache, "t", &["cache"]);
/// `-r RATE`.
pub(crate) const RATE: Opt<Key> = value(Key::Rate, "r", &["rate"]);

/// Entries of help pages.
pub(crate) mod page {
    type Entry = (&'static str, &'static str);

    /// `--image-opts` of the only image.
    pub(crate) const IMAGE_OPTS: Entry = (
        "--image-opts",
        "indicates that FILENAME is a complete image specification
     instead of a file name (incompatible with --format)",
    );
    /// `-U` of the only image.
    pub(crate) const FORCE_SHARE: Entry =
        ("-U, --force-share", "open image in shared mode for concurrent access");
    /// `-U` of several images.
    pub(crate) const FORCE_SHARE_ALL: Entry =
        ("-U, --force-share", "open images in shared mode for concurrent access");
    /// `--object`.
    pub(crate) const OBJECT: Entry = ("--object OBJDEF", "QEMU user-creatable object (eg encryption key)");
    /// `--output`.
    pub(crate) const OUTPUT: Entry = ("--output human|json", "specify output format name (default human)");
}
