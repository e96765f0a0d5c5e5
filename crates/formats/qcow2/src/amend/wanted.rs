//! [`Wanted`]: what a set of amend options asks for, with the checks that come before any change.

use diskimg_core::options::ParsedOptions;
use diskimg_core::{BackingRef, Error, Result};

use crate::header::Header;
use crate::limits::MAX_REFCOUNT_ORDER;
use crate::options::{OPTIONS, V2_REFCOUNT_ORDER, VERSIONS};

/// What the image is to be like; `None`: as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// 2 or 3.
    pub version: u32,
    /// Key slots are to be changed.
    pub encryption: bool,
    /// log2 of the refcount width.
    pub refcount_order: u32,
    /// New size in bytes.
    pub size: Option<u64>,
    /// Refcount updates may be postponed.
    pub lazy_refcounts: Option<bool>,
    /// Name of the data file; empty: the name is removed.
    pub data_file: Option<String>,
    /// The data file is no raw image of its own any more.
    pub clear_data_file_raw: bool,
    /// The backing file as the caller believes it to be.
    backing: Option<(Option<String>, Option<String>)>,
}

impl Wanted {
    /// Checks each option alone, in the order of the option table.
    ///
    /// # Errors
    /// `InvalidArg` or `Unsupported`.
    pub(super) fn parse(options: &ParsedOptions, header: &Header) -> Result<Self> {
        let given = |name: &str| options.is_given(name);
        let encryption = OPTIONS.iter().any(|spec| spec.name.starts_with("encrypt.") && given(spec.name));
        if encryption {
            check_encryption(header)?;
        }
        let version = match options.get_str("compat") {
            Some(level) => {
                let known = VERSIONS.iter().find(|(name, _)| *name == level).map(|(_, version)| *version);
                known.ok_or_else(|| Error::invalid(format!("Unknown compatibility level {level}")))?
            }
            None => header.version,
        };
        let data_file = options.get_str("data_file");
        if data_file.is_some() && !header.has_data_file() {
            return Err(Error::invalid(
                "data-file can only be set for images that use an external data file",
            ));
        }
        let raw = given("data_file_raw").then(|| options.get_bool("data_file_raw"));
        let is_raw = header.autoclear & crate::features::RAW_DATA_FILE != 0;
        if raw == Some(true) && !is_raw {
            return Err(Error::invalid("data-file-raw cannot be set on existing images"));
        }
        let backing = (options.get_str("backing_file"), options.get_str("backing_fmt"));
        Ok(Self {
            version,
            encryption,
            refcount_order: refcount_order(options)?.unwrap_or(header.refcount_order),
            size: options.get_number("size").filter(|size| given("size") && *size != 0),
            lazy_refcounts: given("lazy_refcounts").then(|| options.get_bool("lazy_refcounts")),
            data_file,
            clear_data_file_raw: raw == Some(false),
            backing: (backing != (None, None)).then_some(backing),
        })
    }

    /// Changes that take long enough to tell of progress.
    pub(super) fn long_steps(&self, header: &Header) -> u64 {
        u64::from(self.version != header.version) + u64::from(self.refcount_order != header.refcount_order)
    }

    /// The width has to be one that the version to come can have.
    ///
    /// # Errors
    /// `InvalidArg`.
    pub(super) fn check_refcount_width(&self) -> Result<()> {
        if self.version < 3 && self.refcount_order != V2_REFCOUNT_ORDER {
            return Err(Error::invalid(
                "Refcount widths other than 16 bits require compatibility level 1.1 or above \
                 (use compat=1.1 or greater)",
            ));
        }
        Ok(())
    }

    /// The backing file can't be amended, only named as it is.
    ///
    /// # Errors
    /// `InvalidArg` if it is named otherwise.
    pub(super) fn check_backing(&self, stored: Option<&BackingRef>) -> Result<()> {
        let Some((name, format)) = &self.backing else { return Ok(()) };
        let stored =
            (stored.map(|backing| &backing.name), stored.and_then(|backing| backing.format.as_ref()));
        if (name.as_ref(), format.as_ref()) == stored {
            return Ok(());
        }
        Err(Error::invalid("Cannot amend the backing file")
            .with_hint("You can use 'qemu-img rebase' instead."))
    }
}

fn refcount_order(options: &ParsedOptions) -> Result<Option<u32>> {
    if !options.is_given("refcount_bits") {
        return Ok(None);
    }
    let bits = options.get_number("refcount_bits").filter(|bits| bits.is_power_of_two());
    match bits.map(u64::ilog2) {
        Some(order) if order <= MAX_REFCOUNT_ORDER => Ok(Some(order)),
        _ => Err(Error::invalid("Refcount width must be a power of two and may not exceed 64 bits")),
    }
}

/// Encryption options need an encrypted image whose key slots are in it.
fn check_encryption(header: &Header) -> Result<()> {
    match header.crypt_method {
        0 => Err(Error::invalid("Can't amend encryption options - encryption not present")),
        crate::header::CRYPT_LUKS => Ok(()),
        _ => Err(Error::unsupported("Only LUKS encryption options can be amended")),
    }
}
