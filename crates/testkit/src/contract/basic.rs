//! Contract: options, creation, extents, permission, length.

use std::sync::Arc;

use diskimg_core::driver::Caps;
use diskimg_core::options::{OptUse, ParsedOptions};
use diskimg_core::{
    BlockDevice, ByteRange, Device, ErrorKind, ExtentFlags, FormatDriver, MemDevice, Prealloc, Result,
    ZeroMode, to_usize,
};

use crate::ops::{Op, pattern};
use crate::rng::Rng;
use crate::session::{Session, read_all};
use crate::subject::{FormatSubject, Subject};

/// The option table is consistent in itself: names once, defaults that parse, a use, a help text.
///
/// # Panics
/// If it is not.
pub fn options_agree(driver: &'static FormatDriver) {
    for usage in [OptUse::CREATE, OptUse::AMEND] {
        let known = ParsedOptions::for_usage(&[driver.options], usage).table().len();
        let listed = driver.options.iter().filter(|spec| spec.usage.contains(usage)).count();
        assert_eq!(known, listed, "{}: an option is there twice", driver.name);
    }
    let parsed = ParsedOptions::new(&[driver.options]);
    for spec in driver.options {
        let place = format!("{}: option {}", driver.name, spec.name);
        assert!(!spec.name.is_empty() && !spec.usage.is_empty(), "{place}: no name or use");
        assert!(spec.usage.contains(OptUse::HIDDEN) || !spec.help.is_empty(), "{place}: no help");
        if let Some(default) = spec.default {
            let mut parsed =
                ParsedOptions::for_usage(&[driver.options], spec.usage & (OptUse::CREATE | OptUse::AMEND));
            parsed.set(spec.name, default).unwrap_or_else(|error| panic!("{place}: default: {error:?}"));
            assert!(parsed.get(spec.name).is_some(), "{place}: default has no value");
        }
    }
    let help = parsed.help(OptUse::CREATE);
    if driver.caps.contains(Caps::CREATE) {
        assert!(help.contains("  size=<size>"), "{}: no option for the size:\n{help}", driver.name);
        assert!(driver.creator.is_some(), "{}: CREATE without a creator", driver.name);
    }
    assert!(!driver.name.is_empty() && driver.name.chars().all(|c| !c.is_whitespace()), "name of a driver");
}

/// A new image has the length asked for, reads as zeros and says so, and its check finds nothing.
///
/// # Panics
/// If it does not.
pub fn creates_zeros(subject: &FormatSubject) {
    let session = Session::in_memory(subject);
    let opened = session.opened();
    let image = &opened.layers[0];
    assert_eq!(image.len(), subject.size, "{}: length", subject.name());
    assert!(
        std::ptr::eq(image.driver(), subject.driver),
        "{}: driver() names another driver",
        subject.name()
    );
    let info = image.info().unwrap_or_else(|error| panic!("{}: info: {error:?}", subject.name()));
    assert!(info.snapshots.is_empty() && info.dirty != Some(true), "{}: {info:?}", subject.name());
    let children = image.children();
    assert_eq!(children.first().map(|child| child.role), Some("file"), "{}: children", subject.name());
    assert_eq!(image.backing(), None, "{}: backing", subject.name());
    let limits = image.limits();
    assert!(limits.write_unit > 0 && limits.align > 0 && limits.max_transfer > 0, "{limits:?}");
    session.verify_all();
    must(subject, "extents", extents_agree(&opened.device));
    must(subject, "check", session.check_clean(0));
}

/// Extents tile the device: never empty, never beyond what was asked, the same from wherever one asks; zero ones read
/// as zeros and those that name a host hold the bytes there.
///
/// # Errors
/// The device's.
///
/// # Panics
/// If an extent is wrong.
pub fn extents_agree(device: &Device) -> Result<()> {
    let bytes = read_all(device)?;
    let len = device.len();
    let mut at = 0;
    let mut starts = Vec::new();
    while at < len {
        let extent = device.extent_at(ByteRange::from_bounds(at, len))?;
        assert!(extent.len > 0 && extent.len <= len - at, "{extent:?} at {at} of {len}");
        compare_extent(device, at, &bytes)?;
        starts.push((at, extent.flags));
        at += extent.len;
    }
    let mut rng = Rng::new(len ^ starts.len() as u64);
    for _ in 0..32.min(len) {
        let at = rng.below(len);
        let size = 1 + rng.below((len - at).min(200_000));
        let extent = device.extent_at(ByteRange::new(at, size))?;
        assert!(extent.len > 0 && extent.len <= size, "{extent:?} for {size} bytes at {at}");
        let flags = starts[starts.partition_point(|(start, _)| *start <= at) - 1].1;
        assert_eq!(lasting(extent.flags), lasting(flags), "at {at}: {extent:?}");
        compare_extent(device, at, &bytes)?;
    }
    Ok(())
}

/// What does not depend on where one asks from; zeros may be recognised in part of a block and not in the whole.
fn lasting(flags: ExtentFlags) -> ExtentFlags {
    flags & (ExtentFlags::PRESENT | ExtentFlags::COMPRESSED)
}

fn compare_extent(device: &Device, at: u64, bytes: &[u8]) -> Result<()> {
    let extent = device.extent_at(ByteRange::from_bounds(at, bytes.len() as u64))?;
    let expected = &bytes[to_usize(at)..to_usize(at + extent.len)];
    if extent.is_zero() {
        assert!(diskimg_core::is_zero(expected), "{extent:?} at {at} does not read as zeros");
    }
    // Where zeros have a place of their own, other bytes may stand there.
    if let Some(host) = extent.host.filter(|_| extent.flags.contains(ExtentFlags::DATA)) {
        let mut stored = vec![0; expected.len()];
        diskimg_core::read_zero_padded(host.device, host.offset, &mut stored)?;
        assert!(stored == expected, "{extent:?} at {at}: other bytes there than read");
    }
    Ok(())
}

/// An image opened read-only, on storage that was, refuses every change by itself.
///
/// # Panics
/// If it does not.
pub fn read_only_refuses(subject: &FormatSubject) {
    let before: Vec<Vec<u8>> = subject.fresh().iter().map(|disk| disk.to_vec()).collect();
    let memory: Vec<Arc<MemDevice>> =
        before.iter().map(|bytes| Arc::new(MemDevice::read_only(bytes.clone()))).collect();
    let shared = crate::subject::shared(&memory);
    let opened = must(subject, "open read-only", subject.open(&shared, false));
    let image = &opened.layers[0];
    let range = ByteRange::new(0, image.limits().write_unit.min(subject.size));
    assert!(image.is_read_only(), "{}: is_read_only", subject.name());
    let attempts = [
        ("write", image.write_at(0, &pattern(1, 0, range.len))),
        ("zero", image.write_zeroes(range, ZeroMode::MayUnmap)),
        ("discard", image.discard(range)),
        ("set_len", image.set_len(subject.size + 512, Prealloc::Off)),
        ("reserve", image.reserve(range).map(|_| ())),
    ];
    for (what, result) in attempts {
        let kind = result.as_ref().map_err(diskimg_core::Error::kind).err();
        let refused = matches!(kind, Some(ErrorKind::ReadOnly | ErrorKind::Unsupported));
        // Reservations may also be unknown to it.
        assert!(refused || (what == "reserve" && kind.is_none()), "{}: {what}: {result:?}", subject.name());
    }
    must(subject, "flush", image.flush());
    must(subject, "read", read_all(&opened.device).map(|_| ()));
}

/// Growing adds zeros, shrinking cuts, growing again does not bring old bytes back.
///
/// # Panics
/// If it is not so.
pub fn set_len_is_exact(subject: &FormatSubject) {
    let mut session = Session::in_memory(subject);
    let size = subject.size;
    let write_all = |session: &mut Session<'_>, seed| {
        let len = session.history().latest().len() as u64;
        session.must(&Op::Write(ByteRange::new(0, len), seed));
    };
    write_all(&mut session, 3);
    for len in [size + 512, size * 3, size * 3 + 512, size / 2 / 512 * 512, size, 512, size + 4096] {
        if session.must(&Op::SetLen(len)) == crate::session::Applied::Skipped {
            return;
        }
        session.verify_all();
    }
    write_all(&mut session, 5);
    session.verify_reopened();
}

/// Unwraps with a name.
pub(super) fn must<T>(subject: &FormatSubject, what: &str, result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{}: {what}: {error:?}", subject.name()))
}
