//! Opening by names, JSON and options: what is opened how, what it is called, and what is refused with which words.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use common::world::{context, listening, opened, put, put_layer};
use diskimg_chain::{Deny, ImageSpec, Listed, Node, OpenOptions, SameDirectory};
use diskimg_core::opener::{Gate, Reference, ReferenceKind};
use diskimg_core::protocol::{CacheMode, LockSpec, Permissions};
use diskimg_core::{BlockDevice, ByteRange, ErrorKind, ExtentFlags};

fn fail(spec: &ImageSpec, opts: &OpenOptions) -> String {
    let message = Node::open(&context(), spec, opts).unwrap_err().joined();
    let label = format!("Could not open '{}': ", spec.label());
    message.strip_prefix(&label).unwrap_or_else(|| panic!("{message}")).to_owned()
}

#[test]
fn refusals_are_worded_like_those_of_qemu_img() {
    put("refuse.raw", &[1; 1024]);
    put_layer("refuse.gone", "gone.layer", "layer", 4096);
    put_layer("refuse.gone2", "refuse.gone", "layer", 4096);
    put_layer("refuse.wrong", "refuse.raw", "layer", 4096);
    put_layer("refuse.driver", "refuse.raw", "foo", 4096);
    put_layer("refuse.protocol", "foo:x", "raw", 4096);
    let rows = [
        ("nothing", "Could not open 'nothing': No such file or directory"),
        ("foo:x", "Unknown protocol 'foo'"),
        (":x", "Unknown protocol ''"),
        ("", "The 'file' block driver requires a file name"),
        ("file:a:b", "Could not open './a:b': No such file or directory"),
        ("json:[]", "Invalid JSON object given"),
        ("json:{}", "Must specify either driver or file"),
        ("json:{'filename':'refuse.raw'}", "Must specify either driver or file"),
        (
            "json:{'driver':'raw','file.filename':'refuse.raw','foo':1}",
            "Block format 'raw' does not support the option 'foo'",
        ),
        ("json:{'driver':'layer','file':'x'}", "Cannot find device='x' nor node-name='x'"),
        ("json:{'driver':'raw','file':null}", "A block device must be specified for \"file\""),
        ("json:{'driver':'raw','file.file.filename':'r'}", "Must specify either driver or file"),
        ("json:{'driver':'raw','file.driver':'zz'}", "Unknown driver 'zz'"),
        (
            "json:{'driver':'raw','file.filename':'file:x'}",
            "Could not open 'file:x': No such file or directory",
        ),
        (
            "json:{'driver':'raw','file.filename':'refuse.raw','backing':'x'}",
            "Block format 'raw' does not support the option 'backing'",
        ),
        (
            "json:{'driver':'raw','file.filename':'refuse.raw','file.x':1}",
            "Block protocol 'file' doesn't support the option 'x'",
        ),
        (
            "refuse.gone",
            "Could not open backing file: Could not open 'gone.layer': No such file or directory",
        ),
        (
            "refuse.gone2",
            "Could not open backing file: Could not open backing file: Could not open 'gone.layer': No such file or directory",
        ),
        ("refuse.wrong", "Could not open backing file: Image is not in layer format"),
        ("refuse.driver", "Could not open backing file: Unknown driver 'foo'"),
        ("refuse.protocol", "Could not open backing file: Unknown protocol 'foo'"),
        (
            "json:{'driver':'layer','file.filename':'refuse.gone','backing':'r'}",
            "Could not open backing file: Cannot find device='r' nor node-name='r'",
        ),
        (
            "json:{'driver':'layer','file.filename':'refuse.gone','backing.foo':1,'backing.driver':'raw','backing.file.filename':'refuse.raw'}",
            "Could not open backing file: Block format 'raw' does not support the option 'foo'",
        ),
    ];
    for (name, message) in rows {
        assert_eq!(fail(&ImageSpec::name(name), &OpenOptions::read()), message, "{name}");
    }
    let rows = [
        ("refuse.raw", Some("foo"), "Unknown driver 'foo'"),
        ("refuse.raw", Some("layer"), "Image is not in layer format"),
        ("nothing", Some("layer"), "Could not open 'nothing': No such file or directory"),
    ];
    for (name, format, message) in rows {
        assert_eq!(fail(&ImageSpec::name(name), &OpenOptions::read().with_format(format)), message);
    }
}

#[test]
fn options_are_refused_like_in_qemu_img() {
    put("opts.raw", &[1; 1024]);
    let rows = [
        ("", "Must specify either driver or file"),
        (",", "Cannot find device='' nor node-name=''"),
        ("driver=layer,filename=x", "A block device must be specified for \"file\""),
        ("driver=raw,,x", "Unknown driver 'raw,x'"),
        (
            "driver=raw,file=x,file.filename=y",
            "Cannot reference an existing block device with additional options or a new filename",
        ),
    ];
    for (text, message) in rows {
        assert_eq!(fail(&ImageSpec::image_opts(text).unwrap(), &OpenOptions::read()), message, "{text}");
    }
    let write = OpenOptions::write();
    for text in [
        "driver=raw,file.filename=opts.raw,read-only=on",
        "driver=raw,file.filename=opts.raw,file.read-only=on",
    ] {
        assert_eq!(fail(&ImageSpec::image_opts(text).unwrap(), &write), "Block node is read-only");
    }
    let shared = ImageSpec::image_opts("driver=raw,file.filename=opts.raw,force-share=on").unwrap();
    assert_eq!(fail(&shared, &write), "force-share=on can only be used with read-only images");
    let unshared = ImageSpec::image_opts("driver=raw,file.filename=opts.raw,force-share=off").unwrap();
    let force = OpenOptions { force_share: true, ..OpenOptions::read() };
    let message = Node::open(&context(), &unshared, &force).unwrap_err().joined();
    assert_eq!(message, "--force-share/-U conflicts with image options");
}

#[test]
fn names_are_shown_plain_where_that_says_it_all() {
    put("names.raw", &[1; 4096]);
    put_layer("names.layer", "", "", 4096);
    let rows = [
        ("names.raw", "names.raw"),
        ("file:names.raw", "names.raw"),
        (
            "json:{'driver':'raw','file.filename':'names.raw','file.locking':'off','discard':'unmap','node-name':'n'}",
            "names.raw",
        ),
        (
            "json:{'driver':'raw','offset':512,'file.filename':'names.raw'}",
            r#"json:{"offset": 512, "driver": "raw", "file": {"driver": "file", "filename": "names.raw"}}"#,
        ),
        (
            "json:{'driver':'layer','file':{'driver':'raw','file':{'driver':'file','filename':'names.layer'}}}",
            r#"json:{"driver": "layer", "file": {"driver": "raw", "file": {"driver": "file", "filename": "names.layer"}}}"#,
        ),
        ("json:{'driver':'null-co','size':'64k'}", r#"json:{"driver": "null-co", "size": "64k"}"#),
        ("json:{'driver':'null-co'}", "null-co://"),
        ("null-co://", "null-co://"),
    ];
    for (name, shown) in rows {
        let node = Node::open(&context(), &ImageSpec::name(name), &OpenOptions::read()).unwrap();
        assert_eq!(node.name(), shown, "{name}");
    }
    let inside = "json:{'driver':'layer','file':{'driver':'raw','file.filename':'names.layer'}}";
    let node = Node::open(&context(), &ImageSpec::name(inside), &OpenOptions::read()).unwrap();
    assert_eq!(node.inside().map(|node| (node.name(), node.format())), Some(("names.layer", "raw")));
    assert_eq!(node.filename(), "names.layer");
    let bare =
        Node::open(&context(), &ImageSpec::name("names.raw"), &OpenOptions::read().with_format(Some("file")));
    let bare = bare.unwrap();
    assert_eq!((bare.format(), bare.is_protocol(), bare.guessed()), ("file", true, false));
}

#[test]
fn files_are_locked_and_cached_as_the_format_asks() {
    put("lock.raw", &[1; 1024]);
    put_layer("lock.top", "lock.raw", "raw", 4096);
    let open = |name: &str, opts: OpenOptions| {
        Node::open(&context(), &ImageSpec::name(name), &opts).unwrap();
        let log = opened("lock.");
        let last = |name: &str| log.iter().rev().find(|opened| opened.name == name).cloned().unwrap();
        (last("lock.top"), last("lock.raw"))
    };
    let (top, base) = open("lock.top", OpenOptions::write().with_cache(CacheMode::None));
    assert_eq!((top.write, top.cache, top.lock), (true, CacheMode::None, Some(LockSpec::FORMAT_WRITE)));
    assert_eq!((base.write, base.cache, base.lock), (false, CacheMode::None, Some(LockSpec::SHARED_READ)));
    let (top, _) = open("lock.top", OpenOptions { force_share: true, ..OpenOptions::read() });
    assert_eq!(top.lock, Some(LockSpec::SHARED_READ));
    let (top, base) = open("lock.top", OpenOptions { convert_source: true, ..OpenOptions::read() });
    let unshared = |lock: Option<LockSpec>| Permissions::all().difference(lock.unwrap().share);
    assert_eq!(unshared(top.lock), Permissions::WRITE | Permissions::RESIZE);
    assert_eq!(unshared(base.lock), Permissions::WRITE | Permissions::RESIZE);
    let (top, _) = open(
        "json:{'driver':'layer','file':{'driver':'raw','file.filename':'lock.top'}}",
        OpenOptions::write(),
    );
    assert_eq!(top.lock, Some(LockSpec::FORMAT_WRITE));
    let (_, base) = open("lock.raw", OpenOptions::write());
    assert_eq!(base.lock, Some(LockSpec::RAW_WRITE));
    // Probing looks without a lock; what can't be written is refused then already.
    let log = opened("lock.raw");
    let probe = log.iter().rev().nth(1).unwrap();
    assert_eq!((probe.write, probe.lock), (true, None));
    let nested = "json:{'file':{'driver':'raw','file.filename':'lock.raw'}}";
    open(nested, OpenOptions::write());
    let log = opened("lock.raw");
    let probe = log.iter().rev().nth(1).unwrap();
    // An image inside is not opened for writing only to be looked at.
    assert_eq!((probe.write, probe.lock), (false, Some(LockSpec::SHARED_READ)));
}

#[test]
fn guessing_raw_for_writing_is_warned_about() {
    put("guess.raw", &[1; 1024]);
    let (ctx, heard) = listening();
    let node = Node::open(&ctx, &ImageSpec::name("file:guess.raw"), &OpenOptions::write()).unwrap();
    assert!(node.guessed());
    assert_eq!(
        heard.lock().unwrap().as_slice(),
        ["WARNING: Image format was not specified for 'guess.raw' and probing guessed raw.\n         \
          Automatically detecting the format is dangerous for raw images, write operations on block 0 will be restricted.\n         \
          Specify the 'raw' format explicitly to remove the restrictions."]
    );
    heard.lock().unwrap().clear();
    Node::open(&ctx, &ImageSpec::name("guess.raw"), &OpenOptions::read()).unwrap();
    Node::open(&ctx, &ImageSpec::name("guess.raw"), &OpenOptions::write().with_format(Some("raw"))).unwrap();
    assert!(heard.lock().unwrap().is_empty());
    let old = ImageSpec::name("json:{'driver':'raw','file.filename':'guess.raw','backing':''}");
    Node::open(&ctx, &old, &OpenOptions::read()).unwrap();
    assert_eq!(
        heard.lock().unwrap().as_slice(),
        ["Use of \"backing\": \"\" is deprecated; use \"backing\": null instead"]
    );
}

#[test]
fn a_chain_is_followed_by_names_relative_to_each_layer() {
    put("chain/sub/base.raw", &[7; 2048]);
    put_layer("chain/sub/mid", "base.raw", "raw", 8192);
    put_layer("chain/top", "sub/mid", "layer", 16384);
    let node = Node::open(&context(), &ImageSpec::name("chain/top"), &OpenOptions::read()).unwrap();
    let names: Vec<_> = node.layers().map(Node::name).collect();
    assert_eq!(names, ["chain/top", "chain/sub/mid", "chain/sub/base.raw"]);
    let backing = node.backing_name().unwrap();
    assert_eq!((backing.stored.as_str(), backing.resolved.as_deref()), ("sub/mid", Some("chain/sub/mid")));
    let rows = [
        (0, 2048, 2, ExtentFlags::PRESENT | ExtentFlags::DATA),
        (2048, 6144, 1, ExtentFlags::ZERO),
        (8192, 8192, 0, ExtentFlags::ZERO),
    ];
    for (start, len, depth, flags) in rows {
        let status = node.status(ByteRange::from_bounds(start, node.len())).unwrap();
        assert_eq!((status.len, status.depth, status.flags), (len, depth, flags), "{start}");
        assert_eq!(status.layer.name(), names[depth]);
    }
    let alone = Node::open(&context(), &ImageSpec::name("chain/top"), &OpenOptions::describe()).unwrap();
    assert!(alone.backing().is_none());
    let text = fail(
        &ImageSpec::name("json:{'driver':'layer','file.filename':'chain/top','backing.driver':'raw'}"),
        &OpenOptions::describe(),
    );
    assert_eq!(text, "Block format 'layer' does not support the option 'backing.driver'");
    let other = "json:{'driver':'layer','file.filename':'chain/top','backing':{'driver':'raw','file.filename':'chain/sub/base.raw'}}";
    let other = Node::open(&context(), &ImageSpec::name(other), &OpenOptions::read()).unwrap();
    assert_eq!(other.backing().map(Node::name), Some("chain/sub/base.raw"));
    assert!(other.name().starts_with("json:{\"backing\": {\"driver\": \"raw\""), "{}", other.name());
    let none = "json:{'driver':'layer','file.filename':'chain/top','backing':null}";
    let none = Node::open(&context(), &ImageSpec::name(none), &OpenOptions::read()).unwrap();
    assert!(none.backing().is_none());
    assert!(node.over(None).backing().is_none());
}

#[test]
fn preallocated_bytes_that_are_a_hole_on_the_host_are_zero_and_data() {
    let mut bytes = vec![0; 16384];
    bytes[..4096].fill(3);
    put("hole.raw", &bytes);
    let node = Node::open(&context(), &ImageSpec::name("hole.raw"), &OpenOptions::read()).unwrap();
    let status = node.status(ByteRange::new(0, 16384)).unwrap();
    assert_eq!((status.len, status.flags), (4096, ExtentFlags::PRESENT | ExtentFlags::DATA));
    let status = node.status(ByteRange::new(4096, 12288)).unwrap();
    assert_eq!(
        (status.len, status.flags),
        (12288, ExtentFlags::PRESENT | ExtentFlags::DATA | ExtentFlags::ZERO)
    );
    assert_eq!(status.host.map(|host| host.offset), Some(4096));
}

#[test]
fn loops_and_endless_chains_are_refused() {
    put_layer("loop.self", "loop.self", "layer", 4096);
    put_layer("loop.a", "loop.b", "layer", 4096);
    put_layer("loop.b", "file:loop.a", "layer", 4096);
    for name in ["loop.self", "loop.a"] {
        for opts in [OpenOptions::read(), OpenOptions::write()] {
            let error = Node::open(&context(), &ImageSpec::name(name), &opts).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            let text = error.joined();
            assert!(text.ends_with("creates an infinite loop."), "{text}");
        }
    }
    for index in 0..1200 {
        put_layer(&format!("long.{index}"), &format!("long.{}", index + 1), "layer", 4096);
    }
    put_layer("long.1200", "", "", 4096);
    let error = Node::open(&context(), &ImageSpec::name("long.0"), &OpenOptions::read()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
    let node = Node::open(&context(), &ImageSpec::name("long.300"), &OpenOptions::read()).unwrap();
    assert_eq!(node.layers().count(), 901);
    let mut buf = [1; 4096];
    node.read_at(0, &mut buf).unwrap();
    assert_eq!(buf, [0; 4096]);
}

#[test]
fn formats_inside_formats_are_bounded() {
    put("deep.raw", &[0; 512]);
    let name = "driver=raw,file.driver=raw,file.file.filename=deep.raw";
    assert!(Node::open(&context(), &ImageSpec::image_opts(name).unwrap(), &OpenOptions::read()).is_ok());
    let mut text = String::from("driver=raw");
    for depth in 1..100 {
        text.push_str(&format!(",{}driver=raw", "file.".repeat(depth)));
    }
    let error =
        Node::open(&context(), &ImageSpec::image_opts(&text).unwrap(), &OpenOptions::read()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
}

#[test]
fn gates_decide_about_what_images_name_and_only_that() {
    put("gate.raw", &[1; 1024]);
    put_layer("gate.top", "gate.raw", "raw", 4096);
    put_layer("gate.json", "json:{'driver':'raw','file.filename':'gate.raw'}", "raw", 4096);
    put_layer("gate.data", "data:gate.raw", "", 4096);
    let denied = context().with_gate(Deny);
    for name in ["gate.top", "gate.json", "gate.data"] {
        let error = Node::open(&denied, &ImageSpec::name(name), &OpenOptions::read()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{name}");
        assert!(Node::open(&context(), &ImageSpec::name(name), &OpenOptions::read()).is_ok(), "{name}");
    }
    assert!(Node::open(&denied, &ImageSpec::name("gate.raw"), &OpenOptions::read()).is_ok());
    let chosen = "json:{'driver':'layer','file.filename':'gate.top','backing':{'driver':'raw','file.filename':'gate.raw'}}";
    assert!(Node::open(&denied, &ImageSpec::name(chosen), &OpenOptions::read()).is_ok());
    let top = Node::open(&denied, &ImageSpec::name("gate.top"), &OpenOptions::describe()).unwrap();
    let below = top.backing_spec().unwrap();
    assert_eq!(Node::open(&denied, &below, &OpenOptions::describe()).unwrap_err().kind(), ErrorKind::Denied);
    assert!(Node::open(&context(), &below, &OpenOptions::describe()).is_ok());
}

#[test]
fn folders_and_lists_look_behind_links() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir(path("sub")).unwrap();
    std::fs::write(path("sub/secret"), "x").unwrap();
    std::fs::write(path("base"), "x").unwrap();
    std::fs::write(path("top"), "x").unwrap();
    std::os::unix::fs::symlink(path("sub/secret"), path("link")).unwrap();
    let admits = |gate: &dyn Gate, resolved: &str| {
        let from = path("top");
        gate.admit(&Reference { kind: ReferenceKind::Backing, name: "", from: &from, resolved }).is_ok()
    };
    assert!(admits(&SameDirectory, &path("base")));
    assert!(admits(&SameDirectory, &path("sub/../base")));
    assert!(admits(&SameDirectory, &path("not-there")));
    for bad in
        [path("sub/secret"), path("link"), "/etc/passwd".into(), "nbd:localhost:1".into(), path("sub/..")]
    {
        assert!(!admits(&SameDirectory, &bad), "{bad}");
    }
    let listed = Listed::new([path("base"), path("sub/secret")]);
    assert!(admits(&listed, &path("sub/../base")) && admits(&listed, &path("link")));
    assert!(!admits(&listed, &path("top")) && !admits(&listed, "nbd:x"));
}

#[test]
fn raw_contents_grow_with_the_format_in_them() {
    put_layer("grow.layer", "", "", 1024);
    let name = "json:{'driver':'layer','file':{'driver':'raw','file.filename':'grow.layer'}}";
    let node = Node::open(&context(), &ImageSpec::name(name), &OpenOptions::write()).unwrap();
    assert_eq!(node.holder_name(), Some("grow.layer"));
    let child = node.image().children().remove(0).device;
    let end = child.len();
    assert!(child.limits().growable);
    child.write_at(end + 512, &[3; 512]).unwrap();
    assert_eq!(child.len(), end + 1024);
    let mut bytes = [9; 1024];
    child.read_at(end, &mut bytes).unwrap();
    assert_eq!((bytes[0], bytes[1023]), (0, 3));
    // A disk's user can't do that.
    let raw = ImageSpec::name("json:{'driver':'raw','file.filename':'grow.layer'}");
    drop(node);
    let node = Node::open(&context(), &raw, &OpenOptions::write()).unwrap();
    assert!(node.device().write_at(node.device().len(), &[1; 512]).is_err());
}
