//! `-l`: the choice of a snapshot inside the source.

use diskimg::core::options::split_options;
use diskimg::driver::Caps;
use diskimg::{Error, Node, SnapshotInfo};

use crate::command::Value;
use crate::ui::{Exit, Ui};

/// A snapshot as `-l` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SnapshotChoice {
    /// By its id or its name.
    Either(String),
    /// By id, by name, or by both.
    Exact {
        /// The id.
        id: Option<String>,
        /// The name.
        name: Option<String>,
    },
}

impl SnapshotChoice {
    /// From the value of `-l`: a word, or `snapshot.id=ID,snapshot.name=NAME`.
    pub(crate) fn parse(ui: &Ui, value: Value) -> Result<Self, Exit> {
        let text = value.text(ui)?;
        if !text.starts_with("snapshot.") {
            return Ok(Self::Either(text));
        }
        let (mut id, mut name) = (None, None);
        for (key, value) in split_options(&text) {
            let value = value.unwrap_or_else(|| {
                ui.warn(&format!(
                    "short-form boolean option '{key}' deprecated\nPlease use {key}=on instead"
                ));
                "on".to_owned()
            });
            match key.as_str() {
                "snapshot.id" => id = Some(value),
                "snapshot.name" => name = Some(value),
                _ => {
                    ui.error(format!("Invalid parameter '{key}'"));
                    return Err(ui.fail(format!("Failed in parsing snapshot param '{text}'")));
                }
            }
        }
        Ok(Self::Exact { id, name })
    }
}

impl SnapshotChoice {
    fn fits(&self, snapshot: &SnapshotInfo) -> bool {
        match self {
            Self::Either(text) => snapshot.id == *text || snapshot.name == *text,
            Self::Exact { id, name } => {
                id.as_ref().is_none_or(|id| snapshot.id == *id)
                    && name.as_ref().is_none_or(|name| snapshot.name == *name)
            }
        }
    }

    /// Makes `node` show the snapshot in place of the current state, or tells why that can't be.
    pub(crate) fn load(&self, ui: &Ui, node: &Node) -> Result<(), Exit> {
        let refuse = |text: &str| ui.fail(format!("Failed to load snapshot: {text}"));
        let (image, format) = (node.image(), node.format());
        if !image.driver().caps.contains(Caps::SNAPSHOTS) {
            return Err(refuse(&format!(
                "Block format '{format}' used by device '' does not support temporarily loading internal snapshots"
            )));
        }
        let info = image.info().map_err(|error: Error| ui.library_error(&error))?;
        match info.snapshots.iter().find(|snapshot| self.fits(snapshot)) {
            None => Err(refuse("Can't find snapshot")),
            Some(_) => Err(refuse("not supported yet")),
        }
    }
}
