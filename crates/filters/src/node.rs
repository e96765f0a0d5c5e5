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

/// Passes the named methods of `BlockDevice` on to a field.
macro_rules! pass {
    ($to:ident: $($method:ident)*) => { $(crate::node::pass!(@$method $to);)* };
    (@len $to:ident) => { fn len(&self) -> u64 { self.$to.len() } };
    (@limits $to:ident) => { fn limits(&self) -> diskimg_core::Limits { self.$to.limits() } };
    (@is_read_only $to:ident) => { fn is_read_only(&self) -> bool { self.$to.is_read_only() } };
    (@read_at $to:ident) => {
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> diskimg_core::Result<()> { self.$to.read_at(offset, buf) }
    };
    (@write_at $to:ident) => {
        fn write_at(&self, offset: u64, buf: &[u8]) -> diskimg_core::Result<()> { self.$to.write_at(offset, buf) }
    };
    (@write_zeroes $to:ident) => {
        fn write_zeroes(&self, range: diskimg_core::ByteRange, how: diskimg_core::ZeroMode) -> diskimg_core::Result<()> {
            self.$to.write_zeroes(range, how)
        }
    };
    (@discard $to:ident) => {
        fn discard(&self, range: diskimg_core::ByteRange) -> diskimg_core::Result<()> { self.$to.discard(range) }
    };
    (@flush $to:ident) => { fn flush(&self) -> diskimg_core::Result<()> { self.$to.flush() } };
    (@set_len $to:ident) => {
        fn set_len(&self, len: u64, prealloc: diskimg_core::Prealloc) -> diskimg_core::Result<()> {
            self.$to.set_len(len, prealloc)
        }
    };
    (@extent_at $to:ident) => {
        fn extent_at(&self, range: diskimg_core::ByteRange) -> diskimg_core::Result<diskimg_core::Extent<'_>> {
            self.$to.extent_at(range)
        }
    };
    (@allocated_len $to:ident) => {
        fn allocated_len(&self) -> diskimg_core::Result<Option<u64>> { self.$to.allocated_len() }
    };
}
pub(crate) use pass;

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
        fn children(&self) -> Vec<diskimg_core::Child> {
            vec![diskimg_core::Child { role: $role, device: std::sync::Arc::clone(&self.device) }]
        }
    };
}
pub(crate) use over;
