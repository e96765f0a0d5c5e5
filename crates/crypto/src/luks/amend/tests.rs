//! Rules and messages of changing slots, and power cuts at every write of each change.

use std::sync::Mutex;

use diskimg_core::{ByteRange, MemDevice, Prealloc, ZeroMode};

use super::*;
use crate::luks::{CreateOptions, Placement, create, unlock};
use crate::names::{CipherAlg, CipherMode, CipherSpec};

/// A write at an offset; `None`: a barrier.
type Write = Option<(u64, Vec<u8>)>;

/// A device that keeps all that was written, to be replayed.
#[derive(Debug)]
struct Log {
    inner: MemDevice,
    writes: Mutex<Vec<Write>>,
}

impl BlockDevice for Log {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.inner.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.writes.lock().unwrap().push(Some((offset, buf.to_vec())));
        self.inner.write_at(offset, buf)
    }

    fn write_zeroes(&self, _: ByteRange, _: ZeroMode) -> Result<()> {
        Err(Error::unsupported("zeros"))
    }

    fn discard(&self, _: ByteRange) -> Result<()> {
        Err(Error::unsupported("discard"))
    }

    fn flush(&self) -> Result<()> {
        self.writes.lock().unwrap().push(None);
        Ok(())
    }

    fn set_len(&self, _: u64, _: Prealloc) -> Result<()> {
        Err(Error::unsupported("length"))
    }
}

fn named(password: &str) -> Option<Named> {
    Some(Named { id: password.into(), secret: Secret::new(password.into()) })
}

fn active(slot: Option<i64>, new: &str) -> AmendOptions {
    let new_secret = (!new.is_empty()).then(|| named(new)).flatten();
    AmendOptions { keyslot: slot, new_secret, iter_time: Some(0), ..AmendOptions::new(SlotState::Active) }
}

fn inactive(slot: Option<i64>, old: &str) -> AmendOptions {
    let old_secret = (!old.is_empty()).then(|| named(old)).flatten();
    AmendOptions { keyslot: slot, old_secret, ..AmendOptions::new(SlotState::Inactive) }
}

/// A small volume that `one` opens, on a device that logs.
fn volume() -> (Log, Header) {
    let spec = CipherSpec { alg: CipherAlg::Aes128, mode: CipherMode::Cbc, ..CipherSpec::DEFAULT };
    let options = CreateOptions { spec, iter_time: 0, ..CreateOptions::default() };
    let volume = create(&options, b"one").unwrap();
    let inner = MemDevice::new(usize::try_from(volume.area_len).unwrap());
    inner.write_at(0, &volume.area).unwrap();
    (Log { inner, writes: Mutex::default() }, volume.header)
}

fn opens(device: &dyn BlockDevice, password: &str) -> Option<usize> {
    let mut head = [0; crate::limits::HEADER_LEN];
    device.read_at(0, &mut head).unwrap();
    let header = Header::parse(&head, Placement::Attached).unwrap();
    unlock(device, 0, &header, password.as_bytes()).ok().map(|unlocked| unlocked.slot)
}

#[test]
fn refusals_are_qemu_imgs() {
    let (device, mut header) = volume();
    let mut refused = |options: &AmendOptions| {
        amend(&device, 0, &mut header, options, b"one", false).unwrap_err().to_string()
    };
    for (options, message) in [
        (active(None, ""), "'new-secret' is required to activate a keyslot"),
        (
            AmendOptions { old_secret: named("one"), ..active(None, "two") },
            "'old-secret' must not be given when activating keyslots",
        ),
        (active(Some(9), "two"), "Invalid keyslot 9 specified, must be between 0 and 7"),
        (active(Some(-1), "two"), "Invalid keyslot 4294967295 specified, must be between 0 and 7"),
        (active(Some(0), "two"), "Refusing to overwrite active keyslot 0 - please erase it first"),
        (
            AmendOptions { new_secret: named("x"), ..inactive(Some(0), "") },
            "'new-secret' must not be given when erasing keyslots",
        ),
        (
            AmendOptions { iter_time: Some(1), ..inactive(Some(0), "") },
            "'iter-time' must not be given when erasing keyslots",
        ),
        (inactive(Some(8), ""), "Invalid keyslot 8 specified, must be between 0 and 7"),
        (
            inactive(Some(0), "two"),
            "Given keyslot 0 doesn't contain the given old password for erase operation",
        ),
        (inactive(Some(4), ""), "Given keyslot 4 is already erased (inactive) "),
        (
            inactive(Some(0), ""),
            "Attempt to erase the only active keyslot 0 which will erase all the data in the image \
             irreversibly - refusing operation",
        ),
        (inactive(None, "two"), "No keyslots match given (old) password for erase operation"),
        (
            inactive(None, "one"),
            "All the active keyslots match the (old) password that was given and erasing them will erase all \
             the data in the image irreversibly - refusing operation",
        ),
        (
            inactive(None, ""),
            "To erase keyslot(s), either explicit keyslot index or the password currently contained in them \
             must be given",
        ),
    ] {
        assert_eq!(refused(&options), message);
    }
    let error = amend(&device, 0, &mut header, &active(None, "two"), b"wrong", false).unwrap_err();
    assert_eq!(error.to_string(), "Invalid password, cannot unlock any keyslot");
    assert!(device.writes.lock().unwrap().is_empty(), "a refusal writes nothing");
}

#[test]
fn slots_fill_up_and_are_erased() {
    let (device, mut header) = volume();
    for number in 1..8 {
        amend(&device, 0, &mut header, &active(None, &format!("p{number}")), b"one", false).unwrap();
        assert_eq!(opens(&device, &format!("p{number}")), Some(number));
    }
    let error = amend(&device, 0, &mut header, &active(None, "more"), b"p3", false).unwrap_err();
    assert_eq!(error.to_string(), "Can't add a keyslot - all keyslots are in use");
    amend(&device, 0, &mut header, &inactive(None, "one"), b"p3", false).unwrap();
    assert_eq!((opens(&device, "one"), opens(&device, "p7")), (None, Some(7)));
    amend(&device, 0, &mut header, &active(Some(7), "new"), b"p3", true).unwrap();
    assert_eq!((opens(&device, "p7"), opens(&device, "new")), (None, Some(7)));
}

/// Each prefix of the writes, the last one also cut at each sector; and each single write since the last barrier
/// without the others.
fn states(before: &[u8], writes: &[Write], mut each: impl FnMut(&MemDevice)) {
    let fresh = |bytes: &[u8]| {
        let device = MemDevice::new(bytes.len());
        device.write_at(0, bytes).unwrap();
        device
    };
    let mut durable = before.to_vec();
    let mut pending: Vec<(u64, &[u8])> = Vec::new();
    for write in writes {
        let Some((offset, bytes)) = write else {
            let device = fresh(&durable);
            pending.drain(..).for_each(|(at, bytes)| device.write_at(at, bytes).unwrap());
            durable = device.to_vec();
            continue;
        };
        for cut in (0..=bytes.len()).step_by(if bytes.len() > 4096 { 16 << 10 } else { 512 }) {
            for earlier in [&pending[..], &[]] {
                let device = fresh(&durable);
                earlier.iter().for_each(|(at, bytes)| device.write_at(*at, bytes).unwrap());
                device.write_at(*offset, &bytes[..cut]).unwrap();
                each(&device);
            }
        }
        pending.push((*offset, bytes));
    }
    let device = fresh(&durable);
    pending.iter().for_each(|(at, bytes)| device.write_at(*at, bytes).unwrap());
    each(&device);
}

#[test]
fn a_power_cut_never_loses_the_key() {
    let changes = [
        (active(None, "two"), false, ["one"].as_slice()),
        (active(Some(6), "two"), false, &["one"]),
        (active(Some(0), "two"), true, &["one", "two"]),
    ];
    let mut count = 0;
    for (options, force, passwords) in changes {
        let (device, mut header) = volume();
        let before = device.inner.to_vec();
        amend(&device, 0, &mut header, &options, b"one", force).unwrap();
        let writes = device.writes.lock().unwrap().clone();
        states(&before, &writes, |device| {
            count += 1;
            assert!(passwords.iter().any(|password| opens(device, password).is_some()));
        });
    }
    // Erasing one of two leaves the other.
    let (device, mut header) = volume();
    amend(&device, 0, &mut header, &active(None, "two"), b"one", false).unwrap();
    let before = device.inner.to_vec();
    device.writes.lock().unwrap().clear();
    amend(&device, 0, &mut header, &inactive(Some(0), ""), b"two", false).unwrap();
    let writes = device.writes.lock().unwrap().clone();
    states(&before, &writes, |device| {
        count += 1;
        assert!(opens(device, "two").is_some());
    });
    assert_eq!(opens(&device, "one"), None);
    assert!(count > 100, "{count} states");
}
