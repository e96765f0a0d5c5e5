//! What `info` tells of an image.

use diskimg_core::{ImageInfo, InfoValue};

use crate::descriptor::Identity;
use crate::parts::{Body, Part, Parts};

/// All that is known without reading further.
pub(crate) fn image_info(identity: &Identity, create_type: &str, parts: &Parts) -> ImageInfo {
    ImageInfo {
        cluster_size: common_grain(parts),
        dirty: parts_are_alike(parts).then_some(false),
        specific: Some(vec![
            ("cid", identity.cid.into()),
            ("parent-cid", identity.parent_cid.into()),
            ("create-type", create_type.into()),
            ("extents", InfoValue::List(parts.iter().map(extent_info).collect())),
        ]),
        ..ImageInfo::default()
    }
}

/// All parts that are stored are of one kind and have the same grain: qemu-img has no common answer for others.
fn parts_are_alike(parts: &Parts) -> bool {
    let mut kinds = parts.iter().filter_map(|part| match &part.body {
        Body::Zero => None,
        Body::Flat(_) => Some(None),
        Body::Sparse(extent) => Some(Some((extent.geo.grain, extent.geo.compressed))),
    });
    let first = kinds.next();
    kinds.all(|kind| Some(kind) == first)
}

/// The grain, if all parts have the same one.
fn common_grain(parts: &Parts) -> Option<u64> {
    let mut grains = parts.iter().map(|part| part.sparse().map(|extent| extent.geo.grain));
    let first = grains.next()??;
    grains.all(|grain| grain == Some(first)).then_some(first)
}

fn extent_info(part: &Part) -> InfoValue {
    let mut values: Vec<(&'static str, InfoValue)> = Vec::new();
    if part.sparse().is_some_and(|extent| extent.geo.compressed) {
        values.push(("compressed", true.into()));
    }
    values.push(("virtual-size", part.range.len.into()));
    values.push(("filename", part.filename.as_str().into()));
    if let Body::Sparse(extent) = &part.body {
        values.push(("cluster-size", extent.geo.grain.into()));
    }
    values.push(("format", part.word.as_str().into()));
    InfoValue::Map(values)
}
