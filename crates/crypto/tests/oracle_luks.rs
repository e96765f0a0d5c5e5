//! LUKS volumes both ways: what the installed `qemu-img` makes is opened here, and what is made here is opened there
//! and by `cryptsetup`; damaged headers are refused in its words. Without the tools these tests count as ignored.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use common::{OBJECT, PASSWORD, combinations, cryptsetup, must_io, text, volume, write_ours};
use diskimg_core::{BlockDevice as _, Secret};
use diskimg_crypto::SECTOR_LEN;
use diskimg_crypto::limits::HEADER_LEN;
use diskimg_crypto::luks::{self, AmendOptions, CreateOptions, Header, Named, Placement, SlotState};
use diskimg_testkit::{Oracle, Rng, suite};

const QUICK: &str = "key-secret=s,iter-time=0";

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn create(oracle: &Oracle, folder: &Path, options: &str) {
    oracle.must(folder, &["create", "-q", "-f", "luks", "--object", OBJECT, "-o", options, "v.luks", "64k"]);
}

fn theirs_opens_here(oracle: &Oracle) {
    let folder = folder();
    // It measures the speed of key derivation for seconds each time.
    for (text, options) in combinations().into_iter().step_by(19) {
        create(oracle, folder.path(), &format!("key-secret=s,{text}"));
        must_io(oracle, folder.path(), &["write -P 7 0 512", "write -P 9 9k 6k"]);
        let (device, header) = volume(folder.path());
        assert_eq!((header.spec(), header.hash()), (&options.spec, options.hash), "{text}");
        assert_eq!(header.payload_offset(), options.area_len(), "{text}");
        assert_eq!(header.encode(), fs::read(folder.path().join("v.luks")).unwrap()[..HEADER_LEN], "{text}");
        let cipher = luks::unlock(&device, 0, &header, PASSWORD.as_bytes()).expect(&text).cipher;
        let mut payload = vec![0; 64 << 10];
        device.read_at(header.payload_offset(), &mut payload).unwrap();
        cipher.decrypt(0, &mut payload);
        assert!(payload[..SECTOR_LEN].iter().all(|byte| *byte == 7), "{text}");
        assert!(payload[9 << 10..15 << 10].iter().all(|byte| *byte == 9), "{text}");
        let wrong = luks::unlock(&device, 0, &header, b"correct horsf").unwrap_err();
        assert_eq!(wrong.to_string(), "Invalid password, cannot unlock any keyslot");
    }
}

fn ours_opens_there(oracle: &Oracle) {
    let folder = folder();
    for (_, options) in combinations() {
        write_ours(folder.path(), &options);
        must_io(oracle, folder.path(), &["read -P 7 0 4k", "read -P 9 4k 4k", "read -P 7 8k 56k"]);
    }
}

/// Where `cryptsetup` or the kernel has no such cipher, it says so.
fn cryptsetup_opens_ours() {
    let folder = folder();
    let mut opened = 0;
    for (name, options) in combinations() {
        write_ours(folder.path(), &options);
        let output = cryptsetup(folder.path(), &["luksOpen", "--test-passphrase", "--disable-locks"]);
        let said = text(&output);
        let unable = ["not available", "not supported", "kernel", "not compatible", "not possible"];
        assert!(output.status.success() || unable.iter().any(|what| said.contains(what)), "{name}: {said}");
        opened += u32::from(output.status.success());
    }
    assert!(opened > 0, "cryptsetup opened none");
}

fn ours_opens_cryptsetups() {
    let folder = folder();
    for (cipher, size, hash) in [
        ("aes-xts-plain64", "512", "sha256"),
        ("aes-xts-plain64", "256", "sha512"),
        ("aes-cbc-essiv:sha256", "128", "sha1"),
        ("aes-cbc-plain", "192", "ripemd160"),
    ] {
        fs::write(folder.path().join("v.luks"), vec![0; 4 << 20]).unwrap();
        let fixed = ["luksFormat", "--type", "luks1", "--batch-mode", "--disable-locks", "--iter-time", "10"];
        let args = [&fixed[..], &["--cipher", cipher, "--key-size", size, "--hash", hash]].concat();
        let output = cryptsetup(folder.path(), &args);
        if !output.status.success() && text(&output).contains("not available") {
            continue;
        }
        assert!(output.status.success(), "{cipher}: {}", text(&output));
        let (device, header) = volume(folder.path());
        assert_eq!(header.encode(), fs::read(folder.path().join("v.luks")).unwrap()[..HEADER_LEN]);
        luks::unlock(&device, 0, &header, PASSWORD.as_bytes()).unwrap();
    }
}

fn named(id: &str, password: &str) -> Option<Named> {
    Some(Named { id: id.into(), secret: Secret::new(password.into()) })
}

/// Slots that are added and erased here open and stay shut there, and the reverse.
fn slots_both_ways(oracle: &Oracle) {
    let folder = folder();
    let path = folder.path().join("v.luks");
    write_ours(folder.path(), &CreateOptions { iter_time: 0, ..CreateOptions::default() });
    let (device, mut header) = volume(folder.path());
    let (new_secret, iter_time) = (named("n", "another"), Some(0));
    let add = AmendOptions { new_secret, iter_time, ..AmendOptions::new(SlotState::Active) };
    luks::amend(&device, 0, &mut header, &add, PASSWORD.as_bytes(), false).unwrap();
    fs::write(&path, device.to_vec()).unwrap();
    let amend = |options: &str| {
        let opts = "driver=luks,key-secret=o,file.filename=v.luks";
        let objects = ["--object", "secret,id=o,data=another", "--object", OBJECT];
        let args = [&["amend"], &objects[..], &["--image-opts", opts, "-o", options]].concat();
        oracle.must(folder.path(), &args);
    };
    amend("state=inactive,old-secret=s");
    let (device, header) = volume(folder.path());
    let active: Vec<usize> = (0..8).filter(|slot| header.slots()[*slot].active).collect();
    assert_eq!(active, [1]);
    assert_eq!(luks::unlock(&device, 0, &header, b"another").unwrap().slot, 1);
    assert!(luks::unlock(&device, 0, &header, PASSWORD.as_bytes()).is_err());
    amend("state=active,new-secret=s,keyslot=5,iter-time=0");
    let (device, mut header) = volume(folder.path());
    let erase = AmendOptions { old_secret: named("o", "another"), ..AmendOptions::new(SlotState::Inactive) };
    luks::amend(&device, 0, &mut header, &erase, PASSWORD.as_bytes(), false).unwrap();
    fs::write(&path, device.to_vec()).unwrap();
    must_io(oracle, folder.path(), &["read -P 9 4k 4k"]);
}

/// A change of a header: at this offset these bytes.
type Patch = (usize, Vec<u8>);

fn field(at: usize, value: &str) -> Patch {
    let mut bytes = value.as_bytes().to_vec();
    bytes.resize(32, 0);
    (at, bytes)
}

fn number(at: usize, value: u32) -> Patch {
    (at, value.to_be_bytes().to_vec())
}

const NAME: usize = 8;
const MODE: usize = 40;
const HASH: usize = 72;
const KEY_LEN: usize = 108;

/// Modes that are known, half known, and unknown.
const MODES: &[&str] = &[
    "xts",
    "",
    "-",
    "xts-",
    "-plain64",
    "xts-plain64:",
    "xts-plain64:md5",
    "xts-plain64:foo",
    "foo-essiv:foo",
    "xts-essiv",
    "xts-essiv:sha1",
    "xts-essiv:sha512",
    "xts-essiv:sm3",
    "xts-plain64:sha1:md5",
    "cbc-plain64",
    "xts:md5-plain64",
    "ctr-essiv:md5",
    "xts-benbi",
    "XTS-plain64",
];

fn patches() -> Vec<Vec<Patch>> {
    let slot = |number: usize, at: usize| 208 + 48 * number + at;
    let mut all = vec![
        vec![],
        vec![number(0, 0)],
        vec![(6, vec![0, 2])],
        vec![(6, vec![0, 0])],
        vec![(NAME, vec![b'a'; 32])],
        vec![(MODE, vec![b'a'; 32]), (HASH, vec![b'a'; 32])],
        vec![(HASH, vec![b'a'; 32])],
        vec![number(104, 7)],
        vec![number(104, 8)],
        vec![number(164, 0)],
        vec![number(164, 0), number(slot(0, 44), 3000)],
        vec![number(slot(0, 44), 3000), number(slot(1, 0), 5)],
        vec![number(slot(0, 0), 5), number(slot(0, 44), 1)],
        vec![number(slot(0, 0), 5), number(slot(0, 4), 0)],
        vec![number(slot(0, 4), 0), number(slot(0, 40), 7)],
        vec![number(slot(3, 4), 0)],
        vec![number(slot(3, 40), 7)],
        vec![number(slot(7, 40), 3537)],
        vec![number(slot(7, 40), 3540)],
        vec![number(slot(1, 40), 511)],
        vec![number(slot(1, 40), 8), number(slot(0, 44), 1)],
        vec![number(slot(1, 40), 8), number(slot(1, 44), 1)],
        vec![number(slot(0, 40), 1016), number(slot(1, 0), 0)],
        vec![field(NAME, "foo"), field(MODE, "foo-bar")],
        vec![field(NAME, "foo"), field(HASH, "bar")],
        vec![field(NAME, "foo"), field(MODE, "xts-bar")],
        vec![field(NAME, "cast5"), number(KEY_LEN, 32)],
        vec![field(NAME, "cast5"), number(KEY_LEN, 16), field(MODE, "cbc-plain64")],
        vec![field(NAME, "cast5"), number(KEY_LEN, 16), field(MODE, "cbc-essiv:sha256")],
        vec![field(HASH, "foo"), field(MODE, "xts-bar")],
        vec![field(HASH, "foo"), field(MODE, "xts-essiv")],
        vec![field(HASH, "foo"), field(MODE, "xts-essiv:sha1")],
        vec![field(HASH, "SHA256")],
    ];
    all.extend(MODES.iter().map(|mode| vec![field(MODE, mode)]));
    for len in [0, 1, 15, 16, 24, 32, 33, 48, 63, 64, 65, 66, u32::MAX] {
        all.push(vec![number(KEY_LEN, len)]);
        all.push(vec![number(KEY_LEN, len), field(MODE, "cbc-plain64")]);
    }
    for name in ["serpent", "twofish", "camellia", "", "aes-256"] {
        all.extend([16, 24, 32, 64].map(|len| vec![field(NAME, name), number(KEY_LEN, len)]));
    }
    let mut rng = Rng::new(7);
    for _ in 0..200 {
        let at = usize::try_from(rng.below(592)).unwrap();
        all.push(vec![(at, vec![u8::try_from(rng.below(256)).unwrap()])]);
    }
    all
}

fn damaged_headers(oracle: &Oracle) {
    let folder = folder();
    create(oracle, folder.path(), QUICK);
    let path = folder.path().join("v.luks");
    let original = fs::read(&path).unwrap();
    for patch in patches() {
        let mut bytes = original.clone();
        for (at, new) in &patch {
            bytes[*at..][..new.len()].copy_from_slice(new);
        }
        fs::write(&path, &bytes).unwrap();
        let output = oracle.run(folder.path(), &["info", "-f", "luks", "v.luks"]);
        let said = text(&output);
        let ours = Header::parse(&bytes, Placement::Attached);
        match said.trim_end().strip_prefix("qemu-img: Could not open 'v.luks': ") {
            // That is found behind the header.
            Some(message) if message.starts_with("Could not refresh") => assert!(ours.is_ok(), "{patch:?}"),
            Some(message) => assert_eq!(ours.unwrap_err().to_string(), message, "{patch:?}"),
            None => {
                assert!(output.status.success(), "{patch:?}: {said}");
                assert!(ours.is_ok(), "{patch:?}: {ours:?}");
            }
        }
    }
}

fn main() -> ExitCode {
    suite::run(vec![
        suite::with_oracle("what qemu-img makes opens here", theirs_opens_here),
        suite::with_oracle("what is made here opens in qemu-io", ours_opens_there),
        suite::with_oracle("slots change both ways", slots_both_ways),
        suite::with_oracle("damaged headers are refused alike", damaged_headers),
        suite::with_tool("cryptsetup opens what is made here", "cryptsetup", cryptsetup_opens_ours),
        suite::with_tool("what cryptsetup makes opens here", "cryptsetup", ours_opens_cryptsetups),
    ])
}
