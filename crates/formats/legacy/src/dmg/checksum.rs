//! The checksums of a disk image: one for each table over what its chunks hold, one over all of those.

use crc32fast::Hasher;
use diskimg_core::{Error, Result, Task, to_usize};

use super::DmgImage;
use super::chunk::Coding;
use crate::SECTOR;

/// Most zeros that are summed in all, in bytes: more than any disk has.
const MAX_SUMMED: u64 = 1 << 62;
/// Bytes of a sector.
const SECTOR_LEN: usize = 512;

/// What the checksums of an image say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChecksumReport {
    /// Tables whose checksum fits.
    pub good: u64,
    /// Tables whose checksum does not fit.
    pub bad: u64,
    /// Tables without a checksum that is known here, or with chunks of an unknown type.
    pub unknown: u64,
    /// The checksum over all tables fits; `None`: there is none.
    pub master: Option<bool>,
}

impl ChecksumReport {
    /// Nothing contradicts the contents.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.bad == 0 && self.master != Some(false)
    }
}

/// Decodes everything and compares.
pub(super) fn verify(image: &DmgImage, task: &Task<'_>) -> Result<ChecksumReport> {
    let sums = &image.tables.sums;
    // Chunks ascend by sector over all tables, and so they do within each of them.
    let mut running: Vec<Hasher> = sums.iter().map(|_| Hasher::new()).collect();
    let total = image.tables.chunks().len() as u64;
    let mut summed = 0;
    for (done, chunk) in image.tables.chunks().iter().enumerate() {
        task.check()?;
        task.progress.update(done as u64, total);
        let index = to_usize(chunk.table.into());
        let wanted = sums.get(index).is_some_and(|sum| sum.checksum.is_some());
        let Some(hasher) = running.get_mut(index).filter(|_| wanted) else { continue };
        match chunk.coding {
            Coding::Ignore => {}
            Coding::Zero => sum_zeros(hasher, chunk.len(), &mut summed)?,
            _ => {
                let mut bytes = vec![0; to_usize(chunk.len())];
                image.decode(chunk, &mut bytes)?;
                hasher.update(&bytes);
            }
        }
    }
    let mut report = ChecksumReport::default();
    let mut master = Hasher::new();
    for (sum, hasher) in sums.iter().zip(running) {
        let computed = hasher.finalize();
        master.update(&sum.checksum.unwrap_or(0).to_be_bytes());
        match sum.checksum {
            Some(recorded) if !sum.incomplete && recorded == computed => report.good += 1,
            Some(_) if !sum.incomplete => report.bad += 1,
            _ => report.unknown += 1,
        }
    }
    let computed = master.finalize();
    report.master = image.trailer.master_checksum.map(|recorded| recorded == computed);
    Ok(report)
}

/// Adds `len` zeros, a multiple of a sector, in a time that hardly grows with their number: a table may claim any.
fn sum_zeros(hasher: &mut Hasher, len: u64, summed: &mut u64) -> Result<()> {
    let too_long = || Error::limit("the tables of the image are too long to be verified");
    *summed = summed.checked_add(len).filter(|summed| *summed <= MAX_SUMMED).ok_or_else(too_long)?;
    let mut zeros = Hasher::new();
    zeros.update(&[0; SECTOR_LEN]);
    let mut sectors = len / SECTOR;
    while sectors > 0 {
        if sectors & 1 == 1 {
            hasher.combine(&zeros);
        }
        sectors >>= 1;
        if sectors > 0 {
            let same = zeros.clone();
            zeros.combine(&same);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_summed_however_many_they_are() {
        for sectors in [0, 1, 2, 7, 1000] {
            let (mut quick, mut slow) = (Hasher::new(), Hasher::new());
            quick.update(b"before");
            slow.update(b"before");
            sum_zeros(&mut quick, sectors * SECTOR, &mut 0).unwrap();
            (0..sectors).for_each(|_| slow.update(&[0; SECTOR_LEN]));
            assert_eq!(quick.finalize(), slow.finalize(), "{sectors}");
        }
        let (mut hasher, mut summed) = (Hasher::new(), 0);
        sum_zeros(&mut hasher, MAX_SUMMED / SECTOR * SECTOR, &mut summed).unwrap();
        assert!(sum_zeros(&mut hasher, SECTOR, &mut summed).is_err());
    }
}
