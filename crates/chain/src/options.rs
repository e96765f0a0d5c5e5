//! [`OpenOptions`]: what an image is opened for, besides the options of its specification.

use diskimg_core::protocol::CacheMode;

/// What an image is opened for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)]
pub struct OpenOptions {
    /// The format (or protocol) of the image; `None`: that of the specification, else it is found by probing.
    pub format: Option<String>,
    /// For writing too.
    pub write: bool,
    /// Only to be described (`info`): referenced files are not opened, keys are not needed.
    pub describe_only: bool,
    /// To be checked or repaired: structures may be bad.
    pub check: bool,
    /// Others may do with the files what they like meanwhile (`-U`); only for reading.
    pub force_share: bool,
    /// Use of the host's cache.
    pub cache: CacheMode,
    /// The backing chain is opened too.
    pub backing: bool,
    /// The source of a conversion: nobody may write to or resize its files meanwhile, whatever the format.
    pub convert_source: bool,
    /// Discards and zeroing may give space back to the host, unless the option `discard` says otherwise.
    pub unmap: bool,
    /// Files are refused that can't be used through the kernel's own queue of requests (`aio=native`).
    pub native_aio: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            format: None,
            write: false,
            describe_only: false,
            check: false,
            force_share: false,
            cache: CacheMode::WriteBack,
            backing: true,
            convert_source: false,
            unmap: true,
            native_aio: false,
        }
    }
}

impl OpenOptions {
    /// For reading, with the backing chain.
    #[must_use]
    pub fn read() -> Self {
        Self::default()
    }

    /// For reading and writing, with the backing chain.
    #[must_use]
    pub fn write() -> Self {
        Self { write: true, ..Self::default() }
    }

    /// Only to be described; without the backing chain.
    #[must_use]
    pub fn describe() -> Self {
        Self { describe_only: true, backing: false, ..Self::default() }
    }

    /// The same with a format.
    #[must_use]
    pub fn with_format(mut self, format: Option<&str>) -> Self {
        self.format = format.map(str::to_owned);
        self
    }

    /// The same with a use of the host's cache.
    #[must_use]
    pub fn with_cache(mut self, cache: CacheMode) -> Self {
        self.cache = cache;
        self
    }
}
