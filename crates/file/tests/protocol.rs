//! Opening and creating by protocol: names, options, locks, and the texts of refusals.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::cast_possible_truncation)]

use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;

use diskimg_core::driver::Notices;
use diskimg_core::options::{ParsedOptions, RuntimeOptions, RuntimeValue};
use diskimg_core::protocol::{CacheMode, LockSpec, ProtocolCreate, ProtocolDriver, ProtocolOpen};
use diskimg_core::{BlockDevice, CancelToken, ErrorKind, Prealloc, Registry, Result};
use diskimg_file::{FILE, HOST_DEVICE, NULL_AIO, NULL_CO};

fn open_with(
    driver: &ProtocolDriver,
    filename: &str,
    write: bool,
    lock: Option<LockSpec>,
    given: &[(&str, &str)],
) -> Result<Arc<dyn BlockDevice>> {
    let mut options = RuntimeOptions::new();
    for (name, value) in given {
        options.set(*name, RuntimeValue::Str((*value).to_owned()));
    }
    let opened = (driver.open)(ProtocolOpen {
        filename,
        write,
        cache: CacheMode::WriteBack,
        lock,
        options: &mut options,
        notices: Notices::default(),
        cancel: CancelToken::default(),
    });
    if opened.is_ok() {
        assert!(options.is_empty(), "{options:?}");
    }
    opened
}

fn open(driver: &ProtocolDriver, filename: &str, write: bool) -> Result<Arc<dyn BlockDevice>> {
    open_with(driver, filename, write, None, &[])
}

fn create(driver: &ProtocolDriver, filename: &str, size: u64, prealloc: Prealloc) -> Result<()> {
    let options = ParsedOptions::new(&[driver.create_options]);
    let create = driver.create.expect("a driver that creates");
    let (lock, notices, cancel) = (LockSpec::CREATE, Notices::default(), CancelToken::default());
    create(&ProtocolCreate { filename, size, prealloc, lock, options: &options, notices, cancel })
}

fn in_folder(folder: &tempfile::TempDir, name: &str) -> String {
    folder.path().join(name).to_str().unwrap().to_owned()
}

fn refusal<T>(result: Result<T>) -> String {
    result.map(|_| ()).unwrap_err().joined()
}

#[test]
fn what_is_no_file_is_refused_in_qemu_img_s_words_and_without_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let (missing, pipe) = (in_folder(&folder, "missing"), in_folder(&folder, "pipe"));
    let text = format!("Could not open '{missing}': No such file or directory");
    assert_eq!(refusal(open(&FILE, &missing, false)), text);
    assert_eq!(open(&FILE, &missing, true).unwrap_err().kind(), ErrorKind::NotFound);

    let directory = folder.path().to_str().unwrap();
    let text = format!("'file' driver requires '{directory}' to be a regular file");
    assert_eq!(refusal(open(&FILE, directory, false)), text);
    let text = format!("Could not open '{directory}': Is a directory");
    assert_eq!(refusal(open(&FILE, directory, true)), text);

    rustix::fs::mknodat(rustix::fs::CWD, pipe.as_str(), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(std::fs::metadata(&pipe).unwrap().file_type().is_fifo());
    for write in [false, true] {
        let text = format!("'file' driver requires '{pipe}' to be a regular file");
        assert_eq!(refusal(open(&FILE, &pipe, write)), text);
    }
    assert_eq!(refusal(open(&FILE, "", false)), "The 'file' block driver requires a file name");
}

#[test]
fn device_nodes_are_for_the_device_protocol_and_claimed_by_it() {
    let text = "'file' driver requires '/dev/null' to be a regular file";
    assert_eq!(refusal(open(&FILE, "/dev/null", false)), text);
    let file = tempfile::NamedTempFile::new().unwrap();
    let name = file.path().to_str().unwrap();
    let text = format!("'host_device' driver requires '{name}' to be either a character or block device");
    assert_eq!(refusal(open(&HOST_DEVICE, name, false)), text);

    let device = open(&HOST_DEVICE, "/dev/null", true).unwrap();
    assert_eq!((device.len(), device.describe().driver), (0, "host_device"));

    let registry = Registry::new().with_protocol(&FILE).with_protocol(&HOST_DEVICE).with_protocol(&NULL_CO);
    let protocol = |name| registry.protocol_of_plain_name(name).map(|driver| driver.name);
    assert_eq!(protocol("/dev/null"), Some("host_device"));
    assert_eq!(protocol(name), Some("file"));
    assert_eq!(protocol("/nowhere"), Some("file"));
}

#[test]
fn options_of_host_files_are_taken_out_and_checked() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let name = file.path().to_str().unwrap();
    let good = [
        ("aio", "threads"),
        ("aio", "io_uring"),
        ("aio-max-batch", "16"),
        ("aio-max-batch", "-1"),
        ("locking", "auto"),
        ("locking", "on"),
        ("locking", "off"),
        ("drop-cache", "yes"),
        ("x-check-cache-dropped", "off"),
    ];
    for option in good {
        open_with(&FILE, name, true, Some(LockSpec::RAW_WRITE), &[option]).unwrap();
    }
    let bad = [
        (("aio", "foo"), "invalid parameter value: foo"),
        (
            ("aio", "native"),
            "aio=native was specified, but it requires cache.direct=on, which was not specified.",
        ),
        (("aio-max-batch", "x"), "Parameter 'aio-max-batch' expects a number"),
        (("locking", ""), "invalid parameter value: "),
        (("pr-manager", "x"), "No persistent reservation manager with id 'x'"),
        (("drop-cache", "foo"), "Parameter 'drop-cache' expects 'on' or 'off'"),
    ];
    for (option, text) in bad {
        assert_eq!(refusal(open_with(&FILE, name, false, None, &[option])), text);
    }
}

#[test]
fn a_locked_image_is_refused_and_shared_as_asked() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let name = file.path().to_str().unwrap();
    let user = |lock, given: &[(&str, &str)]| open_with(&FILE, name, true, Some(lock), given);
    let held = user(LockSpec::FORMAT_WRITE, &[]).unwrap();
    let error = user(LockSpec::FORMAT_WRITE, &[]).unwrap_err();
    assert_eq!(
        (error.kind(), error.joined()),
        (ErrorKind::Locked, "Failed to get \"write\" lock".to_owned())
    );
    assert_eq!(error.hint(), Some(format!("Is another process using the image [{name}]?").as_str()));
    user(LockSpec::FORMAT_WRITE, &[("locking", "off")]).unwrap();
    user(LockSpec::SHARED_READ, &[]).unwrap();
    drop(held);
    user(LockSpec::FORMAT_WRITE, &[]).unwrap();
}

#[test]
fn creating_makes_and_empties_files_but_never_one_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let name = in_folder(&folder, "new");
    create(&FILE, &name, 10_000, Prealloc::Off).unwrap();
    assert_eq!(std::fs::read(&name).unwrap(), vec![0; 10_000]);
    std::fs::write(&name, b"precious").unwrap();

    let held = open_with(&FILE, &name, true, Some(LockSpec::FORMAT_WRITE), &[]).unwrap();
    let error = create(&FILE, &name, 0, Prealloc::Off).unwrap_err();
    assert_eq!(error.joined(), "Failed to get \"write\" lock");
    assert_eq!(std::fs::read(&name).unwrap(), b"precious");
    drop(held);

    create(&FILE, &name, 0, Prealloc::Off).unwrap();
    assert!(std::fs::read(&name).unwrap().is_empty());
    let error = create(&FILE, &name, 100, Prealloc::Metadata).unwrap_err();
    assert_eq!(error.joined(), "Unsupported preallocation mode: metadata");
    assert!(std::fs::read(&name).unwrap().is_empty());

    FILE.remove.unwrap()(&name).unwrap();
    assert!(!std::fs::exists(&name).unwrap());
}

#[test]
fn creation_that_the_host_refuses_says_so() {
    let error = create(&FILE, "/nosuchdir/x.raw", 0, Prealloc::Off).unwrap_err();
    assert_eq!(error.joined(), "Could not create '/nosuchdir/x.raw': No such file or directory");
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().to_str().unwrap();
    let error = create(&FILE, name, 0, Prealloc::Off).unwrap_err();
    assert_eq!(error.joined(), format!("Could not create '{name}': Is a directory"));
    let error = create(&HOST_DEVICE, "/dev/null", 512, Prealloc::Off).unwrap_err();
    assert_eq!(error.joined(), "Cannot grow device files");
}

#[test]
fn null_devices_have_the_size_that_is_asked_for() {
    for (driver, name) in [(&NULL_CO, "null-co://"), (&NULL_AIO, "null-aio://")] {
        let device = open(driver, name, true).unwrap();
        assert_eq!((device.len(), device.describe().filename), (1 << 30, name));
        assert_eq!(device.allocated_len().unwrap(), Some(0));
        let given = [("size", "1M"), ("latency-ns", "4"), ("read-zeroes", "on")];
        assert_eq!(open_with(driver, "", true, None, &given).unwrap().len(), 1 << 20);
        let text = format!("The only allowed filename for this driver is '{name}'");
        for other in ["//", "//foo", name.trim_end_matches('/')] {
            assert_eq!(refusal(open(driver, other, false)), text);
        }
    }
}
