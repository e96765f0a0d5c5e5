//! `-l`: the choice of a snapshot inside the source.

use diskimg::Node;
use diskimg::core::options::split_options;
use diskimg::engine::snapshot::{self, SnapshotName};

use crate::command::Value;
use crate::ui::{Exit, Ui};

/// From the value of `-l`: a word, or `snapshot.id=ID,snapshot.name=NAME`.
pub(crate) fn parse(ui: &Ui, value: Value) -> Result<SnapshotName, Exit> {
    let text = value.text(ui)?;
    if !text.starts_with("snapshot.") {
        return Ok(SnapshotName::Either(text));
    }
    let (mut id, mut name) = (None, None);
    for (key, value) in split_options(&text) {
        let value = value.unwrap_or_else(|| {
            ui.warn(&format!("short-form boolean option '{key}' deprecated\nPlease use {key}=on instead"));
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
    Ok(SnapshotName::Exact { id, name })
}

/// `node` as the snapshot has it.
pub(crate) fn load(ui: &Ui, node: &Node, which: &SnapshotName) -> Result<Node, Exit> {
    snapshot::view(node, which).map_err(|error| ui.library_error(&error))
}
