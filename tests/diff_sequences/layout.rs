//! The images that sequences begin with, and what they are converted to.

/// How the guest's data is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cipher {
    /// It is not.
    Plain,
    /// With LUKS, keys in the image.
    Luks,
    /// The old way.
    Aes,
}

impl Cipher {
    /// Create options.
    pub const fn options(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Luks => "encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=10",
            Self::Aes => "encrypt.format=aes,encrypt.key-secret=s0",
        }
    }
}

/// How the first image of a sequence is made.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Part of the test's name.
    pub name: &'static str,
    /// Options of `create`; `DATA` stands for the name of a data file.
    pub options: &'static str,
    /// Bytes of the disk.
    pub size: u64,
    /// `-b … -F …`.
    pub backing: &'static str,
    /// How it is encrypted.
    pub cipher: Cipher,
}

const BASE: Layout = Layout { name: "plain", options: "", size: 3 << 20, backing: "", cipher: Cipher::Plain };

/// The layouts; a sequence takes the one at its seed.
pub const LAYOUTS: &[Layout] = &[
    BASE,
    Layout { name: "512", options: "cluster_size=512", size: 400 << 10, ..BASE },
    Layout { name: "extended", options: "extended_l2=on", ..BASE },
    Layout { name: "v2", options: "compat=0.10", ..BASE },
    Layout { name: "4k-refcount-1", options: "cluster_size=4k,refcount_bits=1", ..BASE },
    Layout { name: "on-shorter", backing: "-b ../short.raw -F raw", ..BASE },
    Layout { name: "luks", options: "cluster_size=16k", cipher: Cipher::Luks, ..BASE },
    Layout { name: "data-file", options: "data_file=DATA", ..BASE },
    Layout { name: "zstd", options: "compression_type=zstd,cluster_size=8k", ..BASE },
    Layout { name: "2M", options: "cluster_size=2M", size: 9 << 20, ..BASE },
    Layout { name: "refcount-2", options: "refcount_bits=2,cluster_size=1k", size: 800 << 10, ..BASE },
    Layout {
        name: "extended-on-longer",
        options: "extended_l2=on,cluster_size=16k",
        backing: "-b ../long.qcow2 -F qcow2",
        ..BASE
    },
    Layout { name: "lazy", options: "lazy_refcounts=on,cluster_size=4k", ..BASE },
    Layout { name: "odd-size", options: "cluster_size=32k", size: (2 << 20) + 1536, ..BASE },
    Layout { name: "aes", options: "cluster_size=4k", cipher: Cipher::Aes, ..BASE },
    Layout {
        name: "v2-on-longer",
        options: "compat=0.10,cluster_size=4k",
        backing: "-b ../long.qcow2 -F qcow2",
        ..BASE
    },
    Layout { name: "refcount-64", options: "refcount_bits=64,cluster_size=512", size: 300 << 10, ..BASE },
    Layout { name: "data-file-raw", options: "data_file=DATA,data_file_raw=on", ..BASE },
    Layout { name: "preallocated", options: "preallocation=metadata,cluster_size=16k", ..BASE },
    Layout { name: "luks-extended", options: "extended_l2=on", cipher: Cipher::Luks, ..BASE },
    Layout { name: "128k", options: "cluster_size=128k,refcount_bits=32", size: 8 << 20, ..BASE },
    Layout { name: "v2-512", options: "compat=0.10,cluster_size=512", size: 200 << 10, ..BASE },
    Layout { name: "refcount-4", options: "refcount_bits=4,cluster_size=2k", ..BASE },
    Layout { name: "luks-512", options: "cluster_size=512", size: 200 << 10, cipher: Cipher::Luks, ..BASE },
    Layout {
        name: "extended-zstd-2M",
        options: "extended_l2=on,cluster_size=2M,compression_type=zstd",
        size: 8 << 20,
        ..BASE
    },
    Layout { name: "data-file-extended", options: "data_file=DATA,extended_l2=on", ..BASE },
    Layout { name: "falloc", options: "preallocation=falloc", size: 2 << 20, ..BASE },
    Layout {
        name: "luks-on-shorter",
        options: "cluster_size=32k",
        backing: "-b ../short.raw -F raw",
        cipher: Cipher::Luks,
        ..BASE
    },
];

/// Files that stand beside the images of each sequence: backing files and patterns.
pub const SHARED: &str = "noise short.raw 0 300k 77
    truncate short.raw 450048
    fill short.raw 440000 10048 0x77
    create -f qcow2 -o cluster_size=4k long.qcow2 6M
    io long.qcow2 'write -P 0x71 0 900k' 'write -z 100k 100k' 'write -P 0x72 2M 1M' 'write -P 0x73 5M 512k'
    img convert -f qcow2 -O raw long.qcow2 long.plain
    noise noise 0 10007 5
    noise mixed 0 300 6
    truncate mixed 1021";

/// Layouts that images are converted to; `DATA` as before. Encryption is added to some.
pub const TARGETS: &[&str] = &[
    "",
    "cluster_size=512",
    "cluster_size=4k",
    "cluster_size=2M",
    "extended_l2=on",
    "extended_l2=on,cluster_size=16k",
    "compat=0.10",
    "compat=0.10,cluster_size=8k",
    "compression_type=zstd",
    "compression_type=zstd,cluster_size=4k",
    "refcount_bits=1",
    "refcount_bits=8,cluster_size=1k",
    "lazy_refcounts=on",
    "preallocation=metadata",
    "data_file=DATA",
    "data_file=DATA,data_file_raw=on",
];
