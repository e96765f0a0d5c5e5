//! Where compressed payloads go: packed behind each other, over cluster borders, and counted once for each cluster.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;

use diskimg_core::{Error, MemDevice, Repair, Task};
use diskimg_qcow2::DRIVER;
use diskimg_testkit::{FormatSubject, open_image};

const CLUSTER: u64 = 4096;

/// Places payloads of these lengths in the clusters of a new image, and checks it.
fn place(lengths: &[u64]) -> Result<(), Error> {
    let subject = FormatSubject::new(&DRIVER, CLUSTER * 64, &["cluster_size=4k"]);
    let disk = subject.fresh().remove(0);
    {
        let mode = diskimg_core::driver::OpenMode { write: true, ..Default::default() };
        let image =
            open_image(&DRIVER, Arc::<MemDevice>::clone(&disk), mode, &diskimg_core::opener::NoReferences)?;
        let clusters = image.as_compressed().expect("compressed clusters");
        for (cluster, len) in (0..).zip(lengths) {
            let place = clusters.reserve_encoded(cluster * CLUSTER, *len)?;
            place.write_at(0, &vec![0xff; usize::try_from(*len).expect("small")])?;
            place.commit()?;
        }
        image.flush()?;
        let mut said = Vec::new();
        let check = image.as_check().expect("a check");
        let report = check.check(Repair::Nothing, &mut |text| said.push(text.to_owned()), &Task::quiet())?;
        assert_eq!((report.corruptions, report.leaks), (0, 0), "{lengths:?}: {said:?}");
        assert_eq!(report.compressed_clusters, lengths.len() as u64);
    }
    assert_eq!(disk.to_vec().len() % 512, 0, "the file ends on a sector once the image is closed");
    Ok(())
}

#[test]
fn a_payload_that_ends_with_its_cluster_leaves_the_next_one_alone() -> Result<(), Error> {
    place(&[1424, 2672, 100, 200])
}

#[test]
fn payloads_go_on_into_the_next_cluster() -> Result<(), Error> {
    place(&[3000, 3000, 3000, 4095, 1, 4095])
}

#[test]
fn every_boundary_is_counted_right() -> Result<(), Error> {
    for first in [1, 511, 512, 513, 4094, 4095] {
        for second in [1, 511, 512, 513, 4096 - first.min(4095), 4095] {
            place(&[first, second.clamp(1, 4095), 700])?;
        }
    }
    Ok(())
}
