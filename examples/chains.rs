//! What is done with a chain of images: an overlay is committed, rebased and streamed into, with progress and a way to
//! stop it.
//!
//! ```sh
//! cargo run --example chains
//! ```

use diskimg::engine::commit::{CommitOptions, commit, find_layer};
use diskimg::engine::rebase::{RebaseOptions, open_backing, rebase};
use diskimg::engine::stream::{StreamOptions, stream};
use diskimg::prelude::*;
use diskimg::{BackingRef, ImageSpec};

/// Prints how far an operation is.
struct Percent;

impl Progress for Percent {
    fn update(&self, done: u64, total: u64) {
        print!("\r{:3} % ", done * 100 / total.max(1));
    }
}

fn main() -> diskimg::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let ctx = diskimg::context();
    let open = |name: &str| Node::open(&ctx, &ImageSpec::name(path(name)), &OpenOptions::write());

    // base <- middle <- top
    diskimg::create(&path("base.qcow2"), "qcow2", 64 << 20)?;
    for (name, backing) in [("middle.qcow2", "base.qcow2"), ("top.qcow2", "middle.qcow2")] {
        let request = CreateRequest {
            filename: &path(name),
            format: "qcow2",
            backing: Some(backing),
            backing_format: Some("qcow2"),
            ..CreateRequest::default()
        };
        CreatePlan::new(&ctx, &request)?.run()?;
        open(name)?.write_at(1 << 20, name.as_bytes())?;
    }

    // Another thread may ask for a stop through a clone of the token.
    let task = Task { progress: &Percent, cancel: CancelToken::default() };

    // What the top holds goes into the image below it; the top is emptied.
    let report = commit(&ctx, open("top.qcow2")?, &CommitOptions::default(), &task)?;
    println!("\rcommitted {} bytes", report.written);

    // The top takes over what lies between it and the base.
    let top = open("top.qcow2")?;
    let depth = Some(find_layer(&top, "base.qcow2")?);
    let written = stream(&top, &StreamOptions { depth, ..StreamOptions::default() }, &task)?;
    println!("\rstreamed {written} bytes");
    drop(top);

    // The same disk over another image: what that one has otherwise is copied.
    let top = open("top.qcow2")?;
    let onto = BackingRef { name: "middle.qcow2".to_owned(), format: Some("qcow2".to_owned()) };
    let middle = open_backing(&ctx, &top, &onto, &OpenOptions::read())?;
    let written = rebase(&top, Some((&onto, &middle)), &RebaseOptions::default(), &task)?;
    println!("\rrebased, {written} bytes copied");
    drop((top, middle));

    let mut text = [0; 9];
    open("top.qcow2")?.read_at(1 << 20, &mut text)?;
    assert_eq!(&text, b"top.qcow2");
    Ok(())
}
