//! `blkverify`: reads come from an image and are compared with a raw copy of it; writes go to both.
//!
//! A difference is an error of the read, which says where it is.

use std::sync::Arc;

use diskimg_core::filter::{ChildRole, FilterDriver, FilterOpen, PROBED_NAME};
use diskimg_core::options::{RuntimeOptions, RuntimeValue};
use diskimg_core::{
    BlockDevice, ByteRange, Child, Error, Extent, FormatDriver, Image, ImageInfo, Prealloc, Result, ZeroMode,
    len_u64,
};

use crate::node::{CHANGES, node};

static NODE: FormatDriver = node("blkverify", CHANGES);

/// The filter.
pub static BLKVERIFY: FilterDriver = FilterDriver {
    node: &NODE,
    prefix: Some("blkverify:"),
    is_protocol: true,
    roles: &[
        ChildRole { name: "raw", is_image: false, many: false },
        ChildRole { name: "test", is_image: true, many: false },
    ],
    is_transparent: false,
    has_folder: false,
    parse_name,
    files: &[],
    is_strong: |_| false,
    plain_name: |names, _| match names {
        [raw, test] => Some(format!("blkverify:{raw}:{test}")),
        _ => None,
    },
    open,
};

fn parse_name(rest: &str, options: &mut RuntimeOptions) -> Result<()> {
    let Some((raw, test)) = rest.split_once(':') else {
        return Err(Error::invalid("blkverify requires raw copy and original image path"));
    };
    options.set("raw.filename", RuntimeValue::Str(raw.to_owned()));
    options.set(format!("test.{PROBED_NAME}"), RuntimeValue::Str(test.to_owned()));
    Ok(())
}

fn open(request: FilterOpen<'_>) -> Result<Arc<dyn Image>> {
    match request.children.as_slice() {
        [raw, test] => Ok(Arc::new(Verify { raw: Arc::clone(&raw.device), test: Arc::clone(&test.device) })),
        _ => Err(Error::invalid("blkverify requires raw copy and original image path")),
    }
}

#[derive(Debug)]
struct Verify {
    raw: Arc<dyn BlockDevice>,
    test: Arc<dyn BlockDevice>,
}

impl Image for Verify {
    fn driver(&self) -> &'static FormatDriver {
        &NODE
    }
    fn info(&self) -> Result<ImageInfo> {
        Ok(ImageInfo { dirty: Some(false), ..ImageInfo::default() })
    }
    fn children(&self) -> Vec<Child> {
        let child = |role, device| Child { role, device: Arc::clone(device) };
        vec![child("raw", &self.raw), child("test", &self.test)]
    }
}

impl BlockDevice for Verify {
    diskimg_core::pass_on!(test: len is_read_only);

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut copy = vec![0; buf.len()];
        self.raw.read_at(offset, &mut copy)?;
        self.test.read_at(offset, buf)?;
        let Some(first) = copy.iter().zip(buf.iter()).position(|(copy, byte)| copy != byte) else {
            return Ok(());
        };
        let (len, at) = (buf.len(), offset.saturating_add(u64::try_from(first).unwrap_or(u64::MAX)));
        Err(Error::corrupt(format!(
            "blkverify: read offset={offset} bytes={len} contents mismatch at offset {at}"
        )))
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        let range = ByteRange::new(offset, len_u64(buf));
        range.check_within(self.len())?;
        self.test.write_at(offset, buf)?;
        self.raw.write_at(offset, buf)
    }

    fn write_zeroes(&self, _: ByteRange, _: ZeroMode) -> Result<()> {
        Err(Error::unsupported("blkverify writes bytes only"))
    }

    fn discard(&self, _: ByteRange) -> Result<()> {
        Err(Error::unsupported("blkverify writes bytes only"))
    }

    fn flush(&self) -> Result<()> {
        self.test.flush()
    }

    fn set_len(&self, _: u64, _: Prealloc) -> Result<()> {
        Err(Error::unsupported("Image format driver does not support resize"))
    }

    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        Ok(Extent::data(range.len, None))
    }
}
