//! The file that is, or is to be, the parent of a differencing disk: what has to fit.

use diskimg_core::driver::Notices;
use diskimg_core::{BlockDevice, Error, Image, Result};
use uuid::Uuid;

use crate::damage::Damage;
use crate::header::{self, Current};
use crate::locator::Parent;
use crate::metadata::Metadata;
use crate::region::{Regions, Taken};

/// What a child has to know of its parent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    /// Changes with the disk.
    pub data_write: Uuid,
    /// Bytes.
    pub block_size: u64,
    /// Bytes.
    pub sector_size: u32,
    /// Bytes.
    pub physical_sector_size: u32,
}

impl Identity {
    /// That of the image in `storage`.
    pub(crate) fn read(storage: &dyn BlockDevice) -> Result<Self> {
        Self::find(storage).map_err(|damage| damage.told(storage.describe().filename, &Notices::default()))
    }

    fn find(storage: &dyn BlockDevice) -> Result<Self, Damage> {
        header::check_signature(storage)?;
        let current = Current::read(storage)?;
        let regions = Regions::read(storage, &mut Taken::default())?;
        let metadata = Metadata::read(storage, regions.metadata.start)?;
        Ok(Self {
            data_write: current.header.data_write,
            block_size: metadata.block_size,
            sector_size: metadata.sector_size,
            physical_sector_size: metadata.physical_sector_size,
        })
    }
}

/// Whether `backing` is the disk that the child of `parent` was made for.
pub(crate) fn accepts(parent: &Parent, sector_size: u64, backing: &dyn Image) -> Result<()> {
    let wrong = |why: &'static str| Error::corrupt(why);
    if backing.driver().name != crate::DRIVER.name {
        return Err(wrong("the parent of the VHDX image is not a VHDX image"));
    }
    let file = backing.children().into_iter().next();
    let file = file.ok_or_else(|| wrong("the parent of the VHDX image has no file"))?;
    let identity = Identity::read(&*file.device)?;
    if !parent.linkages.contains(&identity.data_write) {
        return Err(wrong("the parent was changed since the VHDX image was made, or is another one"));
    }
    if u64::from(identity.sector_size) != sector_size {
        return Err(wrong("the sectors of the VHDX image's parent are of another size"));
    }
    Ok(())
}
