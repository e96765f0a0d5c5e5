//! [`Registry`]: the formats, protocols and filters that a program knows, as a plain value.

use crate::driver::{FormatDriver, ProbeInput};
use crate::filter::FilterDriver;
use crate::protocol::ProtocolDriver;

/// Formats, protocols and filters. The umbrella crate fills one from its features; a program may make its own.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    formats: Vec<&'static FormatDriver>,
    protocols: Vec<&'static ProtocolDriver>,
    filters: Vec<&'static FilterDriver>,
}

/// What a probe found.
#[derive(Clone, Copy, Debug)]
pub struct Probed {
    /// The format.
    pub format: &'static FormatDriver,
    /// Nothing but "anything can be raw" spoke for it.
    pub guessed: bool,
}

/// The format that every content could be.
pub const FALLBACK_FORMAT: &str = "raw";

/// The protocol of plain names that no other one claims.
pub const FALLBACK_PROTOCOL: &str = "file";

impl Registry {
    /// A registry without any driver.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a format.
    #[must_use]
    pub fn with_format(mut self, driver: &'static FormatDriver) -> Self {
        self.formats.push(driver);
        self
    }

    /// Adds a protocol.
    #[must_use]
    pub fn with_protocol(mut self, driver: &'static ProtocolDriver) -> Self {
        self.protocols.push(driver);
        self
    }

    /// Adds a filter.
    #[must_use]
    pub fn with_filter(mut self, driver: &'static FilterDriver) -> Self {
        self.filters.push(driver);
        self
    }

    /// The filters, in the order they were added.
    #[must_use]
    pub fn filters(&self) -> &[&'static FilterDriver] {
        &self.filters
    }

    /// The filter of that name.
    #[must_use]
    pub fn filter(&self, name: &str) -> Option<&'static FilterDriver> {
        self.filters.iter().find(|driver| driver.node.name == name).copied()
    }

    /// The filter that the prefix of `name` chooses, and what follows the prefix.
    #[must_use]
    pub fn filter_of_name<'n>(&self, name: &'n str) -> Option<(&'static FilterDriver, &'n str)> {
        self.filters.iter().find_map(|driver| Some((*driver, name.strip_prefix(driver.prefix?)?)))
    }

    /// The formats, in the order they were added.
    #[must_use]
    pub fn formats(&self) -> &[&'static FormatDriver] {
        &self.formats
    }

    /// The protocols, in the order they were added.
    #[must_use]
    pub fn protocols(&self) -> &[&'static ProtocolDriver] {
        &self.protocols
    }

    /// The format of that name.
    #[must_use]
    pub fn format(&self, name: &str) -> Option<&'static FormatDriver> {
        self.formats.iter().find(|driver| driver.name == name).copied()
    }

    /// The protocol of that name.
    #[must_use]
    pub fn protocol(&self, name: &str) -> Option<&'static ProtocolDriver> {
        self.protocols.iter().find(|driver| driver.name == name).copied()
    }

    /// True if anything is called so: a format, a protocol or a filter.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.format(name).is_some() || self.protocol(name).is_some() || self.filter(name).is_some()
    }

    /// The protocol of the plain name `name`: the one that claims it, else that of host files.
    #[must_use]
    pub fn protocol_of_plain_name(&self, name: &str) -> Option<&'static ProtocolDriver> {
        let claims = |driver: &&&'static ProtocolDriver| driver.claims.is_some_and(|claims| claims(name));
        self.protocols.iter().find(claims).copied().or_else(|| self.protocol(FALLBACK_PROTOCOL))
    }

    /// The format that fits `input` best; `None` if not even raw is registered.
    #[must_use]
    pub fn probe(&self, input: &ProbeInput<'_>) -> Option<Probed> {
        let mut best: Option<(u8, &'static FormatDriver)> = None;
        for driver in &self.formats {
            let score = (driver.probe)(input);
            if score > 0 && best.is_none_or(|(top, _)| score > top) {
                best = Some((score, driver));
            }
        }
        best.map(|(score, format)| Probed { format, guessed: score <= 1 })
    }
}
