//! What all filters have in common: their nodes' description, and methods that are passed on as they are.

use std::sync::Arc;

use diskimg_core::driver::Caps;
use diskimg_core::filter::{ChildRole, FilterDriver, FilterOpen};
use diskimg_core::options::RuntimeOptions;
use diskimg_core::{Error, FormatDriver, Image, Result};

/// What a filter can do besides reading.
pub(crate) const CHANGES: Caps = Caps::WRITE.union(Caps::RESIZE);

/// The description of a filter as a node.
pub(crate) const fn node(name: &'static str, caps: Caps) -> FormatDriver {
    FormatDriver {
        name,
        extensions: &[],
        caps,
        options: &[],
        strong_options: &[],
        probe: |_| 0,
        open: |_| Err(Error::unsupported("a filter is opened over its children")),
        creator: None,
        measure: None,
    }
}

/// A filter with one file below it, whose bytes it does not change and which no name chooses.
pub(crate) const fn in_front(
    node: &'static FormatDriver,
    open: fn(FilterOpen<'_>) -> Result<Arc<dyn Image>>,
) -> FilterDriver {
    FilterDriver {
        node,
        prefix: None,
        is_protocol: false,
        roles: FILE,
        is_transparent: true,
        has_folder: true,
        parse_name: no_name,
        files: &[],
        is_strong: |_| false,
        plain_name: never_plain,
        open,
    }
}

/// The role of the file that a filter stands in front of.
const FILE: &[ChildRole] = &[ChildRole { name: "file", is_image: false, many: false }];

/// For filters that no name chooses.
pub(crate) fn no_name(_: &str, _: &mut RuntimeOptions) -> Result<()> {
    Err(Error::invalid("the filter has no names"))
}

/// For filters whose displayed name is always made of options.
pub(crate) fn never_plain(_: &[&str], _: &RuntimeOptions) -> Option<String> {
    None
}

/// The methods of `Image` that describe a filter with one child: the node is the module's `NODE`, the child the fields
/// `device` and `image`, in the named role.
macro_rules! over {
    ($role:literal) => {
        fn driver(&self) -> &'static diskimg_core::FormatDriver {
            &NODE
        }
        fn info(&self) -> diskimg_core::Result<diskimg_core::ImageInfo> {
            Ok(diskimg_core::ImageInfo {
                cluster_size: self.image.info()?.cluster_size,
                dirty: Some(false),
                ..diskimg_core::ImageInfo::default()
            })
        }
        fn has_places(&self) -> diskimg_core::Result<bool> {
            self.image.has_places()
        }
        fn children(&self) -> Vec<diskimg_core::Child> {
            vec![diskimg_core::Child { role: $role, device: std::sync::Arc::clone(&self.device) }]
        }
    };
}
pub(crate) use over;
