//! Making a file longer while others write to it.

use std::sync::Arc;

use crate::device::{BlockDevice, ZeroMode};
use crate::error::Result;
use crate::front::Device;
use crate::range::ByteRange;

/// Makes the file at least `end` bytes long, where the byte before `end` belongs to space of the caller's own. Zeroing
/// never makes a file shorter; a length could cut off what others write meanwhile.
///
/// # Errors
/// The device's.
pub fn extend_to(storage: &Arc<dyn BlockDevice>, end: u64) -> Result<()> {
    let Some(last) = end.checked_sub(1).filter(|last| storage.len() <= *last) else { return Ok(()) };
    let device = Device::new(Arc::clone(storage));
    device.write_zeroes(ByteRange::new(last, 1), ZeroMode::MayUnmap)?;
    // A device may take zeros behind its end for granted.
    if storage.len() < end { device.write_at(last, &[0]) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::MemDevice;

    #[test]
    fn a_file_gets_longer_and_never_shorter() {
        let memory: Arc<dyn BlockDevice> = Arc::new(MemDevice::new(0));
        for (end, len) in [(0, 0), (4096, 4096), (100, 4096)] {
            extend_to(&memory, end).unwrap();
            assert_eq!(memory.len(), len);
        }
    }
}
