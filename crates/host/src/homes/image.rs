//! Reads memory images: how long they are and what they hash to.

use std::fs::{File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, fchown};
use std::path::Path;
use std::thread;

use rustix::fs::{Advice, fadvise};
use vitrify_core::manifest::MemoryImage;
use vitrify_core::name::Bytes;
use vitrify_core::ports::Answer;
use vitrify_core::problem::{Problem, ProblemKind};

use crate::files::at;

/// How many bytes are read at a time; BLAKE3 needs 128 KiB and more to use wide instructions.
const STEP: usize = 1 << 20;

/// Makes an image private and durable, and hashes it meanwhile.
pub(super) fn seal(path: &Path) -> Answer<MemoryImage> {
    let file = File::open(path).map_err(at("cannot read the memory image", path))?;
    if rustix::process::geteuid().is_root() {
        fchown(&file, Some(0), Some(0)).map_err(at("cannot take ownership of", path))?;
    }
    file.set_permissions(Permissions::from_mode(0o600)).map_err(at("cannot make private", path))?;
    let (synced, hashed) = thread::scope(|scope| {
        let sync = scope.spawn(|| file.sync_all());
        let hashed = hash(path, &|_| {});
        (sync.join(), hashed)
    });
    let synced = synced.unwrap_or_else(|_| Err(io::Error::other("the thread panicked")));
    synced.map_err(at("cannot make durable", path))?;
    hashed.map_err(at("cannot read the memory image", path))
}

/// Compares an image with what its manifest says.
pub(super) fn check(path: &Path, wanted: &MemoryImage, progress: &dyn Fn(Bytes)) -> Answer<()> {
    let refused = |what: String| {
        let message = format!("the memory image {} {what}", path.display());
        Problem::new(ProblemKind::Refused, message)
            .hint("it cannot be resumed; the disks of the point can still be restored with --cold")
    };
    let length = match path.metadata() {
        Err(error) if crate::files::is_absence(&error) => return Err(refused("is gone".into())),
        found => found.map_err(at("cannot look at", path))?.len(),
    };
    if length != wanted.bytes.0 {
        return Err(refused(format!("has {length} bytes, and {} were captured", wanted.bytes.0)));
    }
    let found = hash(path, progress).map_err(at("cannot read the memory image", path))?;
    if found == *wanted { Ok(()) } else { Err(refused("is not what was captured".into())) }
}

fn hash(path: &Path, progress: &dyn Fn(Bytes)) -> io::Result<MemoryImage> {
    let mut file = File::open(path)?;
    // Advice: nothing depends on it.
    fadvise(&file, 0, None, Advice::Sequential).ok();
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; STEP];
    let mut bytes = 0;
    loop {
        let read = match file.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if read == 0 {
            let blake3 = hasher.finalize().to_hex().to_string();
            return Ok(MemoryImage { bytes: Bytes(bytes), blake3 });
        }
        hasher.update(&buffer[..read]);
        bytes += read as u64;
        progress(Bytes(bytes));
    }
}
