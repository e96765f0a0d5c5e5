//! Runtime options of a qcow2 node: parsing all of them, and the values that apply.

use bitflags::bitflags;
use diskimg_core::options::{RuntimeOptions, RuntimeValue, parse_bool};
use diskimg_core::size::{parse_option_number, parse_option_size};
use diskimg_core::{Error, Result, to_usize};

use crate::header::Header;

bitflags! {
    /// Metadata that a write is checked not to hit.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Overlap: u16 {
        const MAIN_HEADER = 1;
        const ACTIVE_L1 = 1 << 1;
        const ACTIVE_L2 = 1 << 2;
        const REFCOUNT_BLOCK = 1 << 3;
        const REFCOUNT_TABLE = 1 << 4;
        const SNAPSHOT_TABLE = 1 << 5;
        const INACTIVE_L1 = 1 << 6;
        const INACTIVE_L2 = 1 << 7;
        const BITMAP_DIRECTORY = 1 << 8;
        /// What can be told from the header and a few tables.
        const CONSTANT = Self::MAIN_HEADER.bits() | Self::ACTIVE_L1.bits() | Self::REFCOUNT_TABLE.bits()
            | Self::SNAPSHOT_TABLE.bits() | Self::BITMAP_DIRECTORY.bits();
        /// What can be told from tables that are in memory anyway.
        const CACHED = Self::CONSTANT.bits() | Self::ACTIVE_L2.bits() | Self::REFCOUNT_BLOCK.bits()
            | Self::INACTIVE_L1.bits();
    }
}

/// The runtime options that apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Refcount updates may be postponed; `None`: as the image says.
    pub lazy_refcounts: Option<bool>,
    /// A discard keeps cluster and refcount.
    pub discard_no_unref: bool,
    /// Discards by the guest reach the host; `None`: if the node was opened with `discard=unmap`.
    pub pass_discard_request: Option<bool>,
    /// Clusters freed with a snapshot are discarded on the host.
    pub pass_discard_snapshot: bool,
    /// Other freed clusters are discarded on the host.
    pub pass_discard_other: bool,
    /// What writes are checked against.
    pub overlap: Overlap,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lazy_refcounts: None,
            discard_no_unref: false,
            pass_discard_request: None,
            pass_discard_snapshot: true,
            pass_discard_other: false,
            overlap: Overlap::CACHED,
        }
    }
}

/// The parts of an overlap check with the runtime options that switch them.
const OVERLAP_OPTIONS: [(&str, Overlap); 9] = [
    ("overlap-check.main-header", Overlap::MAIN_HEADER),
    ("overlap-check.active-l1", Overlap::ACTIVE_L1),
    ("overlap-check.active-l2", Overlap::ACTIVE_L2),
    ("overlap-check.refcount-table", Overlap::REFCOUNT_TABLE),
    ("overlap-check.refcount-block", Overlap::REFCOUNT_BLOCK),
    ("overlap-check.snapshot-table", Overlap::SNAPSHOT_TABLE),
    ("overlap-check.inactive-l1", Overlap::INACTIVE_L1),
    ("overlap-check.inactive-l2", Overlap::INACTIVE_L2),
    ("overlap-check.bitmap-directory", Overlap::BITMAP_DIRECTORY),
];

/// Named sets of them.
const OVERLAP_TEMPLATES: [(&str, Overlap); 4] = [
    ("none", Overlap::empty()),
    ("constant", Overlap::CONSTANT),
    ("cached", Overlap::CACHED),
    ("all", Overlap::all()),
];

/// Smallest unit of the L2 cache, in bytes.
const MIN_CACHE_ENTRY: u64 = 512;

/// Sizes of caches, as given; this crate sizes its caches itself and only checks them.
struct CacheSizes {
    total: Option<u64>,
    l2: Option<u64>,
    refcount: Option<u64>,
    l2_entry: Option<u64>,
    clean_interval: Option<u64>,
}

impl Settings {
    /// Takes the options that it knows out of `options` and checks them against the image.
    ///
    /// # Errors
    /// `InvalidArg` with the wording that users know.
    pub(crate) fn take(options: &mut RuntimeOptions, header: &Header) -> Result<Self> {
        let lazy_refcounts = take_bool(options, "lazy-refcounts")?;
        let pass_discard_request = take_bool(options, "pass-discard-request")?;
        let pass_discard_snapshot = take_bool(options, "pass-discard-snapshot")?;
        let pass_discard_other = take_bool(options, "pass-discard-other")?;
        let discard_no_unref = take_bool(options, "discard-no-unref")?.unwrap_or(false);
        let overlap_names =
            (take_text(options, "overlap-check"), take_text(options, "overlap-check.template"));
        let mut switches = Vec::new();
        for (name, part) in OVERLAP_OPTIONS {
            if let Some(on) = take_bool(options, name)? {
                switches.push((part, on));
            }
        }
        CacheSizes::take(options)?.check(header)?;
        if lazy_refcounts == Some(true) && !header.is_v3() {
            return Err(Error::invalid(
                "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level",
            ));
        }
        let mut overlap = template(overlap_names)?;
        for (part, on) in switches {
            overlap.set(part, on);
        }
        if discard_no_unref && !header.is_v3() {
            return Err(Error::invalid("discard-no-unref is only supported since qcow2 version 3"));
        }
        check_encryption(options, header)?;
        Ok(Self {
            lazy_refcounts,
            discard_no_unref,
            pass_discard_request,
            pass_discard_snapshot: pass_discard_snapshot.unwrap_or(true),
            pass_discard_other: pass_discard_other.unwrap_or(false),
            overlap,
        })
    }
}

impl CacheSizes {
    fn take(options: &mut RuntimeOptions) -> Result<Self> {
        Ok(Self {
            total: take_size(options, "cache-size")?,
            l2: take_size(options, "l2-cache-size")?,
            l2_entry: take_size(options, "l2-cache-entry-size")?,
            refcount: take_size(options, "refcount-cache-size")?,
            clean_interval: take_number(options, "cache-clean-interval")?,
        })
    }

    fn check(&self, header: &Header) -> Result<()> {
        if let Some(total) = self.total {
            if self.l2.is_some() && self.refcount.is_some() {
                return Err(Error::invalid(
                    "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time",
                ));
            }
            if self.l2.is_some_and(|size| size > total) {
                return Err(Error::invalid("l2-cache-size may not exceed cache-size"));
            }
            if self.refcount.is_some_and(|size| size > total) {
                return Err(Error::invalid("refcount-cache-size may not exceed cache-size"));
            }
        }
        let cluster_size = header.geometry().cluster_size();
        let fits = |size: u64| size.is_power_of_two() && (MIN_CACHE_ENTRY..=cluster_size).contains(&size);
        if !self.l2_entry.is_none_or(fits) {
            return Err(Error::invalid(format!(
                "L2 cache entry size must be a power of two between {MIN_CACHE_ENTRY} and the cluster size \
                 ({cluster_size})"
            )));
        }
        if self.clean_interval.is_some_and(|seconds| seconds > u32::MAX.into()) {
            return Err(Error::invalid("Cache clean interval too big"));
        }
        Ok(())
    }
}

fn template(names: (Option<String>, Option<String>)) -> Result<Overlap> {
    let name = match names {
        (Some(a), Some(b)) if a != b => {
            return Err(Error::invalid(format!(
                "Conflicting values for qcow2 options 'overlap-check' ('{a}') and 'overlap-check.template' ('{b}')"
            )));
        }
        (Some(name), _) | (None, Some(name)) => name,
        (None, None) => return Ok(Overlap::CACHED),
    };
    let known = OVERLAP_TEMPLATES.iter().find(|(known, _)| *known == name);
    known.map(|(_, parts)| *parts).ok_or_else(|| {
        let allowed: Vec<_> = OVERLAP_TEMPLATES.iter().map(|(known, _)| *known).collect();
        Error::invalid(format!(
            "Unsupported value '{name}' for qcow2 option 'overlap-check'. Allowed are any of the following: {}",
            allowed.join(", ")
        ))
    })
}

/// The encryption methods by number, as options name them.
pub(crate) const CRYPT_FORMATS: [&str; 3] = ["none", "aes", "luks"];

fn check_encryption(options: &RuntimeOptions, header: &Header) -> Result<()> {
    header.check_crypt_method()?;
    let unknown = |(name, _): &(&str, &RuntimeValue)| {
        name.strip_prefix("encrypt.").is_some_and(|name| !["format", "key-secret"].contains(&name))
    };
    let check_names = || match options.iter().find(unknown).filter(|_| header.crypt_method != 0) {
        Some((name, _)) => {
            let name = name.trim_start_matches("encrypt.");
            Err(Error::invalid(format!("Parameter '{name}' is unexpected")))
        }
        None => Ok(()),
    };
    let Some(given) = options.get("encrypt.format").map(ToString::to_string) else { return check_names() };
    match CRYPT_FORMATS.get(to_usize(header.crypt_method.into())) {
        Some(stored) if header.crypt_method != 0 && given != *stored => Err(Error::invalid(format!(
            "Header reported '{stored}' encryption format but options specify '{given}'"
        ))),
        _ if header.crypt_method == 0 => Err(Error::invalid(format!(
            "No encryption in image header, but options specified format '{given}'"
        ))),
        _ => check_names(),
    }
}

fn take_text(options: &mut RuntimeOptions, name: &str) -> Option<String> {
    options.take(name).map(|value| value.to_string())
}

fn take_bool(options: &mut RuntimeOptions, name: &str) -> Result<Option<bool>> {
    take_text(options, name).map(|text| parse_bool(name, &text)).transpose()
}

fn take_size(options: &mut RuntimeOptions, name: &str) -> Result<Option<u64>> {
    let Some(text) = take_text(options, name) else { return Ok(None) };
    if text.strip_prefix('-').is_some_and(|digits| digits.parse::<u64>().is_ok()) {
        return Err(Error::invalid(format!("Value '{text}' is out of range for parameter '{name}'")));
    }
    parse_option_size(name, &text).map(Some)
}

fn take_number(options: &mut RuntimeOptions, name: &str) -> Result<Option<u64>> {
    take_text(options, name).map(|text| parse_option_number(name, &text)).transpose()
}
