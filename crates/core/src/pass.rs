//! Methods of [`BlockDevice`](crate::BlockDevice) that devices over devices have in common.

/// Methods of [`BlockDevice`](crate::BlockDevice), by name, that a field answers as they are.
///
/// ```
/// use diskimg_core::{BlockDevice, ByteRange, MemDevice, Prealloc, Result, ZeroMode};
///
/// /// Counts nothing yet.
/// #[derive(Debug)]
/// struct Wrapped(MemDevice);
///
/// impl BlockDevice for Wrapped {
///     diskimg_core::pass_on!(0: len read_at write_at write_zeroes discard flush set_len);
/// }
///
/// let wrapped = Wrapped(MemDevice::new(4));
/// wrapped.write_at(1, &[7]).unwrap();
/// let mut bytes = [0; 4];
/// wrapped.read_at(0, &mut bytes).unwrap();
/// assert_eq!(bytes, [0, 7, 0, 0]);
/// ```
#[macro_export]
macro_rules! pass_on {
    ($to:tt: $($method:ident)*) => { $($crate::pass_on!(@$method $to);)* };
    (@len $to:tt) => { fn len(&self) -> u64 { self.$to.len() } };
    (@limits $to:tt) => { fn limits(&self) -> $crate::Limits { self.$to.limits() } };
    (@is_read_only $to:tt) => { fn is_read_only(&self) -> bool { self.$to.is_read_only() } };
    (@describe $to:tt) => { fn describe(&self) -> $crate::Description<'_> { self.$to.describe() } };
    (@check_room $to:tt) => {
        fn check_room(&self, range: $crate::ByteRange) -> $crate::Result<()> { self.$to.check_room(range) }
    };
    (@read_at $to:tt) => {
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> $crate::Result<()> { self.$to.read_at(offset, buf) }
    };
    (@write_at $to:tt) => {
        fn write_at(&self, offset: u64, buf: &[u8]) -> $crate::Result<()> { self.$to.write_at(offset, buf) }
    };
    (@write_zeroes $to:tt) => {
        fn write_zeroes(&self, range: $crate::ByteRange, how: $crate::ZeroMode) -> $crate::Result<()> {
            self.$to.write_zeroes(range, how)
        }
    };
    (@discard $to:tt) => {
        fn discard(&self, range: $crate::ByteRange) -> $crate::Result<()> { self.$to.discard(range) }
    };
    (@flush $to:tt) => { fn flush(&self) -> $crate::Result<()> { self.$to.flush() } };
    (@set_len $to:tt) => {
        fn set_len(&self, len: u64, prealloc: $crate::Prealloc) -> $crate::Result<()> {
            self.$to.set_len(len, prealloc)
        }
    };
    (@extent_at $to:tt) => {
        fn extent_at(&self, range: $crate::ByteRange) -> $crate::Result<$crate::Extent<'_>> {
            self.$to.extent_at(range)
        }
    };
    (@each_extent $to:tt) => {
        fn each_extent(
            &self,
            range: $crate::ByteRange,
            each: &mut $crate::EachExtent<'_>,
        ) -> $crate::Result<()> {
            self.$to.each_extent(range, each)
        }
    };
    (@reserve $to:tt) => {
        fn reserve(&self, range: $crate::ByteRange) -> $crate::Result<Option<$crate::Reservation<'_>>> {
            self.$to.reserve(range)
        }
    };
    (@copy_from $to:tt) => {
        fn copy_from(&self, offset: u64, source: $crate::HostRef<'_>, len: u64) -> $crate::Result<u64> {
            self.$to.copy_from(offset, source, len)
        }
    };
    (@allocated_len $to:tt) => {
        fn allocated_len(&self) -> $crate::Result<Option<u64>> { self.$to.allocated_len() }
    };
}

/// The methods of [`BlockDevice`](crate::BlockDevice) that change a device, for one that is only read.
#[macro_export]
macro_rules! refuse_changes {
    () => {
        fn is_read_only(&self) -> bool {
            true
        }

        fn write_at(&self, _: u64, _: &[u8]) -> $crate::Result<()> {
            Err($crate::read_only_error())
        }

        fn write_zeroes(&self, _: $crate::ByteRange, _: $crate::ZeroMode) -> $crate::Result<()> {
            Err($crate::read_only_error())
        }

        fn discard(&self, _: $crate::ByteRange) -> $crate::Result<()> {
            Err($crate::read_only_error())
        }

        fn flush(&self) -> $crate::Result<()> {
            Ok(())
        }

        fn set_len(&self, _: u64, _: $crate::Prealloc) -> $crate::Result<()> {
            Err($crate::read_only_error())
        }
    };
}
