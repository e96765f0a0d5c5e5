//! What `info` tells of an image, for people and as JSON (keys in qemu-img's order).

use std::fmt::Write as _;

use diskimg::core::{InfoValue, SnapshotInfo};
use diskimg::engine::ImageReport;
use serde_json::{Map, Value, json};

use crate::human;

/// The text for people of one image.
pub(crate) fn human(report: &ImageReport) -> String {
    let mut text = String::new();
    push_human(&mut text, report, "", false);
    text
}

/// `path` is that of the node below the image: empty for the image itself, then `/file`, `/file/file`.
fn push_human(text: &mut String, report: &ImageReport, path: &str, is_child: bool) {
    let depth = path.matches('/').count();
    let indent = "    ".repeat(depth);
    let as_file = is_child && report.is_protocol;
    let names = if as_file {
        ["filename", "protocol type", "file length"]
    } else {
        ["image", "file format", "virtual size"]
    };
    let virtual_size = human::size_and_bytes(report.virtual_size);
    let actual_size = report.actual_size.map_or_else(|| "unavailable".to_owned(), human::size);
    for (name, value) in names.iter().zip([&report.filename, &report.format, &virtual_size]) {
        let _ = writeln!(text, "{indent}{name}: {value}");
    }
    let _ = writeln!(text, "{indent}disk size: {actual_size}");
    for (name, value) in flags_and_backing(report) {
        let _ = writeln!(text, "{indent}{name}: {value}");
    }
    if !report.snapshots.is_empty() {
        for line in human::snapshot_table(&report.snapshots).lines() {
            let _ = writeln!(text, "{indent}{line}");
        }
    }
    if let Some(values) = report.specific.as_ref().filter(|values| !values.is_empty()) {
        let _ = writeln!(text, "{indent}Format specific information:");
        text.push_str(&human::named_values(values, depth + 1));
    }
    for (role, child) in &report.children {
        let path = format!("{path}/{role}");
        let _ = writeln!(text, "{indent}Child node '{path}':");
        push_human(text, child, &path, true);
    }
}

/// The lines between the sizes and the snapshots.
fn flags_and_backing(report: &ImageReport) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if report.encrypted {
        lines.push(("encrypted", "yes".to_owned()));
    }
    if let Some(size) = report.cluster_size {
        lines.push(("cluster_size", size.to_string()));
    }
    if report.dirty == Some(true) {
        lines.push(("cleanly shut down", "no".to_owned()));
    }
    if let Some(backing) = &report.backing {
        let path = match &backing.full_name {
            Some(full) if *full == backing.name => String::new(),
            Some(full) => format!(" (actual path: {full})"),
            None => " (cannot determine actual path)".to_owned(),
        };
        lines.push(("backing file", format!("{}{path}", backing.name)));
        if let Some(format) = &backing.format {
            lines.push(("backing file format", format.clone()));
        }
    }
    lines
}

/// The JSON object of one image.
pub(crate) fn json(report: &ImageReport) -> Value {
    let mut object = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            object.insert(name.to_owned(), value);
        }
    };
    let children = report.children.iter().map(|(role, child)| json!({"name": role, "info": json(child)}));
    let snapshots = (!report.snapshots.is_empty()).then(|| report.snapshots.iter().map(snapshot).collect());
    let backing = report.backing.as_ref();
    put("children", Some(children.collect()));
    put("backing-filename-format", backing.and_then(|backing| backing.format.clone()).map(Value::from));
    put("snapshots", snapshots);
    put("virtual-size", Some(report.virtual_size.into()));
    put("filename", Some(report.filename.as_str().into()));
    put("cluster-size", report.cluster_size.map(Value::from));
    put("format", Some(report.format.as_str().into()));
    put("actual-size", report.actual_size.map(Value::from));
    put("format-specific", report.specific.as_ref().map(|values| specific(&report.format, values)));
    put("full-backing-filename", backing.and_then(|backing| backing.full_name.clone()).map(Value::from));
    put("compressed", report.compressed.then_some(Value::Bool(true)));
    put("encrypted", report.encrypted.then_some(Value::Bool(true)));
    put("backing-filename", backing.map(|backing| backing.name.as_str().into()));
    put("dirty-flag", report.dirty.map(Value::Bool));
    Value::Object(object)
}

fn specific(format: &str, values: &[(&'static str, InfoValue)]) -> Value {
    let kind = if format == "host_device" { "file" } else { format };
    json!({"type": kind, "data": map(values)})
}

fn map(values: &[(&'static str, InfoValue)]) -> Value {
    values.iter().map(|(name, value)| ((*name).to_owned(), info_value(value))).collect::<Map<_, _>>().into()
}

fn info_value(value: &InfoValue) -> Value {
    match value {
        InfoValue::Str(text) => text.as_str().into(),
        InfoValue::Int(number) => (*number).into(),
        InfoValue::Uint(number) => (*number).into(),
        InfoValue::Bool(value) => (*value).into(),
        InfoValue::List(values) => values.iter().map(info_value).collect(),
        InfoValue::Map(values) => map(values),
    }
}

const NANOSECONDS: u64 = 1_000_000_000;

fn snapshot(snapshot: &SnapshotInfo) -> Value {
    let mut object = Map::new();
    if let Some(count) = snapshot.icount {
        object.insert("icount".to_owned(), count.into());
    }
    let rest = [
        ("vm-clock-nsec", (snapshot.vm_clock_nsec % NANOSECONDS).into()),
        ("name", snapshot.name.as_str().into()),
        ("date-sec", snapshot.date_sec.into()),
        ("date-nsec", snapshot.date_nsec.into()),
        ("vm-clock-sec", (snapshot.vm_clock_nsec / NANOSECONDS).into()),
        ("id", snapshot.id.as_str().into()),
        ("vm-state-size", snapshot.vm_state_size.into()),
    ];
    object.extend(rest.map(|(name, value): (&str, Value)| (name.to_owned(), value)));
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::pretty;
    use diskimg::engine::info::BackingReport;

    fn overlay() -> ImageReport {
        let file = ImageReport {
            filename: "sub/ov.qcow2".into(),
            format: "file".into(),
            virtual_size: 197_120,
            actual_size: Some(200_704),
            specific: Some(Vec::new()),
            dirty: Some(false),
            is_protocol: true,
            ..ImageReport::default()
        };
        ImageReport {
            filename: "sub/ov.qcow2".into(),
            format: "qcow2".into(),
            virtual_size: 1 << 30,
            actual_size: Some(200_704),
            cluster_size: Some(65536),
            dirty: Some(true),
            backing: Some(BackingReport {
                name: "base.qcow2".into(),
                full_name: Some("sub/base.qcow2".into()),
                format: Some("qcow2".into()),
            }),
            specific: Some(vec![("compat", "1.1".into()), ("lazy-refcounts", false.into())]),
            children: vec![("file".into(), file)],
            ..ImageReport::default()
        }
    }

    #[test]
    fn people_read_what_qemu_img_prints() {
        let expected = "image: sub/ov.qcow2
file format: qcow2
virtual size: 1 GiB (1073741824 bytes)
disk size: 196 KiB
cluster_size: 65536
cleanly shut down: no
backing file: base.qcow2 (actual path: sub/base.qcow2)
backing file format: qcow2
Format specific information:
    compat: 1.1
    lazy refcounts: false
Child node '/file':
    filename: sub/ov.qcow2
    protocol type: file
    file length: 192 KiB (197120 bytes)
    disk size: 196 KiB
";
        assert_eq!(human(&overlay()), expected);
    }

    #[test]
    fn json_has_its_keys_in_order() {
        let expected = r#"{
    "children": [
        {
            "name": "file",
            "info": {
                "children": [
                ],
                "virtual-size": 197120,
                "filename": "sub/ov.qcow2",
                "format": "file",
                "actual-size": 200704,
                "format-specific": {
                    "type": "file",
                    "data": {
                    }
                },
                "dirty-flag": false
            }
        }
    ],
    "backing-filename-format": "qcow2",
    "virtual-size": 1073741824,
    "filename": "sub/ov.qcow2",
    "cluster-size": 65536,
    "format": "qcow2",
    "actual-size": 200704,
    "format-specific": {
        "type": "qcow2",
        "data": {
            "compat": "1.1",
            "lazy-refcounts": false
        }
    },
    "full-backing-filename": "sub/base.qcow2",
    "backing-filename": "base.qcow2",
    "dirty-flag": true
}"#;
        assert_eq!(pretty(&json(&overlay())), expected);
    }
}
