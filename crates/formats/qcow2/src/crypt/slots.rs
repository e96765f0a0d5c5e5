//! Changing the key slots of an open image.

use diskimg_core::opener::Opener;
use diskimg_core::options::ParsedOptions;
use diskimg_core::{ByteRange, Error, Result};
use diskimg_crypto::luks::{self, AmendOptions};

use super::{PREFIX, key_required};
use crate::image::Qcow2;
use crate::settings::Overlap;

impl Qcow2 {
    /// Does what the amend options that start with `encrypt.` say. The data stays as it is, and the key slots are
    /// changed one after the other: a power cut leaves each either as it was or as it shall be, and one that opens.
    ///
    /// # Errors
    /// `InvalidArg` and `Unsupported` for what is refused (nothing has been written then), with the wording that users
    /// know; the storage's.
    pub(crate) fn amend_encryption(
        &self,
        options: &ParsedOptions,
        force: bool,
        opener: &dyn Opener,
    ) -> Result<()> {
        let Some(crypt) = &self.crypt else {
            return Err(Error::unsupported("Can't amend encryption options - encryption not present"));
        };
        let Some(luks) = &crypt.luks else {
            return Err(Error::unsupported("Only LUKS encryption options can be amended"));
        };
        let change = AmendOptions::from_options(options, PREFIX, opener)?;
        let key = crypt.key.as_ref().ok_or_else(key_required)?;
        let own = key.secret.password(&key.id)?;
        self.meta
            .check_overlap(luks.area.range().intersect(ByteRange::new(0, self.meta.geo.cluster_size())))?;
        self.meta.check_metadata_write(luks.area.range(), Overlap::MAIN_HEADER)?;
        luks::amend(&luks.area, 0, &mut luks.header.write(), &change, own, force)
    }
}
