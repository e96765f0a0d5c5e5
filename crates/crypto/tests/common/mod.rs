//! What the oracle tests share: a folder with the volume `v.luks`, its password, and the tools to look at it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use diskimg_core::{BlockDevice as _, MemDevice};
use diskimg_crypto::luks::{CreateOptions, Header, Placement, create};
use diskimg_crypto::{CipherAlg, CipherMode, CipherSpec, Hash, IvGen};
use diskimg_testkit::Oracle;

/// The password of all volumes.
pub(crate) const PASSWORD: &str = "correct horse";
/// It as an object.
pub(crate) const OBJECT: &str = "secret,id=s,data=correct horse";

/// Options of volumes, as text and as they are here: all ciphers and modes with some IVs and hashes.
pub(crate) fn combinations() -> Vec<(String, CreateOptions)> {
    let ivs = [
        (IvGen::Plain, None),
        (IvGen::Essiv, Some(Hash::Sha256)),
        (IvGen::Plain64, Some(Hash::Sha1)),
        (IvGen::Essiv, Some(Hash::Md5)),
        (IvGen::Plain64, None),
        (IvGen::Essiv, Some(Hash::Sm3)),
    ];
    let modes = CipherAlg::ALL.iter().flat_map(|alg| CipherMode::ALL.iter().map(move |mode| (*alg, *mode)));
    let mut all = Vec::new();
    for (at, (alg, mode)) in modes.flat_map(|both| [both; 3]).enumerate() {
        let (ivgen, ivgen_hash) = ivs[at % ivs.len()];
        let spec = CipherSpec { alg, mode, ivgen, ivgen_hash };
        // qemu-img aborts when it uses 192 bits without XTS.
        if spec.check().is_ok() && (alg.key_len() != 24 || mode == CipherMode::Xts) {
            let hash = Hash::ALL[at % Hash::ALL.len()];
            let options = CreateOptions { spec, hash, iter_time: 0, placement: Placement::Attached };
            all.push((as_text(&options), options));
        }
    }
    all
}

fn as_text(options: &CreateOptions) -> String {
    let spec = &options.spec;
    let hash = spec.ivgen_hash.map_or_else(String::new, |hash| format!(",ivgen-hash-alg={}", hash.name()));
    let (alg, mode, ivgen) = (spec.alg.name(), spec.mode.name(), spec.ivgen.name());
    let rest = format!("hash-alg={},iter-time=0", options.hash.name());
    format!("cipher-alg={alg},cipher-mode={mode},ivgen-alg={ivgen}{hash},{rest}")
}

/// What a program printed.
pub(crate) fn text(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{out}{err}")
}

/// Runs `qemu-io` commands on the volume; they must succeed.
pub(crate) fn must_io(oracle: &Oracle, folder: &Path, commands: &[&str]) {
    let opts = "driver=luks,key-secret=s,file.filename=v.luks";
    let mut command = Command::new(&oracle.io);
    command.current_dir(folder).args(["--object", OBJECT, "--image-opts", opts]);
    command.args(commands.iter().flat_map(|one| ["-c", one]));
    let output = command.output().unwrap();
    let fine = output.status.success() && !text(&output).contains("failed");
    assert!(fine, "{commands:?}: {}", text(&output));
}

/// The volume as it is now.
pub(crate) fn volume(folder: &Path) -> (MemDevice, Header) {
    let bytes = fs::read(folder.join("v.luks")).unwrap();
    let header = Header::parse(&bytes, Placement::Attached).unwrap();
    let device = MemDevice::new(bytes.len());
    device.write_at(0, &bytes).unwrap();
    (device, header)
}

/// Writes a volume of ours with a payload of 64 KiB: all 7, but the second 4 KiB are 9.
pub(crate) fn write_ours(folder: &Path, options: &CreateOptions) {
    let volume = create(options, PASSWORD.as_bytes()).unwrap();
    let mut bytes = volume.area.clone();
    bytes.resize(usize::try_from(volume.area_len).unwrap(), 0);
    let mut payload = vec![7; 64 << 10];
    payload[4096..8192].fill(9);
    volume.cipher.encrypt(0, &mut payload);
    bytes.extend_from_slice(&payload);
    fs::write(folder.join("v.luks"), bytes).unwrap();
}

/// Runs `cryptsetup` with the password in a file.
pub(crate) fn cryptsetup(folder: &Path, args: &[&str]) -> Output {
    fs::write(folder.join("password"), PASSWORD).unwrap();
    let mut command = Command::new("cryptsetup");
    command.args(args).args(["--key-file", "password", "v.luks"]).current_dir(folder);
    command.output().expect("cryptsetup runs")
}
