//! Fresh images are byte for byte those of the installed `qemu-img`, over the create options; measurements give its
//! numbers. Without the oracle these tests are counted as ignored.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use diskimg_core::driver::{CreateContext, Measure, MeasureInput, OpenMode};
use diskimg_core::opener::NoReferences;
use diskimg_core::options::ParsedOptions;
use diskimg_core::{BlockDevice, Error, Image, MemDevice, Secret, Secrets};
use diskimg_qcow2::DRIVER;
use diskimg_testkit::{MemOpener, Oracle, Rng, open_image, suite};

const CLUSTER_SIZES: [&str; 13] =
    ["512", "1k", "2k", "4k", "8k", "16k", "32k", "64k", "128k", "256k", "512k", "1M", "2M"];

const SIZES: [u64; 10] =
    [0, 1, 512, (1 << 20) + 1, 513 << 20, 1 << 30, (10 << 30) + 512, 1 << 40, 10 << 40, 1 << 50];

/// Options that change the header, or the layout.
const VARIANTS: [&str; 16] = [
    "",
    "compat=0.10",
    "compat=v2",
    "lazy_refcounts=on",
    "compression_type=zstd",
    "extended_l2=on",
    "refcount_bits=1",
    "refcount_bits=2",
    "refcount_bits=8",
    "refcount_bits=32",
    "refcount_bits=64",
    "backing_file=base,backing_fmt=raw",
    "compat=v2,backing_file=base,backing_fmt=raw",
    "extended_l2=on,compression_type=zstd,lazy_refcounts=on,refcount_bits=8",
    "encrypt.format=aes,encrypt.key-secret=s",
    "compat=v2,encryption=on,encrypt.key-secret=s",
];

/// Options with data beside the header, each for these sizes.
const DATA_FILES: [&str; 7] = [
    "data_file=data,data_file_raw=on,encrypt.format=aes,encrypt.key-secret=s",
    "data_file=data",
    "data_file=file:data",
    "data_file=data,data_file_raw=on",
    "data_file=data,preallocation=metadata",
    "data_file=data,preallocation=falloc,cluster_size=4k",
    "data_file=data,data_file_raw=on,extended_l2=on",
];

const PREALLOCATIONS: [&str; 3] = ["metadata", "falloc", "full"];

fn main() -> ExitCode {
    let mut tests = Vec::new();
    for variant in VARIANTS {
        tests.push(suite::with_oracle(format!("same bytes: {variant}"), move |oracle| {
            // Every size once, and each option with small, middling and refused ones.
            let sizes = if variant.is_empty() { &SIZES[..] } else { &SIZES[3..6] };
            for cluster in CLUSTER_SIZES {
                for &size in sizes {
                    same_bytes(oracle, &joined(&[variant, &format!("cluster_size={cluster}")]), size);
                }
            }
        }));
    }
    tests.push(suite::with_oracle("same bytes: the greatest disks", |oracle| {
        same_bytes(oracle, "cluster_size=512", 128 << 30);
        same_bytes(oracle, "", 2 << 50);
    }));
    for options in DATA_FILES {
        tests.push(suite::with_oracle(format!("same bytes: {options}"), move |oracle| {
            for size in [0, 512, 1 << 20, (5 << 20) + 512] {
                same_bytes(oracle, options, size);
            }
        }));
    }
    for mode in PREALLOCATIONS {
        tests.push(suite::with_oracle(format!("preallocation={mode}"), move |oracle| {
            let small = ["512", "1k"];
            for cluster in small.iter().chain(&["4k", "64k", "2M"]) {
                for size in [512, 1 << 20, (3 << 20) + 512, 64 << 20] {
                    if mode == "metadata" && small.contains(cluster) && size > 8 << 20 {
                        continue; // a second refcount table, placed elsewhere
                    }
                    let options = format!("preallocation={mode},cluster_size={cluster}");
                    same_bytes(oracle, &options, size);
                }
            }
            for more in [
                "extended_l2=on",
                "refcount_bits=1",
                "compat=v2",
                "extended_l2=on,backing_file=b,backing_fmt=raw",
                "encrypt.format=aes,encrypt.key-secret=s",
            ] {
                same_bytes(oracle, &format!("preallocation={mode},{more}"), 3 << 20);
            }
        }));
    }
    tests.push(suite::with_oracle("refusals have the same texts", refusals));
    tests.push(suite::with_oracle("sizes are measured alike", measured_sizes));
    tests.push(suite::with_oracle("sources are measured alike", measured_sources));
    suite::run(tests)
}

fn joined(parts: &[&str]) -> String {
    parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(",")
}

fn parsed(options: &str, size: Option<u64>) -> Result<ParsedOptions, Error> {
    let mut parsed = ParsedOptions::new(&[DRIVER.options]);
    parsed.parse(options)?;
    if let Some(size) = size {
        parsed.set_number("size", size);
    }
    Ok(parsed)
}

/// Image and data file as we make them.
fn ours(options: &str, size: u64) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let parsed = parsed(options, Some(size))?;
    let creator = DRIVER.creator.unwrap();
    (creator.validate)(&parsed)?;
    let (image, data) = (Arc::new(MemDevice::new(0)), Arc::new(MemDevice::new(0)));
    let names =
        ["data", "file:data"].map(|name| (name.to_owned(), Arc::clone(&data) as Arc<dyn BlockDevice>));
    let opener = MemOpener::new(names);
    (creator.create)(&CreateContext {
        storage: Arc::clone(&image) as _,
        filename: "image",
        options: &parsed,
        opener: &opener,
    })?;
    Ok((image.to_vec(), data.to_vec()))
}

/// Image and data file as the oracle makes them; its complaint if it does not.
fn theirs(oracle: &Oracle, folder: &Path, options: &str, size: u64) -> Result<(Vec<u8>, Vec<u8>), String> {
    let mut args = vec!["create", "-q", "-u", "-f", "qcow2"];
    // A secret is its own name, as for ours.
    if options.contains("key-secret=") {
        args.extend(["--object", "secret,id=s,data=s"]);
    }
    if !options.is_empty() {
        args.extend(["-o", options]);
    }
    let size = size.to_string();
    args.extend(["image", &size]);
    let output = oracle.run(folder, &args);
    if !output.status.success() {
        return Err(String::from_utf8(output.stderr).unwrap());
    }
    let read = |name| std::fs::read(folder.join(name)).unwrap_or_default();
    Ok((read("image"), read("data")))
}

fn same_bytes(oracle: &Oracle, options: &str, size: u64) {
    let folder = tempfile::tempdir().unwrap();
    let title = format!("{options} {size}");
    match (ours(options, size), theirs(oracle, folder.path(), options, size)) {
        (Ok(ours), Ok(theirs)) => {
            assert_eq!(ours.0.len(), theirs.0.len(), "length of {title}");
            let differs = ours.0.iter().zip(&theirs.0).position(|(a, b)| a != b);
            assert_eq!(differs, None, "first difference of {title}");
            assert_eq!(ours.1.len(), theirs.1.len(), "data file of {title}");
        }
        (Err(ours), Err(theirs)) => assert_eq!(complaint(&ours), theirs, "{title}"),
        (ours, theirs) => panic!("{title}: {:?} but {:?}", ours.err(), theirs.err()),
    }
}

/// As the command prints it.
fn complaint(error: &Error) -> String {
    let hint = error.hint().map(|hint| format!("{hint}\n")).unwrap_or_default();
    format!("qemu-img: image: {}\n{hint}", error.joined())
}

fn refusals(oracle: &Oracle) {
    let long = format!("backing_file={},backing_fmt=raw", "b".repeat(1100));
    let crowded = format!("cluster_size=512,backing_file={},backing_fmt=raw", "b".repeat(500));
    let cases = [
        "cluster_size=3",
        "cluster_size=0",
        "cluster_size=4M",
        "compat=0.9",
        "cluster_size=3,compat=0.9",
        "refcount_bits=3,compression_type=foo,preallocation=bar",
        "compression_type=foo,refcount_bits=3",
        "preallocation=bar,encrypt.format=foo",
        "extended_l2=on,cluster_size=4k",
        "extended_l2=on,cluster_size=3,compat=v2",
        "compat=v2,lazy_refcounts=on,refcount_bits=8",
        "compat=v2,refcount_bits=3",
        "compat=v2,refcount_bits=8,compression_type=zstd",
        "compat=v2,compression_type=zstd",
        "compat=v2,compression_type=zstd,data_file=data",
        "data_file_raw=on",
        "data_file_raw=on,backing_file=base,backing_fmt=raw",
        "data_file=data,data_file_raw=on,backing_file=base,backing_fmt=raw,compat=v2",
        "backing_file=base,backing_fmt=raw,preallocation=full,lazy_refcounts=on,compat=v2",
        "backing_fmt=raw",
        "backing_fmt=raw,compat=v2,lazy_refcounts=on",
        "refcount_bits=0",
        "refcount_bits=128",
        "encryption=on",
        "encrypt.format=aes",
        "encrypt.format=luks",
        "encrypt.format=foo",
        "encrypt.key-secret=x",
        "encryption=on,encrypt.format=luks",
        "encrypt.format=aes,encrypt.cipher-alg=aes-128",
        "encrypt.format=aes,encrypt.iter-time=5",
        "encrypt.format=aes,encrypt.hash-alg=sha1,encrypt.cipher-mode=foo",
        "encrypt.format=foo,compat=0.9",
        "encrypt.format=luks,cluster_size=3",
        "encrypt.format=luks,encrypt.cipher-alg=foo,cluster_size=3",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=des",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=des,cluster_size=3",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=cast5-128",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-mode=foo",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.ivgen-alg=foo,encrypt.hash-alg=foo",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha1",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.hash-alg=foo",
        "preallocation=foo,encrypt.format=luks,encrypt.cipher-alg=foo",
        &long,
        &crowded,
    ];
    for options in cases {
        same_bytes(oracle, options, 1 << 20);
    }
    for (options, size) in [
        ("", (2u64 << 50) + 1),
        ("cluster_size=512", 129 << 30),
        ("extended_l2=on", (1 << 50) + 512),
        ("", 7 << 60),
    ] {
        same_bytes(oracle, options, size);
    }
}

fn measure(options: &str, size: Option<u64>, source: Option<&dyn Image>) -> Result<Measure, Error> {
    let options = parsed(options, size)?;
    let mut secrets = Secrets::default();
    assert!(secrets.add("s", Secret::new(b"s".to_vec())));
    let device = source.map(|image| image as &dyn BlockDevice);
    (DRIVER.measure.unwrap())(&MeasureInput {
        options: &options,
        source: device,
        source_image: source,
        secrets: &secrets,
    })
}

fn printed(measured: &Measure) -> String {
    let mut text =
        format!("required size: {}\nfully allocated size: {}\n", measured.required, measured.fully_allocated);
    if let Some(bitmaps) = measured.bitmaps {
        text.push_str(&format!("bitmaps size: {bitmaps}\n"));
    }
    text
}

fn same_measure(oracle: &Oracle, folder: &Path, options: &str, size: Option<u64>, source: Option<&str>) {
    let image = source.map(|name| {
        let storage = Arc::new(MemDevice::from(std::fs::read(folder.join(name)).unwrap()));
        open_image(&DRIVER, storage, OpenMode::default(), &NoReferences).unwrap()
    });
    let len = image.as_ref().map(|image| image.len());
    let ours = measure(options, size.or(len), image.as_deref());
    let mut args = vec!["measure", "-O", "qcow2", "--object", "secret,id=s,data=s"];
    if !options.is_empty() {
        args.extend(["-o", options]);
    }
    let text = size.map(|size| size.to_string());
    if let Some(text) = &text {
        args.extend(["--size", text]);
    }
    args.extend(source);
    let output = oracle.run(folder, &args);
    let title = format!("{options} {size:?} {source:?}");
    match ours {
        Ok(measured) => assert_eq!(printed(&measured), String::from_utf8_lossy(&output.stdout), "{title}"),
        Err(error) => {
            let text = format!("qemu-img: {}\n", error.joined());
            assert_eq!(text, String::from_utf8_lossy(&output.stderr), "{title}");
        }
    }
}

fn measured_sizes(oracle: &Oracle) {
    let folder = tempfile::tempdir().unwrap();
    for cluster in CLUSTER_SIZES {
        for size in SIZES {
            same_measure(oracle, folder.path(), &format!("cluster_size={cluster}"), Some(size), None);
        }
    }
    let options = [
        "refcount_bits=1",
        "refcount_bits=64",
        "refcount_bits=3",
        "cluster_size=3,refcount_bits=3",
        "extended_l2=on",
        "extended_l2=on,cluster_size=4k",
        "extended_l2=on,compat=0.10",
        "compat=v3",
        "compat=0.10,refcount_bits=8",
        "refcount_bits=3,compat=9",
        "preallocation=foo,compat=9",
        "preallocation=foo,refcount_bits=3",
        "preallocation=foo",
        "preallocation=metadata",
        "preallocation=falloc",
        "preallocation=full",
        "encrypt.format=luks",
        "encrypt.format=aes",
        "encrypt.format=foo",
        "encryption=on",
        "encrypt.format=luks,encrypt.key-secret=none",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=0",
        "encrypt.format=luks,encrypt.key-secret=s,cluster_size=512,encrypt.cipher-alg=aes-128,encrypt.iter-time=0",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=serpent-256,encrypt.cipher-mode=cbc,encrypt.iter-time=0",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=foo",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=des",
        "encrypt.format=luks,encrypt.key-secret=s,cluster_size=2M,preallocation=full,encrypt.iter-time=0",
        "data_file=x,data_file_raw=on",
        "backing_file=x",
    ];
    for options in options {
        for size in [1, 777_777_777, 1 << 40, 3 << 50] {
            same_measure(oracle, folder.path(), options, Some(size), None);
        }
    }
}

fn measured_sources(oracle: &Oracle) {
    let folder = tempfile::tempdir().unwrap();
    let mut rng = Rng::new(17);
    for round in 0..12 {
        let cluster = *rng.pick(&["512", "4k", "64k", "2M"]);
        let create = format!("cluster_size={cluster},compat={}", rng.pick(&["0.10", "1.1"]));
        oracle.must(folder.path(), &["create", "-q", "-f", "qcow2", "-o", &create, "image", "20M"]);
        let mut commands = Vec::new();
        for _ in 0..10 {
            let (at, len) = (rng.below(19 << 20) / 512 * 512, (1 + rng.below(600)) * 512);
            let verb = *rng.pick(&["write", "write -z", "discard"]);
            commands.push(format!("{verb} {at} {len}"));
        }
        let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
        oracle.qemu_io(folder.path(), "qcow2", "image", &commands);
        if round % 2 == 1 && create.ends_with("1.1") {
            for (name, granularity) in [("b", "512"), ("another", "64k"), ("third one", "1M")] {
                oracle.must(folder.path(), &["bitmap", "--add", "-g", granularity, "image", name]);
            }
        }
        for options in
            ["", "cluster_size=512", "cluster_size=2M", "compat=0.10", "preallocation=full", "backing_file=x"]
        {
            same_measure(oracle, folder.path(), options, None, Some("image"));
        }
    }
}
