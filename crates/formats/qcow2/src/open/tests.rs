//! What opening does beside reading the header: data files, keys, flags, tables.

use std::sync::Arc;

use diskimg_core::driver::{NoticeLevel, Notices, OpenContext, OpenMode};
use diskimg_core::opener::{Mode, Opener, ReferenceKind};
use diskimg_core::options::{RuntimeOptions, RuntimeValue};
use diskimg_core::{BlockDevice, Error, ErrorKind, MemDevice, Result};
use parking_lot::Mutex;

use super::{Parts, load};
use crate::extensions::Extensions;
use crate::features;
use crate::header::{Header, V3_LEN};

const READ: OpenMode = OpenMode { write: false, describe_only: false, check: false, guessed: false };
const WRITE: OpenMode = OpenMode { write: true, ..READ };
const DESCRIBE: OpenMode = OpenMode { describe_only: true, ..READ };
const CHECK: OpenMode = OpenMode { check: true, ..READ };

fn plain() -> Header {
    Header {
        version: 3,
        backing_name: None,
        cluster_bits: 16,
        size: 1 << 20,
        crypt_method: 0,
        l1_size: 1,
        l1_offset: 0x3_0000,
        reftable_offset: 0x1_0000,
        reftable_clusters: 1,
        snapshot_count: 0,
        snapshots_offset: 0,
        incompatible: 0,
        compatible: 0,
        autoclear: 0,
        refcount_order: 4,
        header_length: V3_LEN,
        compression_type: 0,
        unknown_fields: Vec::new(),
        extensions: Extensions::default(),
        raw_texts: Vec::new(),
    }
}

/// Opens what it is asked for and remembers it.
#[derive(Debug, Default)]
struct Recorder(Mutex<Vec<(String, Mode, RuntimeOptions)>>);

impl Opener for Recorder {
    fn open(
        &self,
        kind: ReferenceKind,
        name: &str,
        mode: Mode,
        options: RuntimeOptions,
    ) -> Result<Arc<dyn BlockDevice>> {
        assert_eq!(kind, ReferenceKind::DataFile);
        if name == "missing" {
            return Err(Error::new(ErrorKind::NotFound, "Could not open 'missing'"));
        }
        self.0.lock().push((name.to_owned(), mode, options));
        Ok(Arc::new(MemDevice::new(1 << 20)))
    }
}

struct Opening {
    storage: Arc<MemDevice>,
    opener: Recorder,
    said: Arc<Mutex<Vec<(NoticeLevel, String)>>>,
}

impl Opening {
    fn of(header: &Header) -> Self {
        let mut bytes = header.encode().unwrap();
        bytes.resize(0x3_0008, 0);
        Self { storage: Arc::new(MemDevice::from(bytes)), opener: Recorder::default(), said: Arc::default() }
    }

    fn open(&self, mode: OpenMode, options: &[(&str, &str)]) -> Result<Parts> {
        let mut given = RuntimeOptions::new();
        for (name, value) in options {
            given.set(*name, RuntimeValue::Str((*value).to_owned()));
        }
        let said = Arc::clone(&self.said);
        let parts = load(OpenContext {
            storage: Arc::clone(&self.storage) as _,
            filename: "image",
            mode,
            options: &mut given,
            opener: &self.opener,
            notices: Notices::to(move |level, text| said.lock().push((level, text.to_owned()))),
        });
        if parts.is_ok() {
            assert!(given.is_empty(), "{given:?}");
        }
        parts
    }

    fn refusal(&self, mode: OpenMode, options: &[(&str, &str)]) -> String {
        self.open(mode, options).unwrap_err().joined()
    }
}

fn with_data_file(name: Option<&str>) -> Header {
    let extensions = Extensions { data_file: name.map(str::to_owned), ..Extensions::default() };
    Header { incompatible: features::DATA_FILE, extensions, ..plain() }
}

#[test]
fn the_data_file_is_opened_for_data_only() {
    let opening = Opening::of(&with_data_file(Some("d")));
    assert!(opening.open(DESCRIBE, &[]).unwrap().data_file.is_none());
    assert!(opening.opener.0.lock().is_empty());
    assert!(opening.open(WRITE, &[("data-file.filename", "other"), ("data-file.locking", "off")]).is_ok());
    let (name, mode, options) = opening.opener.0.lock().pop().unwrap();
    assert_eq!((name.as_str(), mode), ("d", Mode { write: true, create: false }));
    assert!(options.get("filename").is_some() && options.get("locking").is_some());
}

#[test]
fn data_files_that_are_missing_or_not_wanted_are_refused() {
    let opening = Opening::of(&with_data_file(None));
    assert_eq!(opening.refusal(READ, &[]), "'data-file' is required for this image");
    assert!(opening.open(READ, &[("data-file.filename", "d")]).is_ok());
    assert!(opening.open(DESCRIBE, &[]).is_ok());
    assert_eq!(opening.refusal(READ, &[("data-file", "n")]), "Cannot find device='n' nor node-name='n'");
    let opening = Opening::of(&with_data_file(Some("missing")));
    assert_eq!(opening.refusal(CHECK, &[]), "Could not open 'missing'");
    let opening = Opening::of(&plain());
    let text = "'data-file' can only be set for images with an external data file";
    assert_eq!(opening.refusal(READ, &[("data-file.filename", "d")]), text);
    let opening = Opening::of(&Header { autoclear: features::RAW_DATA_FILE, ..plain() });
    assert_eq!(opening.refusal(READ, &[]), "data-file-raw requires a data file");
    assert!(opening.open(DESCRIBE, &[]).is_ok());
}

#[test]
fn encrypted_images_can_only_be_described_without_a_key() {
    let opening = Opening::of(&Header { crypt_method: 1, ..plain() });
    assert!(opening.open(DESCRIBE, &[]).is_ok());
    assert_eq!(opening.refusal(READ, &[]), "Parameter 'encrypt.key-secret' is required for cipher");
    assert_eq!(opening.refusal(READ, &[("encrypt.key-secret", "s")]), "No secret with id 's'");
    let text = "Header reported 'aes' encryption format but options specify 'luks'";
    assert_eq!(opening.refusal(READ, &[("encrypt.format", "luks")]), text);
}

#[test]
fn a_writer_clears_what_it_does_not_know_and_a_reader_nothing() {
    let opening = Opening::of(&Header { autoclear: 1 << 30, ..plain() });
    let before = opening.storage.to_vec();
    for mode in [READ, DESCRIBE, CHECK] {
        assert_eq!(opening.open(mode, &[]).unwrap().header.autoclear, 1 << 30);
    }
    assert_eq!(opening.storage.to_vec(), before);
    assert_eq!(opening.open(WRITE, &[]).unwrap().header.autoclear, 0);
    assert_eq!(&opening.storage.to_vec()[88..96], &[0; 8]);
}

#[test]
fn an_image_that_was_not_closed_is_repaired_by_a_writer_only() {
    let opening = Opening::of(&Header { incompatible: features::DIRTY, ..plain() });
    assert!(opening.open(READ, &[]).is_ok());
    assert!(opening.open(OpenMode { write: true, ..CHECK }, &[]).is_ok());
    assert_eq!(opening.storage.to_vec()[79], 1);
    // There are no refcounts at all: they are made anew.
    let parts = opening.open(WRITE, &[]).unwrap();
    assert_eq!((parts.header.incompatible, opening.storage.to_vec()[79]), (0, 0));
    assert!(opening.said.lock().iter().any(|(_, text)| text == "Rebuilding refcount structure"));
    assert!(parts.reftable.iter().any(|entry| *entry != 0));
}

#[test]
fn stale_bitmaps_are_announced_and_dropped_by_a_writer() {
    let mut header = plain();
    header.extensions.unknown = vec![(crate::extensions::BITMAPS, vec![0; 24])];
    let opening = Opening::of(&header);
    opening.open(DESCRIBE, &[]).unwrap();
    assert_eq!(opening.said.lock()[0].0, NoticeLevel::Warning);
    assert_eq!(opening.said.lock().len(), 2);
    opening.open(WRITE, &[]).unwrap();
    opening.said.lock().clear();
    opening.open(WRITE, &[]).unwrap();
    assert!(opening.said.lock().is_empty());
}

#[test]
fn tables_behind_the_end_of_the_file_are_zeros_of_the_right_length() {
    let opening = Opening::of(&Header { l1_size: 300_000, l1_offset: 0x3_0000, ..plain() });
    opening.storage.write_at(0x3_0000, &[0x11; 12]).unwrap();
    let parts = opening.open(READ, &[]).unwrap();
    assert_eq!(parts.l1.len(), 300_000);
    // Also where the file ends within an entry.
    assert_eq!(parts.l1[..3], [0x1111_1111_1111_1111, 0x1111_1111_0000_0000, 0]);
    assert_eq!(parts.reftable.len(), 8192);
    let described = opening.open(DESCRIBE, &[]).unwrap();
    assert!(described.l1.is_empty() && described.reftable.is_empty());
}

#[test]
fn every_runtime_option_has_its_place() {
    let opening = Opening::of(&plain());
    let options = [
        ("lazy-refcounts", "on"),
        ("pass-discard-request", "off"),
        ("pass-discard-snapshot", "off"),
        ("pass-discard-other", "on"),
        ("discard-no-unref", "on"),
        ("overlap-check.template", "all"),
        ("overlap-check.active-l2", "off"),
        ("cache-size", "1M"),
        ("l2-cache-entry-size", "4k"),
        ("cache-clean-interval", "0"),
    ];
    let settings = opening.open(READ, &options).unwrap().settings;
    assert_eq!(settings.lazy_refcounts, Some(true));
    assert_eq!(settings.pass_discard_request, Some(false));
    assert!(!settings.pass_discard_snapshot && settings.pass_discard_other && settings.discard_no_unref);
    assert_eq!(settings.overlap, crate::settings::Overlap::all() - crate::settings::Overlap::ACTIVE_L2);
}
