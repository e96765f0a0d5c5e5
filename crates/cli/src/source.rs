//! An image named on the command line, with the options that say how it is opened.

use diskimg_core::protocol::CacheMode;

use crate::command::{Key, Value};
use crate::ui::{Exit, Ui};

/// An image to open.
#[derive(Clone, Debug, Default)]
pub(crate) struct Source {
    /// Its name, or with `image_opts` its options.
    pub filename: String,
    /// Its format; probed if absent.
    pub format: Option<String>,
    /// The name is `key=value,…`.
    pub image_opts: bool,
    /// Others may write to it meanwhile.
    pub force_share: bool,
    /// How the host's cache is used.
    pub cache: CacheMode,
}

impl Source {
    /// Takes one of the options that describe an image.
    pub(crate) fn take(&mut self, ui: &Ui, key: Key, value: Value) -> Result<(), Exit> {
        match key {
            Key::Format => self.format = Some(value.text(ui)?),
            Key::ImageOpts => self.image_opts = true,
            Key::ForceShare => self.force_share = true,
            _ => {}
        }
        Ok(())
    }
}
