//! What there is to tell of an image, as plain data: the tree that `qemu-img info` prints.

use diskimg_chain::{Context, ImageSpec, Node, OpenOptions};
use diskimg_core::{
    BlockDevice, Child, Error, FALLBACK_FORMAT, ImageInfo, InfoValue, Result, SnapshotInfo, align_up,
};

/// Sizes of files are told in whole sectors of so many bytes.
const SECTOR: u64 = 512;

/// What is told of one node: an image, or a file that holds one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageReport {
    /// The displayed name.
    pub filename: String,
    /// The format, or the protocol of a file.
    pub format: String,
    /// The length of the disk (for a file: of the file, up to whole sectors), in bytes.
    pub virtual_size: u64,
    /// Bytes taken on the host, where known.
    pub actual_size: Option<u64>,
    /// Bytes per cluster.
    pub cluster_size: Option<u64>,
    /// The contents are encrypted.
    pub encrypted: bool,
    /// The image as a whole is of a compressed kind.
    pub compressed: bool,
    /// It was not closed cleanly; `None` where that is not recorded.
    pub dirty: Option<bool>,
    /// The backing file as it is named.
    pub backing: Option<BackingReport>,
    /// Snapshots inside.
    pub snapshots: Vec<SnapshotInfo>,
    /// The format's own values in order; `None` if it has none, empty for a host file.
    pub specific: Option<Vec<(&'static str, InfoValue)>>,
    /// The nodes below that hold it, by role.
    pub children: Vec<(String, ImageReport)>,
    /// It is a protocol's device (a file), not an image in a format.
    pub is_protocol: bool,
}

/// A backing file as an image names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackingReport {
    /// As stored.
    pub name: String,
    /// What it refers to; `None` if that can't be told.
    pub full_name: Option<String>,
    /// Its format as stored.
    pub format: Option<String>,
}

/// Describes the image of `node` (which may have been opened with [`OpenOptions::describe`]).
///
/// # Errors
/// The host's.
pub fn describe(node: &Node) -> Result<ImageReport> {
    let info = own_info(node)?;
    let backing = node.backing_name().map(|backing| BackingReport {
        name: backing.stored,
        full_name: backing.resolved,
        format: backing.format,
    });
    let specific = if node.is_protocol() { protocol_specific(node.format()) } else { info.specific };
    Ok(ImageReport {
        filename: node.name().to_owned(),
        format: node.format().to_owned(),
        virtual_size: sectors(node.device().len()),
        actual_size: node.device().allocated_len()?,
        cluster_size: info.cluster_size,
        encrypted: info.encrypted,
        compressed: info.compressed,
        dirty: info.dirty,
        backing,
        snapshots: info.snapshots,
        specific,
        children: describe_children(node)?,
        is_protocol: node.is_protocol(),
    })
}

/// What the image tells of itself; raw contents pass on what the image tells that they are stored in.
fn own_info(node: &Node) -> Result<ImageInfo> {
    match node.inside() {
        Some(inside) if node.format() == FALLBACK_FORMAT => {
            let below = own_info(inside)?;
            let (cluster_size, snapshots, dirty) = (below.cluster_size, below.snapshots, below.dirty);
            Ok(ImageInfo { cluster_size, snapshots, dirty, ..node.image().info()? })
        }
        None if node.format() == FALLBACK_FORMAT || node.is_protocol() => {
            let info = node.image().info()?;
            let file = node.image().children().first().map(|file| file.device.describe().driver.to_owned());
            let driver = file.unwrap_or_else(|| node.format().to_owned());
            Ok(ImageInfo { dirty: protocol_dirty(&driver), ..info })
        }
        _ => node.image().info(),
    }
}

fn describe_children(node: &Node) -> Result<Vec<(String, ImageReport)>> {
    let mut children = Vec::new();
    if node.is_protocol() {
        return Ok(children);
    }
    // Those of a filter are told from the last to the first.
    for (role, child) in node.children().iter().rev() {
        children.push((role.clone(), describe(child)?));
    }
    if !children.is_empty() {
        return Ok(children);
    }
    if let Some(backing) = node.backing() {
        children.push(("backing".to_owned(), describe(backing)?));
    }
    let own = node.image().children();
    // Children that are numbered come first, the last one in front.
    for (number, child) in own.iter().filter(|child| is_numbered(child)).enumerate() {
        let report = describe_file(&*child.device, None)?;
        children.insert(0, (format!("{}{number}", child.role), report));
    }
    for (at, child) in own.iter().enumerate().filter(|(_, child)| !is_numbered(child)) {
        let report = match node.inside() {
            Some(inside) if at == 0 => describe(inside)?,
            _ => describe_file(&*child.device, node.holder_name().filter(|_| at == 0))?,
        };
        children.push((child.role.to_owned(), report));
    }
    Ok(children)
}

/// True for one of several children of the same role.
fn is_numbered(child: &Child) -> bool {
    child.role.ends_with('.')
}

/// `name`: its displayed name, where that is known to be another than its own.
fn describe_file(device: &dyn BlockDevice, name: Option<&str>) -> Result<ImageReport> {
    let description = device.describe();
    Ok(ImageReport {
        filename: name.unwrap_or(description.filename).to_owned(),
        format: description.driver.to_owned(),
        virtual_size: sectors(device.len()),
        actual_size: device.allocated_len()?,
        specific: protocol_specific(description.driver),
        dirty: protocol_dirty(description.driver),
        is_protocol: true,
        ..ImageReport::default()
    })
}

/// Host files have a part of their own, which is empty; other protocols have none.
fn protocol_specific(driver: &str) -> Option<Vec<(&'static str, InfoValue)>> {
    matches!(driver, "file" | "host_device").then(Vec::new)
}

/// Files are never dirty; null devices, drives and exports don't tell.
fn protocol_dirty(driver: &str) -> Option<bool> {
    (!driver.starts_with("null-") && !matches!(driver, "nbd" | "host_cdrom")).then_some(false)
}

fn sectors(len: u64) -> u64 {
    align_up(len, SECTOR).unwrap_or(len)
}

/// Describes the image that `spec` names and all images below it, the top first. Each is opened by itself.
///
/// # Errors
/// Those of opening any of them; a chain that comes back to a file (`Corrupt`, qemu-img's wording) or is too long.
pub fn describe_chain(ctx: &Context, spec: &ImageSpec, options: &OpenOptions) -> Result<Vec<ImageReport>> {
    let mut reports: Vec<ImageReport> = Vec::new();
    let mut next = Some((spec.clone(), options.clone()));
    while let Some((spec, options)) = next.take() {
        let node = Node::open(ctx, &spec, &options)?;
        let report = describe(&node)?;
        let below = report.backing.as_ref().map(|backing| (node.backing_spec(), backing.clone()));
        if reports.iter().any(|known| known.filename == report.filename) {
            return Err(Error::corrupt(format!(
                "Backing file '{}' creates an infinite loop.",
                report.filename
            )));
        }
        if reports.len() >= diskimg_chain::MAX_CHAIN_DEPTH {
            return Err(Error::limit("backing chain too long"));
        }
        reports.push(report);
        let Some((spec, backing)) = below else { break };
        let spec = spec.ok_or_else(|| {
            let name = backing.name;
            let text = "Could not determine absolute backing filename, but backing filename";
            Error::invalid(format!("{text} '{name}' present"))
        })?;
        next = Some((spec, OpenOptions { format: backing.format, ..options }));
    }
    Ok(reports)
}
