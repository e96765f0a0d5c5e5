//! What `info` tells of an image, as plain data that any program can print in its own way.

/// A value of a format's own part of `info`.
#[derive(Clone, Debug, PartialEq)]
pub enum InfoValue {
    /// Text.
    Str(String),
    /// A number.
    Int(i64),
    /// An unsigned number.
    Uint(u64),
    /// Yes or no.
    Bool(bool),
    /// Several values.
    List(Vec<InfoValue>),
    /// Named values in order.
    Map(Vec<(&'static str, InfoValue)>),
}

impl From<&str> for InfoValue {
    fn from(text: &str) -> Self {
        Self::Str(text.to_owned())
    }
}

impl From<String> for InfoValue {
    fn from(text: String) -> Self {
        Self::Str(text)
    }
}

impl From<bool> for InfoValue {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<u64> for InfoValue {
    fn from(value: u64) -> Self {
        Self::Uint(value)
    }
}

impl From<u32> for InfoValue {
    fn from(value: u32) -> Self {
        Self::Uint(value.into())
    }
}

/// A snapshot inside an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its identifier.
    pub id: String,
    /// Its name; may be empty.
    pub name: String,
    /// Bytes of VM state.
    pub vm_state_size: u64,
    /// When it was made: seconds since 1970.
    pub date_sec: u32,
    /// Nanoseconds of that moment.
    pub date_nsec: u32,
    /// The guest's clock, in nanoseconds.
    pub vm_clock_nsec: u64,
    /// Guest instructions executed, if recorded.
    pub icount: Option<u64>,
    /// Size of the disk at that time, in bytes.
    pub disk_size: u64,
}

/// What an image tells of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageInfo {
    /// Bytes per cluster, if the format has clusters.
    pub cluster_size: Option<u64>,
    /// The image was not closed cleanly; `None` where the format has no such flag.
    pub dirty: Option<bool>,
    /// The contents are encrypted.
    pub encrypted: bool,
    /// The image as a whole is of a compressed kind.
    pub compressed: bool,
    /// Snapshots, in the order of their table.
    pub snapshots: Vec<SnapshotInfo>,
    /// The format's own values: keys with dashes, in the order of printing.
    pub specific: Option<Vec<(&'static str, InfoValue)>>,
}
