//! No password, key or plaintext gets into anything that is printed: not by the command, whatever is wrong with the
//! password or the image, nor by the library's errors and `{:?}`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::fmt::{Debug, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use diskimg::core::{BlockDevice as _, MemDevice, Secret, Secrets};
use diskimg::crypto::luks::{Header, Placement, unlock};
use diskimg::crypto::{CipherSpec, SecretObject, SectorCipher, legacy_aes};
use diskimg::{ImageSpec, Node, OpenOptions};

/// The password of all images.
const PASSWORD: &str = "Hunter2-Zq7;sunny";
/// Another one, which opens nothing.
const WRONG: &str = "Wrong8-Xk3;rainy";
/// The key that passwords are wrapped with: 32 bytes.
const WRAPPING: &str = "Wrapping-key-of-thirty-two-byte!";
/// What the disks are full of.
const PLAINTEXT: &str = "Plaintext~of~the~guest!!";
const SIZE: usize = 192 << 10;

/// Names of images, and how each is made.
const IMAGES: &[(&str, &str)] = &[
    ("l.qcow2", "-f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=1"),
    ("a.qcow2", "-f qcow2 -o encrypt.format=aes,encrypt.key-secret=s"),
    ("v.luks", "-f luks -o key-secret=s,iter-time=1"),
    ("q.qcow", "-f qcow -o encrypt.format=aes,encrypt.key-secret=s"),
];

/// How an image is opened.
const OPENED: &[(&str, &str)] = &[
    ("l.qcow2", "driver=qcow2,encrypt.key-secret=s,file.filename=l.qcow2"),
    ("a.qcow2", "driver=qcow2,encrypt.key-secret=s,file.filename=a.qcow2"),
    ("v.luks", "driver=luks,key-secret=s,file.filename=v.luks"),
    ("q.qcow", "driver=qcow,encrypt.key-secret=s,file.filename=q.qcow"),
];

/// Commands on an image: `$S` the secrets, `@` the image with its secret, `%` its name.
const COMMANDS: &[&str] = &[
    "info %",
    "info --output=json $S %",
    "info $S --image-opts @",
    "info -U --backing-chain $S --image-opts @",
    "check $S --image-opts @",
    "check %",
    "map $S --output=json --image-opts @",
    "map %",
    "measure -O qcow2 $S --image-opts @",
    "compare $S --image-opts @ driver=raw,file.filename=plain",
    "compare $S --image-opts @ driver=raw,file.filename=other",
    "convert $S --image-opts @ -O raw out.raw",
    "convert -p $S --image-opts @ -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=1 out",
    "convert $S --image-opts @ -O qcow2 -c -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=1 out",
    "convert % -O raw out.raw",
    "resize $S --image-opts @ +64k",
    "snapshot -c one %",
    "snapshot -l %",
    "bitmap --add % b",
    "amend -p $S -o encrypt.state=active,encrypt.new-secret=n,encrypt.iter-time=1 --image-opts @",
    "amend $S -o encrypt.state=active,encrypt.new-secret=nope,encrypt.iter-time=1 --image-opts @",
    "amend $S -o encrypt.state=inactive,encrypt.old-secret=w --image-opts @",
    "amend $S -o encrypt.state=inactive,encrypt.old-secret=s --image-opts @",
    "amend $S -o state=active,new-secret=n,iter-time=1 --image-opts @",
    "amend $S -o help --image-opts @",
    "amend $S -o encrypt.bogus=1 --image-opts @",
    "rebase $S -u -b plain -F raw --image-opts @",
    "dd -O raw if=% of=out",
    "create $S -f qcow2 -b % -F qcow2 over.qcow2",
    "create $S -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=bogus x 1M",
    "create $S -f qcow2 -o encrypt.format=luks,encrypt.key-secret=binary x 1M",
    "create $S -f qcow2 -o help",
    "create $S -f luks -o help",
];

/// Secrets `s` and `n`, `w` (wrong), `k` (wrapping) and `binary`, described in each way; `true`: `s` opens the images.
fn descriptions() -> Vec<(bool, String)> {
    let rest = format!(
        " --object secret,id=n,data={WRONG} --object secret,id=w,data={WRONG} \
         --object secret,id=k,data={WRAPPING} --object secret,id=binary,format=base64,data=//79AA=="
    );
    let plain = |value: &str| format!("--object secret,id=s,data={value}{rest}");
    vec![
        (true, plain(PASSWORD)),
        (true, format!("--object secret,id=s,file=password{rest}")),
        (true, format!("--object secret,id=s,format=base64,data={}{rest}", base64(PASSWORD.as_bytes()))),
        (true, format!("--object {{\"qom-type\":\"secret\",\"id\":\"s\",\"data\":\"{PASSWORD}\"}}{rest}")),
        (false, plain(WRONG)),
        (false, plain(&format!("{WRONG}{PASSWORD}"))),
        (false, rest.clone()),
        (false, format!("--object secret,id=s,data={PASSWORD},format=bogus{rest}")),
        (false, format!("--object secret,id=s,data={PASSWORD},keyid=k,iv=AAAA,format=base64{rest}")),
        (false, format!("--object secret,id=s,data={PASSWORD},keyid=nope{rest}")),
        (false, format!("--object secret,id=s,dta={PASSWORD}{rest}")),
        (false, format!("--object secret,id=9,data={PASSWORD}{rest}")),
        (false, format!("--object secret,id=s,data={PASSWORD},file=password{rest}")),
        (false, format!("--object {{\"qom-type\":\"secret\",\"id\":\"s\",\"data\":[\"{PASSWORD}\"]}}{rest}")),
        (false, format!("--object {{\"qom-type\":\"secret\",\"id\":\"s\",\"data\":\"{PASSWORD}{rest}")),
    ]
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let word =
            part.iter().chain(&[0; 3]).take(3).fold(0_usize, |word, byte| word << 8 | usize::from(*byte));
        for digit in 0..4 {
            let index = word >> (18 - 6 * digit) & 63;
            text.push(if digit <= part.len() { char::from(DIGITS[index]) } else { '=' });
        }
    }
    text
}

/// What must not be printed, in every shape in which it might be.
struct Needles(Vec<String>);

impl Needles {
    fn new(secrets: &[&[u8]]) -> Self {
        let mut all = Vec::new();
        for bytes in secrets {
            all.extend(std::str::from_utf8(bytes).map(str::to_owned));
            let hex = bytes.iter().fold(String::new(), |mut text, byte| {
                write!(text, "{byte:02x}").unwrap();
                text
            });
            let list: Vec<String> = bytes.iter().take(8).map(u8::to_string).collect();
            // As `{:?}` has bytes, in one line or many.
            all.extend([hex.to_uppercase(), hex, base64(bytes), list.join(", "), list.join(",\n")]);
            let indented: Vec<String> = list.iter().map(|byte| format!("{byte},")).collect();
            all.push(indented.join(" "));
        }
        Self(all)
    }

    /// Without regard to how lines are broken.
    fn check(&self, text: &str, said_by: &str) {
        let folded = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for needle in &self.0 {
            assert!(!text.contains(needle) && !folded.contains(needle), "{said_by} prints {needle}:\n{text}");
        }
    }
}

/// Runs our command; what it printed.
fn run(folder: &Path, line: &str) -> (bool, String) {
    let args: Vec<&str> = line.split_whitespace().collect();
    let output = Command::new(env!("CARGO_BIN_EXE_qemu-img-rs"))
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.success(), text.concat())
}

/// A folder with all images, full of the plaintext.
fn images() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let plain: Vec<u8> = PLAINTEXT.bytes().cycle().take(SIZE).collect();
    std::fs::write(at.join("plain"), &plain).unwrap();
    std::fs::write(at.join("other"), plain.iter().map(|byte| byte ^ 1).collect::<Vec<_>>()).unwrap();
    std::fs::write(at.join("password"), PASSWORD).unwrap();
    for (name, options) in IMAGES {
        let secret = format!("--object secret,id=s,data={PASSWORD}");
        let (made, text) = run(at, &format!("create {secret} {options} {name} {SIZE}"));
        assert!(made, "{name}: {text}");
        let opened = OPENED.iter().find(|(known, _)| known == name).unwrap().1;
        let line = format!("convert {secret} -f raw -n --target-image-opts plain {opened}");
        let (filled, text) = run(at, &line);
        assert!(filled, "{name}: {text}");
    }
    folder
}

/// The master key of a LUKS header in a file.
fn master_key(file: &Path) -> Vec<u8> {
    let bytes = std::fs::read(file).unwrap();
    let at = bytes.windows(6).position(|part| part == b"LUKS\xba\xbe").unwrap();
    let header = Header::parse(&bytes[at..], Placement::Detached).unwrap();
    let unlocked = unlock(&MemDevice::from(bytes), at as u64, &header, PASSWORD.as_bytes()).unwrap();
    let debug = format!("{unlocked:?} {header:?}");
    let key = unlocked.key.bytes().to_vec();
    Needles::new(&[&key, PASSWORD.as_bytes()]).check(&debug, "the unlocked volume");
    key
}

fn needles(folder: &Path) -> Needles {
    let keys = ["l.qcow2", "v.luks"].map(|name| master_key(&folder.join(name)));
    Needles::new(&[
        PASSWORD.as_bytes(),
        WRONG.as_bytes(),
        WRAPPING.as_bytes(),
        PLAINTEXT.as_bytes(),
        &keys[0],
        &keys[1],
    ])
}

#[test]
fn the_command_prints_no_secret() {
    let folder = images();
    let needles = needles(folder.path());
    let (mut done, mut failed) = (0, 0);
    for (image, opened) in OPENED {
        // Lines may change the image.
        let original = std::fs::read(folder.path().join(image)).unwrap();
        for (number, (opens, secrets)) in descriptions().iter().enumerate() {
            for (at, line) in COMMANDS.iter().enumerate() {
                // Every command with the first of each sort; of the others only some, which differ from image to image.
                if !matches!(number, 0 | 4 | 6) && (at + number) % 7 != image.len() % 7 {
                    continue;
                }
                // The old methods take any password.
                let checked = !matches!(*image, "a.qcow2" | "q.qcow") && line.starts_with("convert $S");
                let line = line.replace("$S", secrets).replace('@', opened).replace('%', image);
                let (ok, text) = run(folder.path(), &line);
                needles.check(&text, &line);
                assert!(*opens || !ok || !checked, "{line}");
                (done, failed) = (done + usize::from(ok), failed + usize::from(!ok));
                std::fs::write(folder.path().join(image), &original).unwrap();
            }
        }
    }
    println!("{done} commands done, {failed} failed");
    assert!(done > 100 && failed > 200, "{done} {failed}");
}

#[test]
fn a_damaged_image_prints_no_secret() {
    let folder = images();
    let needles = needles(folder.path());
    for (image, opened) in OPENED {
        let original = std::fs::read(folder.path().join(image)).unwrap();
        let header = original.windows(6).position(|part| part == b"LUKS\xba\xbe").unwrap_or(0);
        for place in
            [header + 8, header + 40, header + 72, header + 108, header + 216, header + 4096, 0x10000]
        {
            let mut damaged = original.clone();
            damaged.iter_mut().skip(place).take(24).for_each(|byte| *byte ^= 0x5a);
            std::fs::write(folder.path().join(image), &damaged).unwrap();
            for line in ["info %", "check $S --image-opts @", "convert $S --image-opts @ -O raw out.raw"] {
                let secrets = format!("--object secret,id=s,data={PASSWORD}");
                let line = line.replace("$S", &secrets).replace('@', opened).replace('%', image);
                let (_, text) = run(folder.path(), &line);
                needles.check(&text, &line);
            }
        }
        std::fs::write(folder.path().join(image), &original).unwrap();
    }
}

#[test]
fn the_library_prints_no_secret() {
    let folder = images();
    let needles = needles(folder.path());
    let show = |what: &dyn Debug, name: &str| {
        needles.check(&format!("{what:?}"), name);
        needles.check(&format!("{what:#?}"), name);
    };
    for (image, opened) in OPENED {
        for (value, opens) in [(PASSWORD, true), (WRONG, false)] {
            let mut secrets = Secrets::default();
            secrets.add("s", Secret::new(value.as_bytes().to_vec()));
            show(&secrets, "Secrets");
            let context = diskimg::context().with_secrets(secrets);
            show(&context, "Context");
            let path = folder.path().join(image);
            let spec = opened.replace(&format!("filename={image}"), &format!("filename={}", path.display()));
            let spec = ImageSpec::image_opts(&spec).unwrap();
            show(&spec, "ImageSpec");
            match Node::open(&context, &spec, &OpenOptions::write()) {
                Ok(node) => {
                    let mut bytes = vec![0; SIZE];
                    node.read_at(0, &mut bytes).unwrap();
                    // AES without a header opens with any password.
                    assert_eq!(bytes.starts_with(PLAINTEXT.as_bytes()), opens, "{image}");
                    node.write_at(5000, &bytes[5000..9000]).unwrap();
                    show(&node, image);
                    show(node.image(), image);
                    show(&node.image().info().unwrap(), image);
                    node.flush().unwrap();
                }
                Err(error) => {
                    assert!(!opens, "{image}: {error:?}");
                    show(&error, image);
                    needles.check(&error.joined(), image);
                }
            }
        }
    }
    let object = SecretObject::new([("id", "s"), ("data", PASSWORD)]).unwrap();
    show(&object, "SecretObject");
    show(&Secret::new(PASSWORD.into()), "Secret");
    show(&legacy_aes(PASSWORD.as_bytes()).unwrap(), "the cipher of the old method");
    let spec = CipherSpec::default();
    let key: Vec<u8> = PLAINTEXT.bytes().cycle().take(spec.key_len()).collect();
    show(&SectorCipher::new(&spec, &key).unwrap(), "SectorCipher");
}
