//! Filters for what happens between programs that run: here they are opened, described and mapped, and serve no bytes.
//!
//! - `snapshot-access` reads through `copy-before-write`, which a command has no use for.
//! - `replication` passes bytes on while two machines replicate.

use std::sync::Arc;

use diskimg_core::filter::{FilterDriver, FilterOpen};
use diskimg_core::{
    BlockDevice, ByteRange, Child, Error, Extent, FormatDriver, Image, ImageInfo, Prealloc, Result, ZeroMode,
    errno,
};

use crate::node::{CHANGES, in_front, node};

static REPLICATION_NODE: FormatDriver = node("replication", CHANGES);
static SNAPSHOT_NODE: FormatDriver = node("snapshot-access", CHANGES);

/// One side of a replication that has not begun.
pub static REPLICATION: FilterDriver = FilterDriver {
    is_strong: |name| matches!(name, "mode" | "top-id"),
    ..in_front(&REPLICATION_NODE, open_replication)
};

/// The view of a node as it was, which only a filter that keeps old bytes can give.
pub static SNAPSHOT_ACCESS: FilterDriver = FilterDriver {
    is_transparent: false,
    plain_name: |names, _| names.first().map(|name| (*name).to_owned()),
    ..in_front(&SNAPSHOT_NODE, open_snapshot)
};

fn open_replication(request: FilterOpen<'_>) -> Result<Arc<dyn Image>> {
    let missing = |option: &str| Error::invalid(format!("Missing the option {option}"));
    let mode = request.options.take_str("mode")?.ok_or_else(|| missing("mode"))?;
    let top = request.options.take_str("top-id")?;
    match (mode.as_str(), top) {
        ("primary", Some(_)) => {
            return Err(Error::invalid("The primary side does not support option top-id"));
        }
        ("secondary", None) => return Err(missing("top-id")),
        ("primary" | "secondary", _) => {}
        _ => return Err(Error::invalid("The option mode's value should be primary or secondary")),
    }
    let child = request.only_child()?;
    Ok(Arc::new(Inert { device: child.device, image: child.image, node: &REPLICATION_NODE }))
}

fn open_snapshot(request: FilterOpen<'_>) -> Result<Arc<dyn Image>> {
    let child = request.only_child()?;
    Ok(Arc::new(Inert { device: child.device, image: child.image, node: &SNAPSHOT_NODE }))
}

#[derive(Debug)]
struct Inert {
    device: Arc<dyn BlockDevice>,
    image: Arc<dyn Image>,
    node: &'static FormatDriver,
}

impl Inert {
    fn replicates(&self) -> bool {
        self.node.name == REPLICATION_NODE.name
    }

    fn refused(&self) -> Error {
        Error::from_errno(if self.replicates() { errno::EIO } else { errno::ENOTSUP })
    }
}

impl Image for Inert {
    fn driver(&self) -> &'static FormatDriver {
        self.node
    }
    fn info(&self) -> Result<ImageInfo> {
        if !self.replicates() {
            return Ok(ImageInfo::default());
        }
        Ok(ImageInfo {
            cluster_size: self.image.info()?.cluster_size,
            dirty: Some(false),
            ..ImageInfo::default()
        })
    }
    fn children(&self) -> Vec<Child> {
        vec![Child { role: "file", device: Arc::clone(&self.device) }]
    }
}

impl BlockDevice for Inert {
    diskimg_core::pass_on!(device: len limits is_read_only flush allocated_len);

    fn read_at(&self, _: u64, buf: &mut [u8]) -> Result<()> {
        if buf.is_empty() { Ok(()) } else { Err(self.refused()) }
    }

    fn write_at(&self, _: u64, buf: &[u8]) -> Result<()> {
        if buf.is_empty() { Ok(()) } else { Err(self.refused()) }
    }

    fn write_zeroes(&self, _: ByteRange, _: ZeroMode) -> Result<()> {
        Err(self.refused())
    }

    fn discard(&self, _: ByteRange) -> Result<()> {
        Err(self.refused())
    }

    fn set_len(&self, _: u64, _: Prealloc) -> Result<()> {
        Err(Error::unsupported("Image format driver does not support resize"))
    }

    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        if self.replicates() { self.device.extent_at(range) } else { Err(self.refused()) }
    }
}
