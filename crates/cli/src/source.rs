//! An image named on the command line, with the options that say how it is opened.

use diskimg::chain::{Context, ImageSpec, Node, OpenOptions};
use diskimg::core::driver::{NoticeLevel, Notices};
use diskimg::core::protocol::CacheMode;

use crate::command::{Key, Value};
use crate::objects;
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
    /// Options that name secrets, with their values.
    pub secrets: Vec<(&'static str, String)>,
}

impl Source {
    /// Takes one of the options that describe an image; an object is one that it may name.
    pub(crate) fn take(&mut self, ui: &Ui, key: Key, value: Value) -> Result<(), Exit> {
        match key {
            Key::Format => self.format = Some(value.text(ui)?),
            Key::ImageOpts => self.image_opts = true,
            Key::ForceShare => self.force_share = true,
            Key::Object => objects::add(ui, value)?,
            _ => {}
        }
        Ok(())
    }
}

impl Source {
    /// What the library is to open.
    pub(crate) fn spec(&self, ui: &Ui) -> Result<ImageSpec, Exit> {
        if self.image_opts && self.format.is_some() {
            return Err(ui.fail("--image-opts and --format are mutually exclusive"));
        }
        if !self.image_opts {
            let name = ImageSpec::name(self.filename.as_str());
            return Ok(self.secrets.iter().fold(name, |spec, (option, id)| spec.with(option, id)));
        }
        ImageSpec::image_opts(&self.filename).map_err(|error| ui.library_error(&error))
    }

    /// `options` with those given on the command line.
    pub(crate) fn options(&self, options: OpenOptions) -> OpenOptions {
        let (format, force_share, cache) = (self.format.clone(), self.force_share, self.cache);
        OpenOptions { format, force_share, cache, ..options }
    }

    /// Opens it.
    pub(crate) fn open(&self, ui: &Ui, options: OpenOptions) -> Result<Node, Exit> {
        Node::open(&context(ui), &self.spec(ui)?, &self.options(options))
            .map_err(|error| ui.library_error(&error))
    }
}

/// All formats and protocols, and the secrets of `--object`; notices are printed, and files that an image names pass
/// the gate of `--references`.
pub(crate) fn context(ui: &Ui) -> Context {
    let references = ui.references.clone();
    let printer = ui.clone();
    let notices = Notices::to(move |level, text| match level {
        NoticeLevel::Warning => printer.warn(text),
        NoticeLevel::Error => printer.error(text),
        NoticeLevel::Plain => printer.complain(format!("{text}\n").as_bytes()),
        NoticeLevel::Hint => printer.hint(text),
    });
    let secrets = ui.with_secrets(|secrets| secrets.clone());
    let objects = ui.with_objects(|objects| objects.clone());
    let pipes = ui.with_pipes(|pipes| pipes.clone());
    let context = Context::new(diskimg::registry()).with_notices(notices).with_secrets(secrets);
    let context = pipes
        .into_iter()
        .fold(context.with_objects(objects), |context, (name, pipe)| context.with_opened(&name, pipe));
    references.guard(context)
}
