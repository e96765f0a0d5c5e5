//! The input of `acts_qcow2`: what is done with an image that keeps snapshots and bitmaps and is amended.

use arbitrary::{Arbitrary, Unstructured};
use diskimg_testkit::Act;

use crate::GEOMETRIES;

/// Amendments; some are refused, depending on the image.
const CHANGES: &[&str] = &[
    "refcount_bits=1",
    "refcount_bits=2",
    "refcount_bits=8",
    "refcount_bits=16",
    "refcount_bits=64",
    "compat=v2",
    "compat=v3",
    "compat=v2,refcount_bits=16",
    "lazy_refcounts=on",
    "lazy_refcounts=off",
];

/// Most acts of one input.
const MOST_ACTS: usize = 60;

/// An image and what is done with it.
#[derive(Debug)]
pub struct ActInput {
    /// Index into [`GEOMETRIES`].
    pub geometry: usize,
    /// Length of the disk in bytes.
    pub size: u64,
    /// What is done.
    pub acts: Vec<Act>,
}

impl<'a> Arbitrary<'a> for ActInput {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let geometry = u.choose_index(GEOMETRIES.len())?;
        let size = u.int_in_range(1..=256_u64)? * 512;
        let mut acts = Vec::new();
        while !u.is_empty() && acts.len() < MOST_ACTS {
            acts.push(act(u, size)?);
        }
        Ok(Self { geometry, size, acts })
    }
}

fn act(u: &mut Unstructured<'_>, size: u64) -> arbitrary::Result<Act> {
    let kind = u.int_in_range(0..=24_u8)?;
    let number = u64::from(u.arbitrary::<u8>()?) % 6;
    Ok(match kind {
        0 | 1 => Act::CreateSnapshot,
        2 => Act::ApplySnapshot(number),
        3 => Act::DeleteSnapshot(number),
        4 => Act::AddBitmap(number, 512 << u.int_in_range(0..=6_u8)?, u.arbitrary()?),
        5 => Act::RemoveBitmap(number),
        6 => Act::ClearBitmap(number),
        7 => Act::EnableBitmap(number, u.arbitrary()?),
        8 => Act::MergeBitmap(number, u64::from(u.arbitrary::<u8>()?)),
        9 => Act::TakeBitmap(number),
        10 => Act::StoreBitmaps,
        11 => Act::DeferBitmaps,
        12 | 13 => Act::Amend(u.choose(CHANGES)?),
        14 => Act::Repair,
        15 => Act::Compare,
        _ => Act::Guest(crate::op(u, size)?),
    })
}
