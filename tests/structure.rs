//! What cargo can't check about the house: every format is wired into every place that must know it, arrows between
//! crates point down, files are small and say what they are.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use diskimg::core::FormatDriver;
use diskimg::core::driver::Caps;

/// Longest file that is tolerated; about 600 lines is the aim.
const MOST_LINES: usize = 800;

/// Rows of crates, lowest first: an arrow points to a lower row only. Tests may use `testkit` from anywhere.
const ROWS: &[&[&str]] = &[
    &["diskimg-core"],
    &["diskimg-crypto"],
    &["diskimg-nbd"],
    &["diskimg-file"],
    &["FORMAT", "diskimg-filters"],
    &["diskimg-chain"],
    &["diskimg-engine"],
    &["diskimg"],
    &["diskimg-store", "diskimg-daemon"],
    &["qemu-img-rs"],
];

/// Formats that may use the ciphers.
const ENCRYPTED: &[&str] = &["diskimg-qcow2", "diskimg-qcow", "diskimg-luks"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace")
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(root().join(path.as_ref()))
        .unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()))
}

/// Names of the crates below `crates/formats`.
fn formats() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(root().join("crates/formats"))
        .expect("crates/formats")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert!(!names.is_empty(), "no formats");
    names
}

/// Folders of all crates, relative to the root.
fn crates() -> Vec<String> {
    let mut all: Vec<String> = fs::read_dir(root().join("crates"))
        .expect("crates")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name != "formats")
        .map(|name| format!("crates/{name}"))
        .collect();
    all.extend(formats().into_iter().map(|name| format!("crates/formats/{name}")));
    all.sort();
    all
}

/// Names in a section of a manifest.
fn section(manifest: &str, name: &str) -> Vec<String> {
    manifest
        .lines()
        .skip_while(|line| line.trim() != format!("[{name}]"))
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['=', '.']).next())
        .map(|key| key.trim().to_owned())
        .filter(|key| !key.is_empty() && !key.starts_with('#'))
        .collect()
}

fn package_name(manifest: &str) -> String {
    let line = manifest.lines().find(|line| line.starts_with("name = ")).expect("a name");
    line.trim_start_matches("name = ").trim_matches('"').to_owned()
}

/// Every `.rs` file of the project, with its text.
fn sources() -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    for top in ["crates", "tests", "examples", "benches", "fuzz"] {
        collect(&root().join(top), &mut all);
    }
    assert!(all.len() > 50, "only {} sources found", all.len());
    all
}

fn collect(dir: &Path, all: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.expect("entry").path();
        let name = path.file_name().expect("name").to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" {
                collect(&path, all);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).expect("a readable source");
            all.insert(path.strip_prefix(root()).expect("below the root").to_owned(), text);
        }
    }
}

fn complain(what: &str, wrong: &[String]) {
    assert!(wrong.is_empty(), "{what}:\n  {}", wrong.join("\n  "));
}

#[test]
fn formats_are_features_of_the_umbrella() {
    let manifest = read("crates/diskimg/Cargo.toml");
    let (features, dependencies) = (section(&manifest, "features"), section(&manifest, "dependencies"));
    let library = read("crates/diskimg/src/lib.rs");
    let mut wrong = Vec::new();
    for format in formats() {
        if !features.contains(&format) {
            wrong.push(format!("{format}: no feature"));
        }
        if !dependencies.contains(&format!("diskimg-{format}")) {
            wrong.push(format!("{format}: no optional dependency"));
        }
        if !library.contains(&format!("diskimg_{format}")) {
            wrong.push(format!("{format}: not in the registry or re-exports"));
        }
    }
    complain("formats missing in the umbrella", &wrong);
}

#[test]
fn formats_are_in_the_documentation() {
    let (readme, architecture) = (read("README.md"), read("docs/ARCHITECTURE.md"));
    let mut wrong = Vec::new();
    for format in formats() {
        if !readme.contains(&format) {
            wrong.push(format!("{format}: README.md"));
        }
        if !architecture.contains(&format) {
            wrong.push(format!("{format}: docs/ARCHITECTURE.md"));
        }
    }
    complain("formats that the documents do not name", &wrong);
}

#[test]
fn formats_pass_the_contract_suite() {
    let mut wrong = Vec::new();
    for format in formats() {
        let mut tests = BTreeMap::new();
        collect(&root().join(format!("crates/formats/{format}/tests")), &mut tests);
        if !tests.values().any(|text| text.contains("contract::")) {
            wrong.push(format);
        }
    }
    complain("formats whose tests do not run the contract suite", &wrong);
}

#[test]
fn formats_are_fuzzed() {
    let manifest = read("fuzz/Cargo.toml");
    let mut wrong = Vec::new();
    for format in formats() {
        for target in [format!("open_{format}"), format!("ops_{format}")] {
            if !manifest.contains(&format!("\"{target}\"")) {
                wrong.push(target);
            }
        }
    }
    complain("fuzz targets that are missing", &wrong);
}

#[test]
fn arrows_point_down() {
    let row_of = |name: &str| {
        let is_format = formats().iter().any(|format| name == format!("diskimg-{format}"));
        let name = if is_format { "FORMAT" } else { name };
        ROWS.iter().position(|row| row.contains(&name))
    };
    let mut wrong = Vec::new();
    for folder in crates() {
        let manifest = read(format!("{folder}/Cargo.toml"));
        let name = package_name(&manifest);
        if name == "diskimg-testkit" {
            continue;
        }
        let Some(row) = row_of(&name) else {
            wrong.push(format!("{name} is in no row"));
            continue;
        };
        for to in section(&manifest, "dependencies").iter().filter(|d| d.starts_with("diskimg")) {
            let crypto_for_plain =
                to == "diskimg-crypto" && folder.contains("formats/") && !ENCRYPTED.contains(&name.as_str());
            let storage = folder.contains("formats/") && (to == "diskimg-file" || to == "diskimg-nbd");
            if crypto_for_plain || storage || row_of(to).is_none_or(|below| below >= row) {
                wrong.push(format!("{name} -> {to}"));
            }
        }
    }
    complain("arrows that do not point down", &wrong);
}

#[test]
fn chain_names_no_format() {
    let manifest = read("crates/chain/Cargo.toml");
    let uses: Vec<String> =
        section(&manifest, "dependencies").into_iter().filter(|d| d.starts_with("diskimg-")).collect();
    assert_eq!(uses, ["diskimg-core"], "chain works through the registry alone");
}

#[test]
fn crates_share_lints_and_metadata() {
    let mut wrong = Vec::new();
    for folder in crates() {
        let manifest = read(format!("{folder}/Cargo.toml"));
        if !section(&manifest, "lints").contains(&"workspace".to_owned()) {
            wrong.push(format!("{folder}: lints"));
        }
        for key in ["version", "edition", "license", "rust-version"] {
            if !manifest.contains(&format!("{key}.workspace = true")) && !folder.ends_with("testkit") {
                wrong.push(format!("{folder}: {key}"));
            }
        }
    }
    complain("crates that do not inherit from the workspace", &wrong);
}

#[test]
fn unsafe_code_is_forbidden() {
    assert!(read("Cargo.toml").contains("unsafe_code = \"forbid\""));
}

#[test]
fn files_are_small() {
    let wrong: Vec<String> = sources()
        .iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > MOST_LINES)
        .map(|(path, lines)| format!("{}: {lines} lines", path.display()))
        .collect();
    complain("files that are too long", &wrong);
}

#[test]
fn files_say_what_they_are() {
    let wrong: Vec<String> = sources()
        .iter()
        .filter(|(_, text)| {
            !text.lines().find(|line| !line.starts_with("#!")).is_some_and(|line| line.starts_with("//!"))
        })
        .map(|(path, _)| path.display().to_string())
        .collect();
    complain("files without an opening comment", &wrong);
}

#[test]
fn libraries_do_not_print() {
    let quiet = ["core", "file", "chain", "engine", "diskimg", "crypto", "nbd", "filters", "formats"];
    let wrong: Vec<String> = sources()
        .iter()
        .filter(|(path, _)| quiet.iter().any(|name| path.starts_with(format!("crates/{name}"))))
        .filter(|(path, _)| path.components().any(|part| part.as_os_str() == "src"))
        .flat_map(|(path, text)| {
            text.lines()
                .enumerate()
                .filter(|(_, line)| {
                    let line = line.trim_start();
                    ["println!(", "print!(", "eprintln!(", "eprint!(", "dbg!("]
                        .iter()
                        .any(|p| line.starts_with(p))
                })
                .map(|(number, _)| format!("{}:{}", path.display(), number + 1))
                .collect::<Vec<_>>()
        })
        .collect();
    complain("libraries that print", &wrong);
}

#[test]
fn the_top_level_is_as_designed() {
    let known = [
        "Cargo.toml",
        "Cargo.lock",
        "crates",
        "examples",
        "fuzz",
        "tests",
        "benches",
        "docs",
        "README.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "target",
        "rustfmt.toml",
        "clippy.toml",
    ];
    let wrong: Vec<String> = fs::read_dir(root())
        .expect("root")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.') && !known.contains(&name.as_str()))
        .collect();
    complain("unknown names at the top level", &wrong);
}

/// A heading, and whether a driver can do that.
type Column = (&'static str, fn(&FormatDriver) -> bool);

/// Columns of the table of formats, and what a driver says of each.
const COLUMNS: &[Column] = &[
    ("read", |_| true),
    ("write", |driver| driver.caps.contains(Caps::WRITE)),
    ("create", |driver| driver.creator.is_some()),
    ("resize", |driver| driver.caps.contains(Caps::RESIZE)),
    ("snapshot", |driver| driver.caps.contains(Caps::SNAPSHOTS)),
    ("bitmaps", |driver| driver.caps.contains(Caps::BITMAPS)),
    ("check", |driver| driver.caps.contains(Caps::CHECK)),
    ("repair", |driver| driver.caps.contains(Caps::REPAIR)),
    ("compress", |driver| driver.caps.contains(Caps::COMPRESS)),
    ("encrypt", |driver| driver.caps.contains(Caps::ENCRYPT)),
    ("backing", |driver| driver.caps.contains(Caps::BACKING)),
    ("preallocation", |driver| driver.caps.contains(Caps::PREALLOCATE)),
    ("amend", |driver| driver.caps.contains(Caps::AMEND)),
    ("measure", |driver| driver.measure.is_some()),
];

/// The table of formats in the README.
fn format_table() -> String {
    let mut drivers = diskimg::FORMATS.to_vec();
    drivers.sort_by_key(|driver| driver.name);
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut table = line(
        std::iter::once("format").chain(COLUMNS.iter().map(|(name, _)| *name)).map(str::to_owned).collect(),
    );
    table.push_str(&format!("|{}\n", "---|".repeat(COLUMNS.len() + 1)));
    for driver in drivers {
        let cells = COLUMNS.iter().map(|(_, can)| if can(driver) { "yes" } else { "–" }.to_owned());
        table.push_str(&line(std::iter::once(format!("`{}`", driver.name)).chain(cells).collect()));
    }
    table
}

#[test]
fn the_table_of_formats_is_what_the_drivers_say() {
    const MARKS: (&str, &str) = ("<!-- formats -->\n", "<!-- /formats -->");
    let (readme, table) = (read("README.md"), format_table());
    let (before, rest) = readme.split_once(MARKS.0).expect("a mark");
    let (found, after) = rest.split_once(MARKS.1).expect("a second mark");
    if std::env::var_os("DISKIMG_REFRESH_GOLDEN").is_some() {
        let text = format!("{before}{}{table}{}{after}", MARKS.0, MARKS.1);
        fs::write(root().join("README.md"), text).expect("README.md is written");
    } else {
        assert_eq!(found, table, "README.md: DISKIMG_REFRESH_GOLDEN=1 cargo test --test structure");
    }
}
