//! Who writes to a part of a cluster that somebody else has reserved waits for the commit, and neither loses a byte.
//! More than can be reserved at once is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use diskimg_core::{BlockDevice, ByteRange, ZeroMode};
use diskimg_qcow2::DRIVER;
use diskimg_testkit::{FormatSubject, Subject, shared};

const CLUSTER: u64 = 4096;

#[test]
fn a_writer_of_a_part_comes_after_the_reservation() {
    for zeros in [false, true] {
        for commits in [true, false] {
            let subject = FormatSubject::new(&DRIVER, 16 * CLUSTER, &["cluster_size=4k"]);
            let opened = Arc::new(subject.open(&shared(&subject.fresh()), true).unwrap());
            let (done, ended) = channel();
            let (begun, begins) = channel();
            let others = Arc::clone(&opened);
            let first = Arc::clone(&opened);
            std::thread::spawn(move || {
                let place = first.device.reserve(ByteRange::new(0, 2 * CLUSTER)).unwrap().unwrap();
                begun.send(()).unwrap();
                std::thread::sleep(Duration::from_millis(50));
                place.write_at(0, &[1; 8192]).unwrap();
                if commits {
                    place.commit().unwrap();
                }
                let _ = done.send(());
            });
            begins.recv().unwrap();
            let (written, waits) = channel();
            std::thread::spawn(move || {
                if zeros {
                    others.device.write_zeroes(ByteRange::new(100, 10), ZeroMode::MayUnmap).unwrap();
                } else {
                    others.device.write_at(100, &[2; 10]).unwrap();
                }
                let _ = written.send(());
            });
            let patience = Duration::from_secs(10);
            ended.recv_timeout(patience).expect("who has reserved waits for who waits for it");
            waits.recv_timeout(patience).expect("who writes waits for a reservation that has ended");
            let mut found = [9; 8192];
            opened.device.read_at(0, &mut found).unwrap();
            let mut wanted = [u8::from(commits); 8192];
            wanted[100..110].fill(if zeros { 0 } else { 2 });
            assert!(found == wanted, "zeros {zeros}, commits {commits}");
        }
    }
}

#[test]
fn a_reservation_of_very_many_clusters_ends() {
    for (len, fits) in [(64 << 20, true), (600 << 20, false)] {
        let subject = FormatSubject::new(&DRIVER, len, &["cluster_size=512"]);
        let opened = subject.open(&shared(&subject.fresh()), true).unwrap();
        let place = opened.device.reserve(ByteRange::new(0, len)).unwrap();
        assert_eq!(place.is_some(), fits);
    }
}
