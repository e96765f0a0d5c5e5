//! What each subcommand takes: its options with the kinds of their values, and its operands.

/// The kind of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No value.
    Flag,
    /// The name of a format.
    Format,
    /// The format of an image that is named too, or another one.
    RightFormat,
    Cache,
    Output,
    Size,
    Signed,
    Number,
    Byte,
    Sparse,
    Parallel,
    Aio,
    Prealloc,
    Repair,
    Snapshot,
    Bitmap,
    CreateOptions,
    AmendOptions,
    Object,
    /// A file that is there.
    File,
}

/// The operands of a subcommand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operands {
    Image,
    TwoImages,
    ImagesAndTarget,
    TargetAndSize,
    ImageAndSize,
    ImageAndBitmap,
    MaybeImage,
    Dd,
    /// `-l`, `-c NAME` … and an image.
    Snapshot,
}

/// An option: its spellings and the kind of its value.
pub type Opt = (&'static [&'static str], Kind);

/// A subcommand, how often it is generated, its options, and its operands.
pub struct Grammar {
    pub name: &'static str,
    pub weight: usize,
    pub options: &'static [Opt],
    pub operands: Operands,
}

const FORMAT: Opt = (&["-f", "--format"], Kind::RightFormat);
const IMAGE_OPTS: Opt = (&["--image-opts"], Kind::Flag);
const OBJECT: Opt = (&["--object"], Kind::Object);
const SHARE: Opt = (&["-U", "--force-share"], Kind::Flag);
const QUIET: Opt = (&["-q", "--quiet"], Kind::Flag);
const OUTPUT: Opt = (&["--output"], Kind::Output);
const PROGRESS: Opt = (&["-p"], Kind::Flag);

/// All subcommands of qemu-img.
pub const GRAMMARS: &[Grammar] = &[
    Grammar {
        name: "amend",
        weight: 6,
        options: &[
            FORMAT,
            IMAGE_OPTS,
            OBJECT,
            QUIET,
            PROGRESS,
            (&["-o", "--options"], Kind::AmendOptions),
            (&["-o", "--options"], Kind::AmendOptions),
            (&["-t", "--cache"], Kind::Cache),
            (&["--force"], Kind::Flag),
        ],
        operands: Operands::Image,
    },
    Grammar {
        name: "bench",
        weight: 5,
        options: &[
            FORMAT,
            IMAGE_OPTS,
            SHARE,
            QUIET,
            (&["-c", "--count"], Kind::Number),
            (&["-c", "--count"], Kind::Number),
            (&["-d", "--depth"], Kind::Number),
            (&["-o", "--offset"], Kind::Size),
            (&["-s", "--buffer-size"], Kind::Size),
            (&["-S", "--step-size"], Kind::Size),
            (&["-t", "--cache"], Kind::Cache),
            (&["-i", "--aio"], Kind::Aio),
            (&["-n", "--native"], Kind::Flag),
            (&["--pattern"], Kind::Byte),
            (&["--no-drain"], Kind::Flag),
        ],
        operands: Operands::Image,
    },
    Grammar {
        name: "bitmap",
        weight: 7,
        options: &[
            FORMAT,
            IMAGE_OPTS,
            OBJECT,
            (&["--add"], Kind::Flag),
            (&["--remove"], Kind::Flag),
            (&["--clear"], Kind::Flag),
            (&["--enable"], Kind::Flag),
            (&["--disable"], Kind::Flag),
            (&["--merge"], Kind::Bitmap),
            (&["-g", "--granularity"], Kind::Size),
            (&["-b", "--source-file"], Kind::File),
            (&["-F", "--source-format"], Kind::Format),
        ],
        operands: Operands::ImageAndBitmap,
    },
    Grammar {
        name: "check",
        weight: 8,
        options: &[
            FORMAT,
            IMAGE_OPTS,
            OBJECT,
            SHARE,
            QUIET,
            OUTPUT,
            (&["-r", "--repair"], Kind::Repair),
            (&["-T", "--cache"], Kind::Cache),
        ],
        operands: Operands::Image,
    },
    Grammar {
        name: "commit",
        weight: 6,
        options: &[
            FORMAT,
            IMAGE_OPTS,
            OBJECT,
            QUIET,
            (&["-t", "--cache"], Kind::Cache),
            (&["-b"], Kind::File),
            (&["-d"], Kind::Flag),
            (&["-r", "--rate-limit"], Kind::Size),
        ],
        operands: Operands::Image,
    },
    Grammar {
        name: "compare",
        weight: 8,
        options: &[
            FORMAT,
            IMAGE_OPTS,
            OBJECT,
            SHARE,
            QUIET,
            (&["-F"], Kind::RightFormat),
            (&["-T"], Kind::Cache),
            (&["-s"], Kind::Flag),
        ],
        operands: Operands::TwoImages,
    },
    Grammar {
        name: "convert",
        weight: 16,
        options: &[
            (&["-f", "--source-format"], Kind::RightFormat),
            (&["--image-opts", "--source-image-opts"], Kind::Flag),
            OBJECT,
            SHARE,
            QUIET,
            (&["-O", "--output-format"], Kind::Format),
            (&["-O", "--output-format"], Kind::Format),
            (&["-o", "--options"], Kind::CreateOptions),
            (&["-T"], Kind::Cache),
            (&["-t"], Kind::Cache),
            (&["-l", "--snapshot"], Kind::Snapshot),
            (&["-S", "--sparse-size"], Kind::Sparse),
            (&["-B", "--backing"], Kind::File),
            (&["-F", "--backing-format"], Kind::Format),
            (&["-m", "--parallel"], Kind::Parallel),
            (&["-C"], Kind::Flag),
            (&["-W"], Kind::Flag),
            (&["-c"], Kind::Flag),
            (&["-n"], Kind::Flag),
            (&["--bitmaps"], Kind::Flag),
            (&["--salvage"], Kind::Flag),
            (&["--skip-broken-bitmaps"], Kind::Flag),
            (&["--target-is-zero"], Kind::Flag),
        ],
        operands: Operands::ImagesAndTarget,
    },
    Grammar {
        name: "create",
        weight: 12,
        options: &[
            (&["-f", "--format"], Kind::Format),
            (&["-f", "--format"], Kind::Format),
            (&["-o", "--options"], Kind::CreateOptions),
            OBJECT,
            QUIET,
            (&["-b", "--backing"], Kind::File),
            (&["-F", "--backing-format"], Kind::Format),
            (&["-u", "--backing-unsafe"], Kind::Flag),
        ],
        operands: Operands::TargetAndSize,
    },
    Grammar {
        name: "dd",
        weight: 8,
        options: &[FORMAT, IMAGE_OPTS, OBJECT, SHARE, (&["-O", "--output-format"], Kind::Format)],
        operands: Operands::Dd,
    },
    Grammar {
        name: "info",
        weight: 8,
        options: &[FORMAT, IMAGE_OPTS, OBJECT, SHARE, OUTPUT, (&["--backing-chain"], Kind::Flag)],
        operands: Operands::Image,
    },
    Grammar {
        name: "map",
        weight: 8,
        options: &[
            FORMAT,
            IMAGE_OPTS,
            OBJECT,
            SHARE,
            OUTPUT,
            (&["-s", "--start-offset"], Kind::Size),
            (&["-l", "--max-length"], Kind::Size),
        ],
        operands: Operands::Image,
    },
    Grammar {
        name: "measure",
        weight: 8,
        options: &[
            FORMAT,
            IMAGE_OPTS,
            OBJECT,
            SHARE,
            OUTPUT,
            (&["-O", "--target-format"], Kind::Format),
            (&["-o"], Kind::CreateOptions),
            (&["-l", "--snapshot"], Kind::Snapshot),
            (&["-s", "--size"], Kind::Size),
        ],
        operands: Operands::MaybeImage,
    },
    Grammar {
        name: "rebase",
        weight: 7,
        options: &[
            FORMAT,
            IMAGE_OPTS,
            OBJECT,
            SHARE,
            QUIET,
            (&["-t"], Kind::Cache),
            (&["-T"], Kind::Cache),
            (&["-b"], Kind::File),
            (&["-b"], Kind::File),
            (&["-F", "-B"], Kind::Format),
            (&["-u"], Kind::Flag),
            (&["-c"], Kind::Flag),
        ],
        operands: Operands::Image,
    },
    Grammar {
        name: "resize",
        weight: 8,
        options: &[
            FORMAT,
            IMAGE_OPTS,
            OBJECT,
            QUIET,
            (&["--preallocation"], Kind::Prealloc),
            (&["--shrink"], Kind::Flag),
        ],
        operands: Operands::ImageAndSize,
    },
    Grammar {
        name: "snapshot",
        weight: 8,
        options: &[FORMAT, IMAGE_OPTS, OBJECT, SHARE, QUIET],
        operands: Operands::Snapshot,
    },
];
