//! File systems of our own in sparse files, mounted on loop devices. Needs root.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::run::{RunError, must};
use crate::scratch::{Scratch, complain};

/// How long a busy pool may take to become idle before it is only detached.
const BUSY_LIMIT: Duration = Duration::from_secs(10);

/// What a pool is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Snapshots and reflinks.
    Btrfs,
    /// Neither.
    Ext4,
    /// Reflinks.
    Xfs,
}

/// A mounted file system, unmounted and removed on drop. Guests on it must be gone by then.
#[derive(Debug)]
pub struct Pool {
    kind: Kind,
    mountpoint: PathBuf,
    scratch: Scratch,
}

/// Why there is no pool or no subvolume.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// A file or directory of the pool could not be made.
    #[error("cannot prepare the pool")]
    Io(#[from] io::Error),
    /// A tool failed.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl Pool {
    /// A Btrfs of `size_mib` MiB (at least 109, or mkfs refuses).
    ///
    /// # Errors
    /// [`PoolError`], as for the other kinds.
    pub fn btrfs(size_mib: u64) -> Result<Self, PoolError> {
        Self::new(Kind::Btrfs, size_mib, &["mkfs.btrfs", "-q"])
    }

    /// An ext4 of `size_mib` MiB.
    ///
    /// # Errors
    /// [`PoolError`].
    pub fn ext4(size_mib: u64) -> Result<Self, PoolError> {
        Self::new(Kind::Ext4, size_mib, &["mkfs.ext4", "-q"])
    }

    /// An XFS of `size_mib` MiB (at least 300, or mkfs refuses).
    ///
    /// # Errors
    /// [`PoolError`].
    pub fn xfs(size_mib: u64) -> Result<Self, PoolError> {
        Self::new(Kind::Xfs, size_mib, &["mkfs.xfs", "-q"])
    }

    fn new(kind: Kind, size_mib: u64, mkfs: &[&str]) -> Result<Self, PoolError> {
        let scratch = Scratch::new()?;
        let (image, mountpoint) = (scratch.path().join("image"), scratch.path().join("pool"));
        File::create_new(&image)?.set_len(size_mib << 20)?;
        fs::create_dir(&mountpoint)?;
        let [image, place] = [&image, &mountpoint].map(|path| path.display().to_string());
        must(mkfs[0], &[&mkfs[1..], &[image.as_str()]].concat())?;
        must("mount", &["-o", "loop", &image, &place])?;
        let pool = Self { kind, mountpoint, scratch };
        fs::set_permissions(&pool.mountpoint, Permissions::from_mode(0o755))?;
        Ok(pool)
    }

    /// What it is made of.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mountpoint
    }

    /// Makes a subvolume, or a directory where the pool knows no subvolumes.
    ///
    /// # Errors
    /// [`PoolError`], also if the name is taken.
    pub fn subvolume(&self, name: &str) -> Result<PathBuf, PoolError> {
        let path = self.mountpoint.join(name);
        if self.kind == Kind::Btrfs {
            must("btrfs", &["subvolume", "create", &path.display().to_string()])?;
        } else {
            fs::create_dir(&path)?;
        }
        Ok(path)
    }

    /// Unmounts it, waiting while something that is going away still holds it.
    fn unmount(&self) -> Result<(), RunError> {
        let place = self.mountpoint.display().to_string();
        let deadline = Instant::now() + BUSY_LIMIT;
        loop {
            match must("umount", &["--recursive", &place]) {
                Err(RunError::Failed { .. }) if Instant::now() < deadline => {
                    // The kernel tells nobody when a mount becomes idle.
                    thread::sleep(Duration::from_millis(50));
                }
                result => return result.map(drop),
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            complain(&format!("the mount below {}", self.scratch.path().display()), &error);
            // Detached, the rest goes when its last user does, and the files below can be removed.
            let _ = must("umount", &["--lazy", &self.mountpoint.display().to_string()]);
        }
    }
}
