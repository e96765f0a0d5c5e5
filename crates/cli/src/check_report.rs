//! What `check` found, for people and as JSON.

use std::fmt::Write as _;

use diskimg::core::CheckReport;
use serde_json::{Map, Value};

/// The text for people. Findings themselves have been printed while they were made.
pub(crate) fn human(report: &CheckReport) -> String {
    let mut text = String::new();
    if report.corruptions == 0 && report.leaks == 0 && report.check_errors == 0 {
        text.push_str("No errors were found on the image.\n");
    }
    let verdicts = [
        (
            report.corruptions,
            "errors were found on the image.\nData may be corrupted, or further writes to the image may corrupt it.",
        ),
        (
            report.leaks,
            "leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.",
        ),
        (report.check_errors, "internal errors have occurred during the check."),
    ];
    for (count, verdict) in verdicts.into_iter().filter(|(count, _)| *count > 0) {
        let _ = writeln!(text, "\n{count} {verdict}");
    }
    if report.total_clusters > 0 && report.allocated_clusters > 0 {
        let _ = writeln!(
            text,
            "{}/{} = {}% allocated, {}% fragmented, {}% compressed clusters",
            report.allocated_clusters,
            report.total_clusters,
            percent(report.allocated_clusters, report.total_clusters),
            percent(report.fragmented_clusters, report.allocated_clusters),
            percent(report.compressed_clusters, report.allocated_clusters),
        );
    }
    if report.image_end_offset > 0 {
        let _ = writeln!(text, "Image end offset: {}", report.image_end_offset);
    }
    text
}

fn percent(part: u64, whole: u64) -> String {
    #[allow(clippy::cast_precision_loss)] // two decimals are shown
    let value = part as f64 * 100.0 / whole as f64;
    format!("{value:.2}")
}

/// The text for people after a repair, before the second check.
pub(crate) fn repairs(report: &CheckReport) -> String {
    format!(
        "The following inconsistencies were found and repaired:\n\n    {} leaked clusters\n    {} corruptions\n\nDouble checking the fixed image now...\n",
        report.leaks_fixed, report.corruptions_fixed
    )
}

/// The JSON object, keys in qemu-img's order; counts of zero are left out.
pub(crate) fn json(report: &CheckReport, filename: &str, format: &str) -> Value {
    let mut object = Map::new();
    let mut put = |name: &str, value: u64, always: bool| {
        if always || value > 0 {
            object.insert(name.to_owned(), value.into());
        }
    };
    put("image-end-offset", report.image_end_offset, false);
    put("compressed-clusters", report.compressed_clusters, false);
    put("total-clusters", report.total_clusters, false);
    put("corruptions", report.corruptions, false);
    put("corruptions-fixed", report.corruptions_fixed, false);
    put("check-errors", report.check_errors, true);
    put("leaks", report.leaks, false);
    put("leaks-fixed", report.leaks_fixed, false);
    put("allocated-clusters", report.allocated_clusters, false);
    object.insert("filename".to_owned(), filename.into());
    object.insert("format".to_owned(), format.into());
    if report.fragmented_clusters > 0 {
        object.insert("fragmented-clusters".to_owned(), report.fragmented_clusters.into());
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUND: CheckReport = CheckReport {
        check_errors: 0,
        corruptions: 46,
        leaks: 17,
        corruptions_fixed: 0,
        leaks_fixed: 0,
        image_end_offset: 1_376_256,
        total_clusters: 1024,
        allocated_clusters: 27,
        fragmented_clusters: 26,
        compressed_clusters: 14,
    };

    #[test]
    fn a_bad_image_is_told_in_full() {
        let expected = "
46 errors were found on the image.
Data may be corrupted, or further writes to the image may corrupt it.

17 leaked clusters were found on the image.
This means waste of disk space, but no harm to data.
27/1024 = 2.64% allocated, 96.30% fragmented, 51.85% compressed clusters
Image end offset: 1376256
";
        assert_eq!(human(&FOUND), expected);
        let keys: Vec<String> = match json(&FOUND, "a", "qcow2") {
            Value::Object(object) => object.keys().cloned().collect(),
            _ => Vec::new(),
        };
        let expected = [
            "image-end-offset",
            "compressed-clusters",
            "total-clusters",
            "corruptions",
            "check-errors",
            "leaks",
            "allocated-clusters",
            "filename",
            "format",
            "fragmented-clusters",
        ];
        assert_eq!(keys, expected);
    }

    #[test]
    fn a_good_image_is_told_in_short() {
        let report = CheckReport { image_end_offset: 262_144, total_clusters: 16, ..CheckReport::default() };
        assert_eq!(human(&report), "No errors were found on the image.\nImage end offset: 262144\n");
    }
}
