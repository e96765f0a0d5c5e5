//! Resizing, and creating images on the host.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]
#![allow(clippy::cast_possible_truncation)]

mod common;

use common::{qcow2, raw};
use diskimg_chain::{Context, ImageSpec, Node, OpenOptions};
use diskimg_core::{BlockDevice, Prealloc, Registry, Task};
use diskimg_engine::{
    CreatePlan, CreateRequest, NewSize, ResizeOptions, describe, describe_chain, measure, resize,
};

fn context() -> Context {
    let registry = Registry::new()
        .with_format(&diskimg_qcow2::DRIVER)
        .with_format(&diskimg_raw::DRIVER)
        .with_protocol(&diskimg_file::FILE)
        .with_protocol(&diskimg_file::HOST_DEVICE);
    Context::new(registry)
}

#[test]
fn resizing_keeps_to_its_rules() {
    let attempt = |size, shrink, prealloc| {
        let (_, node) = qcow2(4 << 20, &[]);
        resize(&node, &ResizeOptions { size, shrink, prealloc }, &Task::quiet())
            .map_err(|error| error.joined())
    };
    let off = Prealloc::Off;
    assert_eq!(attempt(NewSize::Grow(1 << 20), false, off), Ok(5 << 20));
    assert_eq!(attempt(NewSize::Shrink(1 << 20), true, off), Ok(3 << 20));
    assert_eq!(attempt(NewSize::Exact(4 << 20), false, off), Ok(4 << 20));
    let refused = |size, shrink, prealloc, text: &str| {
        assert_eq!(attempt(size, shrink, prealloc), Err(text.to_owned()));
    };
    refused(NewSize::Exact(0), true, off, "New image size must be positive");
    refused(NewSize::Shrink(5 << 20), true, off, "New image size must be positive");
    refused(NewSize::Exact(1 << 20), false, off, diskimg_engine::resize::SHRINK_REFUSED);
    let growing = "Preallocation can only be used for growing images";
    refused(NewSize::Exact(4 << 20), true, Prealloc::Full, growing);
    refused(NewSize::Exact(1 << 20), false, Prealloc::Full, growing);
    refused(NewSize::Grow(1000), false, off, "The new size must be a multiple of 512");
}

fn request<'a>(filename: &'a str, size: Option<u64>) -> CreateRequest<'a> {
    CreateRequest { filename, format: "qcow2", size, ..CreateRequest::default() }
}

fn refusal(request: &CreateRequest<'_>) -> (String, String) {
    let error = CreatePlan::new(&context(), request).and_then(|plan| plan.run()).unwrap_err();
    (error.joined(), error.hint().unwrap_or_default().to_owned())
}

#[test]
fn images_are_created_and_described() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (base, top) = (path("base.qcow2"), path("top.qcow2"));
    CreatePlan::new(&context(), &request(&base, Some(3 << 20))).unwrap().run().unwrap();
    let overlay =
        CreateRequest { backing: Some("base.qcow2"), backing_format: Some("qcow2"), ..request(&top, None) };
    let plan = CreatePlan::new(&context(), &overlay).unwrap();
    let summary = plan.summary();
    assert!(summary.contains(&("size", (3 << 20).to_string())), "{summary:?}");
    assert!(summary.contains(&("backing_file", "base.qcow2".to_owned())), "{summary:?}");
    plan.run().unwrap();
    let node = Node::open(&context(), &ImageSpec::name(&top), &OpenOptions::describe()).unwrap();
    let report = describe(&node).unwrap();
    assert_eq!((report.virtual_size, report.format.as_str()), (3 << 20, "qcow2"));
    assert_eq!(report.backing.as_ref().unwrap().full_name, Some(base.clone()));
    assert_eq!(report.children.len(), 1);
    assert_eq!((report.children[0].0.as_str(), report.children[0].1.format.as_str()), ("file", "file"));
    let chain = describe_chain(&context(), &ImageSpec::name(&top), &OpenOptions::describe()).unwrap();
    assert_eq!(chain.iter().map(|report| report.filename.as_str()).collect::<Vec<_>>(), [top, base]);
}

#[test]
fn what_is_wrong_is_said_before_a_file_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.qcow2");
    std::fs::write(&path, b"precious").unwrap();
    let name = path.to_str().unwrap();
    let size = Some(1 << 20);
    let cases = [
        (request(name, None), "Image creation needs a size parameter", ""),
        (CreateRequest { format: "nosuch", ..request(name, size) }, "Unknown file format 'nosuch'", ""),
        (
            CreateRequest { options: "size=1M", ..request(name, size) },
            "The image size must be specified only once",
            "",
        ),
        (CreateRequest { options: "foo=1", ..request(name, size) }, "Invalid parameter 'foo'", ""),
        (
            CreateRequest { options: "cluster_size=3", ..request(name, size) },
            "Cluster size must be a power of two between 512 and 2048k",
            "",
        ),
        (
            CreateRequest { backing: Some(""), ..request(name, size) },
            "Expected backing file name, got empty string",
            "",
        ),
        (
            CreateRequest { backing: Some(name), ..request(name, size) },
            "Error: Trying to create an image with the same filename as the backing file",
            "",
        ),
        (
            CreateRequest { backing: Some("x"), unchecked: true, ..request(name, size) },
            "Backing file specified without backing format",
            "",
        ),
        (
            CreateRequest { format: "raw", backing: Some("x"), ..request(name, size) },
            "Backing file not supported for file format 'raw'",
            "",
        ),
    ];
    for (request, text, hint) in cases {
        assert_eq!(refusal(&request), (text.to_owned(), hint.to_owned()), "{request:?}");
    }
    let missing = folder.path().join("gone").to_str().unwrap().to_owned();
    let (text, hint) = refusal(&CreateRequest { backing: Some("gone"), ..request(name, size) });
    assert_eq!(text, format!("Could not open '{missing}': No such file or directory"));
    assert_eq!(hint, "Could not open backing image.");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[test]
fn measuring_needs_a_format_that_can() {
    let registry = context().registry;
    let (driver, mut options) = measure::options(&registry, "qcow2", None).unwrap();
    let source = raw(vec![1; 1 << 20]);
    let found =
        diskimg_engine::measure(driver, &mut options, Some(&source), &diskimg_core::Secrets::default())
            .unwrap();
    assert_eq!(found.fully_allocated, (1 << 20) + 5 * 65536);
    assert_eq!(source.len(), 1 << 20);
    assert_eq!(
        measure::options(&registry, "qcow2", Some("foo=3")).unwrap_err().joined(),
        "Invalid parameter 'foo'"
    );
}
