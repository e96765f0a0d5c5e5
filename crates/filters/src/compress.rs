//! `compress`: whatever is written whole is written compressed.
//!
//! The engines ask an image whether it takes encoded clusters only; this one says that it does, and hands them to the
//! image below it. What is not written by an engine goes through as it is.

use std::sync::Arc;

use diskimg_core::driver::Caps;
use diskimg_core::filter::{FilterDriver, FilterOpen};
use diskimg_core::{
    BlockDevice, ClusterEncoder, Codec, CompressedClusters, Error, FormatDriver, Image, Reservation, Result,
};

use crate::node::{CHANGES, in_front, node, over};

static NODE: FormatDriver = node("compress", CHANGES.union(Caps::COMPRESS));

/// The filter.
pub static COMPRESS: FilterDriver = in_front(&NODE, open);

fn open(request: FilterOpen<'_>) -> Result<Arc<dyn Image>> {
    let child = request.only_child()?;
    if !child.image.driver().caps.contains(Caps::COMPRESS) {
        let text = format!("Compression is not supported for underlying format: {}", child.format);
        return Err(Error::unsupported(text));
    }
    Ok(Arc::new(Compress { device: child.device, image: child.image }))
}

#[derive(Debug)]
struct Compress {
    device: Arc<dyn BlockDevice>,
    image: Arc<dyn Image>,
}

impl Compress {
    fn clusters(&self) -> Result<&dyn CompressedClusters> {
        let text = "Compression not supported for this file format";
        self.image.as_compressed().ok_or_else(|| Error::unsupported(text))
    }
}

impl Image for Compress {
    over!("file");
    fn as_compressed(&self) -> Option<&dyn CompressedClusters> {
        self.image.as_compressed().map(|_| -> &dyn CompressedClusters { self })
    }
}

impl CompressedClusters for Compress {
    fn codec(&self) -> Codec {
        self.image.as_compressed().map_or(Codec::Deflate, CompressedClusters::codec)
    }
    fn cluster_len(&self) -> u64 {
        self.image.as_compressed().map_or(1, CompressedClusters::cluster_len)
    }
    fn encoder(&self) -> Result<Box<dyn ClusterEncoder>> {
        self.clusters()?.encoder()
    }
    fn only_encoded(&self) -> bool {
        true
    }
    fn reserve_encoded(&self, offset: u64, payload_len: u64) -> Result<Reservation<'_>> {
        self.clusters()?.reserve_encoded(offset, payload_len)
    }
    fn read_encoded(&self, offset: u64, payload: &mut Vec<u8>) -> Result<bool> {
        self.clusters()?.read_encoded(offset, payload)
    }
}

impl BlockDevice for Compress {
    diskimg_core::pass_on!(device: len limits is_read_only read_at write_at write_zeroes discard flush set_len extent_at allocated_len);
}
