//! Fresh directories that vanish with their owner. QEMU runs as another user, so all may pass
//! through them.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

const PREFIX: &str = "vitrify-lab-";
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A directory of our own, removed on drop.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes `vitrify-lab-<pid>-<n>` in `$TMPDIR`, or else in `/var/tmp`.
    ///
    /// # Errors
    /// What the file system says, also if the directory is there already.
    pub fn new() -> io::Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let path = parent().join(name);
        fs::create_dir(&path)?;
        let scratch = Self { path };
        fs::set_permissions(&scratch.path, Permissions::from_mode(0o711))?;
        Ok(scratch)
    }

    /// One that an earlier process left.
    pub(crate) fn left(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            complain(&self.path.display().to_string(), &error);
        }
    }
}

/// Where they lie. Not the usual default: pools are large, and `/tmp` may be RAM.
pub(crate) fn parent() -> PathBuf {
    let set = std::env::var_os("TMPDIR").filter(|value| !value.is_empty());
    set.map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from)
}

/// Has what this process made outlive it: nobody sweeps it away until the file is removed that this
/// answers with.
///
/// # Errors
/// What the file system says.
pub(crate) fn keep() -> io::Result<PathBuf> {
    let mark = mark(std::process::id());
    fs::write(&mark, "")?;
    Ok(mark)
}

/// Whether a process wanted that.
pub(crate) fn is_kept(process: u32) -> bool {
    mark(process).exists()
}

fn mark(process: u32) -> PathBuf {
    parent().join(format!("{PREFIX}{process}.kept"))
}

/// The process that made a directory, if its name is one of ours.
pub(crate) fn owner(path: &Path) -> Option<u32> {
    let name = path.file_name()?.to_str()?.strip_prefix(PREFIX)?;
    name.split_once('-')?.0.parse().ok()
}

/// Says what a drop could not remove: it cannot return an error, and silence would hide a leak.
#[expect(clippy::print_stderr, reason = "drop has no other way to tell")]
pub(crate) fn complain(what: &str, error: &dyn std::error::Error) {
    eprintln!("lab: could not remove {what}: {error}");
}
