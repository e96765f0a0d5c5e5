//! A disk that shrinks within a cluster and grows again shows zeros there, whatever the cluster held; one that can't be
//! given the space that it was to grow by is as it was.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;

use diskimg_core::driver::OpenMode;
use diskimg_core::opener::NoReferences;
use diskimg_core::{BlockDevice, Error, Image, MemDevice, Prealloc, Repair, Task, errno};
use diskimg_qcow2::DRIVER;
use diskimg_testkit::{FaultDevice, FaultKinds, FaultPlan, FaultSpec, FormatSubject, open_image};

const SIZE: u64 = 256 << 10;

/// What stands in the cluster that is cut.
#[derive(Clone, Copy, Debug)]
enum Contents {
    Data,
    Compressed,
}

fn put(image: &dyn Image, what: Contents, at: u64, len: u64) -> Result<(), Error> {
    let bytes = vec![9; usize::try_from(len).unwrap()];
    match what {
        Contents::Data => image.write_at(at, &bytes),
        Contents::Compressed => {
            let clusters = image.as_compressed().expect("compressed clusters");
            let mut payload = Vec::new();
            assert!(clusters.encoder()?.encode(&bytes, &mut payload)?);
            let place = clusters.reserve_encoded(at, payload.len() as u64)?;
            place.write_at(0, &payload)?;
            place.commit()
        }
    }
}

fn shrink_and_grow(options: &'static [&'static str], cluster: u64, what: Contents) -> Result<(), Error> {
    let subject = FormatSubject::new(&DRIVER, SIZE, options);
    let disk = subject.fresh().remove(0);
    let mode = OpenMode { write: true, ..OpenMode::default() };
    let open = || open_image(&DRIVER, Arc::<MemDevice>::clone(&disk), mode, &NoReferences);
    let image = open()?;
    put(image.as_ref(), what, cluster, cluster)?;
    let cut = cluster + cluster / 2 + 512;
    image.set_len(cut, Prealloc::Off)?;
    image.set_len(SIZE, Prealloc::Off)?;
    drop(image);
    let mut all = vec![1; usize::try_from(SIZE).unwrap()];
    open()?.read_at(0, &mut all)?;
    let (cluster, cut) = (usize::try_from(cluster).unwrap(), usize::try_from(cut).unwrap());
    assert!(all[cluster..cut].iter().all(|byte| *byte == 9), "{options:?} {what:?}: what stays");
    assert!(all[cut..].iter().all(|byte| *byte == 0), "{options:?} {what:?}: what comes back");
    Ok(())
}

#[test]
fn nothing_comes_back() -> Result<(), Error> {
    for what in [Contents::Data, Contents::Compressed] {
        shrink_and_grow(&["cluster_size=4k"], 4096, what)?;
        shrink_and_grow(&["cluster_size=64k"], 65536, what)?;
        shrink_and_grow(&["cluster_size=16k", "extended_l2=on"], 16384, what)?;
        shrink_and_grow(&["cluster_size=4k", "compat=0.10"], 4096, what)?;
    }
    Ok(())
}

#[test]
fn space_that_is_refused_leaves_the_image_as_it_was() -> Result<(), Error> {
    let write = OpenMode { write: true, ..OpenMode::default() };
    let options: [&'static [&'static str]; 3] =
        [&["cluster_size=4k"], &["cluster_size=64k"], &["cluster_size=16k", "extended_l2=on"]];
    for options in options {
        for (size, mode) in [(SIZE, Prealloc::Full), (SIZE, Prealloc::Falloc), (SIZE - 512, Prealloc::Full)] {
            let disk = FormatSubject::new(&DRIVER, size, options).fresh().remove(0);
            let spec = FaultSpec { errno: errno::ENOSPC, ..FaultSpec::once(FaultKinds::SET_LEN, 0) };
            let plan = FaultPlan::new(spec);
            let device: Arc<dyn BlockDevice> = Arc::<MemDevice>::clone(&disk);
            let full = Arc::new(FaultDevice::new(device, plan));
            let image = open_image(&DRIVER, full, write, &NoReferences)?;
            let error = image.set_len(2 * SIZE, mode).unwrap_err();
            assert!(error.joined().starts_with("Failed to resize underlying file"), "{}", error.joined());
            drop(image);
            let image = open_image(&DRIVER, disk, write, &NoReferences)?;
            assert_eq!(image.len(), size);
            let report = image.as_check().unwrap().check(Repair::Nothing, &mut |_| {}, &Task::quiet())?;
            assert_eq!((report.corruptions, report.leaks, report.check_errors), (0, 0, 0), "{options:?}");
        }
    }
    Ok(())
}
