//! The format contract, as far as formats that are only read have one: hostile images in every mode, and reads of any
//! shape from many threads that agree with the whole.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::sync::Arc;

use diskimg_core::driver::{Notices, OpenContext, OpenMode};
use diskimg_core::opener::NoReferences;
use diskimg_core::options::RuntimeOptions;
use diskimg_core::{FormatDriver, Image, MemDevice, Task};
use diskimg_legacy::{BOCHS, CLOOP, DMG, DmgImage};
use diskimg_testkit::{FormatSubject, Rng, contract};

use common::Sample;

const ALL_CODINGS: &[u32] = &[0, 1, 2, 0x8000_0005];

fn samples(seed: u64) -> Vec<(&'static FormatDriver, Sample)> {
    let mut rng = Rng::new(seed);
    vec![
        (&BOCHS, common::bochs(&mut rng, seed.is_multiple_of(2))),
        (&CLOOP, common::cloop(&mut rng)),
        (&DMG, common::dmg(&mut rng, ALL_CODINGS, false)),
        (&DMG, common::dmg(&mut rng, ALL_CODINGS, true)),
    ]
}

fn open(driver: &FormatDriver, image: Vec<u8>) -> Arc<dyn Image> {
    (driver.open)(OpenContext {
        storage: Arc::new(MemDevice::read_only(image)),
        filename: "image",
        mode: OpenMode::default(),
        options: &mut RuntimeOptions::new(),
        opener: &NoReferences,
        notices: Notices::default(),
    })
    .unwrap()
}

#[test]
fn options_agree_with_their_tables() {
    for driver in [&BOCHS, &CLOOP, &DMG] {
        contract::options_agree(driver);
    }
}

#[test]
fn reads_of_any_shape_agree_with_the_whole() {
    for seed in 0..20 {
        for (driver, sample) in samples(seed) {
            let image = open(driver, sample.image);
            assert_eq!(image.len(), sample.guest.len() as u64);
            std::thread::scope(|scope| {
                for thread in 0..4 {
                    let (image, guest) = (&image, &sample.guest);
                    scope.spawn(move || {
                        let mut rng = Rng::new(seed * 10 + thread);
                        for _ in 0..50 {
                            let at = rng.index(guest.len());
                            let len = rng.index(guest.len() - at + 1).min(1 + rng.index(70_000));
                            let mut buf = vec![0xee; len];
                            image.read_at(at as u64, &mut buf).unwrap();
                            assert!(buf == guest[at..at + len], "{}: {at}+{len}", driver.name);
                        }
                    });
                }
            });
        }
    }
}

#[test]
fn hostile_images_do_no_harm() {
    for seed in 0..6 {
        for (driver, sample) in samples(seed) {
            let subject = FormatSubject::new(driver, 0, &[]);
            let mut rng = Rng::new(seed);
            for _ in 0..60 {
                let mut bytes = sample.image.clone();
                for _ in 0..1 + rng.below(3) {
                    let at = match rng.below(3) {
                        0 => rng.index(bytes.len().min(700)),
                        1 => bytes.len() - 1 - rng.index(bytes.len().min(3000)),
                        _ => rng.index(bytes.len()),
                    };
                    bytes[at] = *rng.pick(&[0, 1, 0x10, 0x7f, 0x80, 0xff]);
                }
                if rng.chance(10) {
                    bytes.truncate(rng.index(bytes.len()));
                }
                contract::poke(&subject, &[bytes], &|| format!("seed {seed}"));
            }
        }
    }
}

#[test]
fn checksums_of_a_disk_image_tell_a_changed_byte() {
    let sample = common::dmg(&mut Rng::new(7), &[1], false);
    let report = |bytes: Vec<u8>| {
        let image = open(&DMG, bytes);
        let dmg = image.as_any().and_then(|any| any.downcast_ref::<DmgImage>()).unwrap();
        dmg.verify_checksums(&Task::quiet()).unwrap()
    };
    let good = report(sample.image.clone());
    assert!(good.is_good() && good.good > 0 && good.master == Some(true), "{good:?}");
    let mut image = sample.image;
    // Somewhere within stored sectors.
    let stored = sample.guest.iter().rposition(|byte| *byte != 0).unwrap();
    let needle = &sample.guest[stored - 20..=stored];
    let at = image.windows(needle.len()).position(|bytes| bytes == needle).unwrap();
    image[at] ^= 1;
    let bad = report(image);
    assert!(!bad.is_good() && bad.bad == 1, "{bad:?}");
}
