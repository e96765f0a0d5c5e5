//! What a conversion writes is the same, byte for byte, from run to run and with any number of threads: for every format
//! that is written, compressed or not, from sparse, fragmented and compressed sources and from chains.
//!
//! Every run fills its own copy of one new image, since creation draws identities, times and keys. What an image draws
//! anew when it is written to is left out of the comparison ([`drawn`], and the headers and the log of VHDX).
//! `out_of_order` promises the same contents only, but raw targets have no order to lose.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::cast_possible_truncation)]

#[path = "support/drawn.rs"]
#[allow(unreachable_pub)]
mod drawn;

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};

use diskimg::core::protocol::CacheMode;
use diskimg::core::{Secret, Secrets};
use diskimg::engine::convert::new_image_is_zero;
use diskimg::engine::{compare, convert};
use diskimg::prelude::*;
use diskimg_testkit::Rng;

/// Threads: one, two, odd, many, more than there are processors.
const WORKERS: [usize; 5] = [1, 2, 3, 8, 16];

/// In options: the image's own folder.
const FOLDER: &str = "FOLDER";

/// Length of the disk: more units of the pipeline than threads, the last of them not whole.
const LEN: u64 = (8 << 20) + 300 * 1024 + 512;

/// A format, options of a new image, and what opens it; [`FOLDER`] stands for the folder where the image is.
struct Target {
    format: &'static str,
    options: &'static str,
    opened: &'static str,
}

const fn target(format: &'static str, options: &'static str) -> Target {
    Target { format, options, opened: "" }
}

const fn encrypted(format: &'static str, options: &'static str, opened: &'static str) -> Target {
    Target { format, options, opened }
}

const TARGETS: &[Target] = &[
    target("raw", ""),
    target("raw", "preallocation=full"),
    target("qcow2", ""),
    target("qcow2", "cluster_size=4k"),
    target("qcow2", "cluster_size=512"),
    target("qcow2", "cluster_size=2M"),
    target("qcow2", "extended_l2=on"),
    target("qcow2", "compat=0.10"),
    target("qcow2", "compression_type=zstd,refcount_bits=64"),
    target("qcow2", "preallocation=metadata"),
    target("qcow2", "lazy_refcounts=on"),
    Target {
        format: "qcow2",
        options: "data_file=FOLDER/data,data_file_raw=on",
        opened: "data-file.driver=file,data-file.filename=FOLDER/data",
    },
    target("qcow", ""),
    target("qed", ""),
    target("qed", "cluster_size=4k"),
    target("vdi", ""),
    target("vdi", "static=on"),
    target("vpc", "force_size=on"),
    target("vpc", "subformat=fixed,force_size=on"),
    target("vhdx", ""),
    target("vhdx", "subformat=fixed"),
    target("parallels", ""),
    target("vmdk", ""),
    target("vmdk", "zeroed_grain=on"),
    target("vmdk", "subformat=streamOptimized"),
    target("vmdk", "subformat=twoGbMaxExtentSparse"),
    target("vmdk", "subformat=monolithicFlat"),
    encrypted("luks", "key-secret=s,iter-time=10", "key-secret=s"),
    encrypted(
        "qcow2",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10",
        "encrypt.key-secret=s",
    ),
    encrypted("qcow2", "encrypt.format=aes,encrypt.key-secret=s", "encrypt.key-secret=s"),
];

/// Those that are written compressed too.
const COMPRESSED: &[Target] = &[
    target("qcow2", ""),
    target("qcow2", "cluster_size=4k"),
    target("qcow2", "cluster_size=2M,compression_type=zstd"),
    target("qcow2", "extended_l2=on,compression_type=zstd"),
    target("qcow", ""),
    target("vmdk", "subformat=streamOptimized"),
];

const SOURCES: [&str; 4] = ["sparse.raw", "fragmented.qcow2", "compressed.qcow2", "top.qcow2"];

fn context() -> Context {
    let mut secrets = Secrets::default();
    secrets.add("s", Secret::new(b"hush".to_vec()));
    diskimg::context().with_secrets(secrets)
}

fn show(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

fn create(path: &Path, format: &str, options: &str, backing: Option<&str>) {
    let filename = &show(path);
    let backing_format = backing.map(|name| if name.ends_with("raw") { "raw" } else { "qcow2" });
    let request = CreateRequest {
        filename,
        format,
        size: Some(LEN),
        options,
        backing,
        backing_format,
        ..CreateRequest::default()
    };
    CreatePlan::new(&context(), &request)
        .unwrap()
        .run()
        .unwrap_or_else(|error| panic!("{format} {options}: {error}"));
}

/// Nothing has to be durable.
fn writable() -> OpenOptions {
    OpenOptions { cache: CacheMode::Unsafe, ..OpenOptions::write() }
}

fn open_plain(path: &Path, write: bool) -> Node {
    let options = if write { writable() } else { OpenOptions::read() };
    let format = if path.extension().is_some_and(|ending| ending == "raw") { "raw" } else { "qcow2" };
    Node::open(&context(), &ImageSpec::name(show(path)), &options.with_format(Some(format))).unwrap()
}

/// Options with the folder in them.
fn placed(options: &str, folder: &Path) -> String {
    options.replace(FOLDER, &show(folder))
}

fn open_target(folder: &Path, target: &Target) -> Node {
    let path = folder.join("image");
    let opened =
        if target.opened.is_empty() { String::new() } else { format!(",{}", placed(target.opened, folder)) };
    let spec = format!("driver={},file.filename={}{opened}", target.format, path.display());
    Node::open(&context(), &ImageSpec::image_opts(&spec).unwrap(), &writable()).unwrap()
}

/// Writes runs of noise, text and zeros at places all over the disk.
fn scatter(disk: &Node, seed: u64, runs: usize, most: u64) {
    let mut rng = Rng::new(seed);
    for _ in 0..runs {
        let at = rng.below(LEN / 512) * 512;
        let len = (LEN - at).min(512 * (1 + rng.below(most / 512)));
        let mut bytes = vec![0; len as usize];
        match rng.below(4) {
            0 => {}
            1 => bytes.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at / 9 % 40) as u8),
            _ => bytes.chunks_mut(8).for_each(|part| {
                let noise = rng.next_u64().to_le_bytes();
                part.copy_from_slice(&noise[..part.len()]);
            }),
        }
        disk.write_at(at, &bytes).unwrap();
    }
    disk.flush().unwrap();
}

/// Images with holes, with clusters in disorder, with compressed clusters, and a chain of three.
fn make_sources(folder: &Path) {
    for (name, format, options, backing) in [
        ("sparse.raw", "raw", "", None),
        ("fragmented.qcow2", "qcow2", "cluster_size=4k", None),
        ("base.raw", "raw", "", None),
        ("middle.qcow2", "qcow2", "cluster_size=16k", Some("base.raw")),
        ("top.qcow2", "qcow2", "extended_l2=on", Some("middle.qcow2")),
    ] {
        let path = folder.join(name);
        create(&path, format, options, backing);
        let (runs, most) = if name == "fragmented.qcow2" { (400, 24 << 10) } else { (24, 600 << 10) };
        scatter(&open_plain(&path, true), name.len() as u64, runs, most);
    }
    let path = folder.join("compressed.qcow2");
    create(&path, "qcow2", "", None);
    let how = ConvertOptions { compress: true, ..options(2) };
    let source = open_plain(&folder.join("fragmented.qcow2"), false);
    convert(&[&source], &open_plain(&path, true), &how, &Task::quiet()).unwrap();
}

fn options(workers: usize) -> ConvertOptions {
    ConvertOptions { workers: NonZero::new(workers), target_is_zero: true, ..ConvertOptions::default() }
}

/// All files of a folder, without what they drew.
fn files(folder: &Path, format: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let mut drawn = drawn::ranges(&path).unwrap();
        if format == "vhdx" {
            // The headers with their identities, and the log, whose entries bear one too.
            drawn.extend([64 << 10..192 << 10, 1 << 20..2 << 20]);
        }
        for range in drawn {
            bytes[range.start as usize..range.end as usize].fill(0);
        }
        all.insert(path.file_name().unwrap().into(), bytes);
    }
    all
}

/// Fills copies of a new image with the same disk; what they are then, one for each way, and whether they read as it does.
fn fill(
    folder: &Path,
    target: &Target,
    source: &Node,
    ways: &[ConvertOptions],
) -> Vec<BTreeMap<PathBuf, Vec<u8>>> {
    let new = tempfile::tempdir_in(folder).unwrap();
    create(&new.path().join("image"), target.format, &placed(target.options, new.path()), None);
    let mut images = Vec::new();
    for how in ways {
        let place = tempfile::tempdir_in(folder).unwrap();
        for entry in fs::read_dir(new.path()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), place.path().join(entry.file_name())).unwrap();
        }
        let node = open_target(place.path(), target);
        let how = ConvertOptions { target_is_zero: new_image_is_zero(&node), ..how.clone() };
        convert(&[source], &node, &how, &Task::quiet()).unwrap();
        drop(node);
        let node = open_target(place.path(), target);
        let same = compare(source, &node, &CompareOptions::default(), &Task::quiet()).unwrap();
        assert!(same.difference.is_none(), "{} {}: {how:?}", target.format, target.options);
        drop(node);
        images.push(files(place.path(), target.format));
    }
    images
}

/// Converts each of the sources that `pick` chooses for the target with that number.
fn all_alike(targets: &[Target], compress: bool, pick: impl Fn(usize, usize) -> bool) {
    let folder = tempfile::tempdir().unwrap();
    make_sources(folder.path());
    for (number, target) in targets.iter().enumerate() {
        let mut ways: Vec<_> = WORKERS.map(|count| ConvertOptions { compress, ..options(count) }).to_vec();
        if matches!(target.format, "raw" | "luks") {
            ways.push(ConvertOptions { out_of_order: true, ..options(8) });
        }
        for (_, name) in SOURCES.iter().enumerate().filter(|(index, _)| pick(number, *index)) {
            let source = open_plain(&folder.path().join(name), false);
            let images = fill(folder.path(), target, &source, &ways);
            for (image, how) in images.iter().zip(&ways).skip(1) {
                let wrong: Vec<_> =
                    image.iter().filter(|(name, bytes)| images[0].get(*name) != Some(bytes)).collect();
                let names: Vec<_> = wrong.iter().map(|(name, _)| name).collect();
                assert!(
                    names.is_empty(),
                    "{name} to {} {}: {names:?}: {how:?}",
                    target.format,
                    target.options
                );
                assert_eq!(image.len(), images[0].len());
            }
        }
    }
}

#[test]
fn plain_images_are_the_same_with_any_number_of_threads() {
    // All four in turn.
    all_alike(TARGETS, false, |number, index| number % 4 == index);
}

#[test]
fn compressed_images_are_the_same_with_any_number_of_threads() {
    all_alike(COMPRESSED, true, |number, index| number % 2 == index % 2);
}

#[test]
fn images_over_a_backing_file_are_the_same_with_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    make_sources(folder.path());
    let source = open_plain(&folder.path().join("top.qcow2"), false);
    for compress in [false, true] {
        let mut first = None;
        for count in WORKERS {
            let path = folder.path().join(format!("over-{compress}-{count}.qcow2"));
            create(&path, "qcow2", "", Some("base.raw"));
            let node = open_plain(&path, true);
            let how = ConvertOptions { over_backing: true, compress, ..options(count) };
            convert(&[&source], &node, &how, &Task::quiet()).unwrap();
            drop(node);
            let bytes = fs::read(&path).unwrap();
            assert!(*first.get_or_insert_with(|| bytes.clone()) == bytes, "{count} threads, {compress}");
            let same =
                compare(&source, &open_plain(&path, false), &CompareOptions::default(), &Task::quiet());
            assert!(same.unwrap().difference.is_none());
        }
    }
}

#[test]
fn host_copies_are_the_same_with_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    make_sources(folder.path());
    let ways = WORKERS.map(|count| ConvertOptions { copy_range: true, ..options(count) });
    for name in SOURCES {
        let source = open_plain(&folder.path().join(name), false);
        for target in
            [target("raw", ""), target("qcow2", ""), target("qcow2", "cluster_size=4k"), target("vhdx", "")]
        {
            let images = fill(folder.path(), &target, &source, &ways);
            assert!(
                images.windows(2).all(|pair| pair[0] == pair[1]),
                "{name} to {} {}",
                target.format,
                target.options
            );
        }
    }
}
