//! An image by pages: its files, and in which state they are.
//!
//! `memory.img` has RAM by address ([`ImageFile`]), zeros being holes; `pages.b3` 16 bytes of BLAKE3 per page;
//! `machine.head` what comes before RAM, with the definition; `machine.rest` what comes after. The
//! file `state` says for which point the image is being written, was written, or was made durable:
//! only in that last state is `pages.b3` what `memory.img` holds whatever happens.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{XattrFlags, fsetxattr};
use serde::{Deserialize, Serialize};
use vitrify_core::manifest::MemoryImage;
use vitrify_core::name::{Bytes, PointId};
use vitrify_core::ports::{Answer, FileContent, NamedFile};
use vitrify_core::problem::Problem;
use vitrify_core::save_image::Header;
use vitrify_core::stream::{Joint, PAGE, RamBlock};

use super::image_file::ImageFile;
use super::mismatch;
use super::pages::{Layout, PageHash, hash};
use crate::btrfs::subvolume::is_btrfs;
use crate::files::{at, create, exists, is_absence, lay, sync_folder};

pub(super) const IMAGE: &str = "memory.img";
pub(super) const HASHES: &str = "pages.b3";
const HEAD: &str = "machine.head";
pub(super) const REST: &str = "machine.rest";
const STATE: &str = "state";

/// The version of the layout that is written, and the only one that is read.
const VERSION: u32 = 1;
const STEP: usize = 1 << 20;

/// The folder of an image by pages.
#[derive(Debug, Clone)]
pub(super) struct Paged {
    folder: PathBuf,
}

/// What comes before RAM, and how it all joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    version: u32,
    xml: String,
    cookie: Option<String>,
    running: bool,
    /// How [`IMAGE`] is laid out; images made before there was a choice do not say.
    #[serde(default)]
    spaced: bool,
    pub(super) blocks: Vec<RamBlock>,
    pub(super) joint: Joint,
    /// The stream's head, byte by byte.
    pub(super) bytes: Vec<u8>,
}

impl Head {
    pub(super) fn new(
        header: Header,
        layout: &Layout,
        spaced: bool,
        joint: Joint,
        bytes: Vec<u8>,
    ) -> Self {
        let Header { xml, cookie, running } = header;
        let blocks = layout.blocks.clone();
        Self { version: VERSION, xml, cookie, running, spaced, blocks, joint, bytes }
    }

    /// The container's header.
    pub(super) fn container(&self) -> Header {
        Header { xml: self.xml.clone(), cookie: self.cookie.clone(), running: self.running }
    }

    pub(super) fn layout(&self) -> Layout {
        Layout::of(&self.blocks)
    }
}

/// How far an image has come, and for which point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Stage {
    Writing,
    Written,
    Sealed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    stage: Stage,
    /// `None` once that point was given up.
    point: Option<PointId>,
}

/// What an image held before.
#[derive(Debug)]
pub(super) struct Before {
    pub(super) layout: Layout,
    pub(super) hashes: Vec<PageHash>,
}

impl Paged {
    pub(super) fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn state(&self) -> Answer<Option<State>> {
        let path = self.file(STATE);
        match fs::read_to_string(&path) {
            Err(error) if is_absence(&error) => Ok(None),
            // One that cannot be read says nothing.
            text => Ok(serde_json::from_str(&text.map_err(at("cannot read", &path))?).ok()),
        }
    }

    fn set_state(&self, stage: Stage, point: Option<&PointId>) -> Answer<()> {
        let state = State { stage, point: point.cloned() };
        let text = serde_json::to_string(&state).unwrap_or_default();
        let file = NamedFile { name: STATE.into(), content: FileContent::Text(text) };
        lay(&self.folder, &file)?;
        sync_folder(&self.folder)
    }

    /// Opens the image to be rewritten for a point, durably, and says what it held. An image that
    /// was not sealed is read and hashed.
    pub(super) fn begin(&self, point: &PointId) -> Answer<(ImageFile, Option<Before>)> {
        let path = self.file(IMAGE);
        if !exists(&path)? {
            let file = create(&path)?;
            let spaced = is_btrfs(&path)?;
            if spaced {
                // An old kernel, or a mount without copying on write, may not.
                fsetxattr(&file, "btrfs.compression", b"zstd", XattrFlags::empty()).ok();
            }
            self.set_state(Stage::Writing, Some(point))?;
            return Ok((ImageFile { file, spaced }, None));
        }
        let mut options = File::options();
        let file = options.read(true).write(true).open(&path).map_err(at("cannot write", &path))?;
        let file = ImageFile { file, spaced: is_btrfs(&path)? };
        let head = self.head().ok();
        let sealed = self.state()?.is_some_and(|it| it.stage == Stage::Sealed);
        self.set_state(Stage::Writing, Some(point))?;
        let layout = head.filter(|it| it.spaced == file.spaced).map(|it| it.layout());
        let length = file.file.metadata().map_err(at("cannot look at", &path))?.len();
        let is_its = |it: &Layout| length == ImageFile::length(it.bytes, file.spaced);
        let Some(layout) = layout.filter(is_its) else { return Ok((file, None)) };
        let known = if sealed { self.hashes(&layout).ok() } else { None };
        let hashes = match known {
            Some(hashes) => hashes,
            None => self.hash_image(&file, &layout)?,
        };
        Ok((file, Some(Before { layout, hashes })))
    }

    fn hash_image(&self, file: &ImageFile, layout: &Layout) -> Answer<Vec<PageHash>> {
        let path = self.file(IMAGE);
        let mut hashes = Vec::with_capacity(layout.pages());
        let mut buffer = vec![0; STEP];
        while hashes.len() < layout.pages() {
            let bytes = ((layout.pages() - hashes.len()) * PAGE).min(STEP);
            let offset = (hashes.len() * PAGE) as u64;
            file.read_exact_at(&mut buffer[..bytes], offset).map_err(at("cannot read", &path))?;
            hashes.extend(buffer[..bytes].as_chunks::<PAGE>().0.iter().map(hash));
        }
        Ok(hashes)
    }

    /// Everything was written into the image; the rest is written by [`REST`] before.
    pub(super) fn written(&self, head: &Head, hashes: &[PageHash], point: &PointId) -> Answer<()> {
        self.replace(HASHES, hashes.as_flattened())?;
        let text = serde_json::to_vec(head)
            .map_err(|error| Problem::failed("the head of a memory image").from(error))?;
        self.replace(HEAD, &text)?;
        let path = self.file(STATE);
        let state = State { stage: Stage::Written, point: Some(point.clone()) };
        let text = serde_json::to_string(&state).unwrap_or_default();
        fs::write(&path, text).map_err(at("cannot write", &path))
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Answer<()> {
        let path = self.file(name);
        let draft = self.file(&format!(".{name}.new"));
        crate::files::unlink(&draft)?;
        create(&draft)?.write_all(bytes).map_err(at("cannot write", &draft))?;
        fs::rename(&draft, &path).map_err(at("cannot put in place", &path))
    }

    /// The image is not this point's any more; what it holds is still worth comparing with.
    pub(super) fn forget(&self, point: &PointId) -> Answer<()> {
        match self.state()? {
            Some(state) if state.point.as_ref() == Some(point) => self.set_state(state.stage, None),
            _ => Ok(()),
        }
    }

    /// Makes durable what was written for this point.
    pub(super) fn seal(&self, point: &PointId) -> Answer<MemoryImage> {
        let is_it = |it: &State| it.point.as_ref() == Some(point) && it.stage != Stage::Writing;
        let state = self.state()?.filter(is_it);
        let Some(state) = state else {
            let message = format!("{} was not written for this point", self.folder.display());
            return Err(Problem::not_found(message));
        };
        if state.stage == Stage::Written {
            for name in [IMAGE, HASHES, HEAD, REST] {
                let path = self.file(name);
                let file = File::open(&path).map_err(at("cannot read", &path))?;
                file.sync_all().map_err(at("cannot make durable", &path))?;
            }
            self.set_state(Stage::Sealed, Some(point))?;
        }
        self.identify()
    }

    /// The root over everything, and how much was kept.
    pub(super) fn identify(&self) -> Answer<MemoryImage> {
        let layout = self.head()?.layout();
        let hashes = self.hashes(&layout)?;
        let rest = self.file(REST);
        let rest = rest.metadata().map_err(at("cannot look at", &rest))?.len();
        let used = hashes.iter().filter(|it| **it != PageHash::default()).count();
        let mut hasher = blake3::Hasher::new();
        for name in [HEAD, REST, HASHES] {
            let path = self.file(name);
            let mut file = File::open(&path).map_err(at("cannot read", &path))?;
            let length = file.metadata().map_err(at("cannot look at", &path))?.len();
            hasher.update(&length.to_le_bytes());
            let mut buffer = vec![0; STEP];
            loop {
                match file.read(&mut buffer).map_err(at("cannot read", &path))? {
                    0 => break,
                    read => hasher.update(&buffer[..read]),
                };
            }
        }
        let bytes = Bytes((used * PAGE) as u64 + rest);
        Ok(MemoryImage { bytes, blake3: hasher.finalize().to_hex().to_string() })
    }

    /// The image of RAM, to be read; `NotFound` where there is none.
    pub(super) fn open(&self, head: &Head) -> Answer<ImageFile> {
        let path = self.file(IMAGE);
        let file = File::open(&path).map_err(at("cannot read", &path))?;
        let length = file.metadata().map_err(at("cannot look at", &path))?.len();
        if length != ImageFile::length(head.layout().bytes, head.spaced) {
            return Err(mismatch(&path, "has another length than its RAM"));
        }
        Ok(ImageFile { file, spaced: head.spaced })
    }

    pub(super) fn head(&self) -> Answer<Head> {
        let path = self.file(HEAD);
        let text = fs::read(&path).map_err(at("cannot read", &path))?;
        let head: Head =
            serde_json::from_slice(&text).map_err(|_| mismatch(&path, "cannot be read"))?;
        if head.version != VERSION {
            return Err(mismatch(&path, "has another version"));
        }
        Ok(head)
    }

    /// Read into place: for much RAM they take more memory than everything else together.
    pub(super) fn hashes(&self, layout: &Layout) -> Answer<Vec<PageHash>> {
        let path = self.file(HASHES);
        let mut file = File::open(&path).map_err(at("cannot read", &path))?;
        let length = file.metadata().map_err(at("cannot look at", &path))?.len();
        if length != layout.pages() as u64 * size_of::<PageHash>() as u64 {
            return Err(mismatch(&path, "has another length than its RAM"));
        }
        let mut hashes = vec![PageHash::default(); layout.pages()];
        file.read_exact(hashes.as_flattened_mut()).map_err(at("cannot read", &path))?;
        Ok(hashes)
    }

    /// Where the rest is written to.
    pub(super) fn create_rest(&self) -> Answer<io::BufWriter<File>> {
        let path = self.file(REST);
        crate::files::unlink(&path)?;
        Ok(io::BufWriter::new(create(&path)?))
    }
}
