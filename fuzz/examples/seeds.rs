//! Writes first inputs for the fuzz targets into `corpus/TARGET/`: small images of every geometry with all sorts of
//! contents, specifications and option strings. Run it in this folder: `cargo run --example seeds`.

use std::path::Path;

use diskimg_core::FormatDriver;
use diskimg_fuzz::GEOMETRIES;
use diskimg_testkit::{FormatSubject, contract};

const SPECS: &[&str] = &[
    r#"{"driver":"qcow2","file":{"driver":"file","filename":"a.qcow2"}}"#,
    r#"{"driver":"qcow2","file.filename":"a","backing":null,"lazy-refcounts":true}"#,
    r#"{"file":{"filename":"a","locking":"off"},"backing":{"driver":"raw","offset":512,"size":1e3}}"#,
    r#"json:{"driver":"raw","file":{"driver":"file","filename":"x"},"offset":-1}"#,
    "driver=qcow2,file.driver=file,file.filename=a,,b.qcow2,backing.file.filename=c",
    "a.raw,driver=raw,offset=512",
    "file:a.raw",
    "nbd://host:10809/name",
    "file.0.x=1,file.1.x=2",
    r#"{"a":[1,[2,{"b":"\u0000\ud834\udd1e"}]],"c":{"d":{"e":18446744073709551615}}}"#,
];

const OPTIONS: &[&str] = &[
    "cluster_size=64k,compat=1.1,lazy_refcounts=on",
    "size=1.5G,preallocation=metadata",
    "refcount_bits=0x10,extended_l2,nolazy_refcounts",
    "backing_file=a,,b,backing_fmt=raw",
    "data_file=x,data_file_raw=on,compression_type=zstd",
    "encrypt.format=luks,encrypt.key-secret=s",
    " +0x10",
    "1.0000000000000001E",
    "18446744073709551615",
];

/// Images of the other formats: name in the targets, driver, bytes of the disk, create options.
const IMAGES: &[(&str, &FormatDriver, u64, &[&[&str]])] = &[
    ("parallels", &diskimg_parallels::DRIVER, 24 << 10, &[&["cluster_size=4096"], &["cluster_size=512"]]),
    ("vhd", &diskimg_vhd::DRIVER, 24 << 10, &[&["force_size=on"], &["subformat=fixed"], &[]]),
    ("vdi", &diskimg_vdi::DRIVER, 3 << 20, &[&[], &["static=on"]]),
    ("vmdk", &diskimg_vmdk::DRIVER, 200 << 10, &[&[], &["subformat=streamOptimized"], &["zeroed_grain=on"]]),
    ("qed", &diskimg_qed::DRIVER, 24 << 10, &[&["cluster_size=4096"], &["cluster_size=4096", "table_size=2"]]),
    ("qcow", &diskimg_qcow::DRIVER, 24 << 10, &[&[]]),
    ("luks", &diskimg_luks::DRIVER, 4 << 10, &[&["key-secret=s", "iter-time=0"]]),
];

/// Ciphers of headers.
const CIPHERS: &[&[&str]] = &[
    &["key-secret=s", "iter-time=0"],
    &["key-secret=s", "iter-time=0", "cipher-alg=aes-128", "cipher-mode=cbc", "ivgen-alg=essiv"],
    &["key-secret=s", "iter-time=0", "cipher-alg=twofish-256", "hash-alg=sha512", "ivgen-alg=plain"],
];

/// Bytes of a header.
const LUKS_HEADER: usize = 4096;

/// Descriptors of disks of several files: behind a line of dashes the first bytes of the extent.
const DESCRIPTORS: &[&str] = &[
    "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
     RW 20 FLAT \"image-flat\" 0\nddb.adapterType = \"ide\"\n\n----\nbytes",
    "version=3\r\nencoding=\"windows-1252\"\r\nCID=0xf\r\nparentCID=0\r\nparentFileNameHint=\"a\"\r\n\
     createType = \"vmfsSparse\"\r\nRDONLY 8 ZERO\r\nRW 8192 VMFSSPARSE \"image-flat\"\r\n\n----\nCOWD\u{1}\0\0\0",
];

/// Longest seed, in bytes: what is behind it is mostly data.
const LONGEST: usize = 400_000;

fn main() -> std::io::Result<()> {
    let corpus = Path::new("corpus");
    for (name, driver, size, kinds) in IMAGES {
        for (number, options) in kinds.iter().enumerate() {
            let subject = FormatSubject::new(driver, *size, options);
            let mut images = vec![subject.fresh().swap_remove(0).to_vec()];
            // Streams are written once, from the start on.
            let anywhere = *name != "luks" && !options.iter().any(|option| option.contains("stream"));
            if anywhere {
                images.push(contract::hostile_image(&subject).swap_remove(0));
            }
            for (kind, mut image) in images.into_iter().enumerate() {
                image.truncate(LONGEST);
                put(corpus, &format!("open_{name}"), number + kind * 100, &image)?;
            }
        }
    }
    for (number, options) in GEOMETRIES.iter().enumerate() {
        let subject = FormatSubject::new(&diskimg_qcow2::DRIVER, 24 << 10, options);
        let image = contract::hostile_image(&subject).swap_remove(0);
        put(corpus, "open_qcow2", number, &image)?;
        let empty = subject.fresh()[0].to_vec();
        put(corpus, "open_qcow2", number + 100, &empty)?;
    }
    for seed in 0..40_u64 {
        let mut rng = diskimg_testkit::Rng::new(seed);
        let bytes: Vec<u8> = (0..200 + seed * 20).map(|_| rng.next_u64().to_le_bytes()[0]).collect();
        put(corpus, "acts_qcow2", usize::try_from(seed).unwrap_or(0), &bytes)?;
        put(corpus, "ops_qcow2", usize::try_from(seed).unwrap_or(0), &bytes)?;
        for (name, ..) in IMAGES {
            put(corpus, &format!("ops_{name}"), usize::try_from(seed).unwrap_or(0), &bytes)?;
        }
        put(corpus, "open_raw", usize::try_from(seed).unwrap_or(0), &bytes)?;
    }
    for (number, options) in CIPHERS.iter().enumerate() {
        let mut header = FormatSubject::new(&diskimg_luks::DRIVER, 0, options).fresh().swap_remove(0).to_vec();
        header.truncate(LUKS_HEADER);
        put(corpus, "luks_header", number, &header)?;
    }
    for (number, text) in DESCRIPTORS.iter().enumerate() {
        put(corpus, "vmdk_descriptor", number, text.as_bytes())?;
    }
    for (number, text) in SPECS.iter().enumerate() {
        put(corpus, "json_spec", number, text.as_bytes())?;
    }
    for (number, text) in OPTIONS.iter().enumerate() {
        put(corpus, "option_string", number, text.as_bytes())?;
    }
    Ok(())
}

fn put(corpus: &Path, target: &str, number: usize, bytes: &[u8]) -> std::io::Result<()> {
    let folder = corpus.join(target);
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join(format!("seed-{number}")), bytes)
}
