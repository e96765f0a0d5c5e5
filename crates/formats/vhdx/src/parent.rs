//! The file that is, or is to be, the parent of a differencing disk: what has to fit; and what a commit to it changes.

use diskimg_core::driver::Notices;
use diskimg_core::mapped::{Clearing, ClusterMap, TableWrite};
use diskimg_core::{BlockDevice, Error, Image, Result, read_zero_padded, to_usize};
use uuid::Uuid;

use crate::damage::Damage;
use crate::header::{self, Current};
use crate::limits::LOG_SECTOR;
use crate::locator::Parent;
use crate::map::BlockMap;
use crate::metadata::{Metadata, locator_place};
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

/// Whether `backing` is the disk that a child was made for whose parent has data `linkages`.
pub(crate) fn accepts(linkages: &[Uuid], sector_size: u64, backing: &dyn Image) -> Result<()> {
    let wrong = |why: &'static str| Error::corrupt(why);
    let identity = identity_of(backing)?;
    if !linkages.contains(&identity.data_write) {
        return Err(wrong("the parent was changed since the VHDX image was made, or is another one"));
    }
    if u64::from(identity.sector_size) != sector_size {
        return Err(wrong("the sectors of the VHDX image's parent are of another size"));
    }
    Ok(())
}

fn identity_of(backing: &dyn Image) -> Result<Identity> {
    if backing.driver().name != crate::DRIVER.name {
        return Err(Error::corrupt("the parent of the VHDX image is not a VHDX image"));
    }
    let file = backing.children().into_iter().next();
    let file = file.ok_or_else(|| Error::corrupt("the parent of the VHDX image has no file"))?;
    Identity::read(&*file.device)
}

impl BlockMap {
    /// Records that the parent is `backing` as it is now.
    pub(crate) fn relink(&self, backing: &dyn Image) -> Result<()> {
        if self.parent.is_none() {
            return Ok(());
        }
        let identity = identity_of(backing)?;
        let fixed = || Error::unsupported("the parent locator of the VHDX image can't be changed");
        let place = locator_place(&*self.storage, self.metadata_at).ok().flatten().ok_or_else(fixed)?;
        let sectors = place.align_outwards(LOG_SECTOR);
        let mut bytes = vec![0; to_usize(sectors.len)];
        read_zero_padded(&*self.storage, sectors.start, &mut bytes)?;
        let within = to_usize(place.start - sectors.start)..to_usize(place.end() - sectors.start);
        let locator = bytes.get_mut(within).ok_or_else(fixed)?;
        let relinked = Parent::relinked(locator, identity.data_write).ok_or_else(fixed)?;
        locator.copy_from_slice(&relinked);
        self.storage.flush()?;
        self.journal.commit(&[TableWrite { offset: sectors.start, bytes }])?;
        *self.linkages.write() = vec![identity.data_write];
        self.storage.flush()
    }
}

impl Clearing for BlockMap {
    fn clear_tables(&self) -> Result<()> {
        let writes = self.vacate();
        let cleared = self.journal.commit(&writes);
        if cleared.is_err() {
            self.not_written(vec![writes]);
        }
        cleared
    }

    fn drop_space(&self) -> Result<()> {
        self.recycle_all();
        Ok(())
    }
}
