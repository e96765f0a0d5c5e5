//! [`LuksImage`]: sectors of the payload, decrypted and encrypted on their way.
//!
//! Invariants: the disk is a whole number of sectors long. Sector 0, as the cipher counts, is the first of the payload.
//! What is missing of the file's last sector counts as zeros of the host. Bytes are decrypted in the caller's buffer and
//! encrypted in buffers of this module; no lock is held meanwhile. The header changes by [`Amend`] alone. Made by
//! [`crate::DRIVER`]'s `open`.

use std::sync::Arc;

use diskimg_core::{
    Amend, AmendInput, BlockDevice, ByteRange, Child, Description, Device, Error, ErrorKind, Extent,
    FormatDriver, Image, ImageInfo, Limits, Prealloc, Result, Secret, ZeroMode, align_up, len_u64,
    read_only_error, read_zero_padded,
};
use diskimg_crypto::SectorCipher;
use diskimg_crypto::luks::{self, AmendOptions, Header};
use parking_lot::{Mutex, RwLock};

use crate::key_required;
use crate::limits::{KEPT_BUFFERS, MAX_FILE, SECTOR, STEP};

/// What opens the payload.
#[derive(Debug)]
pub(crate) struct Key {
    /// The cipher with the master key.
    pub(crate) cipher: SectorCipher,
    /// The password that it came from: key slots are changed with it.
    pub(crate) secret: Secret,
    /// Its name.
    pub(crate) id: String,
}

/// What a volume is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    /// What holds the payload.
    pub(crate) storage: Arc<dyn BlockDevice>,
    /// What holds the header, if that is another file.
    pub(crate) detached: Option<Arc<dyn BlockDevice>>,
    /// The header.
    pub(crate) header: Header,
    /// `None`: the volume was opened only to be described.
    pub(crate) key: Option<Key>,
    /// The displayed name.
    pub(crate) filename: String,
    /// Opened for writing.
    pub(crate) write: bool,
}

/// An open volume.
pub struct LuksImage {
    storage: Arc<dyn BlockDevice>,
    detached: Option<Arc<dyn BlockDevice>>,
    /// The storage, or its front end where that wants more than sectors.
    io: Arc<dyn BlockDevice>,
    header: RwLock<Header>,
    /// First byte of the payload.
    payload: u64,
    key: Option<Key>,
    filename: String,
    write: bool,
    idle: Mutex<Vec<Vec<u8>>>,
}

impl std::fmt::Debug for LuksImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LuksImage")
            .field("filename", &self.filename)
            .field("payload", &self.payload)
            .field("unlocked", &self.key.is_some())
            .finish_non_exhaustive()
    }
}

impl LuksImage {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { storage, detached, header, key, filename, write } = parts;
        let payload = header.payload_offset();
        let align = storage.limits().align.max(1);
        let fits = SECTOR.is_multiple_of(align);
        let io = if fits { Arc::clone(&storage) } else { Arc::new(Device::new(Arc::clone(&storage))) };
        let (header, idle) = (RwLock::new(header), Mutex::new(Vec::new()));
        Self { storage, detached, io, header, payload, key, filename, write, idle }
    }

    fn key(&self) -> Result<&Key> {
        self.key.as_ref().ok_or_else(key_required)
    }

    fn check_writable(&self) -> Result<()> {
        if self.is_read_only() { Err(read_only_error()) } else { Ok(()) }
    }

    /// Refuses what is not within the disk or not made of whole sectors, which could not be encrypted.
    fn check(&self, range: ByteRange) -> Result<()> {
        range.check_within(self.len())?;
        if range.start.is_multiple_of(SECTOR) && range.len.is_multiple_of(SECTOR) {
            return Ok(());
        }
        Err(Error::invalid("encrypted data is read and written in whole sectors of 512 bytes"))
    }

    /// Byte `offset` of the disk as one of the storage.
    fn place(&self, offset: u64) -> Result<u64> {
        let place = self.payload.checked_add(offset);
        place.ok_or_else(|| Error::corrupt("the LUKS payload lies behind the greatest offset"))
    }

    /// Writes `bytes` in pieces, each encrypted in `buf`.
    fn write_pieces(&self, offset: u64, bytes: &[u8], buf: &mut Vec<u8>) -> Result<()> {
        let cipher = &self.key()?.cipher;
        let mut at = offset;
        for piece in bytes.chunks(STEP) {
            buf.clear();
            buf.extend_from_slice(piece);
            cipher.encrypt(at / SECTOR, buf);
            self.io.write_at(self.place(at)?, buf)?;
            at = at.saturating_add(len_u64(piece));
        }
        Ok(())
    }
}

impl BlockDevice for LuksImage {
    fn len(&self) -> u64 {
        align_up(self.storage.len(), SECTOR).unwrap_or(u64::MAX).saturating_sub(self.payload)
    }

    fn limits(&self) -> Limits {
        let below = self.io.limits();
        Limits { align: SECTOR, write_unit: SECTOR, growable: false, one_writer: false, ..below }
    }

    fn is_read_only(&self) -> bool {
        !self.write || self.io.is_read_only()
    }

    fn describe(&self) -> Description<'_> {
        Description { driver: crate::DRIVER.name, filename: &self.filename }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.check(ByteRange::new(offset, len_u64(buf)))?;
        let cipher = &self.key()?.cipher;
        read_zero_padded(&*self.io, self.place(offset)?, buf)?;
        cipher.decrypt(offset / SECTOR, buf);
        Ok(())
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.check_writable()?;
        self.check(ByteRange::new(offset, len_u64(buf)))?;
        let mut spare = self.idle.lock().pop().unwrap_or_default();
        let result = self.write_pieces(offset, buf, &mut spare);
        let mut idle = self.idle.lock();
        if idle.len() < KEPT_BUFFERS {
            idle.push(spare);
        }
        result
    }

    /// Zeros are bytes like all others here.
    fn write_zeroes(&self, range: ByteRange, _: ZeroMode) -> Result<()> {
        range.check_within(self.len())?;
        Err(Error::unsupported("LUKS volumes have no zeros that take no space"))
    }

    /// What was discarded would read as noise, and tell where nothing is stored.
    fn discard(&self, range: ByteRange) -> Result<()> {
        range.check_within(self.len())?;
        Err(Error::unsupported("LUKS volumes do not discard"))
    }

    fn flush(&self) -> Result<()> {
        self.io.flush()?;
        self.detached.as_ref().map_or(Ok(()), |header| header.flush())
    }

    /// Changes the payload's length. What is new reads as noise.
    fn set_len(&self, len: u64, prealloc: Prealloc) -> Result<()> {
        self.check_writable()?;
        let too_large = || Error::invalid("The requested file size is too large");
        let file_len = self.payload.checked_add(len).filter(|len| *len <= MAX_FILE).ok_or_else(too_large)?;
        self.io.set_len(file_len, prealloc)
    }

    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        range.check_within(self.len())?;
        if range.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArg, "an empty range has no extent"));
        }
        Ok(Extent::data(range.len, None))
    }

    /// Of both files, where there are two.
    fn allocated_len(&self) -> Result<Option<u64>> {
        let Some(header) = &self.detached else { return self.io.allocated_len() };
        let (header, payload) = (header.allocated_len()?, self.io.allocated_len()?);
        Ok(header.zip(payload).map(|(header, payload)| header.saturating_add(payload)))
    }
}

impl Image for LuksImage {
    fn driver(&self) -> &'static FormatDriver {
        &crate::DRIVER
    }

    fn info(&self) -> Result<ImageInfo> {
        let specific = Some(self.header.read().info(None));
        Ok(ImageInfo { dirty: Some(false), encrypted: true, specific, ..ImageInfo::default() })
    }

    fn children(&self) -> Vec<Child> {
        let mut all = vec![Child { role: "file", device: Arc::clone(&self.storage) }];
        if let Some(header) = &self.detached {
            all.push(Child { role: "header", device: Arc::clone(header) });
        }
        all
    }

    fn as_amend(&self) -> Option<&dyn Amend> {
        Some(self)
    }
}

impl Amend for LuksImage {
    /// Fills or erases key slots, in an order in which a power cut leaves one that opens. The payload stays as it is.
    fn amend(&self, input: &AmendInput<'_>) -> Result<()> {
        let change = AmendOptions::from_options(input.options, "", input.opener)?;
        self.check_writable()?;
        let key = self.key()?;
        let own = key.secret.password(&key.id)?;
        let device = self.detached.as_ref().unwrap_or(&self.storage);
        // Header and key material need not be aligned as the storage wants it.
        let device = Device::new(Arc::clone(device));
        luks::amend(&device, 0, &mut self.header.write(), &change, own, input.force)
    }
}
