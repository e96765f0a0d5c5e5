//! Overlays of the format as chains use them: clusters larger than a sector over a backing file, and emptying.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;

use diskimg_core::{BlockDevice, MemDevice, to_usize};
use diskimg_qcow::DRIVER;
use diskimg_testkit::{FormatSubject, OpMix, Session, Subject};

const SIZE: u64 = 6 << 20;

fn filled(options: &[&'static str]) -> (FormatSubject, Arc<MemDevice>) {
    let subject = FormatSubject::new(&DRIVER, SIZE, options);
    let memory = subject.fresh().swap_remove(0);
    (subject, memory)
}

#[test]
fn an_emptied_image_is_as_it_was_made_and_goes_on() {
    for options in [&[][..], &["encrypt.format=aes", "encrypt.key-secret=s"]] {
        let (subject, memory) = filled(options);
        let new = memory.to_vec();
        let shared: Vec<Arc<dyn BlockDevice>> = vec![Arc::clone(&memory) as _];
        let mut session = Session::open(&subject, shared.clone(), subject.initial(), || 0).unwrap();
        for op in OpMix::changes(SIZE).script(1, 40, SIZE, 1 << 20) {
            session.must(&op);
        }
        drop(session);
        let opened = subject.open(&shared, true).unwrap();
        let image = &opened.layers[0];
        image.as_emptying().expect("it can be emptied").make_empty().unwrap();
        let mut disk = vec![1; to_usize(opened.device.len())];
        opened.device.read_at(0, &mut disk).unwrap();
        assert!(disk.iter().all(|byte| *byte == 0));
        // The oracle cuts the file behind the last entry of the L1 table.
        let l1_end = 48 + 3 * 8;
        assert_eq!((memory.len(), memory.to_vec()[..l1_end] == new[..l1_end]), (l1_end as u64, true));
        opened.device.write_at(5000, b"again").unwrap();
        drop(opened);
        let mut session = Session::open(
            &subject,
            shared,
            {
                disk[5000..5005].copy_from_slice(b"again");
                disk
            },
            || 0,
        )
        .unwrap();
        for op in OpMix::changes(SIZE).script(2, 40, SIZE, 1 << 20) {
            session.must(&op);
        }
        session.verify_reopened();
    }
}

#[test]
fn writers_meanwhile_keep_what_they_wrote_last() {
    let (subject, memory) = filled(&[]);
    let shared: Vec<Arc<dyn BlockDevice>> = vec![memory as _];
    let opened = subject.open(&shared, true).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 1..=200_u8 {
                for at in (0..SIZE).step_by(1 << 20) {
                    opened.device.write_at(at + 100, &[round; 9000]).unwrap();
                }
            }
        });
        while !writer.is_finished() {
            opened.layers[0].as_emptying().unwrap().make_empty().unwrap();
        }
    });
    opened.device.write_at(100, &[9; 9000]).unwrap();
    drop(opened);
    let mut disk = vec![0; 10_000];
    subject.open(&shared, false).unwrap().device.read_at(0, &mut disk).unwrap();
    assert!(disk[100..9100].iter().all(|byte| *byte == 9));
}

#[test]
fn readers_meanwhile_see_the_old_bytes_or_zeros() {
    let (subject, memory) = filled(&[]);
    let opened = subject.open(&[memory as _], true).unwrap();
    opened.device.write_at(0, &vec![7; to_usize(SIZE)]).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut part = vec![0; 4096];
                for at in (0..SIZE).step_by(4096).cycle().take(6000) {
                    opened.device.read_at(at, &mut part).unwrap();
                    assert!(part.iter().all(|byte| *byte == 7) || part.iter().all(|byte| *byte == 0));
                }
            });
        }
        opened.layers[0].as_emptying().unwrap().make_empty().unwrap();
    });
}
