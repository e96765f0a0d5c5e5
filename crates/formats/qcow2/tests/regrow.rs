//! A disk that shrinks within a cluster and grows again shows zeros there, whatever the cluster held.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;

use diskimg_core::driver::OpenMode;
use diskimg_core::opener::NoReferences;
use diskimg_core::{Error, Image, MemDevice, Prealloc};
use diskimg_qcow2::DRIVER;
use diskimg_testkit::{FormatSubject, open_image};

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
