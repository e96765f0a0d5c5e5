//! The rules of raw: its window, its creation, and the guard of an image that was only guessed to be raw.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;

use diskimg_core::driver::{
    CreateContext, FormatDriver, MeasureInput, Notices, OpenContext, OpenMode, ProbeInput,
};
use diskimg_core::opener::{Mode, NoReferences, Opener, ReferenceKind};
use diskimg_core::options::{OptKind, OptSpec, ParsedOptions, RuntimeOptions, RuntimeValue};
use diskimg_core::{
    BlockDevice, ByteRange, Device, ErrorKind, HostRef, Image, MemDevice, NullDevice, Prealloc, Registry,
    Result, ZeroMode, errno,
};
use diskimg_raw::DRIVER;

/// A format whose magic is `MAGIC`.
static OTHER: FormatDriver = FormatDriver {
    name: "other",
    probe: |input: &ProbeInput<'_>| if input.head.starts_with(b"MAGIC") { 100 } else { 0 },
    ..DRIVER_SHAPE
};

const DRIVER_SHAPE: FormatDriver = FormatDriver {
    name: "",
    extensions: &[],
    caps: diskimg_core::driver::Caps::empty(),
    options: &[],
    strong_options: &[],
    probe: |_| 0,
    open: |_| Err(diskimg_core::Error::unsupported("not in this test")),
    creator: None,
    measure: None,
};

/// Knows raw and [`OTHER`].
#[derive(Debug)]
struct Knowing;

impl Opener for Knowing {
    fn open(&self, _: ReferenceKind, name: &str, _: Mode, _: RuntimeOptions) -> Result<Arc<dyn BlockDevice>> {
        Err(diskimg_core::opener::denied(name))
    }

    fn registry(&self) -> Option<Registry> {
        Some(Registry::new().with_format(&OTHER).with_format(&DRIVER))
    }
}

fn open_as(
    storage: Arc<dyn BlockDevice>,
    mode: OpenMode,
    opener: &dyn Opener,
    given: &[(&str, RuntimeValue)],
) -> Result<Arc<dyn Image>> {
    let mut options = RuntimeOptions::new();
    for (name, value) in given {
        options.set(*name, value.clone());
    }
    let notices = Notices::default();
    (DRIVER.open)(OpenContext { storage, filename: "image", mode, options: &mut options, opener, notices })
}

fn open(len: usize, given: &[(&str, RuntimeValue)]) -> Result<Arc<dyn Image>> {
    let mode = OpenMode { write: true, ..OpenMode::default() };
    open_as(Arc::new(MemDevice::new(len)), mode, &NoReferences, given)
}

fn guessed(opener: &dyn Opener) -> Device {
    let mode = OpenMode { write: true, guessed: true, ..OpenMode::default() };
    Device::new(open_as(Arc::new(MemDevice::new(4096)), mode, opener, &[]).unwrap())
}

#[test]
fn windows_that_do_not_fit_are_refused_in_qemu_img_s_words() {
    let text = |value: &str| RuntimeValue::Str(value.to_owned());
    let cases = [
        (
            vec![("offset", text("11264"))],
            "Offset (11264) cannot be greater than size of the containing file (10240)",
        ),
        (vec![("size", text("100"))], "Specified size is not multiple of 512"),
        (
            vec![("offset", text("1k")), ("size", text("100k"))],
            "The sum of offset (1024) and size (102400) has to be smaller or equal to the  actual size of the \
             containing file (10240)",
        ),
        (
            vec![("size", text("8E"))],
            "The sum of offset (0) and size (9223372036854775808) has to be smaller or equal to the  actual size of \
             the containing file (10240)",
        ),
        (vec![("offset", RuntimeValue::Int(-1))], "Value '-1' is out of range for parameter 'offset'"),
        (vec![("offset", text("foo"))], "Parameter 'offset' expects a non-negative number below 2^64"),
    ];
    for (given, message) in cases {
        assert_eq!(open(10240, &given).unwrap_err().joined(), message);
    }
    assert_eq!(open(10240, &[("offset", text("10240"))]).unwrap().len(), 0);
    assert_eq!(open(10240, &[("offset", text("1k")), ("size", text("9k"))]).unwrap().len(), 9216);
}

#[test]
fn a_disk_of_fixed_size_keeps_it_and_one_with_an_offset_moves_the_end_of_the_file() {
    let image = open(10240, &[("size", RuntimeValue::Uint(1024))]).unwrap();
    let error = image.set_len(2048, Prealloc::Off).unwrap_err();
    assert_eq!(error.joined(), "Cannot resize fixed-size raw disks");

    let image = open(10240, &[("offset", RuntimeValue::Uint(1000))]).unwrap();
    image.set_len(5000, Prealloc::Off).unwrap();
    assert_eq!((image.len(), image.children()[0].device.len()), (5120, 6000));
    assert!(image.set_len(u64::MAX, Prealloc::Off).is_err());
}

#[test]
fn the_last_sector_is_filled_up_with_zeros() {
    let mode = OpenMode { write: true, ..OpenMode::default() };
    let storage: Arc<dyn BlockDevice> = Arc::new(MemDevice::from(vec![7; 1025]));
    let image = open_as(Arc::clone(&storage), mode, &NoReferences, &[]).unwrap();
    assert_eq!(image.len(), 1536);
    let mut bytes = [1; 1536];
    image.read_at(0, &mut bytes).unwrap();
    assert_eq!((bytes[1024], bytes[1025], bytes[1535]), (7, 0, 0));
    let tail = image.extent_at(ByteRange::new(1025, 511)).unwrap();
    assert!(tail.is_zero() && tail.is_present() && tail.len == 511);
    assert_eq!(image.extent_at(ByteRange::new(0, 1536)).unwrap().len, 1025);
    assert!(image.read_at(1536, &mut bytes[..1]).is_err());
    image.write_at(1530, &[9; 6]).unwrap();
    assert_eq!((image.len(), storage.len()), (1536, 1536));
}

#[test]
fn a_guessed_image_never_starts_to_look_like_another_format() {
    let disk = guessed(&Knowing);
    let mut sector = [0; 512];
    sector[..5].copy_from_slice(b"MAGIC");
    let refused = |result: Result<()>| {
        let error = result.unwrap_err();
        assert_eq!((error.joined().as_str(), error.errno()), ("Operation not permitted", errno::EPERM));
    };
    refused(disk.write_at(0, &sector));
    refused(disk.write_at(0, b"MAGIC"));
    refused(disk.write_at(0, &[sector, sector].concat()));
    // Letter by letter.
    disk.write_at(0, b"MAG").unwrap();
    refused(disk.write_at(3, b"IC"));
    refused(disk.inner().write_at(3, b"IC"));
    disk.write_at(0, b"harmless").unwrap();
    disk.write_at(512, &sector).unwrap();
    disk.write_at(2, b"MAGIC").unwrap();
    disk.write_zeroes(ByteRange::new(0, 512), ZeroMode::MayUnmap).unwrap();
    disk.discard(ByteRange::new(0, 512)).unwrap();

    let source = MemDevice::from([sector, sector].concat());
    let source = HostRef { device: &source, offset: 0 };
    assert_eq!(disk.copy_from(0, source, 1024).unwrap(), 0);
    let mut head = [1; 16];
    disk.read_at(0, &mut head).unwrap();
    assert_eq!(head, [0; 16]);
}

#[test]
fn a_guard_that_knows_no_format_lets_nothing_change_the_first_sector() {
    let disk = guessed(&NoReferences);
    assert!(disk.write_at(0, b"harmless").is_err());
    disk.write_at(512, b"harmless").unwrap();
}

#[test]
fn only_guessed_and_writable_images_are_guarded() {
    for mode in
        [OpenMode { write: true, ..OpenMode::default() }, OpenMode { guessed: true, ..OpenMode::default() }]
    {
        let image = open_as(Arc::new(MemDevice::new(4096)), mode, &Knowing, &[]).unwrap();
        assert_eq!(image.limits().align, 1);
        image.write_at(0, b"MAGIC").unwrap();
    }
}

const PREALLOCATION: &[OptSpec] = &[OptSpec::create("preallocation", OptKind::Str, "")];

fn create(storage: &Arc<dyn BlockDevice>, given: &str) -> Result<()> {
    let mut options = ParsedOptions::new(&[DRIVER.options, PREALLOCATION]);
    options.parse(given)?;
    let creator = DRIVER.creator.unwrap();
    (creator.validate)(&options)?;
    let storage = Arc::clone(storage);
    (creator.create)(&CreateContext { storage, filename: "image", options: &options, opener: &NoReferences })
}

#[test]
fn creating_rounds_the_size_up_and_knows_the_modes() {
    let storage: Arc<dyn BlockDevice> = Arc::new(MemDevice::new(0));
    create(&storage, "size=513").unwrap();
    assert_eq!(storage.len(), 1024);
    create(&storage, "size=2k,preallocation=full").unwrap();
    assert_eq!(storage.len(), 2048);
    assert_eq!(create(&storage, "preallocation=foo").unwrap_err().joined(), "invalid parameter value: foo");

    // A memory device of fixed length, as a block device has it.
    let image = open(4096, &[("size", RuntimeValue::Uint(4096))]).unwrap();
    image.write_at(0, &[7; 1024]).unwrap();
    let fixed: Arc<dyn BlockDevice> = image;
    assert!(create(&fixed, "size=8k").is_err());
    create(&fixed, "size=2k").unwrap();
    let mut bytes = [1; 1024];
    fixed.read_at(0, &mut bytes).unwrap();
    assert_eq!((&bytes[..512], &bytes[512..]), ([0; 512].as_slice(), [7; 512].as_slice()));

    let fixed: Arc<dyn BlockDevice> = Arc::new(NullDevice::new(4096));
    create(&fixed, "size=4k").unwrap();
    assert_eq!(create(&fixed, "size=4097").unwrap_err().joined(), "Cannot grow device files");
    let error = create(&fixed, "size=4k,preallocation=falloc").unwrap_err();
    assert_eq!(error.joined(), "Unsupported preallocation mode 'falloc'");
}

#[test]
fn an_image_measures_as_much_as_it_is_long() {
    let measure = DRIVER.measure.unwrap();
    let mut options = ParsedOptions::new(&[DRIVER.options]);
    options.set_number("size", 1000);
    let measured = measure(&MeasureInput {
        options: &options,
        source: None,
        source_image: None,
        secrets: &diskimg_core::Secrets::default(),
    })
    .unwrap();
    assert_eq!((measured.required, measured.fully_allocated, measured.bitmaps), (1024, 1024, None));
    let source = MemDevice::new(5000);
    let measured = measure(&MeasureInput {
        options: &options,
        source: Some(&source),
        source_image: None,
        secrets: &diskimg_core::Secrets::default(),
    })
    .unwrap();
    assert_eq!(measured.required, 5120);
}

#[test]
fn an_error_below_is_passed_up() {
    let storage: Arc<dyn BlockDevice> = Arc::new(MemDevice::read_only(vec![0; 4096]));
    let image = open_as(storage, OpenMode::default(), &NoReferences, &[]).unwrap();
    assert!(image.is_read_only());
    assert_eq!(image.write_at(0, &[1]).unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(image.write_at(5000, &[1]).unwrap_err().kind(), ErrorKind::OutOfRange);
}
