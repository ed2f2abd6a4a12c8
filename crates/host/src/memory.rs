//! Memory images: what is kept of a guest's RAM and devices.
//!
//! Two forms. **By pages**: a folder with RAM laid out by address, so that a capture writes only
//! what changed, and a file system that copies on write keeps the earlier ones. **As a whole**: one
//! compressed file, where nothing is shared. Either holds what [`vitrify_core::stream`] makes of
//! QEMU's stream, and is written out again as a save image of libvirt's.

mod backlog;
mod collect;
mod image_file;
mod ingest;
mod paged;
mod pages;
mod rebuild;
#[cfg(test)]
mod tests;
mod whole;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vitrify_core::manifest::MemoryImage;
use vitrify_core::name::{Bytes, PointId};
use vitrify_core::ports::Answer;
use vitrify_core::problem::{Problem, ProblemKind};
use vitrify_core::save_image::{FIXED, Header};

pub(crate) use self::ingest::Ingest;
use self::paged::Paged;
use self::whole::Whole;
use crate::files::at;

/// Where an image lies, and in which form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Form {
    /// By pages, in this folder.
    Paged {
        /// The folder, which exists.
        folder: PathBuf,
    },
    /// As a whole, in this file.
    Whole {
        /// The file.
        file: PathBuf,
    },
}

/// For how long a store may hold up a guest whose memory it receives. Beyond that the stream is dropped:
/// a memory image is not worth a guest that stands still. How fast QEMU would send has no bearing on that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StallLimits {
    /// At a time.
    pub once: Duration,
    /// In all, where the store takes less than [`StallLimits::FAST`].
    pub budget: Duration,
}

impl StallLimits {
    /// Bytes per second, on the average since the stream began.
    pub const FAST: u64 = 100_000_000;
    /// For a stream that nobody waits for.
    pub const NONE: Self = Self { once: Duration::MAX, budget: Duration::MAX };

    /// For how long the guest may be held up now, after it was in all, where so many bytes came in so long.
    pub(crate) fn left(&self, held_up: Duration, bytes: u64, took: Duration) -> Duration {
        let is_fast = bytes as f64 >= Self::FAST as f64 * took.as_secs_f64();
        if is_fast { self.once } else { self.once.min(self.budget.saturating_sub(held_up)) }
    }
}

impl Default for StallLimits {
    fn default() -> Self {
        Self { once: Duration::from_secs(1), budget: Duration::from_secs(5) }
    }
}

/// What bounds the receiving of a stream.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// For how long the guest may be held up.
    pub(crate) stall: StallLimits,
    /// Where pages may wait that the store is too slow for.
    pub(crate) spool: Option<Spool>,
}

/// A folder on a fast drive.
#[derive(Debug, Clone)]
pub(crate) struct Spool {
    /// The folder.
    pub(crate) folder: PathBuf,
    /// How much may wait there.
    pub(crate) bytes: Bytes,
}

impl Spool {
    /// Nine tenths of what is free in a folder.
    pub(crate) fn of(folder: &Path) -> Answer<Self> {
        let found = rustix::fs::statvfs(folder).map_err(at("cannot look at the spool", folder))?;
        let bytes = Bytes(found.f_bavail * found.f_frsize / 10 * 9);
        Ok(Self { folder: folder.to_owned(), bytes })
    }
}

impl Limits {
    /// For a stream that nobody waits for.
    const NONE: Self = Self { stall: StallLimits::NONE, spool: None };
}

impl Form {
    /// The folder or the file.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Paged { folder } => folder,
            Self::Whole { file } => file,
        }
    }
}

/// Takes a save image that libvirt wrote into an image.
pub(crate) fn ingest_save_image(form: &Form, path: &Path, point: &PointId) -> Answer<()> {
    let mut file = File::open(path).map_err(at("cannot read", path))?;
    let header = read_header(&mut file, path)?;
    let stream = vitrify_core::ports::MemoryStream(Box::new(file));
    let ingest = Ingest::start(form, header, point, stream, Limits::NONE)?;
    ingest.await_end(&|| false)?;
    ingest.complete()
}

fn read_header(file: &mut File, path: &Path) -> Answer<Header> {
    let damaged = |error| Problem::refused(format!("{}", path.display())).from(error);
    let mut fixed = [0; FIXED];
    file.read_exact(&mut fixed).map_err(at("cannot read", path))?;
    let length = Header::length(&fixed).map_err(damaged)?;
    let mut bytes = fixed.to_vec();
    bytes.resize(length, 0);
    file.read_exact(&mut bytes[FIXED..]).map_err(at("cannot read", path))?;
    Header::decode(&bytes).map_err(damaged)
}

/// Makes an image durable that a process, this one or one that died, has received for this point,
/// and says what it is. May be repeated.
///
/// # Errors
/// `NotFound` where nothing was received for it to the end.
pub(crate) fn seal(form: &Form, point: &PointId) -> Answer<MemoryImage> {
    match form {
        Form::Paged { folder } => Paged::at(folder).seal(point),
        Form::Whole { file } => Whole::at(file).seal(),
    }
}

/// The point that an image was received for is given up: [`seal`] finds nothing of it any more.
pub(crate) fn forget(form: &Form, point: &PointId) -> Answer<()> {
    match form {
        Form::Paged { folder } => Paged::at(folder).forget(point),
        // It lies in the point's own folder, and goes with it.
        Form::Whole { .. } => Ok(()),
    }
}

/// Reads an image and compares all of it with what the manifest says. `progress` is told how much
/// of [`MemoryImage::bytes`] was read.
///
/// # Errors
/// `Refused`, naming the file, where they differ.
pub(crate) fn verify(form: &Form, wanted: &MemoryImage, progress: &dyn Fn(Bytes)) -> Answer<()> {
    match form {
        Form::Paged { folder } => rebuild::verify(&Paged::at(folder), wanted, progress),
        Form::Whole { file } => Whole::at(file).verify(wanted, progress),
    }
}

/// Writes an image out as a save image that libvirt resumes; what lies at `target` is replaced. Every
/// byte is compared with what the manifest says on the way.
///
/// # Errors
/// As for [`verify`]; nothing is left at `target` then.
pub(crate) fn write_save_image(
    form: &Form,
    wanted: &MemoryImage,
    target: &Path,
    progress: &dyn Fn(Bytes),
) -> Answer<()> {
    crate::files::unlink(target)?;
    let out = crate::files::create(target)?;
    let written = match form {
        Form::Paged { folder } => rebuild::write(&Paged::at(folder), wanted, out, target, progress),
        Form::Whole { file } => Whole::at(file).write(wanted, out, target, progress),
    };
    if written.is_err() {
        // The first problem is the one to tell.
        crate::files::unlink(target).ok();
    }
    written
}

/// An image that is not what its manifest says.
fn mismatch(path: &Path, what: &str) -> Problem {
    let message = format!("the memory image {} {what}", path.display());
    Problem::new(ProblemKind::Refused, message)
        .hint("it cannot be resumed; the disks of the point can still be restored with --cold")
}
