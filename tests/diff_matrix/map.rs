//! `map`: human and JSON listings of layouts and chains, start and length.

use crate::fixtures::{BITMAPS, CHAINS, LAYOUTS, SNAPSHOTS, V3};
use crate::info::{IMAGES, OVERLAYS};
use crate::support::case::Case;
use crate::support::suite::group;

/// All tables of this file.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for name in IMAGES {
        all.extend(group("map", LAYOUTS, &[&format!("map {name}"), &format!("map --output=json {name}")]));
    }
    for name in OVERLAYS {
        all.extend(group("map", CHAINS, &[&format!("map {name}"), &format!("map --output=json {name}")]));
    }
    all.extend(group("map", LAYOUTS, RANGES));
    all.extend(group("map options", V3, OPTIONS));
    all.extend(group("map", SNAPSHOTS, &["map a.qcow2", "map --output=json a.qcow2"]));
    all.extend(group("map", BITMAPS, &["map a.qcow2", "map --output=json a.qcow2"]));
    all
}

const RANGES: &[&str] = &[
    "map --start-offset 0 plain.qcow2",
    "map --output=json --start-offset 32k plain.qcow2",
    "map --output=json --start-offset 1M plain.qcow2",
    "map --output=json --start-offset=1M --max-length=64k plain.qcow2",
    "map --start-offset 1M --max-length 64k plain.qcow2",
    "map --output=json --max-length 1000 plain.qcow2",
    "map --output=json --start-offset 1000 --max-length 1000 plain.qcow2",
    "map --output=json --start-offset 4M plain.qcow2",
    "map --output=json --start-offset 5M plain.qcow2",
    "map --start-offset 5M plain.qcow2",
    "map --output=json --max-length 0 plain.qcow2",
    "map --output=json --start-offset 3M --max-length 100G plain.qcow2",
    "map --output=json --max-length 9223372036854775807 plain.qcow2",
    "map --output=json --start-offset 9223372036854775807 plain.qcow2",
    "map --output=json --start-offset 1 --max-length 9223372036854775807 plain.qcow2",
    "map -s 1M -l 64k --output=json plain.qcow2",
    "map --start-offset=foo plain.qcow2",
    "map --max-length=foo plain.qcow2",
    "map --start-offset=-1 plain.qcow2",
    "map --max-length=-1 plain.qcow2",
    "map --start-offset=16E plain.qcow2",
    "map --max-length=16E plain.qcow2",
    "map --start-offset= plain.qcow2",
    "map --start-offset=1.5 plain.qcow2",
    "map --start-offset=1.5k --output=json data.raw",
    "map --start-offset=64k data.raw",
    "map --output=json --start-offset=1000 odd.raw",
    "map --output=json --start-offset=1025 odd.raw",
    "map --output=json --max-length=32G sparse.qcow2",
    "map --output=json --start-offset=32G sparse.qcow2",
];

const OPTIONS: &[&str] = &[
    "map",
    "map a.qcow2 extra",
    "map -f",
    "map --output=xml a.qcow2",
    "map --output xml a.qcow2",
    "map --output= a.qcow2",
    "map --output=human a.qcow2",
    "map -U a.qcow2",
    "map -U --output=json a.qcow2",
    "map -q a.qcow2",
    "map --nosuch a.qcow2",
    "map --start-offset",
    "map --image-opts driver=qcow2,file.filename=a.qcow2",
    "map --image-opts --output=json file.filename=a.qcow2",
    "map --image-opts -f qcow2 a.qcow2",
    "map -f qcow2 a.qcow2",
    "map $DIR/a.qcow2",
    "map --output=json $DIR/a.qcow2",
    "map file:a.qcow2",
    "map -f raw --output=json a.qcow2",
    "map 'json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"a.qcow2\"}}'",
    "map --output=json 'json:{\"file.filename\":\"a.qcow2\"}'",
    "map --object secret,id=x a.qcow2",
    "map a.qcow2 --output=json",
];
