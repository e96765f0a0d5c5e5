//! Create options: the table, and what given values mean.

use diskimg_core::options::{OptKind, OptSpec, ParsedOptions};
use diskimg_core::{Error, Result};

use OptKind::{Bool, Str};

/// The options, in the order in which a summary shows them.
pub(crate) static OPTIONS: [OptSpec; 9] = [
    OptSpec::SIZE,
    OptSpec::create(
        "adapter_type",
        Str,
        "Virtual adapter type, can be one of ide (default), lsilogic, buslogic or legacyESX",
    ),
    OptSpec::create("backing_file", Str, "File name of a base image"),
    OptSpec::create("backing_fmt", Str, "Must be 'vmdk' if present"),
    OptSpec::create("compat6", Bool, "VMDK version 6 image").or("off"),
    OptSpec::create("hwversion", Str, "VMDK hardware version").or("undefined"),
    OptSpec::create("toolsversion", Str, "VMware guest tools version"),
    OptSpec::create(
        "subformat",
        Str,
        "VMDK flat extent format, can be one of {monolithicSparse (default) | monolithicFlat | \
         twoGbMaxExtentSparse | twoGbMaxExtentFlat | streamOptimized} ",
    ),
    OptSpec::create("zeroed_grain", Bool, "Enable efficient zero writes using the zeroed-grain GTE feature"),
];

/// Kinds of images that can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subformat {
    MonolithicSparse,
    MonolithicFlat,
    SplitSparse,
    SplitFlat,
    StreamOptimized,
}

/// Names of the kinds.
const SUBFORMATS: [(&str, Subformat); 5] = [
    ("monolithicSparse", Subformat::MonolithicSparse),
    ("monolithicFlat", Subformat::MonolithicFlat),
    ("twoGbMaxExtentSparse", Subformat::SplitSparse),
    ("twoGbMaxExtentFlat", Subformat::SplitFlat),
    ("streamOptimized", Subformat::StreamOptimized),
];
/// Adapters with the heads of their geometry.
const ADAPTERS: [(&str, u64); 4] = [("ide", 16), ("lsilogic", 255), ("buslogic", 255), ("legacyESX", 255)];
/// A hardware version that was not given.
const UNDEFINED: &str = "undefined";
/// What then stands for it.
const DEFAULT_HARDWARE: &str = "4";
/// What `compat6` makes of it.
const COMPAT6_HARDWARE: &str = "6";
/// The version of guest tools that was not given.
const DEFAULT_TOOLS: &str = "2147483647";

impl Subformat {
    /// As descriptors spell it.
    pub(crate) fn name(self) -> &'static str {
        SUBFORMATS.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }

    pub(crate) const fn is_flat(self) -> bool {
        matches!(self, Self::MonolithicFlat | Self::SplitFlat)
    }

    pub(crate) const fn is_split(self) -> bool {
        matches!(self, Self::SplitSparse | Self::SplitFlat)
    }
}

/// What an image is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewImage {
    /// Bytes, in whole sectors.
    pub len: u64,
    pub subformat: Subformat,
    pub adapter: &'static str,
    pub heads: u64,
    pub hardware_version: String,
    pub tools_version: String,
    pub zeroed_grains: bool,
    pub backing: Option<String>,
}

fn choice<T: Copy>(table: &[(&'static str, T)], given: Option<String>) -> Result<(&'static str, T)> {
    let name = given.unwrap_or_else(|| table.first().map_or(String::new(), |(name, _)| (*name).to_owned()));
    let found = table.iter().find(|(known, _)| *known == name).copied();
    found.ok_or_else(|| Error::invalid(format!("invalid parameter value: {name}")))
}

impl NewImage {
    /// What `options` ask for.
    ///
    /// # Errors
    /// `InvalidArg` with qemu-img's wording.
    pub(crate) fn from_options(options: &ParsedOptions) -> Result<Self> {
        if options.get_str("backing_fmt").is_some_and(|format| format != "vmdk") {
            return Err(Error::invalid("backing_file must be a vmdk image"));
        }
        let (adapter, heads) = choice(&ADAPTERS, options.get_str("adapter_type"))?;
        let compat6 = options.get_bool("compat6");
        let mut hardware = options.get_str("hwversion").unwrap_or_else(|| UNDEFINED.to_owned());
        if hardware == UNDEFINED {
            hardware = DEFAULT_HARDWARE.to_owned();
        } else if compat6 {
            return Err(Error::invalid("compat6 cannot be enabled with hwversion set"));
        }
        if compat6 {
            hardware = COMPAT6_HARDWARE.to_owned();
        }
        let (_, subformat) = choice(&SUBFORMATS, options.get_str("subformat"))?;
        let backing = options.get_str("backing_file");
        let zeroed_grains = options.get_bool("zeroed_grain");
        if subformat.is_flat() && backing.is_some() {
            return Err(Error::invalid("Flat image can't have backing file"));
        }
        if subformat.is_flat() && zeroed_grains {
            return Err(Error::invalid("Flat image can't enable zeroed grain"));
        }
        let len = options.get_number("size").unwrap_or(0);
        let len = diskimg_core::align_up(len, crate::limits::SECTOR);
        Ok(Self {
            len: len.ok_or_else(|| Error::limit("The image size is too large"))?,
            subformat,
            adapter,
            heads,
            hardware_version: hardware,
            tools_version: options.get_str("toolsversion").unwrap_or_else(|| DEFAULT_TOOLS.to_owned()),
            zeroed_grains,
            backing,
        })
    }
}
