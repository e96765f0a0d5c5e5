//! Opening: the file's kind, its header or descriptor, its extents, in the order in which their errors are reported.
//!
//! A descriptor's extents are opened through the gate. One that is the descriptor's own file is refused: its contents would
//! name the files that are opened the next time.

use std::sync::Arc;

use diskimg_core::driver::{OpenContext, OpenMode};
use diskimg_core::opener::{Mode, Opener, ReferenceKind};
use diskimg_core::options::RuntimeOptions;
use diskimg_core::{BlockDevice, ByteRange, Error, Image, Result, read_zero_padded, to_usize};
use parking_lot::Mutex;

use crate::descriptor;
use crate::descriptor_file::{DescriptorFile, Place};
use crate::error::VmdkError;
use crate::extent_line::{Access, ExtentLine, ExtentType};
use crate::header::{AT_END, COWD, CowdHeader, HEADER_LEN, Header, KDMV, read_footer};
use crate::image::Vmdk;
use crate::limits::{EMBEDDED_DESCRIPTOR, MAX_DESCRIPTOR, SECTOR};
use crate::parts::{Body, FlatExtent, Part, Parts};
use crate::sesparse;
use crate::sparse::{SparseExtent, any_alignment};
use crate::stream_file;

/// The type of a disk of one extent with an embedded descriptor.
const MONOLITHIC: &str = "monolithicSparse";
/// The same with compressed grains.
const STREAM: &str = "streamOptimized";

/// Opens an image.
pub(crate) fn open(ctx: OpenContext<'_>) -> Result<Arc<dyn Image>> {
    let OpenContext { storage, filename, mode, options, opener, .. } = ctx;
    let opening = Opening { storage, filename: opener.holder().unwrap_or(filename), mode };
    let image = opening.image(options, opener).map_err(|error| {
        // What has no words of its own is told with the name once more.
        let bare = error.joined() == VmdkError::Invalid.to_string();
        if bare { error.context(format!("Could not open '{filename}'")) } else { error }
    })?;
    Ok(Arc::new(image))
}

struct Opening<'a> {
    storage: Arc<dyn BlockDevice>,
    filename: &'a str,
    mode: OpenMode,
}

impl Opening<'_> {
    fn image(self, options: &mut RuntimeOptions, opener: &dyn Opener) -> Result<Vmdk> {
        if self.storage.is_empty() {
            return Err(VmdkError::TooSmall.into());
        }
        let io = any_alignment(&self.storage);
        let mut head = vec![0; HEADER_LEN];
        read_zero_padded(&*io, 0, &mut head).map_err(|error| error.summarised("Could not read from file"))?;
        if head.starts_with(&KDMV) {
            let header = Header::parse(&head).ok_or(VmdkError::Invalid)?;
            if header.is_bare_descriptor() {
                return self.bare_descriptor(&io, &header, options, opener);
            }
            let descriptor = embedded_place(&header);
            let extent = open_hosted(&self.storage, header, self.mode.write)?;
            return self.single(&io, extent, descriptor);
        }
        if head.starts_with(&COWD) {
            let header = CowdHeader::parse(&head).ok_or(VmdkError::Invalid)?;
            let extent = SparseExtent::new(Arc::clone(&self.storage), header.geometry()?, None);
            return self.single(&io, extent, ByteRange::new(SECTOR, EMBEDDED_DESCRIPTOR));
        }
        let place = ByteRange::new(0, MAX_DESCRIPTOR);
        let text = read_text(&*io, place)?;
        self.described_by(&text, Place::File, options, opener)
    }

    /// A disk of one sparse extent, which has the descriptor inside.
    fn single(self, io: &Arc<dyn BlockDevice>, extent: SparseExtent, descriptor: ByteRange) -> Result<Vmdk> {
        let (text, descriptor) = embedded_text(&**io, descriptor)?;
        let create_type = if extent.geo.compressed { STREAM } else { MONOLITHIC };
        let mut parts = Parts::default();
        parts.push(extent.geo.len, |range| Part {
            range,
            body: Body::Sparse(Box::new(extent)),
            filename: self.filename.to_owned(),
            word: String::new(),
            writable: self.mode.write,
            own_file: false,
        })?;
        self.finish(&text, Place::Embedded(descriptor), create_type, parts)
    }

    /// A header without an extent: an empty disk, or a text descriptor in a strange place.
    fn bare_descriptor(
        self,
        io: &Arc<dyn BlockDevice>,
        header: &Header,
        options: &mut RuntimeOptions,
        opener: &dyn Opener,
    ) -> Result<Vmdk> {
        let place = embedded_place(header);
        let text = read_text(&**io, place)?;
        match descriptor::create_type(&text).as_deref() {
            Some(name @ (MONOLITHIC | STREAM)) if header.grain > 0 => {
                self.finish(&text, Place::Embedded(place), name, Parts::default())
            }
            _ => self.described_by(&text, Place::Embedded(place), options, opener),
        }
    }

    /// A disk whose parts the text names.
    fn described_by(
        self,
        text: &str,
        place: Place,
        options: &mut RuntimeOptions,
        opener: &dyn Opener,
    ) -> Result<Vmdk> {
        let create_type = descriptor::text_type(text)?;
        let lines = descriptor::extents(text)?;
        let mut parts = Parts::default();
        for (number, line) in lines.iter().enumerate() {
            let options = options.take_child(&format!("extents.{number}"));
            self.add_part(&mut parts, line, options, opener)?;
        }
        self.finish(text, place, &create_type, parts)
    }

    fn add_part(
        &self,
        parts: &mut Parts,
        line: &ExtentLine,
        options: RuntimeOptions,
        opener: &dyn Opener,
    ) -> Result<()> {
        if line.access == Access::None {
            return Err(Error::unsupported(format!("An extent may not be accessed: {}", line.file)));
        }
        let write = self.mode.write && line.access == Access::ReadWrite;
        let (len, body, filename) = if line.kind == ExtentType::Zero {
            (line.len, Body::Zero, String::new())
        } else {
            let access = Mode { write, create: false };
            if !line.file.starts_with('/') {
                opener.check_folder().map_err(|error| self.no_folder(error))?;
            }
            let storage = opener.open(ReferenceKind::Extent, &line.file, access, options)?;
            let own = storage.describe().filename;
            let filename = if own.is_empty() { line.file.clone() } else { own.to_owned() };
            if same_file(&*storage, &*self.storage) {
                return Err(VmdkError::OwnExtent(filename).into());
            }
            let (len, body) = open_body(line, storage, write, self.mode.write)?;
            (len, body, filename)
        };
        let (word, writable) = (line.word.clone(), write && line.kind != ExtentType::Zero);
        parts.push(len, |range| Part { range, body, filename, word, writable, own_file: true })?;
        Ok(())
    }

    fn no_folder(&self, error: Error) -> Error {
        let name = self.filename;
        error.context(format!("Cannot use relative paths with VMDK descriptor file '{name}'"))
    }

    fn finish(self, text: &str, place: Place, create_type: &str, parts: Parts) -> Result<Vmdk> {
        let identity = descriptor::identity(text)?;
        let has_parent = identity.parent.is_some();
        if self.mode.write && has_parent && parts.grain().is_some_and(|(_, aligned)| !aligned) {
            let text = "An image over another one whose extents do not begin with grains, or have very long ones, can't be written";
            return Err(Error::unsupported(text));
        }
        let descriptor = DescriptorFile::new(any_alignment(&self.storage), place, identity);
        Ok(Vmdk {
            storage: self.storage,
            parts,
            descriptor,
            create_type: create_type.to_owned(),
            filename: self.filename.to_owned(),
            mode: self.mode,
            unaligned: Mutex::new(()),
        })
    }
}

/// True if both are the same file, as far as their names tell.
fn same_file(a: &dyn BlockDevice, b: &dyn BlockDevice) -> bool {
    if std::ptr::addr_eq(std::ptr::from_ref(a), std::ptr::from_ref(b)) {
        return true;
    }
    let name = |device: &dyn BlockDevice| device.describe().filename.to_owned();
    let real = |name: &str| std::fs::canonicalize(name).ok();
    !name(a).is_empty()
        && (name(a) == name(b) || real(&name(a)).is_some_and(|path| real(&name(b)) == Some(path)))
}

fn open_body(
    line: &ExtentLine,
    storage: Arc<dyn BlockDevice>,
    write: bool,
    image_write: bool,
) -> Result<(u64, Body)> {
    match line.kind {
        ExtentType::Flat { offset } => {
            let io = any_alignment(&storage);
            Ok((line.len, Body::Flat(FlatExtent { storage, io, offset })))
        }
        ExtentType::SeSparse => {
            let extent = open_sesparse(storage, image_write)?;
            Ok((extent.geo.len, Body::Sparse(Box::new(extent))))
        }
        ExtentType::Sparse => {
            let extent = open_sparse(&storage, write)?;
            Ok((extent.geo.len, Body::Sparse(Box::new(extent))))
        }
        ExtentType::Zero => Ok((line.len, Body::Zero)),
    }
}

/// A sparse extent in a file of its own: its magic number says of which kind.
fn open_sparse(storage: &Arc<dyn BlockDevice>, write: bool) -> Result<SparseExtent> {
    let mut head = vec![0; HEADER_LEN];
    read_zero_padded(&*any_alignment(storage), 0, &mut head)?;
    if let Some(header) = Header::parse(&head) {
        if header.is_bare_descriptor() {
            // A descriptor in an extent of a descriptor: there would be no end of it.
            return Err(VmdkError::Invalid.into());
        }
        return open_hosted(storage, header, write);
    }
    let header = CowdHeader::parse(&head).ok_or(VmdkError::NotVmdk)?;
    Ok(SparseExtent::new(Arc::clone(storage), header.geometry()?, None))
}

/// A hosted sparse extent.
fn open_hosted(storage: &Arc<dyn BlockDevice>, header: Header, write: bool) -> Result<SparseExtent> {
    let io = any_alignment(storage);
    if header.directory != AT_END {
        let geo = header.geometry(storage.len(), write)?;
        return Ok(SparseExtent::new(Arc::clone(storage), geo, None));
    }
    if header.unclean && header.is_compressed() {
        let front = Header { directory: 0, ..header };
        let geo = front.geometry(storage.len(), write)?;
        let stream = stream_file::recover(&io, &geo, &front)?;
        return Ok(SparseExtent::new(Arc::clone(storage), geo, Some(stream)));
    }
    let footer = read_footer(&*io)?;
    let geo = footer.geometry(storage.len(), write)?;
    let stream = if write { Some(stream_file::take_up(&io, &geo, &footer)?) } else { None };
    Ok(SparseExtent::new(Arc::clone(storage), geo, stream))
}

fn open_sesparse(storage: Arc<dyn BlockDevice>, write: bool) -> Result<SparseExtent> {
    let io = any_alignment(&storage);
    let mut bytes = vec![0; HEADER_LEN];
    read_zero_padded(&*io, 0, &mut bytes)?;
    let header = sesparse::parse_const(&bytes)?;
    read_zero_padded(&*io, header.volatile, &mut bytes)?;
    sesparse::check_volatile(&bytes)?;
    if write {
        return Err(VmdkError::SeSparseWrite.into());
    }
    Ok(SparseExtent::new(storage, header.geometry, None))
}

/// Where the descriptor in a sparse extent is.
fn embedded_place(header: &Header) -> ByteRange {
    let start = if header.descriptor == 0 { SECTOR } else { header.descriptor.saturating_mul(SECTOR) };
    let len = header.descriptor_len.saturating_mul(SECTOR).clamp(EMBEDDED_DESCRIPTOR, MAX_DESCRIPTOR);
    ByteRange::new(start, len)
}

/// The descriptor in `place`; where the header leads to none, the one behind the header, the only place where qemu-img
/// looks.
fn embedded_text(io: &dyn BlockDevice, place: ByteRange) -> Result<(String, ByteRange)> {
    let text = read_text(io, place)?;
    if place.start == SECTOR || descriptor::cid_value(&text).is_some() {
        return Ok((text, place));
    }
    let usual = ByteRange::new(SECTOR, EMBEDDED_DESCRIPTOR);
    Ok((read_text(io, usual)?, usual))
}

/// The text in `place`, as far as the file has it.
fn read_text(io: &dyn BlockDevice, place: ByteRange) -> Result<String> {
    let there = place.intersect(ByteRange::new(0, io.len()));
    let mut bytes = vec![0; to_usize(there.len)];
    read_zero_padded(io, there.start, &mut bytes)?;
    Ok(descriptor::text_of(&bytes))
}
