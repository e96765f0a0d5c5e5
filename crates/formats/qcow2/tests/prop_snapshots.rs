//! Random writes, discards, resizes, state areas and snapshots beside a model that keeps copies: after each step the
//! check finds nothing, and the disk and every snapshot hold what they should, also after reopening.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod snapshot_model;

use diskimg_testkit::Rng;
use snapshot_model::{GEOMETRIES, Modelled};

#[test]
fn snapshots_hold_what_they_were_made_of() {
    for (number, (options, size)) in GEOMETRIES.iter().enumerate() {
        for round in 0..diskimg_testkit::rounds(3) {
            let seed = round + 1000 * number as u64;
            let mut rng = Rng::new(seed);
            let mut model = Modelled::new(options, *size);
            let mut story = Vec::new();
            for step in 0..40 {
                story.push(model.step(&mut rng));
                let verify = std::panic::AssertUnwindSafe(|| {
                    model.verify();
                    if step % 5 == 4 {
                        model.verify_kept();
                    }
                });
                if let Err(panic) = std::panic::catch_unwind(verify) {
                    println!("{options:?}, seed {seed}: {story:#?}");
                    std::panic::resume_unwind(panic);
                }
            }
            model.reopen();
            model.verify();
            model.verify_kept();
        }
    }
}
