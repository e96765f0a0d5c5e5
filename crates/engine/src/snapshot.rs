//! Snapshots inside an image, by the text that a user names them with.

use std::time::{SystemTime, UNIX_EPOCH};

use diskimg_chain::Node;
use diskimg_core::driver::Caps;
use diskimg_core::{
    Error, ErrorKind, NewSnapshot, Result, SnapshotInfo, SnapshotKey, Snapshots, errno, strerror,
};

/// A snapshot as a user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotName {
    /// By its id; if none has it, by its name.
    Either(String),
    /// By id, by name, or by both. Neither fits none.
    Exact {
        /// The id.
        id: Option<String>,
        /// The name.
        name: Option<String>,
    },
}

impl SnapshotName {
    /// Looks it up.
    fn find<'a>(&self, snapshots: &'a [SnapshotInfo]) -> Option<&'a SnapshotInfo> {
        let first = |key: SnapshotKey<'_>| snapshots.iter().find(|snapshot| key.fits(snapshot));
        match self {
            Self::Either(text) => first(SnapshotKey::id(text)).or_else(|| first(SnapshotKey::name(text))),
            Self::Exact { id, name } => first(SnapshotKey { id: id.as_deref(), name: name.as_deref() }),
        }
    }
}

/// The image that keeps snapshots for `node`: its own, or, where its format has none, the one it is stored in.
fn holder(node: &Node) -> Option<&dyn Snapshots> {
    let mut node = node;
    loop {
        if let Some(snapshots) = node.image().as_snapshots() {
            return Some(snapshots);
        }
        node = node.inside()?;
    }
}

/// The key of exactly this snapshot.
fn exactly(snapshot: &SnapshotInfo) -> SnapshotKey<'_> {
    SnapshotKey { id: Some(&snapshot.id), name: Some(&snapshot.name) }
}

/// The snapshots of the image, in the order of their table; none where the format has none.
///
/// # Errors
/// The host's.
pub fn list(node: &Node) -> Result<Vec<SnapshotInfo>> {
    Ok(holder(node).map(Snapshots::snapshots).unwrap_or_default())
}

/// Keeps the disk as it is under `name`, with the present time as its date and without a machine's state.
///
/// # Errors
/// `Could not create snapshot 'NAME'` and why: `Unsupported` where the format has none; `Limit`; the host's.
pub fn create(node: &Node, name: &str) -> Result<SnapshotInfo> {
    let told = format!("Could not create snapshot '{name}'");
    let Some(snapshots) = holder(node) else {
        return Err(Error::from_errno(errno::ENOTSUP).summarised(told));
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let new = NewSnapshot {
        name: name.to_owned(),
        date_sec: u32::try_from(now.as_secs()).unwrap_or(u32::MAX),
        date_nsec: now.subsec_nanos(),
        icount: Some(0),
        ..NewSnapshot::default()
    };
    snapshots.create_snapshot(&new).map_err(|error| error.summarised(told))
}

/// Makes the disk what it was when the snapshot with the id `which`, or else that name, was made.
///
/// # Errors
/// `Could not apply snapshot 'WHICH'` and why: `Unsupported` where the format has none; `InvalidArg` where there is no
/// such snapshot; what [`Snapshots::apply_snapshot`] says, as the cause.
pub fn apply(node: &Node, which: &str) -> Result<()> {
    let told = format!("Could not apply snapshot '{which}'");
    let Some(snapshots) = holder(node) else {
        return Err(Error::unsupported("Block driver does not support snapshots").context(told));
    };
    let listed = snapshots.snapshots();
    let found = SnapshotName::Either(which.to_owned());
    let found = found.find(&listed).map_or(SnapshotKey::name(which), exactly);
    snapshots.apply_snapshot(&found).map_err(|error| {
        if error.kind() == ErrorKind::Unsupported && error.to_string() != strerror(error.errno()) {
            // The disk is not to be replaced at all.
            return error.context(told);
        }
        error.summarised("Failed to load snapshot").context(told)
    })
}

/// Forgets the first snapshot with this name.
///
/// # Errors
/// `Could not delete snapshot 'NAME'` and why, as [`apply`].
pub fn delete(node: &Node, name: &str) -> Result<()> {
    let told = format!("Could not delete snapshot '{name}'");
    let listed = list(node)?;
    let found = listed.iter().find(|snapshot| snapshot.name == name);
    let (Some(snapshots), Some(found)) = (holder(node), found) else {
        return Err(Error::invalid("snapshot not found").with_errno(errno::ENOENT).context(told));
    };
    snapshots.delete_snapshot(&exactly(found)).map_err(|error| match error.kind() {
        ErrorKind::InvalidArg | ErrorKind::Limit => error.context(told),
        _ => error.summarised("Failed to free the cluster and L1 table").context(told),
    })
}

/// The disk as the snapshot has it, read-only, over the same backing chain.
///
/// # Errors
/// `Failed to load snapshot` and why: `Unsupported` where the format has none; `InvalidArg` where there is no such
/// snapshot; what [`Snapshots::open_snapshot`] says.
pub fn view(node: &Node, which: &SnapshotName) -> Result<Node> {
    let open = || {
        let image = node.image();
        let Some(snapshots) = image.as_snapshots().filter(|_| image.driver().caps.contains(Caps::SNAPSHOTS))
        else {
            return Err(Error::unsupported(format!(
                "Block format '{}' used by device '' does not support temporarily loading internal snapshots",
                node.format()
            )));
        };
        let listed = snapshots.snapshots();
        let Some(found) = which.find(&listed) else {
            return Err(Error::invalid("Can't find snapshot").with_errno(errno::ENOENT));
        };
        Ok(node.showing(snapshots.open_snapshot(&exactly(found))?))
    };
    open().map_err(|error| error.context("Failed to load snapshot"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_comes_before_a_name() {
        let named = |id: &str, name: &str| SnapshotInfo {
            id: id.to_owned(),
            name: name.to_owned(),
            ..SnapshotInfo::default()
        };
        let all = [named("1", "2"), named("2", "1"), named("3", "2")];
        let either = |text: &str| SnapshotName::Either(text.to_owned()).find(&all);
        assert_eq!(either("2"), Some(&all[1]));
        assert_eq!(either("9"), None);
        let exact = |id: Option<&str>, name: Option<&str>| {
            SnapshotName::Exact { id: id.map(str::to_owned), name: name.map(str::to_owned) }.find(&all)
        };
        assert_eq!(exact(None, Some("2")), Some(&all[0]));
        assert_eq!(exact(Some("3"), Some("2")), Some(&all[2]));
        assert_eq!(exact(Some("3"), Some("1")), None);
        assert_eq!(exact(None, None), None);
    }
}
