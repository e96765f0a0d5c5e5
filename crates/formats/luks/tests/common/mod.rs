//! [`FILLED`]: LUKS as a format whose images read as zeros where nothing was written, which the contract wants. New
//! volumes, and what a volume grows by, are filled with zeros that are encrypted. Headers that ask for more
//! iterations than a test can wait for are refused.

use std::sync::Arc;

use diskimg_core::driver::{CreateContext, Creator, Notices, OpenContext, OpenMode};
use diskimg_core::options::{RuntimeOptions, RuntimeValue};
use diskimg_core::{
    BlockDevice, ByteRange, Child, Device, Error, FormatDriver, Image, ImageInfo, Prealloc, Result, ZeroMode,
    read_zero_padded,
};
use diskimg_luks::DRIVER;

/// Most iterations of a key slot and of the key's digest.
const MOST_ITERATIONS: u32 = 20_000;

pub(crate) static FILLED: FormatDriver = FormatDriver {
    name: DRIVER.name,
    extensions: DRIVER.extensions,
    caps: DRIVER.caps,
    options: DRIVER.options,
    strong_options: DRIVER.strong_options,
    probe: |input| (DRIVER.probe)(input),
    open,
    creator: Some(Creator { validate: |options| (DRIVER.creator.unwrap().validate)(options), create }),
    measure: None,
};

#[derive(Debug)]
struct Filled(Arc<dyn Image>);

fn zero(image: &Arc<dyn Image>, from: u64) -> Result<()> {
    let device = Device::new(Arc::clone(image) as Arc<dyn BlockDevice>);
    let len = device.len();
    if from < len {
        device.write_zeroes(ByteRange::from_bounds(from, len), ZeroMode::MayUnmap)
    } else {
        Ok(())
    }
}

fn create(context: &CreateContext<'_>) -> Result<()> {
    (DRIVER.creator.unwrap().create)(context)?;
    let mut options = RuntimeOptions::new();
    let id = context.options.get_str("key-secret").unwrap();
    options.set("key-secret", RuntimeValue::Str(id));
    let image = (DRIVER.open)(OpenContext {
        storage: Arc::clone(&context.storage),
        filename: context.filename,
        mode: OpenMode { write: true, ..OpenMode::default() },
        options: &mut options,
        opener: context.opener,
        notices: Notices::default(),
    })?;
    zero(&image, 0)
}

fn open(context: OpenContext<'_>) -> Result<Arc<dyn Image>> {
    let mut head = [0; 592];
    read_zero_padded(&*context.storage, 0, &mut head)?;
    let number = |at: usize| u32::from_be_bytes(*head[at..].first_chunk().unwrap());
    let slots = (0..8).map(|slot| number(208 + slot * 48 + 4));
    if slots.chain([number(164)]).any(|count| count > MOST_ITERATIONS) {
        return Err(Error::limit("too many iterations for a test"));
    }
    (DRIVER.open)(context).map(|image| Arc::new(Filled(image)) as Arc<dyn Image>)
}

impl BlockDevice for Filled {
    diskimg_core::pass_on!(0: len limits is_read_only describe read_at write_at write_zeroes discard flush extent_at allocated_len);

    fn set_len(&self, len: u64, prealloc: Prealloc) -> Result<()> {
        let old = self.0.len();
        self.0.set_len(len, prealloc)?;
        zero(&self.0, old)
    }
}

impl Image for Filled {
    fn driver(&self) -> &'static FormatDriver {
        &FILLED
    }
    fn info(&self) -> Result<ImageInfo> {
        self.0.info()
    }
    fn children(&self) -> Vec<Child> {
        self.0.children()
    }
}
