//! Create and amend options: the table, and what a set of them means.

use diskimg_core::options::OptKind::{Bool, Number, Size, Str};
use diskimg_core::options::{OptSpec, OptUse, ParsedOptions};
use diskimg_core::{Error, Prealloc, Result, errno};

use crate::crypt::{self, METHOD_AES, METHOD_LUKS};
use crate::features;
use crate::geometry::Geometry;
use crate::header::SECTOR;
use crate::limits::{
    MAX_CLUSTER_BITS, MAX_L1_ENTRIES, MAX_REFCOUNT_ORDER, MIN_CLUSTER_BITS, MIN_EXTENDED_L2_BITS,
};

const CREATE: OptUse = OptUse::CREATE;
const AMEND: OptUse = OptUse::AMEND;
const BOTH: OptUse = OptUse::CREATE.union(OptUse::AMEND);

/// All options, in the order in which a summary shows them.
pub(crate) static OPTIONS: [OptSpec; 25] = [
    OptSpec::new(
        "encryption",
        Bool,
        "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
        CREATE,
    ),
    OptSpec::new("encrypt.format", Str, "Encrypt the image, format choices: 'aes', 'luks'", CREATE),
    OptSpec::new("encrypt.key-secret", Str, "ID of secret providing qcow AES key or LUKS passphrase", CREATE),
    OptSpec::new("encrypt.cipher-alg", Str, "Name of encryption cipher algorithm", CREATE),
    OptSpec::new("encrypt.cipher-mode", Str, "Name of encryption cipher mode", CREATE),
    OptSpec::new("encrypt.ivgen-alg", Str, "Name of IV generator algorithm", CREATE),
    OptSpec::new("encrypt.ivgen-hash-alg", Str, "Name of IV generator hash algorithm", CREATE),
    OptSpec::new("encrypt.hash-alg", Str, "Name of encryption hash algorithm", CREATE),
    OptSpec::new("encrypt.iter-time", Number, "Time to spend in PBKDF in milliseconds", BOTH),
    OptSpec::new("cluster_size", Size, "qcow2 cluster size", CREATE).or("65536"),
    OptSpec::new("extended_l2", Bool, "Extended L2 tables", CREATE).or("off"),
    OptSpec::new(
        "preallocation",
        Str,
        "Preallocation mode (allowed values: off, metadata, falloc, full)",
        CREATE,
    ),
    OptSpec::new("compression_type", Str, "Compression method used for image cluster compression", CREATE)
        .or("zlib"),
    OptSpec::new("encrypt.state", Str, "Select new state of affected keyslots (active/inactive)", AMEND),
    OptSpec::new("encrypt.keyslot", Number, "Select a single keyslot to modify explicitly", AMEND),
    OptSpec::new("encrypt.old-secret", Str, "Select all keyslots that match this password", AMEND),
    OptSpec::new(
        "encrypt.new-secret",
        Str,
        "New secret to set in the matching keyslots. Empty string to erase",
        AMEND,
    ),
    OptSpec::new("size", Size, "Virtual disk size", BOTH),
    OptSpec::new("compat", Str, "Compatibility level (v2 [0.10] or v3 [1.1])", BOTH),
    OptSpec::new("backing_file", Str, "File name of a base image", BOTH),
    OptSpec::new("backing_fmt", Str, "Image format of the base image", BOTH),
    OptSpec::new("data_file", Str, "File name of an external data file", BOTH),
    OptSpec::new("data_file_raw", Bool, "The external data file must stay valid as a raw image", BOTH),
    OptSpec::new("lazy_refcounts", Bool, "Postpone refcount updates", BOTH).or("off"),
    OptSpec::new("refcount_bits", Number, "Width of a reference count entry in bits", BOTH).or("16"),
];

/// Compatibility levels with the version each stands for.
pub(crate) const VERSIONS: [(&str, u32); 4] = [("v2", 2), ("0.10", 2), ("v3", 3), ("1.1", 3)];
/// Version without an explicit level.
const DEFAULT_VERSION: u32 = 3;
/// Compression types with their numbers.
const COMPRESSION_TYPES: [(&str, u8); 2] = [("zlib", 0), ("zstd", 1)];
/// Encryption formats with their methods.
const ENCRYPTION: [(&str, u32); 2] = [("aes", METHOD_AES), ("luks", METHOD_LUKS)];
/// Refcount order of every version 2 image.
pub(crate) const V2_REFCOUNT_ORDER: u32 = 4;

/// The error for what version 2 can't have.
fn needs_v3(what: &'static str) -> Error {
    Error::invalid(format!("{what} compatibility level 1.1 and above (use version=v3 or greater)"))
}

fn choose<T: Copy>(table: &[(&str, T)], key: &str, value: &str) -> Result<T> {
    let known = table.iter().find(|(name, _)| *name == value).map(|(_, meaning)| *meaning);
    known.ok_or_else(|| Error::invalid(format!("Parameter '{key}' does not accept value '{value}'")))
}

/// The options that the layout follows from.
pub(crate) struct Layout;

impl Layout {
    /// The layout as asked for; what is no power of two comes out beyond all limits.
    fn parse(options: &ParsedOptions) -> Geometry {
        let log2 = |value: Option<u64>| value.filter(|v| v.is_power_of_two()).map_or(u32::MAX, u64::ilog2);
        Geometry {
            cluster_bits: log2(options.get_number("cluster_size")),
            refcount_order: log2(options.get_number("refcount_bits")),
            extended_l2: options.get_bool("extended_l2"),
        }
    }

    /// The layout, with its cluster size checked.
    ///
    /// # Errors
    /// `InvalidArg`.
    pub(crate) fn parse_geometry(options: &ParsedOptions) -> Result<Geometry> {
        let geo = Self::parse(options);
        if !(MIN_CLUSTER_BITS..=MAX_CLUSTER_BITS).contains(&geo.cluster_bits) {
            return Err(Error::invalid("Cluster size must be a power of two between 512 and 2048k"));
        }
        if geo.extended_l2 && geo.cluster_bits < MIN_EXTENDED_L2_BITS {
            return Err(Error::invalid(format!(
                "Extended L2 entries are only supported with cluster sizes of at least {} bytes",
                1 << MIN_EXTENDED_L2_BITS
            )));
        }
        Ok(geo)
    }

    /// Checks the refcount width; `v3` is how the option for version 3 is spelt.
    ///
    /// # Errors
    /// `InvalidArg`.
    pub(crate) fn check_refcounts(geo: &Geometry, v2: bool, v3: &str) -> Result<()> {
        if geo.refcount_order > MAX_REFCOUNT_ORDER {
            return Err(Error::invalid("Refcount width must be a power of two and may not exceed 64 bits"));
        }
        if geo.refcount_order != V2_REFCOUNT_ORDER && v2 {
            return Err(Error::invalid(format!(
                "Different refcount widths than 16 bits require compatibility level 1.1 or above \
                 (use {v3} or greater)"
            )));
        }
        Ok(())
    }
}

/// What an image is to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// 2 or 3.
    pub version: u32,
    /// Its layout.
    pub geo: Geometry,
    /// Virtual size in bytes, whole sectors.
    pub size: u64,
    /// Preallocation, as asked for.
    pub prealloc: Prealloc,
    /// 0 deflate, 1 zstd.
    pub compression_type: u8,
    /// Refcount updates may be postponed.
    pub lazy_refcounts: bool,
    /// Backing file and its format.
    pub backing: Option<(String, Option<String>)>,
    /// Name of the data file.
    pub data_file: Option<String>,
    /// The data file alone is a raw image.
    pub data_file_raw: bool,
    /// Encryption method.
    pub crypt_method: u32,
}

impl Wanted {
    /// Checks `options` against each other, in the order that users of the format know.
    ///
    /// # Errors
    /// `InvalidArg` or `Limit`.
    pub(crate) fn parse(options: &ParsedOptions) -> Result<Self> {
        let wanted = Self::parse_values(options)?;
        if wanted.geo.extended_l2 && wanted.version < 3 {
            return Err(needs_v3("Extended L2 entries are only supported with"));
        }
        Layout::parse_geometry(options)?;
        if wanted.prealloc != Prealloc::Off && wanted.backing.is_some() && !wanted.geo.extended_l2 {
            return Err(Error::invalid(
                "Backing file and preallocation can only be used at the same time if extended_l2 is on",
            ));
        }
        if wanted.backing.is_none() && options.is_given("backing_fmt") {
            return Err(Error::invalid("Backing format cannot be used without backing file"));
        }
        wanted.check_version()?;
        wanted.check_size()?;
        Ok(wanted)
    }

    /// The values of all options, each checked alone. Sizes that are no powers of two come out as 0 bits here.
    fn parse_values(options: &ParsedOptions) -> Result<Self> {
        let text = |name| options.get_str(name);
        if options.get_bool("encryption") && options.is_given("encrypt.format") {
            return Err(Error::invalid(
                "'encrypt.format' and its alias 'encryption' can't be used at the same time",
            ));
        }
        let version =
            text("compat").map_or(Ok(DEFAULT_VERSION), |level| choose(&VERSIONS, "version", &level))?;
        let crypt_method = parse_encryption(options)?;
        let prealloc = match text("preallocation") {
            Some(mode) => choose(&Prealloc::NAMES, "preallocation", &mode)?,
            None => Prealloc::Off,
        };
        let compression = text("compression_type").unwrap_or_default();
        let compression_type = choose(&COMPRESSION_TYPES, "compression-type", &compression)?;
        let geo = Layout::parse(options);
        let size = options.get_number("size").unwrap_or(0);
        Ok(Self {
            version,
            geo,
            size: size.checked_next_multiple_of(SECTOR).unwrap_or(u64::MAX),
            prealloc,
            compression_type,
            lazy_refcounts: options.get_bool("lazy_refcounts"),
            backing: text("backing_file")
                .filter(|name| !name.is_empty())
                .map(|name| (name, text("backing_fmt"))),
            data_file: text("data_file"),
            data_file_raw: options.get_bool("data_file_raw"),
            crypt_method,
        })
    }

    fn check_version(&self) -> Result<()> {
        let v2 = self.version < 3;
        if self.lazy_refcounts && v2 {
            return Err(needs_v3("Lazy refcounts only supported with"));
        }
        Layout::check_refcounts(&self.geo, v2, "version=v3")?;
        if self.data_file_raw && self.data_file.is_none() {
            return Err(Error::invalid("data-file-raw requires data-file"));
        }
        if self.data_file_raw && self.backing.is_some() {
            return Err(Error::invalid("Backing file and data-file-raw cannot be used at the same time"));
        }
        if self.data_file.is_some() && v2 {
            return Err(needs_v3("External data files are only supported with"));
        }
        if self.compression_type != 0 && v2 {
            return Err(needs_v3("Non-zlib compression type is only supported with"));
        }
        Ok(())
    }

    fn check_size(&self) -> Result<()> {
        if self.geo.l1_entries_for(self.size) > MAX_L1_ENTRIES {
            return Err(Error::limit(
                "The image size is too large for file format 'qcow2' (try using a larger cluster size)",
            )
            .with_errno(errno::EFBIG));
        }
        Ok(())
    }

    /// Incompatible feature bits of the image.
    pub(crate) const fn incompatible(&self) -> u64 {
        let mut bits = 0;
        if self.data_file.is_some() {
            bits |= features::DATA_FILE;
        }
        if self.compression_type != 0 {
            bits |= features::COMPRESSION;
        }
        if self.geo.extended_l2 {
            bits |= features::EXTENDED_L2;
        }
        bits
    }

    /// Compatible feature bits of the image.
    pub(crate) const fn compatible(&self) -> u64 {
        if self.lazy_refcounts { features::LAZY_REFCOUNTS } else { 0 }
    }

    /// Autoclear feature bits of the image.
    pub(crate) const fn autoclear(&self) -> u64 {
        if self.data_file_raw { features::RAW_DATA_FILE } else { 0 }
    }
}

/// The method number of the encryption that is asked for; 0: none.
fn parse_encryption(options: &ParsedOptions) -> Result<u32> {
    let given = |spec: &&OptSpec| spec.name.starts_with("encrypt.") && options.is_given(spec.name);
    let method = match options.get_str("encrypt.format") {
        Some(format) => choose(&ENCRYPTION, "format", &format)?,
        None if options.get_bool("encryption") => METHOD_AES,
        None if OPTIONS.iter().any(|spec| given(&spec)) => {
            return Err(Error::invalid("Parameter 'encrypt.format' is missing"));
        }
        None => return Ok(0),
    };
    crypt::check_options(method, options)?;
    Ok(method)
}
