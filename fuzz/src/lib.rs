//! What the fuzz targets and the generator of their first inputs share: the geometries of `ops_qcow2`.

pub mod acts;
pub mod vhdx;

use arbitrary::{Arbitrary, Unstructured};
use diskimg_core::{ByteRange, ZeroMode};
use diskimg_testkit::Op;

/// Create options of the images that operations run on. Small clusters: a few operations reach every table.
pub const GEOMETRIES: &[&[&str]] = &[
    &["cluster_size=512"],
    &["cluster_size=512", "compat=0.10"],
    &["cluster_size=1024", "refcount_bits=1"],
    &["cluster_size=512", "refcount_bits=64"],
    &["cluster_size=4096", "compression_type=zstd"],
    &["cluster_size=16384", "extended_l2=on"],
    &["cluster_size=1024", "refcount_bits=8", "preallocation=metadata"],
    &["cluster_size=2048", "data_file=data"],
];

/// Kinds of VMDK images.
pub const VMDK_KINDS: &[&[&str]] = &[
    &[],
    &["zeroed_grain=on"],
    &["subformat=monolithicFlat"],
    &["subformat=twoGbMaxExtentSparse"],
    &["subformat=twoGbMaxExtentFlat"],
];

/// Most operations of one input.
const MOST_OPS: usize = 60;

/// One input of `ops_qcow2`: an image and what is done to it.
#[derive(Debug)]
pub struct Input {
    /// Index into [`GEOMETRIES`].
    pub geometry: usize,
    /// Length of the disk in bytes.
    pub size: u64,
    /// Operations.
    pub ops: Vec<Op>,
}

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let geometry = u.choose_index(GEOMETRIES.len())?;
        let size = u.int_in_range(1..=256_u64)? * 512;
        let mut ops = Vec::new();
        while !u.is_empty() && ops.len() < MOST_OPS {
            ops.push(op(u, size)?);
        }
        Ok(Self { geometry, size, ops })
    }
}

fn range(u: &mut Unstructured<'_>, size: u64) -> arbitrary::Result<ByteRange> {
    let grain = *u.choose(&[1, 512, 512, 2048])?;
    let start = u.int_in_range(0..=size / grain)? * grain;
    let len = u.int_in_range(1..=16_u64)? * grain;
    Ok(ByteRange::new(start, len))
}

pub(crate) fn op(u: &mut Unstructured<'_>, size: u64) -> arbitrary::Result<Op> {
    let seed = u64::from(u.arbitrary::<u8>()?);
    Ok(match u.int_in_range(0..=11_u8)? {
        0..=2 => Op::Write(range(u, size)?, seed),
        3 => Op::Zero(range(u, size)?, ZeroMode::MayUnmap),
        4 => Op::Zero(range(u, size)?, ZeroMode::KeepAllocated),
        5 => Op::Discard(range(u, size)?),
        6 => Op::SetLen(u.int_in_range(1..=512_u64)? * 512),
        7 => {
            let range = range(u, size)?;
            Op::Reserve(range.align_outwards(16384), seed, u.arbitrary()?)
        }
        8 => Op::Compress(u.int_in_range(0..=64_u64)?, seed),
        9 => Op::Flush,
        10 => Op::Reopen,
        _ => Op::Check,
    })
}
