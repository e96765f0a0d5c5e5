//! The checksums of a disk image: one for each table over what its chunks hold, one over all of those.

use crc32fast::Hasher;
use diskimg_core::{Result, Task, to_usize};

use super::DmgImage;
use super::chunk::Coding;

/// How much of a chunk of zeros is summed at a time, in bytes.
const ZEROS: usize = 64 << 10;

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
    for (done, chunk) in image.tables.chunks().iter().enumerate() {
        task.check()?;
        task.progress.update(done as u64, total);
        let index = to_usize(chunk.table.into());
        let wanted = sums.get(index).is_some_and(|sum| sum.checksum.is_some());
        let Some(hasher) = running.get_mut(index).filter(|_| wanted) else { continue };
        match chunk.coding {
            Coding::Ignore => {}
            Coding::Zero => sum_zeros(hasher, chunk.len(), task)?,
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

fn sum_zeros(hasher: &mut Hasher, len: u64, task: &Task<'_>) -> Result<()> {
    let zeros = vec![0; ZEROS];
    let mut left = len;
    while left > 0 {
        task.check()?;
        let part = to_usize(left).min(ZEROS);
        hasher.update(zeros.get(..part).unwrap_or_default());
        left -= part as u64;
    }
    Ok(())
}
