//! Virtual disk images: open, read, write, create, check, convert and compare.
//!
//! This is the crate that programs use. It brings the layers together: the central types ([`BlockDevice`],
//! [`Image`], [`Extent`], [`Error`]), opening by name with backing chains ([`chain`]), what is done with images
//! ([`engine`]), and the drivers that the features choose.
//!
//! | feature | what it adds |
//! |---|---|
//! | `file` | host files and block devices |
//! | `nbd` | exports of NBD servers, over TCP and Unix sockets |
//! | `crypto` | secrets, and the ciphers and headers of encrypted images |
//! | `filters` | filters over images and files: blkdebug, blkverify, compress, copy-on-read, preallocate, quorum, throttle |
//! | `raw` | the raw format |
//! | `qcow` | the qcow format, version 1 |
//! | `qcow2` | the qcow2 format, versions 2 and 3 |
//! | `parallels` | the Parallels format |
//! | `qed` | the QED format |
//! | `vdi` | the VDI format of VirtualBox |
//! | `vhd` | the VHD format of Virtual PC and Hyper-V, called `vpc` |
//! | `vhdx` | the VHDX format of Hyper-V |
//! | `vmdk` | the VMDK format: sparse, flat, split, stream-optimised; ESX's sparse extents |
//! | `luks` | LUKS volumes, version 1 |
//! | `legacy` | bochs, cloop and dmg, which are only read |
//!
//! All are on by default. Reading and writing takes `&self` and may be done from any number of threads at once.
//!
//! ```
//! # #[cfg(all(feature = "file", feature = "raw", feature = "qcow2"))]
//! # fn main() -> diskimg::Result<()> {
//! use diskimg::prelude::*;
//!
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("disk.qcow2");
//! # let path = path.to_str().unwrap_or_default();
//! diskimg::create(path, "qcow2", 64 << 20)?;
//!
//! let disk = diskimg::open_writable(path)?;
//! disk.write_at(1 << 20, b"hello")?;
//! disk.flush()?;
//! drop(disk); // gives up the lock that keeps others from opening it meanwhile
//!
//! let disk = diskimg::open(path)?;
//! let mut buf = [0; 5];
//! disk.read_at(1 << 20, &mut buf)?;
//! assert_eq!(&buf, b"hello");
//!
//! // Which parts are stored at all?
//! let first = disk.extent_at(ByteRange::new(0, disk.len()))?;
//! assert!(first.is_zero() && first.len == 1 << 20);
//! # Ok(())
//! # }
//! # #[cfg(not(all(feature = "file", feature = "raw", feature = "qcow2")))]
//! # fn main() {}
//! ```
//!
//! # Images from strangers
//!
//! An image may name other files (a backing file, a data file). [`open`] follows such names, as `qemu-img` does. For
//! an image that is not trusted use [`open_untrusted`], or a [`Context`] with the gate of your choice
//! ([`chain::gate`]), and name the format rather than let it be guessed.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

pub use diskimg_chain as chain;
pub use diskimg_core as core;
pub use diskimg_engine as engine;

pub use diskimg_chain::{Context, ImageSpec, Node, OpenOptions, Status};
pub use diskimg_core::*;

#[cfg(feature = "crypto")]
pub use diskimg_crypto as crypto;

#[cfg(feature = "file")]
pub use diskimg_file as file;

#[cfg(feature = "filters")]
pub use diskimg_filters as filters;

#[cfg(feature = "nbd")]
pub use diskimg_nbd as nbd;

#[cfg(feature = "legacy")]
pub use diskimg_legacy as legacy;

/// What most programs need.
pub mod prelude {
    pub use diskimg_chain::{Context, ImageSpec, Node, OpenOptions};
    pub use diskimg_core::{
        BlockDevice, ByteRange, CancelToken, Cursor, Device, Error, ErrorKind, Extent, ExtentFlags, Image,
        Prealloc, Progress, Registry, Result, Task, ZeroMode,
    };
    pub use diskimg_engine::{
        CompareOptions, ConvertOptions, CreatePlan, CreateRequest, NewSize, ResizeOptions,
    };
}

/// All formats, protocols and filters that the features chose.
#[must_use]
pub fn registry() -> Registry {
    let mut registry = Registry::new();
    for format in FORMATS {
        registry = registry.with_format(format);
    }
    for protocol in PROTOCOLS {
        registry = registry.with_protocol(protocol);
    }
    for filter in FILTERS {
        registry = registry.with_filter(filter);
    }
    registry
}

/// The formats that the features chose.
pub const FORMATS: &[&FormatDriver] = &[
    #[cfg(feature = "qcow2")]
    &diskimg_qcow2::DRIVER,
    #[cfg(feature = "vmdk")]
    &diskimg_vmdk::DRIVER,
    #[cfg(feature = "raw")]
    &diskimg_raw::DRIVER,
    #[cfg(feature = "parallels")]
    &diskimg_parallels::DRIVER,
    #[cfg(feature = "qcow")]
    &diskimg_qcow::DRIVER,
    #[cfg(feature = "qed")]
    &diskimg_qed::DRIVER,
    #[cfg(feature = "vdi")]
    &diskimg_vdi::DRIVER,
    #[cfg(feature = "vhd")]
    &diskimg_vhd::DRIVER,
    #[cfg(feature = "luks")]
    &diskimg_luks::DRIVER,
    #[cfg(feature = "vhdx")]
    &diskimg_vhdx::DRIVER,
    #[cfg(feature = "legacy")]
    &diskimg_legacy::BOCHS,
    #[cfg(feature = "legacy")]
    &diskimg_legacy::CLOOP,
    #[cfg(feature = "legacy")]
    &diskimg_legacy::DMG,
];

/// The protocols that the features chose.
pub const PROTOCOLS: &[&protocol::ProtocolDriver] = &[
    #[cfg(feature = "file")]
    &diskimg_file::FILE,
    #[cfg(feature = "file")]
    &diskimg_file::HOST_DEVICE,
    #[cfg(feature = "file")]
    &diskimg_file::HOST_CDROM,
    #[cfg(feature = "file")]
    &diskimg_file::NULL_CO,
    #[cfg(feature = "file")]
    &diskimg_file::NULL_AIO,
    #[cfg(feature = "nbd")]
    &diskimg_nbd::NBD,
];

/// The filters, if the feature of that name is on.
pub const FILTERS: &[&diskimg_core::filter::FilterDriver] = &[
    #[cfg(feature = "filters")]
    &diskimg_filters::BLKDEBUG,
    #[cfg(feature = "filters")]
    &diskimg_filters::BLKLOGWRITES,
    #[cfg(feature = "filters")]
    &diskimg_filters::BLKVERIFY,
    #[cfg(feature = "filters")]
    &diskimg_filters::COMPRESS,
    #[cfg(feature = "filters")]
    &diskimg_filters::COPY_ON_READ,
    #[cfg(feature = "filters")]
    &diskimg_filters::PREALLOCATE,
    #[cfg(feature = "filters")]
    &diskimg_filters::QUORUM,
    #[cfg(feature = "filters")]
    &diskimg_filters::REPLICATION,
    #[cfg(feature = "filters")]
    &diskimg_filters::SNAPSHOT_ACCESS,
    #[cfg(feature = "filters")]
    &diskimg_filters::THROTTLE,
];

/// [`registry`] with the permissive gate, and notices dropped.
#[must_use]
pub fn context() -> Context {
    Context::new(registry())
}

/// Opens an image and its backing chain to read. The format is found by looking at it.
///
/// # Errors
/// Those of [`Node::open`].
pub fn open(name: &str) -> Result<Node> {
    Node::open(&context(), &ImageSpec::name(name), &OpenOptions::read())
}

/// Opens an image and its backing chain to read and write.
///
/// # Errors
/// Those of [`Node::open`], `Locked` among them.
pub fn open_writable(name: &str) -> Result<Node> {
    Node::open(&context(), &ImageSpec::name(name), &OpenOptions::write())
}

/// Opens an image of a stranger to read: no file but this one is opened, whatever the image says, and it is of
/// that format or refused.
///
/// # Errors
/// Those of [`Node::open`]; `Denied` if the image refers to another file.
pub fn open_untrusted(name: &str, format: &str) -> Result<Node> {
    let ctx = context().with_gate(chain::Deny);
    Node::open(&ctx, &ImageSpec::name(name), &OpenOptions::read().with_format(Some(format)))
}

/// Makes an image of `size` bytes with the format's default options. An existing file is replaced.
///
/// # Errors
/// Those of [`engine::CreatePlan`].
pub fn create(name: &str, format: &str, size: u64) -> Result<()> {
    let request = engine::CreateRequest {
        filename: name,
        format,
        size: Some(size),
        ..engine::CreateRequest::default()
    };
    engine::CreatePlan::new(&context(), &request)?.run()
}
