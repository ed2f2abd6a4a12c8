//! An image as a whole: a save image of libvirt's, compressed, for stores that share no blocks.
//! Beside it lies what it hashes to.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vitrify_core::manifest::MemoryImage;
use vitrify_core::name::Bytes;
use vitrify_core::ports::Answer;
use vitrify_core::problem::Problem;
use vitrify_core::save_image::Header;
use vitrify_core::stream::{Joint, Piece};

use super::backlog::{Backlog, Item};
use super::image_file::ImageFile;
use super::ingest::Sink;
use super::mismatch;
use crate::files::{at, create, is_absence, sync_parent, unlink};

/// Fast, and a third to a half of what RAM takes.
const LEVEL: i32 = 1;
const STEP: usize = 1 << 20;

/// The file of an image as a whole.
#[derive(Debug, Clone)]
pub(super) struct Whole {
    file: PathBuf,
}

/// An image that is being written.
pub(super) struct Writing {
    whole: Whole,
    /// Until the stream has ended.
    out: Option<zstd::Encoder<'static, BufWriter<Waiting>>>,
    hasher: blake3::Hasher,
    bytes: u64,
}

/// What is compressed waits here for whoever writes it.
struct Waiting(Arc<Backlog>);

impl Write for Waiting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.push(Item::Bytes(bytes.to_vec()))? {
            true => Ok(bytes.len()),
            false => Err(io::Error::other("nobody writes it")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Whole {
    pub(super) fn at(file: &Path) -> Self {
        Self { file: file.to_owned() }
    }

    fn draft(&self) -> PathBuf {
        self.file.with_extension("draft")
    }

    fn sum(&self) -> PathBuf {
        self.file.with_extension("sum")
    }

    /// Makes the file, and what fills it through a backlog.
    pub(super) fn create(
        &self,
        header: &Header,
        backlog: &Arc<Backlog>,
    ) -> Answer<(Writing, ImageFile)> {
        for path in [self.draft(), self.sum(), self.file.clone()] {
            unlink(&path)?;
        }
        let file = create(&self.draft())?;
        let waiting = BufWriter::with_capacity(STEP, Waiting(Arc::clone(backlog)));
        let out = zstd::Encoder::new(waiting, LEVEL).and_then(|mut it| {
            it.include_checksum(true)?;
            Ok(it)
        });
        let out = Some(out.map_err(at("cannot write", &self.draft()))?);
        let hasher = blake3::Hasher::new();
        let mut writing = Writing { whole: self.clone(), out, hasher, bytes: 0 };
        writing.bytes(&header.encode())?;
        Ok((writing, ImageFile { file, spaced: false }))
    }

    /// Makes an image durable that was written to its end.
    pub(super) fn seal(&self) -> Answer<MemoryImage> {
        let sum = self.sum();
        let text = match fs::read(&sum) {
            Err(error) if is_absence(&error) => {
                return Err(Problem::not_found(format!("{} is not complete", self.file.display())));
            }
            text => text.map_err(at("cannot read", &sum))?,
        };
        let image = serde_json::from_slice(&text)
            .map_err(|error| Problem::failed(sum.display().to_string()).from(error))?;
        for path in [&self.file, &sum] {
            let file = File::open(path).map_err(at("cannot read", path))?;
            file.sync_all().map_err(at("cannot make durable", path))?;
        }
        sync_parent(&sum)?;
        Ok(image)
    }

    pub(super) fn verify(&self, wanted: &MemoryImage, progress: &dyn Fn(Bytes)) -> Answer<()> {
        self.read(wanted, progress, &mut |_| Ok(()))
    }

    pub(super) fn write(
        &self,
        wanted: &MemoryImage,
        mut out: File,
        target: &Path,
        progress: &dyn Fn(Bytes),
    ) -> Answer<()> {
        self.read(wanted, progress, &mut |bytes| {
            out.write_all(bytes).map_err(at("cannot write", target))
        })
    }

    /// Reads all of it, and compares its hash at the end.
    fn read(
        &self,
        wanted: &MemoryImage,
        progress: &dyn Fn(Bytes),
        each: &mut dyn FnMut(&[u8]) -> Answer<()>,
    ) -> Answer<()> {
        let file = match File::open(&self.file) {
            Err(error) if is_absence(&error) => return Err(mismatch(&self.file, "is gone")),
            file => BufReader::with_capacity(STEP, file.map_err(at("cannot read", &self.file))?),
        };
        let mut decoder =
            zstd::Decoder::with_buffer(file).map_err(at("cannot read", &self.file))?;
        let (mut buffer, mut hasher, mut sum) = (vec![0; STEP], blake3::Hasher::new(), 0);
        loop {
            let read = match decoder.read(&mut buffer) {
                Ok(read) => read,
                Err(error) if is_damage(&error) => return Err(mismatch(&self.file, "is damaged")),
                Err(error) => return Err(at("cannot read", &self.file)(error)),
            };
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            each(&buffer[..read])?;
            sum += read as u64;
            progress(Bytes(sum));
        }
        let found = hasher.finalize().to_hex().to_string();
        let found = MemoryImage { bytes: Bytes(sum), blake3: found };
        match found == *wanted {
            true => Ok(()),
            false => Err(mismatch(&self.file, "is not what was captured")),
        }
    }
}

/// zstd says so of what it cannot decompress; an end in the middle is one, too.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::Other)
}

impl Sink for Writing {
    fn bytes(&mut self, bytes: &[u8]) -> Answer<()> {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        let Some(out) = &mut self.out else { return Ok(()) };
        out.write_all(bytes).map_err(at("cannot write", &self.whole.draft()))
    }

    fn piece(&mut self, _: Piece<'_>) -> Answer<()> {
        Ok(())
    }

    fn ended(&mut self) -> Answer<()> {
        let Some(out) = self.out.take() else { return Ok(()) };
        let waiting = out.finish().and_then(|it| Ok(it.into_inner()?));
        waiting.map_err(at("cannot write", &self.whole.draft()))?.0.close();
        Ok(())
    }

    fn complete(self, _: Joint) -> Answer<()> {
        let Self { whole, hasher, bytes, .. } = self;
        fs::rename(whole.draft(), &whole.file).map_err(at("cannot put in place", &whole.file))?;
        let image =
            MemoryImage { bytes: Bytes(bytes), blake3: hasher.finalize().to_hex().to_string() };
        let text = serde_json::to_vec(&image).unwrap_or_default();
        create(&whole.sum())?.write_all(&text).map_err(at("cannot write", &whole.sum()))
    }
}
